import { newId } from '../ids.ts';
import type { JobQueue } from '../queue/queue.ts';
import type { Database, Sql } from '../store/database.ts';
import { sql } from '../store/sql.ts';
import { BATCHED, cutIntoBatches } from './document-batch.ts';
import { WAKE_CHANNEL } from './postgres-outbox.ts';

/** Held by a relay for the length of one claim; two relays may overlap while a new version takes over. */
const CLAIM_LOCK = 0x6f_62_78_31;
const HOUSEKEEP_MS = 600_000;
/** Batches that one job carries. */
const JOB_BATCHES = 16;

export interface RelayOptions {
  database: Database;
  queue: JobQueue;
  /** Entries in one transaction of `recordDocuments`. */
  batchSize?: number;
  /** Batches that may be under way at once; more would only put later urgent ones behind them. */
  window?: number;
  /** How often the outbox is looked at without being told to. */
  scanMs?: number;
  /** A batch that no worker finished: after so long the queue is asked whether its job is still there. */
  checkMs?: number;
  /** First and longest wait of the slow retry of failed batches. */
  retryMs?: number;
  maxRetryMs?: number;
  onError?: (error: Error) => void;
}

export interface Relay {
  wake(): void;
  /** One pass, for tests and for draining; returns the number of batches handed to the queue. */
  pass(): Promise<number>;
  /** Nothing new is taken from the outbox while paused; what is under way goes on. */
  pause(): void;
  resume(): void;
  close(): Promise<void>;
}

interface PendingRow {
  id: string;
  transaction: string;
  args: string[];
  priority: number;
}
interface OpenBatch {
  id: string;
  job: string;
  state: 'claimed' | 'enqueued' | 'inflight' | 'failed';
  priority: number;
}

/**
 * Takes rows from the outbox into batches and hands them to the queue, a few to a job, whose only content is the first batch's
 * random id. Starts at once and looks at everything first: the start path is the recovery path. Whatever the queue has
 * lost is added again; whatever it gave up is retried slowly, for ever (queue-and-reliability.md section 7).
 */
