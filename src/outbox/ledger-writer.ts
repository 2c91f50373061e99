import { CodedError, codeOf } from '../errors.ts';
import { newId } from '../ids.ts';
import type { Ledger, Receipt } from '../ledger/ledger.ts';
import type { JobQueue, JobWorker } from '../queue/queue.ts';
import type { Database, Sql } from '../store/database.ts';
import { sql } from '../store/sql.ts';
import { BATCHED, entriesOf, joinArguments, readRefusals } from './document-batch.ts';
import { SETTLED_CHANNEL, WAKE_CHANNEL } from './postgres-outbox.ts';

export interface LedgerWriterOptions {
  database: Database;
  queue: JobQueue;
  ledger: Pick<Ledger, 'endorse' | 'submit' | 'status'>;
  /** Batches written at once. */
  concurrency?: number;
  /** Waits between status and resubmission of an unknown outcome, within one attempt of the job. */
  unknownWaitMs?: number;
  /** Milliseconds that close() waits for batches under way; what it leaves is resumed from the journal. */
  closeMs?: number;
  /** Told of every settled row; an alarm belongs on `rejected`. */
  onSettled?: (rows: readonly SettledRow[]) => void;
  onError?: (error: Error) => void;
}

export interface SettledRow {
  id: string;
  transaction: string;
  state: 'committed' | 'rejected';
  errorCode?: string;
}

interface BatchRow {
  id: string;
  state: string;
  transaction: string;
  priority: number;
  conflicts: number;
  tx_id: string | null;
  bytes: Buffer | null;
}
interface ItemRow {
  id: string;
  args: string[];
  patient: string | null;
}
/** A row's end. */
interface Verdict {
  id: string;
  state: 'committed' | 'rejected';
  errorCode: string | null;
}

/** Asked and sent again so often within one attempt; then the queue's backoff takes over. */
const UNKNOWN_TRIES = 3;
/** Endorsed anew so often within one attempt. */
const CONFLICT_TRIES = 5;

/**
 * The worker: brings one batch to the ledger, exactly once whatever dies when. The signed bytes are journaled before they
 * are sent; an outcome that is not known is asked for and the *same* bytes are sent again, never new ones; only a definite
 * "invalid" is endorsed anew (queue-and-reliability.md section 8).
 */
