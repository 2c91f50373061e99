import { newId } from '../ids.ts';
import type { EndorsedTransaction, Receipt } from '../ledger/ledger.ts';
import type { Database, Sql } from '../store/database.ts';
import { packBytes } from '../store/packed-bytes.ts';
import { sql } from '../store/sql.ts';
import { BATCHED } from './document-batch.ts';

/** A batch that is not settled, with its rows. `bytes`: signed and journaled; they may have been sent. */
export interface Batch {
  id: string;
  transaction: string;
  priority: number;
  conflicts: number;
  tx_id: string | null;
  bytes: Buffer | null;
  rows: readonly ItemRow[];
}
export interface ItemRow {
  id: string;
  args: string[];
  patient: string | null;
}
/** A row's end. */
export interface Verdict {
  id: string;
  state: 'committed' | 'rejected';
  errorCode: string | null;
}
/** What became of a batch: a receipt and each row's end, or a refusal of them all. */
export interface Ended {
  batch: Batch;
  receipt: Receipt | undefined;
  verdicts: readonly Verdict[];
}

/**
 * The rows of the writer: what was signed stands here before it is sent, and each batch ends once, whichever run of its job
 * is first. Every step is one statement for all batches given, so that a job with many costs hardly more than one with one.
 */
export function createBatchJournal(database: Database) {
  async function read(chosen: { job: string } | { batch: string }): Promise<Batch[]> {
    const found = await database.query<Omit<Batch, 'rows'> & { item: string | null; args: string[] | null; patient: string | null }>(sql`
      select b.id, b.transaction, b.priority, b.conflicts, b.tx_id, b.bytes, o.id as item, o.args, o.patient
      from outbox_batch b left join outbox o on o.batch = b.id
      where ${'job' in chosen ? sql`b.job = ${chosen.job}` : sql`b.id = ${chosen.batch}`} and b.settled_at is null
        and b.state in ('claimed', 'enqueued', 'inflight', 'failed')
      order by b.place, b.id, o.position`);
    return [...Map.groupBy(found, (row) => row.id).values()].flatMap((rows) => {
      const [first] = rows;
      if (first === undefined) return [];
      const { id, transaction, priority, conflicts, tx_id, bytes } = first;
      const items = rows.flatMap(({ item, args, patient }) => (item === null || args === null ? [] : [{ id: item, args, patient }]));
      return [{ id, transaction, priority, conflicts, tx_id, bytes, rows: items }];
    });
  }

  return {
    /** The open batches that a job carries, in the order in which they are to go. */
    ofJob: (job: string) => read({ job }),
    /** Undefined where it has been settled or parted meanwhile. */
    batch: async (id: string): Promise<Batch | undefined> => (await read({ batch: id }))[0],

    /** Writes signed bytes before they are sent. Returns the batches whose bytes they now are; of the others another run's bytes count. */
    async sign(endorsed: readonly (EndorsedTransaction & { batch: string })[]): Promise<Set<string>> {
      if (endorsed.length === 0) return new Set();
      const bytes = packBytes(endorsed.map((one) => one.bytes));
      // Locked in one order, so that two runs of a job wait for one another instead of deadlocking.
      const rows = await database.query<{ id: string }>(sql`
        with open as (
          select id from outbox_batch where id = any(${endorsed.map((one) => one.batch)}) and bytes is null
            and state in ('claimed', 'enqueued', 'inflight', 'failed') order by id for update),
        b as (
          update outbox_batch b set state = 'inflight', tx_id = t.tx_id, bytes = substring(${bytes.all}::bytea from t.at for t.size), result = t.result
          from unnest(${endorsed.map((one) => one.batch)}::text[], ${endorsed.map((one) => one.txId)}::text[],
            ${bytes.at}::int[], ${bytes.size}::int[], ${endorsed.map((one) => one.result)}::text[]) as t(id, tx_id, at, size, result)
          where b.id = t.id and b.id in (select id from open) and b.bytes is null returning b.id),
        r as (update outbox set state = 'inflight' where batch in (select id from b))
        select id from b`);
      return new Set(rows.map((row) => row.id));
    },

    /** After a definite verdict of "invalid" the journal is emptied, and only then; `txId` guards against another run. */
    async forget(id: string, txId: string, conflicts: number): Promise<void> {
      await database.query(sql`
        update outbox_batch set tx_id = null, bytes = null, result = null, conflicts = conflicts + ${conflicts} where id = ${id} and tx_id = ${txId}`);
    },

    /** Gives each part a batch and a job of its own, with nothing signed. */
    async split(batch: Batch, parts: readonly (readonly ItemRow[])[]): Promise<void> {
      const made = parts.map((rows) => ({ id: newId('batch'), rows }));
      await database.transaction(async (tx) => {
        if (!(await isOurs(tx, batch))) return;
        await tx.query(sql`update outbox_batch set state = 'split', settled_at = now(), bytes = null where id = ${batch.id}`);
        for (const one of made) {
          await tx.query(sql`
            insert into outbox_batch (id, job, transaction, priority, check_at) values (${one.id}, ${one.id}, ${batch.transaction}, ${batch.priority}, now())`);
          await tx.query(sql`
            update outbox o set state = 'claimed', batch = ${one.id}, position = t.position
            from unnest(${one.rows.map((row) => row.id)}::text[], ${one.rows.map((_, i) => i)}::int[]) as t(id, position) where o.id = t.id`);
        }
      });
    },

    /** A batch without rows: nothing to do, whatever led to it. */
    async drop(id: string): Promise<void> {
      await database.query(sql`update outbox_batch set state = 'split', settled_at = now() where id = ${id} and settled_at is null`);
    },

    /**
     * Receipts and the rows' ends in one commit. Returns the batches that ended here: of the others another run was first. A
     * receipt is the truth whoever brings it; a refusal is of what this run endorsed or sent.
     */
    async end(ended: readonly Ended[]): Promise<Set<string>> {
      if (ended.length === 0) return new Set();
      const verdicts = ended.flatMap(({ batch, verdicts: of }) => of.map((verdict) => ({ ...verdict, batch: batch.id })));
      const isReceipt = ended.map(({ receipt }) => receipt !== undefined);
      const rows = await database.query<{ id: string }>(sql`
        with open as (
          select id, tx_id, bytes is not null as journaled from outbox_batch
          where id = any(${ended.map(({ batch }) => batch.id)}) and settled_at is null order by id for update),
        mine as (
          select t.* from unnest(${ended.map(({ batch }) => batch.id)}::text[], ${ended.map(({ batch }) => batch.tx_id)}::text[], ${isReceipt}::boolean[],
            ${ended.map(({ receipt }) => receipt?.block ?? null)}::bigint[], ${ended.map(({ receipt }) => receipt?.txId ?? null)}::text[],
            ${ended.map(({ receipt, batch }) => (batch.transaction === BATCHED ? null : (receipt?.result ?? null)))}::text[],
            ${ended.map(({ receipt, verdicts: of }) => (receipt === undefined ? (of[0]?.errorCode ?? null) : null))}::text[])
            as t(id, tx_id, committed, block, receipt, result, code)
          join open o on o.id = t.id and (t.committed or not o.journaled or o.tx_id = t.tx_id)),
        b as (
          update outbox_batch b set state = case when mine.committed then 'committed' else 'rejected' end, settled_at = now(), block = mine.block,
            bytes = null, error_code = mine.code
          from mine where b.id = mine.id returning b.id),
        r as (
          update outbox o set state = t.state, error_code = t.code, settled_at = now(), tx_id = mine.receipt, block = mine.block, result = mine.result
          from unnest(${verdicts.map((v) => v.batch)}::text[], ${verdicts.map((v) => v.id)}::text[], ${verdicts.map((v) => v.state)}::text[],
            ${verdicts.map((v) => v.errorCode)}::text[]) as t(batch, id, state, code) join mine on mine.id = t.batch
          where o.id = t.id),
        -- The ledger answers again: what it left unanswered is due at once, not at the end of its slow retry.
        due as (
          update outbox_batch set retry_at = now() where state = 'failed' and retry_at > now() and error_code in ('LEDGER_UNAVAILABLE', 'LEDGER_UNKNOWN')
            and id not in (select id from mine) and exists (select 1 from mine where committed))
        select id from b`);
      return new Set(rows.map((row) => row.id));
    },

    /** The failure is written to our own table: the queue's retention must not be its only home. */
    async failed(id: string, code: string): Promise<void> {
      await database.query(sql`update outbox_batch set error_code = ${code} where id = ${id} and settled_at is null`);
    },
  };

  /**
   * Locks the batch; false where another run has settled it, or has journaled bytes of its own meanwhile, which may be
   * committed: to part the rows then would double or lose them.
   */
  async function isOurs(tx: Sql, batch: Batch): Promise<boolean> {
    const [row] = await tx.query<{ tx_id: string | null; journaled: boolean }>(sql`
      select tx_id, bytes is not null as journaled from outbox_batch where id = ${batch.id} and settled_at is null for update`);
    return row !== undefined && (!row.journaled || row.tx_id === batch.tx_id);
  }
}
