import type { Logger } from 'pino';
import { codeOf } from '../errors.ts';
import type { Reason } from '../records/reasons.ts';
import type { Database } from '../store/database.ts';
import { decide, pendingRecords } from '../store/records.ts';
import type { createAssembly, DocumentDraft } from './assembly.ts';
import type { createFiling } from './filing.ts';
import type { createWithdrawal } from './withdrawal.ts';

/** Drafts filed together: one commit for many, but the first ones go at once, so that a pull shows its first document soon. */
const BATCH = 24;

/**
 * The loop that turns pending records into filed documents. One runs at a time in the process that holds the custodian;
 * it may be killed anywhere and starts again from the rows.
 */
export function createAssembler(parts: {
  database: Database;
  assembly: ReturnType<typeof createAssembly>;
  filing: ReturnType<typeof createFiling>;
  withdrawal: ReturnType<typeof createWithdrawal>;
  /** Documents were filed: the outbox has work. */
  onFiled(count: number): void;
  log: Logger;
}) {
  const { database, assembly, filing, withdrawal, onFiled, log } = parts;
  let closed = false;
  let running: Promise<unknown> = Promise.resolve();
  let wanted = false;

  /** Starts a round soon; many calls make one round. */
  function wake(): void {
    if (wanted || closed) return;
    wanted = true;
    void queue(false).catch((error: unknown) =>
      log.error({ err: codeOf(error) ?? error }, 'assembly failed; it is tried again at the next pull'),
    );
  }

  /** Works off everything that is pending. `final`: sources were read to their end, so nothing is waited for any more. */
  function drain(): Promise<number> {
    return queue(true);
  }

  function queue(final: boolean): Promise<number> {
    const run = running.then(() => {
      wanted = false;
      return round(final);
    });
    running = run.catch(() => {});
    return run;
  }

  async function round(final: boolean): Promise<number> {
    let filed = 0;
    const seen = new Set<string>();
    while (!closed) {
      const pending = await pendingRecords(database, 200, [...seen]);
      if (pending.length === 0) break;
      let drafts: DocumentDraft[] = [];
      for (const record of pending) {
        if (closed) break;
        if (seen.has(record.rec)) continue;
        seen.add(record.rec);
        try {
          const { drafts: found, touched } = await assembly.assemble(record, final);
          // Everything of the component was looked at; what still waits is looked at again when more has come.
          for (const rec of touched) seen.add(rec);
          drafts.push(...found);
        } catch (error) {
          await quarantine([record.rec], error);
        }
        if (drafts.length >= (filed === 0 ? 1 : BATCH)) {
          filed += await file(drafts);
          drafts = [];
        }
      }
      filed += await file(drafts);
    }
    while (!closed && (await withdrawal.resealWithdrawn()) > 0);
    return filed;
  }

  async function file(drafts: readonly DocumentDraft[]): Promise<number> {
    if (drafts.length === 0) return 0;
    const { filed, failed } = await filing.file(drafts);
    for (const failure of failed)
      await quarantine(
        failure.draft.own.filter((o) => o.row.outcome === 'pending').map((o) => o.row.rec),
        failure.error,
      );
    if (filed > 0) onFiled(filed);
    return filed;
  }

  /** A record that cannot be worked is held with its bytes for a person; the others go on. Passing faults are thrown on. */
  async function quarantine(recs: readonly string[], error: unknown): Promise<void> {
    const code = codeOf(error);
    if (code === 'UNAVAILABLE' || code === undefined) {
      if (isPassing(error) || code !== undefined) throw error;
    }
    log.error(
      { recs, code: code ?? 'INTERNAL', err: code === undefined ? error : undefined },
      'records held: no document can be made of them',
    );
    await decide(database, recs, { outcome: 'quarantine', reason: 'CONTENT_INVALID' satisfies Reason });
  }

  return {
    wake,
    drain,
    async close() {
      closed = true;
      await running;
    },
  };
}

/** The database or a disk went away: nothing is wrong with the record. */
function isPassing(error: unknown): boolean {
  const code = (error as { code?: unknown } | null)?.code;
  return (
    (typeof code === 'string' && /^(ECONN|EPIPE|ENOSPC|EIO|ETIMEDOUT|57P0|08|53|25P|40)/.test(code)) ||
    /Connection terminated|connection/i.test((error as Error | undefined)?.message ?? '')
  );
}
