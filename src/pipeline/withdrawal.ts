import type { Logger } from 'pino';
import { codeOf } from '../errors.ts';
import type { Outbox } from '../outbox/outbox.ts';
import type { Database, Sql } from '../store/database.ts';
import { documentVersion } from '../store/documents.ts';
import { deleteDocumentRows } from '../store/resources.ts';
import { markWithdrawn, type SubjectRow, withdrawnUnsealed } from '../store/subjects.ts';
import type { Custodian } from '../vault/custodian.ts';
import type { LedgerStatements } from './parts.ts';
import { isPassing } from './passing.ts';
import type { createResealing } from './resealing.ts';

/**
 * Withdrawal (architecture section 3, step 4): hides at once, like a revocation, because the facade's rows go in the same
 * transaction; the ledger hears of it through the outbox, never of the reason. Afterwards every version is resealed to a
 * key of the institution alone and the old object deleted, resumable at any point.
 */
export function createWithdrawal(parts: {
  database: Database;
  custodian: Custodian;
  resealing: ReturnType<typeof createResealing>;
  outbox: Outbox;
  statements: LedgerStatements;
  log: Logger;
}) {
  const { database, custodian, resealing, outbox, statements, log } = parts;

  /** Documents that could not be opened since the start: not tried again and again. */
  const unreadable = new Set<string>();

  /** Inside the caller's transaction; false where the subject was withdrawn before or has no document yet. */
  async function withdraw(tx: Sql, subject: SubjectRow, reason: string): Promise<boolean> {
    // The version of this moment: it may have been filed since the subject was read.
    if (((await markWithdrawn(tx, subject.sub, reason)) ?? 0) === 0) return false;
    await deleteDocumentRows(tx, subject.document);
    await outbox.add(tx, statements.withdrawDocument(subject.pat, subject.document));
    return true;
  }

  /** Reseals withdrawn versions that are still sealed to their category key, a few at a time; returns how many it took up. */
  async function resealWithdrawn(limit = 50): Promise<number> {
    const due = await withdrawnUnsealed(database, limit, [...unreadable]);
    for (const { document, version } of due) {
      try {
        await reseal(document, version);
      } catch (error) {
        if (isPassing(error)) throw error;
        // Its object is gone or altered: nobody can read it any more, and reconcile names it. The others go on.
        unreadable.add(document);
        log.error({ document, version, code: codeOf(error) ?? 'INTERNAL' }, 'a withdrawn document cannot be resealed');
      }
    }
    return due.length;
  }

  async function reseal(document: string, version: number): Promise<void> {
    const row = await documentVersion(database, document, version);
    if (row === undefined) return;
    const { encryption } = await custodian.institutionKeys();
    await resealing.reseal(row, { version: 0, publicJwk: encryption });
    log.info({ document, version }, 'withdrawn document resealed to the institution');
  }

  return { withdraw, resealWithdrawn };
}
