import { CodedError, codeOf } from '../errors.ts';
import type { EndorsedTransaction, Ledger, Receipt } from '../ledger/ledger.ts';
import type { JobQueue, JobWorker } from '../queue/queue.ts';
import type { Database } from '../store/database.ts';
import { sql } from '../store/sql.ts';
import { type Batch, createBatchJournal, type Ended, type ItemRow, type Verdict } from './batch-journal.ts';
import { BATCHED, entriesOf, joinArguments, readRefusals } from './document-batch.ts';
import { SETTLED_CHANNEL, WAKE_CHANNEL } from './postgres-outbox.ts';

export interface LedgerWriterOptions {
  database: Database;
  queue: JobQueue;
  ledger: Pick<Ledger, 'endorse' | 'submit' | 'status'>;
  /** Jobs worked at once. */
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

/** What came of endorsing or sending: `sent` tells which of the two failed. */
type Try = { receipt: Receipt } | { error: unknown; sent: boolean };

/** Asked and sent again so often within one attempt; then the queue's backoff takes over. */
const UNKNOWN_TRIES = 3;
/** So long the answers that came wait for those that have not, to be written together. */
const TOGETHER_MS = 500;
/** Endorsed anew so often within one attempt. */
const CONFLICT_TRIES = 5;

/**
 * The worker: brings the batches of a job to the ledger, each exactly once whatever dies when. The signed bytes are journaled
 * before they are sent; an outcome that is not known is asked for and the *same* bytes are sent again, never new ones; only a
 * definite "invalid" is endorsed anew (queue-and-reliability.md section 8). Batches of one job are endorsed and sent beside each
 * other, so that they share a block, and written in one statement a step; whichever does not come through goes on alone.
 */
export async function createLedgerWriter(options: LedgerWriterOptions): Promise<{ close(): Promise<void> }> {
  const { database, queue, ledger } = options;
  const onError = options.onError ?? (() => {});
  const onSettled = options.onSettled ?? (() => {});
  const unknownWaitMs = options.unknownWaitMs ?? 200;
  const journal = createBatchJournal(database);

  async function work(job: string): Promise<void> {
    const batches = await journal.ofJob(job);
    const fresh: Batch[] = [];
    const left: { batch: Batch; problem?: Try }[] = [];
    for (const batch of batches) {
      // Journaled by an earlier run: it may have been sent, and is asked for first.
      if (batch.bytes === null && batch.rows.length > 0) fresh.push(batch);
      else left.push({ batch });
    }
    left.push(...(await bringTogether(fresh)));
    const ends = await Promise.allSettled(left.map(({ batch, problem }) => write(batch, problem)));
    const errors = ends.flatMap((end) => (end.status === 'rejected' ? [end.reason as unknown] : []));
    // The attempt fails with what is worth another one, if there is such.
    if (errors.length > 0) throw errors.find((error) => codeOf(error) !== 'LEDGER_REFUSED') ?? errors[0];
  }

  /** Endorses, journals, sends and settles all at once. Returns those that did not get that far, with what stopped them. */
  async function bringTogether(batches: readonly Batch[]): Promise<{ batch: Batch; problem?: Try }[]> {
    if (batches.length === 0) return [];
    const left: { batch: Batch; problem?: Try }[] = [];
    const endorsements = await Promise.all(
      batches.map(async (of) => {
        try {
          return { ...(await endorse(of)), of, batch: of.id };
        } catch (error) {
          left.push({ batch: of, problem: { error, sent: false } });
          return undefined;
        }
      }),
    );
    const endorsed = endorsements.filter((one) => one !== undefined);
    const signed = await journal.sign(endorsed);
    const committed: { batch: Batch; receipt: Receipt }[] = [];
    const all = Promise.all(
      endorsed.map(async ({ of: batch, txId, bytes }) => {
        if (!signed.has(batch.id)) {
          left.push({ batch });
          return;
        }
        batch.tx_id = txId;
        batch.bytes = Buffer.from(bytes);
        try {
          committed.push({ batch, receipt: await ledger.submit(batch.bytes) });
        } catch (error) {
          left.push({ batch, problem: { error, sent: true } });
        }
      }),
    );
    // One whose answer takes long holds up the settlement of none of the others.
    let patience: NodeJS.Timeout | undefined;
    await Promise.race([all, new Promise((late) => (patience = setTimeout(late, TOGETHER_MS)))]);
    clearTimeout(patience);
    await settle(committed.splice(0));
    await all;
    await settle(committed);
    return left;
  }

  /** One batch by itself; its failure is written down. */
  async function write(batch: Batch, problem?: Try): Promise<void> {
    try {
      await bring(batch, problem);
    } catch (error) {
      await journal.failed(batch.id, codeOf(error) ?? 'INTERNAL').catch(onError);
      onError(error as Error);
      throw error;
    }
  }

  /** `met`: what the try that has just been made came to. */
  async function bring(first: Batch, met: Try | undefined): Promise<void> {
    const { id } = first;
    let batch: Batch | undefined = first;
    let tried = met;
    let unknown = 0;
    let conflicts = 0;
    for (;;) {
      // Settled by another run of the same job, split, or of a database that has been restored.
      if (batch === undefined) return;
      if (batch.rows.length === 0) return await journal.drop(id);
      const result = tried ?? (await attempt(batch));
      tried = undefined;
      // Another run's bytes count, which are in the journal now.
      if (result !== 'overtaken') {
        if ('receipt' in result) return await settle([{ batch, receipt: result.receipt }]);
        const { error, sent } = result;
        const code = codeOf(error);
        if (code === 'LEDGER_REFUSED') return await refuse(batch, refusalOf(error));
        // The endorsing peers saw different states: one was behind. Nothing was sent.
        if (!sent) throw error;
        if (code === 'LEDGER_UNKNOWN' && ++unknown < UNKNOWN_TRIES) {
          await new Promise((done) => setTimeout(done, unknownWaitMs * unknown));
        } else if (code === 'LEDGER_CONFLICT') {
          if (await onConflict(batch)) return;
          if (++conflicts >= CONFLICT_TRIES) throw error;
        } else if (code === 'LEDGER_INVALID') {
          // Definitely without effect. A revoke is always endorsed anew; anything else is retried by policy, endorsed anew.
          await journal.forget(id, batch.tx_id ?? '', 0);
          if (batch.priority !== 0 || ++conflicts >= CONFLICT_TRIES) throw error;
        } else throw error;
      }
      batch = await journal.batch(id);
    }
  }

  async function attempt(batch: Batch): Promise<Try | 'overtaken'> {
    let sent = batch.bytes !== null;
    try {
      if (batch.bytes === null || batch.tx_id === null) {
        const endorsed = await endorse(batch);
        if (!(await journal.sign([{ ...endorsed, batch: batch.id }])).has(batch.id)) return 'overtaken';
        batch.tx_id = endorsed.txId;
        batch.bytes = Buffer.from(endorsed.bytes);
        sent = true;
      } else {
        // What stands in the journal may have been sent. Asking is cheap, and settles what was committed.
        const known = await ledger.status(batch.tx_id);
        if (known !== undefined) return { receipt: known };
      }
      return { receipt: await ledger.submit(batch.bytes) };
    } catch (error) {
      return { error, sent };
    }
  }

  async function endorse(batch: Batch): Promise<EndorsedTransaction> {
    const args = batch.transaction === BATCHED ? joinArguments(batch.rows.map((row) => row.args)) : (batch.rows[0]?.args ?? []);
    return ledger.endorse({ name: batch.transaction, args });
  }

  /** Endorse anew; at the second conflict of a batch each patient gets a batch of its own. True where it was split. */
  async function onConflict(batch: Batch): Promise<boolean> {
    await journal.forget(batch.id, batch.tx_id ?? '', 1);
    if (batch.conflicts + 1 < 2) return false;
    const byPatient = Map.groupBy(batch.rows, (row) => row.patient ?? '');
    if (byPatient.size < 2) return false;
    await split(batch, [...byPatient.values()]);
    return true;
  }

  /** A refusal of the whole: with several rows one bad one must not reject the others, so they go by halves. */
  async function refuse(batch: Batch, code: string): Promise<void> {
    const { rows } = batch;
    if (rows.length > 1) {
      const middle = Math.ceil(rows.length / 2);
      await split(batch, [rows.slice(0, middle), rows.slice(middle)]);
      return;
    }
    await end([{ batch, receipt: undefined, verdicts: rows.map((row) => ({ id: row.id, state: 'rejected', errorCode: code })) }]);
  }

  async function split(batch: Batch, parts: readonly (readonly ItemRow[])[]): Promise<void> {
    await journal.split(batch, parts);
    tell([]);
  }

  async function settle(committed: readonly { batch: Batch; receipt: Receipt }[]): Promise<void> {
    await end(
      await Promise.all(
        committed.map(async ({ batch, receipt }): Promise<Ended> => {
          const refusals = batch.transaction === BATCHED ? readRefusals(receipt.result) : new Map<number, string>();
          const verdicts: Verdict[] = [];
          for (const [i, row] of batch.rows.entries()) {
            const refusal = refusals.get(i);
            const stands = refusal !== undefined && (await standsAlready(row));
            verdicts.push({
              id: row.id,
              state: refusal === undefined || stands ? 'committed' : 'rejected',
              errorCode: stands ? null : (refusal ?? null),
            });
          }
          return { batch, receipt, verdicts };
        }),
      ),
    );
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

  async function end(ended: readonly Ended[]): Promise<void> {
    const here = await journal.end(ended);
    const rows = ended
      .filter(({ batch }) => here.has(batch.id))
      .flatMap(({ batch, verdicts }) => verdicts.map((verdict) => ({ ...verdict, transaction: batch.transaction })));
    if (rows.length === 0) return;
    tell(rows.map((row) => row.id));
    onSettled(
      rows.map(({ id, transaction, state, errorCode }) => ({ id, transaction, state, ...(errorCode === null ? {} : { errorCode }) })),
    );
  }

  /** Tells of settled rows and wakes the relay. Lost messages cost a poll interval, so nobody waits for these. */
  function tell(settled: readonly string[]): void {
    const said: { channel: string; payload: string }[] = [{ channel: WAKE_CHANNEL, payload: '' }];
    // A notification holds at most 8000 bytes.
    for (let i = 0; i < settled.length; i += 200) said.push({ channel: SETTLED_CHANNEL, payload: settled.slice(i, i + 200).join(',') });
    database
      .query(sql`
        select pg_notify(channel, payload) from unnest(${said.map((one) => one.channel)}::text[], ${said.map((one) => one.payload)}::text[]) as t(channel, payload)`)
      .catch(onError);
  }

  const worker: JobWorker = await queue.process((job) => work(job.id), { concurrency: options.concurrency ?? 4 });
  return { close: () => worker.close(options.closeMs ?? 10_000) };
}

/** The contract's own code, which the ledger puts first in the diagnostics of LEDGER_REFUSED. */
function refusalOf(error: unknown): string {
  const text = error instanceof CodedError ? (error.detail.diagnostics ?? '') : '';
  return /[A-Z][A-Z0-9_]{3,}/.exec(text)?.[0] ?? 'LEDGER_REFUSED';
}
