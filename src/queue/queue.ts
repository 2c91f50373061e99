/**
 * The job port: transport only, the outbox is the truth. Job data holds random ids and nothing else, since it lies in
 * clear in Redis or in the queue's tables.
 */
export interface JobQueue {
  /** Adds jobs in one call. An id that is already known is ignored, whatever its state. */
  add(jobs: readonly Job[]): Promise<void>;
  state(id: string): Promise<JobState>;
  /** Runs a settled job once more, failed or completed; re-adding never does. Others and unknown ones are left alone. */
  retry(id: string): Promise<void>;
  /** Starts a worker; a handler that throws fails the attempt. */
  process(handler: (job: Job) => Promise<void>, options: { concurrency: number }): Promise<JobWorker>;
  depth(): Promise<{ waiting: number; active: number; delayed: number; failed: number }>;
  /** Removes settled jobs older than this. */
  clean(olderThanMs: number): Promise<void>;
  close(): Promise<void>;
}
export interface Job {
  id: string;
  data: Readonly<Record<string, string>>;
  /** 0 runs first and is the default; higher numbers wait for lower ones. */
  priority?: number;
}
export type JobState = 'unknown' | 'waiting' | 'active' | 'delayed' | 'completed' | 'failed';
export interface JobWorker {
  close(deadlineMs: number): Promise<void>;
}