export async function createLedgerWriter(options: LedgerWriterOptions): Promise<{ close(): Promise<void> }> {
  const { database, queue, ledger } = options;
  const onError = options.onError ?? (() => {});
  const onSettled = options.onSettled ?? (() => {});
  const unknownWaitMs = options.unknownWaitMs ?? 200;

  async function write(id: string): Promise<void> {
    try {
      await bring(id);
    } catch (error) {
      // The failure is written to our own table: the queue's retention must not be its only home.
      const code = codeOf(error) ?? 'INTERNAL';
      await database.query(sql`update outbox_batch set error_code = ${code} where id = ${id} and settled_at is null`).catch(onError);
      onError(error as Error);
      throw error;
    }
  }

  async function bring(id: string): Promise<void> {
    let unknown = 0;
    let conflicts = 0;
    let resumed = true;
    for (;;) {
      const batch = await readBatch(id);
      // Settled by another run of the same job, split, or of a database that has been restored.
      if (batch === undefined || !['claimed', 'enqueued', 'inflight', 'failed'].includes(batch.state)) return;
      const rows = await database.query<ItemRow>(sql`select id, args, patient from outbox where batch = ${id} order by position`);
      if (rows.length === 0) return await drop(id);

      if (batch.bytes === null || batch.tx_id === null) {
        resumed = false;
        const endorsed = await endorse(batch, rows);
        if (endorsed === 'settled') return;
        if (!(await journal(id, endorsed))) continue;
        batch.tx_id = endorsed.txId;
        batch.bytes = Buffer.from(endorsed.bytes);
      }
      // Journaled by an earlier run: it may have been sent. Asking is cheap, and settles what was committed.
      const known = resumed ? await ledger.status(batch.tx_id) : undefined;
      if (known !== undefined) return await settle(batch, rows, known);
      resumed = true;
      try {
        return await settle(batch, rows, await ledger.submit(batch.bytes));
      } catch (error) {
        const code = codeOf(error);
        if (code === 'LEDGER_UNKNOWN' && ++unknown < UNKNOWN_TRIES) {
          await new Promise((done) => setTimeout(done, unknownWaitMs * unknown));
        } else if (code === 'LEDGER_CONFLICT') {
          if (await onConflict(batch, rows)) return;
          if (++conflicts >= CONFLICT_TRIES) throw error;
        } else if (code === 'LEDGER_REFUSED') {
          return await refuse(batch, rows, refusalOf(error));
        } else if (code === 'LEDGER_INVALID') {
          // Definitely without effect. A revoke is always endorsed anew; anything else is retried by policy, endorsed anew.
          await forget(id, batch.tx_id, 0);
          if (batch.priority !== 0 || ++conflicts >= CONFLICT_TRIES) throw error;
        } else {
          throw error;
        }
      }
    }
  }

  async function readBatch(id: string): Promise<BatchRow | undefined> {
    const [row] = await database.query<BatchRow>(sql`
      select id, state, transaction, priority, conflicts, tx_id, bytes from outbox_batch where id = ${id}`);
    return row;
  }

  async function endorse(
    batch: BatchRow,
    rows: readonly ItemRow[],
  ): Promise<{ txId: string; bytes: Uint8Array; result: string } | 'settled'> {
    const args = batch.transaction === BATCHED ? joinArguments(rows.map((row) => row.args)) : (rows[0]?.args ?? []);
    try {
      return await ledger.endorse({ name: batch.transaction, args });
    } catch (error) {
      // The endorsing peers saw different states: one was behind. Nothing was sent.
      if (codeOf(error) !== 'LEDGER_REFUSED') throw error;
      await refuse(batch, rows, refusalOf(error));
      return 'settled';
    }
  }

  /** True where these bytes are now the batch's; false where another run of the job was first: its bytes count. */
  async function journal(id: string, endorsed: { txId: string; bytes: Uint8Array; result: string }): Promise<boolean> {
    const rows = await database.query(sql`
      with b as (
        update outbox_batch set state = 'inflight', tx_id = ${endorsed.txId}, bytes = ${Buffer.from(endorsed.bytes)}, result = ${endorsed.result}
        where id = ${id} and bytes is null and state in ('claimed', 'enqueued', 'inflight', 'failed') returning id),
      r as (update outbox set state = 'inflight' where batch in (select id from b))
      select id from b`);
    return rows.length > 0;
  }

  /** After a definite verdict of "invalid" the journal is emptied, and only then; `txId` guards against another run. */
  async function forget(id: string, txId: string, conflicts: number): Promise<void> {
    await database.query(sql`
      update outbox_batch set tx_id = null, bytes = null, result = null, conflicts = conflicts + ${conflicts} where id = ${id} and tx_id = ${txId}`);
  }

  /** Endorse anew; at the second conflict of a batch each patient gets a batch of its own. True where it was split. */
  async function onConflict(batch: BatchRow, rows: readonly ItemRow[]): Promise<boolean> {
    await forget(batch.id, batch.tx_id ?? '', 1);
    if (batch.conflicts + 1 < 2) return false;
    const byPatient = Map.groupBy(rows, (row) => row.patient ?? '');
    if (byPatient.size < 2) return false;
    await split(batch, [...byPatient.values()]);
    return true;
  }

  /** A refusal of the whole: with several rows one bad one must not reject the others, so they go by halves. */
  async function refuse(batch: BatchRow, rows: readonly ItemRow[], code: string): Promise<void> {
    if (rows.length > 1) {
      const middle = Math.ceil(rows.length / 2);
      await split(batch, [rows.slice(0, middle), rows.slice(middle)]);
      return;
    }
    await end(
      batch,
      undefined,
      rows.map((row) => ({ id: row.id, state: 'rejected', errorCode: code })),
    );
  }

  async function split(batch: BatchRow, parts: readonly (readonly ItemRow[])[]): Promise<void> {
    const made = parts.map((rows) => ({ id: newId('batch'), rows }));
    await database.transaction(async (tx) => {
      if (!(await lockOpen(tx, batch, 'ours'))) return;
      await tx.query(sql`update outbox_batch set state = 'split', settled_at = now(), bytes = null where id = ${batch.id}`);
      for (const one of made) {
        await tx.query(sql`
          insert into outbox_batch (id, transaction, priority, check_at) values (${one.id}, ${batch.transaction}, ${batch.priority}, now())`);
        await tx.query(sql`
          update outbox o set state = 'claimed', batch = ${one.id}, position = t.position
          from unnest(${one.rows.map((row) => row.id)}::text[], ${one.rows.map((_, i) => i)}::int[]) as t(id, position) where o.id = t.id`);
      }
    });
    tell(WAKE_CHANNEL, '');
  }

  /** A batch without rows: nothing to do, whatever led to it. */
  async function drop(id: string): Promise<void> {
    await database.query(sql`update outbox_batch set state = 'split', settled_at = now() where id = ${id} and settled_at is null`);
  }

  async function settle(batch: BatchRow, rows: readonly ItemRow[], receipt: Receipt): Promise<void> {
    const refusals = batch.transaction === BATCHED ? readRefusals(receipt.result) : new Map<number, string>();
    const verdicts: Verdict[] = [];
    for (const [i, row] of rows.entries()) {
      const refusal = refusals.get(i);
      const stands = refusal !== undefined && (await standsAlready(row));
      verdicts.push({
        id: row.id,
        state: refusal === undefined || stands ? 'committed' : 'rejected',
        errorCode: stands ? null : (refusal ?? null),
      });
    }
    await end(batch, receipt, verdicts);
  }

  /** Refused now, yet the projection holds this very entry: it was written before (an older database was restored). */
  async function standsAlready(row: ItemRow): Promise<boolean> {
    const [entry] = entriesOf(row.args);
    if (entry?.document === undefined || entry.ciphertextHash === undefined) return false;
    const found = await database.query(sql`
      select 1 from projection.entry where inst = ${entry.institution ?? ''} and pat = ${entry.patient ?? ''} and doc = ${entry.document}
        and version = ${entry.version ?? 0} and ciphertext_hash = ${entry.ciphertextHash} limit 1`);
    return found.length > 0;
  }

  /** Receipt and the rows' ends in one commit. */
  async function end(batch: BatchRow, receipt: Receipt | undefined, verdicts: readonly Verdict[]): Promise<void> {
    const state = receipt === undefined ? 'rejected' : 'committed';
    const single = batch.transaction === BATCHED ? null : (receipt?.result ?? null);
    const done = await database.transaction(async (tx) => {
      // A receipt is the truth whoever brings it; a refusal is of what this run endorsed or sent.
      if (!(await lockOpen(tx, batch, receipt === undefined ? 'ours' : 'any'))) return false;
      await tx.query(sql`
        update outbox_batch set state = ${state}, settled_at = now(), block = ${receipt?.block ?? null}, bytes = null,
          error_code = ${receipt === undefined ? (verdicts[0]?.errorCode ?? null) : null}
        where id = ${batch.id}`);
      await tx.query(sql`
        update outbox o set state = t.state, error_code = t.code, settled_at = now(), tx_id = ${receipt?.txId ?? null}, block = ${receipt?.block ?? null}::bigint, result = ${single}
        from unnest(${verdicts.map((v) => v.id)}::text[], ${verdicts.map((v) => v.state)}::text[], ${verdicts.map((v) => v.errorCode)}::text[]) as t(id, state, code)
        where o.id = t.id`);
      // The ledger answers again: what it left unanswered is due at once, not at the end of its slow retry.
      if (receipt !== undefined)
        await tx.query(sql`
          update outbox_batch set retry_at = now() where state = 'failed' and retry_at > now() and error_code in ('LEDGER_UNAVAILABLE', 'LEDGER_UNKNOWN')`);
      return true;
    });
    if (!done) return;
    const ids = verdicts.map((v) => v.id);
    // A notification holds at most 8000 bytes.
    for (let i = 0; i < ids.length; i += 200) tell(SETTLED_CHANNEL, ids.slice(i, i + 200).join(','));
    tell(WAKE_CHANNEL, '');
    onSettled(
      verdicts.map((v) => ({
        id: v.id,
        transaction: batch.transaction,
        state: v.state,
        ...(v.errorCode === null ? {} : { errorCode: v.errorCode }),
      })),
    );
  }

  /**
   * Locks the batch; false where another run has settled it. `ours`: false also where another run of the same job has
   * journaled bytes of its own meanwhile, which may be committed: to part or refuse the rows then would double or lose them.
   */
  async function lockOpen(tx: Sql, batch: BatchRow, journaled: 'ours' | 'any'): Promise<boolean> {
    const [row] = await tx.query<{ tx_id: string | null; journaled: boolean }>(sql`
      select tx_id, bytes is not null as journaled from outbox_batch where id = ${batch.id} and settled_at is null for update`);
    return row !== undefined && (journaled === 'any' || !row.journaled || row.tx_id === batch.tx_id);
  }

  /** Lost messages cost a poll interval, so nobody waits for these. */
  function tell(channel: string, payload: string): void {
    database.query(sql`select pg_notify(${channel}, ${payload})`).catch(onError);
  }

  const worker: JobWorker = await queue.process((job) => write(job.id), { concurrency: options.concurrency ?? 4 });
  return { close: () => worker.close(options.closeMs ?? 10_000) };
}

/** The contract's own code, which the ledger puts first in the diagnostics of LEDGER_REFUSED. */
function refusalOf(error: unknown): string {
  const text = error instanceof CodedError ? (error.detail.diagnostics ?? '') : '';
  return /[A-Z][A-Z0-9_]{3,}/.exec(text)?.[0] ?? 'LEDGER_REFUSED';
}
