import type { Logger } from 'pino';
import { codeOf } from '../errors.ts';
import type { Reason } from '../records/reasons.ts';
import type { Database } from '../store/database.ts';
import { decide, pendingRecords } from '../store/records.ts';
import type { createAssembly, DocumentDraft } from './assembly.ts';
import type { createFiling } from './filing.ts';
import { isPassing } from './passing.ts';
import type { createReplay } from './replay.ts';
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
  replay: Pick<ReturnType<typeof createReplay>, 'due'>;
  /** Documents were filed: the outbox has work. */
  onFiled(count: number): void;
  log: Logger;
}) {
  const { database, assembly, filing, withdrawal, replay, onFiled, log } = parts;
  let closed = false;
  let running: Promise<unknown> = Promise.resolve();
  let wanted = false;

  /** Starts a round soon; many calls make one round. */
  function wake(): void {
    if (wanted || closed) return;
    wanted = true;
    void drain().catch((error: unknown) =>
      log.error({ err: codeOf(error) ?? error }, 'assembly failed; it is tried again at the next pull'),
    );
  }

  /**
   * Works off everything that is pending, and returns how many documents were filed. What waits for more of its subject goes
   * on waiting until the pull of its stream has come to its end.
   */
  function drain(): Promise<number> {
    const run = running.then(() => {
      wanted = false;
      return round();
    });
    running = run.catch(() => {});
    return run;
  }

  async function round(): Promise<number> {
    let filed = 0;
    await replay.due();
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
          const { drafts: found, touched } = await assembly.assemble(record, record.final);
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
    if (isPassing(error)) throw error;
    const code = codeOf(error);
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
