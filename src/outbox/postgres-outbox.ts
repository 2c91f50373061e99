import { CodedError } from '../errors.ts';
import { newId } from '../ids.ts';
import type { Database, Sql } from '../store/database.ts';
import { sql } from '../store/sql.ts';
import type { Outbox, OutboxItem, OutboxState, Settlement } from './outbox.ts';

/** Channel on which a relay is told that rows wait; a lost message costs one re-scan interval, nothing else. */
export const WAKE_CHANNEL = 'outbox';
/** Channel on which settled rows are told, as row ids joined by commas (a batch at a time). */
export const SETTLED_CHANNEL = 'outbox_settled';

const PRIORITIES = { urgent: 0, live: 1, backfill: 2 } as const;

export interface OutboxStats {
  /** Rows by state that are not settled, and the rejected and conflicting ones, which wait for a person. */
  states: Record<OutboxState, number>;
  /** Rows that are not settled. */
  depth: number;
  /** Age of the oldest row that is not settled, seconds; 0 where there is none. */
  oldestSeconds: number;
}

export interface PostgresOutbox extends Outbox {
  stats(): Promise<OutboxStats>;
  /** Resolves at once below the high-water mark; above it when the depth has sunk to the low one, or on abort. */
  room(signal: AbortSignal): Promise<void>;
  /** Puts rejected or failed rows back, to be sent with a fresh endorsement (an operator's replay). Returns how many. */
  replay(ids: readonly string[]): Promise<number>;
  close(): Promise<void>;
}

interface SettledRow {
  id: string;
  state: OutboxState;
  tx_id: string | null;
  block: number | null;
  result: string | null;
  error_code: string | null;
}

