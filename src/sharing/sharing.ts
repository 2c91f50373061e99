import { codeOf } from '../errors.ts';
import { sql } from '../store/sql.ts';
import { createEnding } from './ending.ts';
import { createEnvelopes } from './envelopes.ts';
import { createFetching } from './fetching.ts';
import type { SharingParts } from './parts.ts';
import { createTakingUp } from './taking-up.ts';

/** What patients of other institutions let us have: taken up from the ledger, fetched, and ended (architecture section 9). */
export interface Sharing {
  /** Follows the projection and the clock from now on. Returns once it listens; what is due is looked at in the background. */
  start(): Promise<void>;
  /** Looks at what is due, now and until nothing is. Returns at once. Never called by a read. */
  wake(): void;
  /** Does all that is due now; resolves when nothing is left but what waits for its time. */
  pass(): Promise<void>;
  close(): Promise<void>;
}

/** What the projection says after each block that any process applied. */
const CHANNEL = 'projection';
const LONGEST_MS = 3_600_000;

/**
 * A worker: the database says what is left, so that it may be killed at any await, and two of them do no harm. The projection's blocks
 * and the clock wake it, never a read: nobody can tell from the store when something is looked at.
 */
export function createSharing(parts: SharingParts & { onError?: (error: Error) => void }): Sharing {
  const { database, now, retry } = parts;
  const ending = createEnding(parts);
  const takingUp = createTakingUp({ ...parts, ending });
  const envelopes = createEnvelopes({ ...parts, ending, requireView: takingUp.requireView });
  const fetching = createFetching({ ...parts, ending, requireView: takingUp.requireView });
  let running: Promise<void> | undefined;
  let woken = false;
  let closed = false;
  let timer: NodeJS.Timeout | undefined;
  let listener: { close(): Promise<void> } | undefined;

  async function work(): Promise<void> {
    for (let any = true; any && !closed; ) {
      const changed = await takingUp.scan();
      const ended = await ending.finish();
      any = ended.any;
      for (const of of ended.finished) await takingUp.refresh(of);
      // It wakes us again with its next block.
      if (changed === 'behind') continue;
      any ||= changed;
      for (const of of await envelopes.openSome()) {
        any = true;
        await takingUp.refresh(of);
      }
      any = (await fetching.fetchSome(() => closed)) > 0 || any;
    }
  }

  /** When something is due by the clock alone, in milliseconds from now. */
  async function pauseMs(): Promise<number> {
    const [row] = await database.query<{ at: Date | null }>(sql`
      select least(
        (select min(e.retry_at) from shared_envelope e where e.state <> 'opened' and e.retry_at < 'infinity'),
        (select min(o.retry_at) from shared_object o join shared_category c on c.inst = o.inst and c.pat = o.pat and c.category = o.category
          join patient_link l on l.inst = o.inst and l.pat = o.pat where c.state = 'live' and l.state in ('bound', 'confirmed') and o.retry_at < 'infinity'),
        (select min(retry_at) from shared_removal),
        (select min(e.retry_at) from sharing_end e where e.deleted_at is null and not exists (select 1 from shared_removal r where r.ending = e.id)),
        (select min(retry_at) from sharing_backlog)) as at`);
    const at = Math.min(row?.at?.getTime() ?? Number.POSITIVE_INFINITY, takingUp.nextEnd() + 1);
    // Of the other process's making, what it finishes in a moment is not looked at in a circle.
    return Math.max(50, Math.min(at - now().getTime(), LONGEST_MS));
  }

  async function run(): Promise<void> {
    while (woken && !closed) {
      woken = false;
      await work();
    }
    if (!closed) later(await pauseMs());
  }

  function later(ms: number): void {
    clearTimeout(timer);
    timer = setTimeout(wake, ms).unref();
  }

  function wake(): void {
    if (closed) return;
    woken = true;
    clearTimeout(timer);
    running ??= run()
      .catch((error: unknown) => {
        parts.log.warn({ code: codeOf(error) ?? 'INTERNAL' }, 'sharing was interrupted; it is taken up again');
        parts.onError?.(error as Error);
        if (!closed) later(retry.firstMs);
      })
      .finally(() => {
        running = undefined;
        if (woken && !closed) wake();
      });
  }

  return {
    async start() {
      listener ??= await database.listen(CHANNEL, wake);
      wake();
    },
    wake,
    async pass() {
      // One at a time in a process: keys of a category are not made by one run while another destroys them.
      while (running !== undefined) await running;
      running = work().finally(() => {
        running = undefined;
      });
      await running;
    },
    async close() {
      closed = true;
      clearTimeout(timer);
      await listener?.close();
      await running?.catch(() => {});
    },
  };
}
