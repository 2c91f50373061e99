/** The renderer as the pipeline sees it: a pool of threads, one document at a time in each. */
import { Worker } from 'node:worker_threads';
import { CodedError } from '../errors.ts';
import type { ClinicalDocument } from '../records/model.ts';
import type { Attachments } from './render-pdf.ts';
import type { Paper } from './theme.ts';
import type { RenderJob, RenderReply } from './worker.ts';

export interface Renderer {
  /**
   * The PDF of `document`. Throws `RENDER_FAILED` (nothing of the document in its text) if the layout fails, the thread dies or
   * takes longer than `timeoutMs`, `UNAVAILABLE` after `close`. Input buffers are copied, never taken.
   */
  render(document: ClinicalDocument, attachments: Attachments): Promise<Uint8Array>;
  /** Starts the threads, so that the first document does not wait for them. */
  warm(): void;
  /** Lets running documents finish, refuses waiting ones, ends the threads. */
  close(): Promise<void>;
}

export interface RendererOptions {
  /** Threads; each holds about 100 MB once it has drawn Hangul. */
  threads: number;
  /** `a4` unless told. */
  paper?: Paper;
  /** Longest time for one document; 60,000 unless told. */
  timeoutMs?: number;
}

interface Task {
  job: RenderJob;
  resolve(pdf: Uint8Array): void;
  reject(error: CodedError): void;
}
interface Slot {
  worker: Worker | undefined;
  task: Task | undefined;
  timer: NodeJS.Timeout | undefined;
}

/** A thread's space for new objects grows to three times as much by itself, for no gain in time. */
const YOUNG_MB = 16;

export function createRenderer(options: RendererOptions): Renderer {
  const { threads, paper = 'a4', timeoutMs = 60_000 } = options;
  const slots: Slot[] = Array.from({ length: Math.max(1, threads) }, () => ({ worker: undefined, task: undefined, timer: undefined }));
  const waiting: Task[] = [];
  let nextId = 0;
  let closed = false;
  let idle: (() => void) | undefined;

  const settle = (slot: Slot): Task | undefined => {
    const { task } = slot;
    clearTimeout(slot.timer);
    slot.task = undefined;
    slot.timer = undefined;
    slot.worker?.unref();
    return task;
  };
  const fail = (slot: Slot, worker: Worker, why: string): void => {
    if (slot.worker !== worker) return;
    slot.worker = undefined;
    settle(slot)?.reject(new CodedError('RENDER_FAILED', { diagnostics: why }));
    next();
  };
  const start = (slot: Slot): Worker => {
    const worker = new Worker(new URL('./worker.ts', import.meta.url), { resourceLimits: { maxYoungGenerationSizeMb: YOUNG_MB } });
    slot.worker = worker;
    worker.on('message', (reply: RenderReply) => {
      if (slot.task?.job.id !== reply.id) return;
      const task = settle(slot);
      if ('pdf' in reply) task?.resolve(reply.pdf);
      else task?.reject(new CodedError('RENDER_FAILED', { diagnostics: reply.failure }));
      next();
    });
    worker.on('error', (error) => fail(slot, worker, `The rendering thread failed (${error instanceof Error ? error.name : 'unknown'}).`));
    worker.on('exit', () => fail(slot, worker, 'The rendering thread ended.'));
    return worker;
  };
  const next = (): void => {
    for (const slot of slots) {
      if (slot.task !== undefined) continue;
      const task = waiting.shift();
      if (task === undefined) break;
      const worker = slot.worker ?? start(slot);
      slot.task = task;
      worker.ref();
      slot.timer = setTimeout(() => {
        fail(slot, worker, `It took longer than ${timeoutMs} ms.`);
        void worker.terminate();
      }, timeoutMs);
      worker.postMessage(task.job);
    }
    if (slots.every((slot) => slot.task === undefined)) idle?.();
  };

  return {
    render(document, attachments) {
      if (closed) return Promise.reject(new CodedError('UNAVAILABLE', { diagnostics: 'The renderer is closed.' }));
      return new Promise((resolve, reject) => {
        waiting.push({ job: { id: (nextId += 1), document, attachments, paper }, resolve, reject });
        next();
      });
    },
    warm() {
      if (!closed) for (const slot of slots) if (slot.worker === undefined) start(slot).unref();
    },
    async close() {
      closed = true;
      for (const task of waiting.splice(0)) task.reject(new CodedError('UNAVAILABLE', { diagnostics: 'The renderer is closing.' }));
      if (slots.some((slot) => slot.task !== undefined)) {
        await new Promise<void>((resolve) => {
          idle = resolve;
        });
      }
      await Promise.all(
        slots.map(async (slot) => {
          const { worker } = slot;
          slot.worker = undefined;
          await worker?.terminate();
        }),
      );
    },
  };
}