/** The outbox on PostgreSQL. A row joins the caller's transaction; what happens to it afterwards is relay and writer's. */
export function createOutbox(options: {
  database: Database;
  /** Unsettled rows at which pulls wait, and at which they go on. */
  highWater?: number;
  lowWater?: number;
  /** How often waiters look at the database themselves, should a notification be lost. */
  pollMs?: number;
  onError?: (error: Error) => void;
}): PostgresOutbox {
  const { database } = options;
  const onError = options.onError ?? (() => {});
  const highWater = options.highWater ?? 5000;
  const lowWater = options.lowWater ?? 2000;
  const pollMs = options.pollMs ?? 500;
  const waiters = new Map<string, Set<(settlement: Settlement) => void>>();
  let listening: Promise<{ close(): Promise<void> }> | undefined;
  let poll: NodeJS.Timeout | undefined;
  let notifying: Promise<unknown> | undefined;
  let again = false;
  let closed = false;

  async function look(ids: readonly string[]): Promise<void> {
    if (ids.length === 0) return;
    const rows = await database.query<SettledRow>(sql`
      select id, state, tx_id, block, result, error_code from outbox where id = any(${ids}) and settled_at is not null`);
    for (const row of rows) {
      const resolvers = waiters.get(row.id);
      waiters.delete(row.id);
      for (const resolve of resolvers ?? []) resolve(toSettlement(row));
    }
  }

  /** The connection for LISTEN is taken with the first waiter: most processes never wait. */
  function listen(): void {
    listening ??= database.listen(SETTLED_CHANNEL, (payload) => {
      const mine = payload.split(',').filter((id) => waiters.has(id));
      look(mine).catch(onError);
    });
    listening.catch((error: unknown) => {
      listening = undefined;
      onError(error as Error);
    });
    poll ??= setInterval(() => {
      look([...waiters.keys()]).catch(onError);
    }, pollMs);
  }

  async function depth(): Promise<number> {
    const [row] = await database.query<{ n: number }>(sql`select count(*) as n from outbox where settled_at is null`);
    return row?.n ?? 0;
  }

  async function addAll(tx: Sql, items: readonly OutboxItem[]): Promise<string[]> {
    if (items.length === 0) return [];
    const bare = items.find((item) => item.args.length === 0);
    if (bare !== undefined) throw new CodedError('INTERNAL', { diagnostics: `An outbox row of ${bare.transaction} has no argument.` });
    const ids = items.map(() => newId('obx'));
    // In the order given: a row waits for those before it. An array of arrays must not be ragged, so arguments go over one by one.
    const args = items.flatMap((item, row) => item.args.map((text) => ({ row, text })));
    await tx.query(sql`
      insert into outbox (id, transaction, args, order_key, patient, priority)
      select t.id, t.transaction, a.args, t.order_key, t.patient, t.priority
      from unnest(${ids}::text[], ${items.map((item) => item.transaction)}::text[], ${items.map((item) => item.orderKey ?? null)}::text[],
        ${items.map((item) => item.patient ?? null)}::text[], ${items.map((item) => PRIORITIES[item.priority ?? 'live'])}::smallint[])
        with ordinality as t(id, transaction, order_key, patient, priority, n)
      join (select row, array_agg(text order by n) as args from unnest(${args.map(({ row }) => row + 1)}::int[], ${args.map(({ text }) => text)}::text[])
        with ordinality as a(row, text, n) group by row) a on a.row = t.n
      order by t.n`);
    return ids;
  }

  return {
    async add(tx, item) {
      const [id] = await addAll(tx, [item]);
      if (id === undefined) throw new Error('one row was asked for');
      return id;
    },
    addAll,
    wake() {
      // Not inside `add`: NOTIFY in a transaction takes a lock over all commits of the server. One message at a time.
      if (closed) return;
      if (notifying !== undefined) {
        again = true;
        return;
      }
      notifying = database
        .query(sql`select pg_notify(${WAKE_CHANNEL}, '')`)
        .catch(onError)
        .finally(() => {
          notifying = undefined;
          if (!again) return;
          again = false;
          this.wake();
        });
    },
    async settled(id, timeoutMs) {
      const outcome = Promise.withResolvers<Settlement | undefined>();
      const mine = waiters.get(id) ?? new Set();
      waiters.set(id, mine.add(outcome.resolve));
      const timer = setTimeout(() => outcome.resolve(undefined), timeoutMs);
      try {
        listen();
        await look([id]);
        return await outcome.promise;
      } finally {
        clearTimeout(timer);
        mine.delete(outcome.resolve);
        if (mine.size === 0 && waiters.get(id) === mine) waiters.delete(id);
        if (waiters.size === 0) {
          clearInterval(poll);
          poll = undefined;
        }
      }
    },
    async stats() {
      const rows = await database.query<{ state: OutboxState; n: number; oldest: number | null }>(sql`
        select state, count(*) as n, extract(epoch from now() - min(created_at))::float8 as oldest from outbox where settled_at is null group by state
        union all
        select state, count(*), null from outbox where settled_at is not null and state in ('rejected', 'conflict') group by state`);
      const states: OutboxStats['states'] = {
        pending: 0,
        claimed: 0,
        enqueued: 0,
        inflight: 0,
        committed: 0,
        rejected: 0,
        failed: 0,
        conflict: 0,
      };
      for (const row of rows) states[row.state] = row.n;
      const unsettled = states.pending + states.claimed + states.enqueued + states.inflight + states.failed;
      return { states, depth: unsettled, oldestSeconds: Math.max(0, ...rows.map((row) => row.oldest ?? 0)) };
    },
    async room(signal) {
      if ((await depth()) < highWater) return;
      while (!signal.aborted && !closed && (await depth()) > lowWater) {
        await new Promise<void>((done) => {
          const timer = setTimeout(wakeUp, 200);
          signal.addEventListener('abort', wakeUp, { once: true });
          function wakeUp(): void {
            clearTimeout(timer);
            signal.removeEventListener('abort', wakeUp);
            done();
          }
        });
      }
    },
    async replay(ids) {
      const rows = await database.query<{ id: string }>(sql`
        update outbox set state = 'pending', batch = null, position = null, error_code = null, settled_at = null
        where id = any(${ids}) and state in ('rejected', 'conflict') returning id`);
      const batches = await database.query<{ id: string }>(sql`
        update outbox_batch set retry_at = now() where state = 'failed' and id in (select batch from outbox where id = any(${ids})) returning id`);
      this.wake();
      return rows.length + batches.length;
    },
    async close() {
      closed = true;
      clearInterval(poll);
      await notifying;
      await (await listening?.catch(() => undefined))?.close();
    },
  };
}

function toSettlement(row: SettledRow): Settlement {
  const settlement: Settlement = { state: row.state };
  if (row.tx_id !== null && row.block !== null) settlement.receipt = { txId: row.tx_id, block: row.block, result: row.result ?? '' };
  if (row.error_code !== null) settlement.errorCode = row.error_code;
  return settlement;
}