export async function createRelay(options: RelayOptions): Promise<Relay> {
  const { database, queue } = options;
  const onError = options.onError ?? (() => {});
  const batchSize = options.batchSize ?? 50;
  const window = options.window ?? 64;
  const scanMs = options.scanMs ?? 1000;
  const checkMs = options.checkMs ?? 4000;
  const retryMs = options.retryMs ?? 5000;
  const maxRetryMs = options.maxRetryMs ?? 60_000;

  let paused = false;
  let closed = false;
  let woken = true;
  /** Rows wait that cannot be taken yet (a patient's enrolment is not projected): the next look, sooner than a scan. */
  let blockedMs = 0;
  let first = true;
  let sleeping: (() => void) | undefined;
  let passing: Promise<unknown> = Promise.resolve();

  function wake(): void {
    woken = true;
    blockedMs = 0;
    sleeping?.();
  }

  async function pass(): Promise<number> {
    let handed = await recover(first);
    first = false;
    if (paused) return handed;
    for (;;) {
      const claim = await claimBatches();
      blockedMs = claim.blocked ? Math.min(scanMs, Math.max(25, blockedMs * 2)) : 0;
      if (claim.batches.length === 0) return handed;
      await hand(claim.batches);
      handed += claim.batches.length;
      if (!claim.more) return handed;
    }
  }

  /** Adds the jobs, then marks their batches; where the queue does not answer, the next pass adds them. */
  async function hand(batches: readonly { id: string; job: string; priority: number }[]): Promise<void> {
    const names = batches.map((batch) => batch.id);
    const jobs = new Map(batches.map(({ job, priority }) => [job, priority]));
    try {
      await queue.add([...jobs].map(([job, priority]) => ({ id: job, data: { batch: job }, priority })));
    } catch (error) {
      await database.query(sql`update outbox_batch set check_at = now() where id = any(${names}) and state = 'claimed'`);
      throw error;
    }
    await database.query(sql`
      with b as (
        update outbox_batch set state = 'enqueued', check_at = now() + ${checkMs} * interval '1 ms'
        where id = any(${names}) and state = 'claimed' returning id)
      update outbox set state = 'enqueued' where batch in (select id from b) and state = 'claimed'`);
  }

  /**
   * Batches whose time for a look has come: the lease of a claim ran out, the queue was emptied, a job died or was given
   * up, a failed one is due. At the start, all of them.
   */
  async function recover(all: boolean): Promise<number> {
    const due = await database.query<OpenBatch>(sql`
      update outbox_batch set check_at = now() + ${checkMs} * interval '1 ms'
      where (state in ('claimed', 'enqueued', 'inflight') and (check_at <= now() or (${all} and state <> 'claimed')))
      returning id, job, state, priority`);
    const lost: OpenBatch[] = due.filter((batch) => batch.state === 'claimed');
    for (const [job, batches] of byJob(due.filter((batch) => batch.state !== 'claimed'))) {
      const state = await queue.state(job);
      if (state === 'unknown') lost.push(...batches);
      // The job says done and the batch is not: the database is an older copy, or the queue erred. It runs again.
      else if (state === 'completed') await queue.retry(job);
      else if (state === 'failed') await markFailed(batches.map((batch) => batch.id));
    }
    if (lost.length > 0) await hand(lost);
    const retried = await database.query<OpenBatch>(sql`
      with b as (
        update outbox_batch set state = case when bytes is null then 'enqueued' else 'inflight' end, retry_at = null, check_at = now()
        where state = 'failed' and retry_at <= now() returning id, job, state, priority),
      r as (update outbox o set state = b.state from b where o.batch = b.id and o.state = 'failed')
      select id, job, state, priority from b`);
    for (const [job, batches] of byJob(retried)) {
      const state = await queue.state(job);
      if (state === 'failed' || state === 'completed') await queue.retry(job);
      else if (state === 'unknown') await hand(batches);
    }
    return lost.length + retried.length;
  }

  /** The queue has used up its attempts: from here on our own slow retry, urgent ones sooner. */
  async function markFailed(ids: readonly string[]): Promise<void> {
    await database.query(sql`
      with b as (
        update outbox_batch set state = 'failed', attempts = attempts + 1,
          retry_at = now() + least(${retryMs}::float8 * power(2, least(attempts, 20)), case when priority = 0 then ${retryMs}::float8 else ${maxRetryMs}::float8 end)
            * (0.75 + random() / 2) * interval '1 ms'
        where id = any(${ids}) and state in ('enqueued', 'inflight') returning id)
      update outbox set state = 'failed' where batch in (select id from b) and settled_at is null`);
  }

  /** Makes batches of waiting rows in one transaction: urgent ones always, others as far as the window has room. */
  async function claimBatches(): Promise<{ batches: { id: string; job: string; priority: number }[]; more: boolean; blocked: boolean }> {
    const none = { batches: [], more: false, blocked: false };
    return await database.transaction(async (tx) => {
      const [lock] = await tx.query<{ got: boolean }>(sql`select pg_try_advisory_xact_lock(${CLAIM_LOCK}) as got`);
      if (lock?.got !== true) return none;
      const [open] = await tx.query<{ n: number }>(sql`
        select count(*) as n from outbox_batch
        where state in ('claimed', 'enqueued', 'inflight') or (state = 'failed' and error_code in ('LEDGER_UNAVAILABLE', 'LEDGER_UNKNOWN'))`);
      const slots = Math.max(0, window - (open?.n ?? 0));
      const rows = await readClaimable(tx, slots > 0 ? slots * batchSize : 0);
      const cut = cutIntoBatches(rows, { entries: batchSize });
      const urgent = cut.filter((batch) => batch[0]?.priority === 0);
      const others = byTurns(cut.filter((batch) => batch[0]?.priority !== 0)).slice(0, slots);
      const batches = inJobs(
        [...urgent, ...others].map((batch) => ({ id: newId('batch'), priority: batch[0]?.priority ?? 1, rows: batch })),
      );
      if (batches.length === 0) {
        const [waiting] = slots === 0 ? [] : await tx.query(sql`select 1 from outbox where state = 'pending' limit 1`);
        return { ...none, blocked: waiting !== undefined };
      }
      await tx.query(sql`
        insert into outbox_batch (id, job, place, transaction, priority, check_at)
        select id, job, place, transaction, priority, now() + ${checkMs} * interval '1 ms'
        from unnest(${batches.map((b) => b.id)}::text[], ${batches.map((b) => b.job)}::text[], ${batches.map((_, place) => place)}::int[], ${batches.map((b) => b.rows[0]?.transaction ?? '')}::text[], ${batches.map((b) => b.priority)}::smallint[])
          as t(id, job, place, transaction, priority)`);
      await tx.query(sql`
        update outbox o set state = 'claimed', batch = t.batch, position = t.position
        from unnest(${batches.flatMap((b) => b.rows.map((row) => row.id))}::text[], ${batches.flatMap((b) => b.rows.map(() => b.id))}::text[],
          ${batches.flatMap((b) => b.rows.map((_, i) => i))}::int[]) as t(id, batch, position)
        where o.id = t.id`);
      return { batches, more: others.length === slots || cut.length > batches.length, blocked: false };
    });
  }

  /** Settled jobs and rows do not stay for ever: jobs an hour, committed rows a week, rejected ones 90 days. */
  async function housekeep(): Promise<void> {
    await queue.clean(3_600_000);
    for (const [state, days] of [
      ['committed', 7],
      ['rejected', 90],
    ] as const) {
      for (;;) {
        const rows = await database.query(sql`
          delete from outbox where id in (
            select id from outbox where settled_at < now() - ${days} * interval '1 day' and state = ${state} limit 1000) returning id`);
        if (rows.length < 1000) break;
      }
    }
    await database.query(sql`
      delete from outbox_batch b where settled_at < now() - interval '7 days' and not exists (select 1 from outbox o where o.batch = b.id)`);
  }

  function run(): Promise<void> {
    return (async () => {
      let housekeepAt = Date.now() + 60_000;
      while (!closed) {
        woken = false;
        passing = pass().catch((error: unknown) => onError(error as Error));
        await passing;
        if (Date.now() > housekeepAt) {
          housekeepAt = Date.now() + HOUSEKEEP_MS;
          await housekeep().catch((error: unknown) => onError(error as Error));
        }
        if (woken || closed) continue;
        await new Promise<void>((done) => {
          const timer = setTimeout(done, blockedMs > 0 ? blockedMs : scanMs);
          timer.unref();
          sleeping = () => {
            clearTimeout(timer);
            done();
          };
        });
        sleeping = undefined;
      }
    })();
  }

  const listening = await database.listen(WAKE_CHANNEL, wake);
  const running = run();
  return {
    wake,
    pass,
    pause() {
      paused = true;
    },
    resume() {
      paused = false;
      wake();
    },
    async close() {
      closed = true;
      wake();
      await running;
      await passing;
      await listening.close();
    },
  };
}

