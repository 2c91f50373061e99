import { type JobsOptions, UnrecoverableError } from 'bullmq';
import { CodedError, codeOf } from '../errors.ts';
import type { Job, JobQueue, JobState, JobWorker } from './queue.ts';

/** What differs between the backends; everything else is here, so that one conformance suite means something. */
export interface BullBackend {
  queue: BullJobs;
  /** A worker that runs at once, on connections of its own; resolves when it can take jobs. */
  startWorker(processor: (job: { id?: string | undefined; data: unknown }) => Promise<void>, concurrency: number): Promise<BullWorker>;
  /** Called with every error; rebuilds what the backend needs (its schema). Resolves true where something was rebuilt. */
  heal(error: unknown): Promise<boolean>;
  close(): Promise<void>;
}
/** What is used of BullMQ's Queue, whichever backend types it. */
interface BullJobs {
  addBulk(jobs: { name: string; data: object; opts: JobsOptions }[]): Promise<unknown>;
  getJob(id: string): Promise<
    | {
        getState(): Promise<string>;
        retry(state: 'failed' | 'completed', options: { resetAttemptsMade: boolean; resetAttemptsStarted: boolean }): Promise<void>;
      }
    | undefined
  >;
  getJobCounts(...types: ('waiting' | 'prioritized' | 'active' | 'delayed' | 'failed')[]): Promise<Record<string, number>>;
  clean(graceMs: number, limit: number, type: 'completed' | 'failed'): Promise<string[]>;
  close(): Promise<void>;
}
export interface BullWorker {
  worker: { isRunning(): boolean; pause(doNotWaitActive?: boolean): Promise<void>; close(force?: boolean): Promise<void> };
  /** Ends connections that the worker does not end by itself. */
  dispose(): Promise<void>;
}

export interface BullQueueOptions {
  onError: (error: Error) => void;
  /** Attempts of a job before it counts as failed (our own slow retry follows). */
  attempts: number;
  /** First backoff; doubles with jitter. */
  backoffMs: number;
  /** A worker that is idle for so long while jobs wait is replaced (bullmq#3185, #4729). */
  stuckAfterMs: number;
}

export function bullOptions(given: Partial<BullQueueOptions>): BullQueueOptions {
  const { onError = () => {}, attempts = 8, backoffMs = 200, stuckAfterMs = 30_000 } = given;
  return { onError, attempts, backoffMs, stuckAfterMs };
}

/**
 * Lock and stall check: 4 s each, so that the jobs of a killed process run again within about 9 s (defaults: 91 s), and with the
 * restart of what was killed all is at work again within 15.
 * `runRetryDelay`: 15 s by default, which is how long a worker would sleep after a refused connection.
 */
export const WORKER_SETTINGS = {
  lockDuration: 4000,
  stalledInterval: 4000,
  maxStalledCount: 5,
  maxStartedAttempts: 25,
  runRetryDelay: 500,
} as const;

const CLEAN_CHUNK = 1000;

/** A job of which another attempt is pointless: bad data, or a refusal by the ledger. */
const FINAL = new Set(['LEDGER_REFUSED', 'BAD_REQUEST', 'UNPROCESSABLE']);

export function createBullQueue(backend: BullBackend, options: BullQueueOptions): JobQueue {
  const { queue } = backend;
  const workers = new Set<JobWorker>();
  let closing: Promise<void> | undefined;

  // `removeOn…` is not set: retention by count is slow and deadlocks on PostgreSQL, and a settled job that is kept is what
  // makes a second add of its id harmless. `clean` is called on a schedule instead.
  const jobOptions = (job: Job): JobsOptions => ({
    jobId: job.id,
    attempts: options.attempts,
    backoff: { type: 'exponential', delay: options.backoffMs, jitter: 0.5 },
    // A stack trace holds the error's text, which is not ours to store.
    stackTraceLimit: 0,
    ...(job.priority === undefined || job.priority === 0 ? {} : { priority: job.priority }),
  });

  /** Once more after the backend was rebuilt: dropping its schema at any moment is survivable. */
  async function attempt<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      const healed = await backend.heal(error).catch((cause: unknown) => {
        throw unavailable(cause);
      });
      if (!healed) throw unavailable(error);
      return await work().catch((again: unknown) => {
        throw unavailable(again);
      });
    }
  }

  return {
    async add(jobs) {
      if (jobs.length === 0) return;
      await attempt(() => queue.addBulk(jobs.map((job) => ({ name: 'ledger', data: { ...job.data }, opts: jobOptions(job) }))));
    },
    async state(id) {
      return await attempt(async () => {
        const job = await queue.getJob(id);
        return job === undefined ? 'unknown' : asState(await job.getState());
      });
    },
    async retry(id) {
      await attempt(async () => {
        const job = await queue.getJob(id);
        const state = await job?.getState();
        if (job === undefined || (state !== 'failed' && state !== 'completed')) return;
        // Without the resets `attemptsMade` passes `attempts`, and the poison guard counts old starts.
        await job.retry(state, { resetAttemptsMade: true, resetAttemptsStarted: true });
      });
    },
    async process(handler, { concurrency }) {
      const worker = await startWatchedWorker(backend, options, handler, concurrency);
      workers.add(worker);
      return {
        async close(deadlineMs) {
          workers.delete(worker);
          await worker.close(deadlineMs);
        },
      };
    },
    async depth() {
      return await attempt(async () => {
        const counts = await queue.getJobCounts('waiting', 'prioritized', 'active', 'delayed', 'failed');
        return {
          waiting: (counts['waiting'] ?? 0) + (counts['prioritized'] ?? 0),
          active: counts['active'] ?? 0,
          delayed: counts['delayed'] ?? 0,
          failed: counts['failed'] ?? 0,
        };
      });
    },
    async clean(olderThanMs) {
      for (const type of ['completed', 'failed'] as const) {
        for (;;) {
          const removed = await attempt(() => queue.clean(olderThanMs, CLEAN_CHUNK, type));
          if (removed.length < CLEAN_CHUNK) break;
        }
      }
    },
    close() {
      closing ??= (async () => {
        await Promise.all([...workers].map((worker) => worker.close(5000)));
        await queue.close().catch(options.onError);
        await backend.close();
      })();
      return closing;
    },
  };
}

