import type { Logger } from 'pino';
import { codeOf } from '../errors.ts';

/** A timer of Node that is set for longer fires at once. */
const LONGEST_MS = 2 ** 31 - 1;

/** Runs `work` every so often, one run at a time, the first soon after the start; a failure is logged and the next run comes. */
export function createSchedule(parts: { name: string; everyMs: number; work: () => Promise<unknown>; log: Logger }): {
  close(): Promise<void>;
} {
  const { name, everyMs, work, log } = parts;
  let closed = false;
  let timer: NodeJS.Timeout | undefined;
  let running: Promise<unknown> = Promise.resolve();
  const next = (delayMs: number): void => {
    if (closed) return;
    timer = setTimeout(
      () => {
        running = work()
          .catch((error: unknown) => log.error({ schedule: name, code: codeOf(error) ?? 'INTERNAL' }, 'a scheduled run failed'))
          .finally(() => next(everyMs));
      },
      Math.min(delayMs, LONGEST_MS),
    );
  };
  next(Math.min(everyMs, 200));
  return {
    async close() {
      closed = true;
      clearTimeout(timer);
      await running;
    },
  };
}