/** Batches of one priority share jobs: what is sent at once shares a block, and the queue's work for one job. An urgent one goes alone. */
function inJobs<Made extends { id: string; priority: number }>(batches: readonly Made[]): (Made & { job: string })[] {
  const open = new Map<number, { job: string; count: number }>();
  return batches.map((batch) => {
    let place = open.get(batch.priority);
    if (place === undefined || place.count === JOB_BATCHES || batch.priority === 0) {
      place = { job: batch.id, count: 0 };
      open.set(batch.priority, place);
    }
    place.count++;
    return { ...batch, job: place.job };
  });
}

function byJob(batches: readonly OpenBatch[]): Map<string, OpenBatch[]> {
  return Map.groupBy(batches, (batch) => batch.job);
}

/**
 * Batches of documents between the others, of each priority: a thousand enrolments of a backfill do not hold up the documents of
 * the first patient, nor those the next patient's enrolment.
 */
function byTurns(batches: readonly PendingRow[][]): PendingRow[][] {
  const place = new Map<string, number>();
  return batches
    .map((batch) => {
      const first = batch[0];
      const kind = `${first?.priority}/${first?.transaction === BATCHED}`;
      const turn = place.get(kind) ?? 0;
      place.set(kind, turn + 1);
      return { batch, priority: first?.priority ?? 1, turn };
    })
    .sort((a, b) => a.priority - b.priority || a.turn - b.turn)
    .map(({ batch }) => batch);
}

/**
 * Waiting rows that may go, in the order in which they go: by priority; patients in turn, a batch of each at a time, so
 * that a backfill of one never holds up another; enrolments first of patients whose documents wait for them. Held back: a row whose order key has an earlier unsettled row; a row of a
 * patient that the projection does not know yet or whose own enrolment is not committed. Urgent rows wait for nothing, but for
 * a withdrawal: of a patient whom the ledger does not know it would be refused for good, and there is nothing to hide yet.
 */
async function readClaimable(tx: Sql, limit: number): Promise<PendingRow[]> {
  return await tx.query<PendingRow>(sql`
    select id, transaction, args, priority from (
      select waiting.*, row_number() over (partition by priority, transaction = ${BATCHED}
        order by case when transaction = ${BATCHED} then (turn - 1) / 50 else 0 end, documents_wait desc, patient_first, seq) as place from (
      select o.id, o.seq, o.transaction, o.args, o.priority,
        min(o.seq) over (partition by o.priority, o.patient) as patient_first,
        row_number() over (partition by o.priority, o.patient order by o.seq) as turn,
        coalesce(o.transaction = 'enrollPatient' and o.patient in (select d.patient from outbox d where d.state = 'pending' and d.transaction = ${BATCHED}), false)
          as documents_wait
      from outbox o
      where o.state = 'pending' and ((o.priority = 0 and o.transaction <> 'withdrawDocument') or (
        (o.order_key is null or not exists (
          select 1 from outbox e where e.order_key = o.order_key and e.settled_at is null and e.seq < o.seq))
        and (o.patient is null or o.transaction = 'enrollPatient' or (
          exists (select 1 from projection.patient p where p.inst = split_part(o.patient, '/', 1) and p.pat = split_part(o.patient, '/', 2))
          and not exists (select 1 from outbox e where e.patient = o.patient and e.transaction = 'enrollPatient' and e.state <> 'committed')))))
    ) waiting) ranked
    where (priority = 0 or ${limit} > 0) and place <= ${Math.max(limit, 200)}
    order by priority, transaction = ${BATCHED}, place`);
}