/** Workers can stop silently after an outage; the maintainers advise a watchdog of one's own that makes a new one. */
async function startWatchedWorker(
  backend: BullBackend,
  options: BullQueueOptions,
  handler: (job: Job) => Promise<void>,
  concurrency: number,
): Promise<JobWorker> {
  let running = 0;
  let lastActivity = Date.now();
  let closed = false;
  let replacing: Promise<void> | undefined;

  async function processor(job: { id?: string | undefined; data: unknown }): Promise<void> {
    running++;
    lastActivity = Date.now();
    try {
      await handler({ id: job.id ?? '', data: (job.data ?? {}) as Record<string, string> });
    } catch (error) {
      const reason = codeOf(error) ?? (error instanceof Error ? error.name : 'Error');
      // Only a code goes into the queue: an error's text may tell more than the queue may hold.
      if (FINAL.has(reason)) throw new UnrecoverableError(reason);
      throw new Error(reason, { cause: error });
    } finally {
      running--;
      lastActivity = Date.now();
    }
  }

  let current = await backend.startWorker(processor, concurrency);
  const watchdog = setInterval(
    () => {
      if (closed || replacing !== undefined) return;
      replacing = look()
        .catch((error: unknown) => options.onError(error as Error))
        .finally(() => {
          replacing = undefined;
        });
    },
    Math.min(5000, options.stuckAfterMs / 2),
  );
  watchdog.unref();

  async function look(): Promise<void> {
    const idleForMs = Date.now() - lastActivity;
    const stopped = !current.worker.isRunning();
    if (!stopped && (running > 0 || idleForMs < options.stuckAfterMs)) return;
    const counts = await backend.queue.getJobCounts('waiting', 'prioritized');
    const waiting = (counts['waiting'] ?? 0) + (counts['prioritized'] ?? 0);
    if (waiting === 0) {
      if (!stopped) lastActivity = Date.now();
      if (!stopped) return;
    }
    if (closed) return;
    options.onError(new CodedError('QUEUE_UNAVAILABLE', { diagnostics: 'A worker stood still while jobs waited; it is replaced.' }));
    const old = current;
    current = await backend.startWorker(processor, concurrency);
    lastActivity = Date.now();
    void end(old, true);
  }

  async function end(one: BullWorker, force: boolean): Promise<void> {
    await withDeadline(one.worker.close(force), 3000);
    await one.dispose().catch(options.onError);
  }

  return {
    async close(deadlineMs) {
      if (closed) return;
      closed = true;
      clearInterval(watchdog);
      await replacing;
      // BullMQ's own close waits for a running job for ever, and cannot be forced once begun.
      const until = Date.now() + deadlineMs;
      await withDeadline(current.worker.pause(true), deadlineMs);
      while (running > 0 && Date.now() < until) await new Promise((done) => setTimeout(done, 5));
      await end(current, running > 0);
    },
  };
}

async function withDeadline(work: Promise<unknown>, deadlineMs: number): Promise<void> {
  const deadline = Promise.withResolvers<void>();
  const timer = setTimeout(deadline.resolve, deadlineMs);
  await Promise.race([work.catch(() => {}), deadline.promise]);
  clearTimeout(timer);
}

function asState(state: string): JobState {
  if (state === 'prioritized' || state === 'waiting-children') return 'waiting';
  return state as JobState;
}

function unavailable(cause: unknown): CodedError {
  return cause instanceof CodedError ? cause : new CodedError('QUEUE_UNAVAILABLE', { cause });
}
