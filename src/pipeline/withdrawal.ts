import type { Logger } from 'pino';
import { codeOf } from '../errors.ts';
import type { Outbox } from '../outbox/outbox.ts';
import type { BlobStore } from '../store/blobs.ts';
import type { Database, Sql } from '../store/database.ts';
import { announcePuts, documentVersion, forgetPuts, movePointer } from '../store/documents.ts';
import { deleteDocumentRows } from '../store/resources.ts';
import { markWithdrawn, type SubjectRow, withdrawnUnsealed } from '../store/subjects.ts';
import type { Custodian } from '../vault/custodian.ts';
import type { Sealer } from '../vault/sealed-object.ts';
import type { SealedRows } from '../vault/sealed-rows.ts';
import type { LedgerStatements } from './parts.ts';
import { isPassing } from './passing.ts';

/**
 * Withdrawal (architecture section 3, step 4): hides at once, like a revocation, because the facade's rows go in the same
 * transaction; the ledger hears of it through the outbox, never of the reason. Afterwards every version is resealed to a
 * key of the institution alone and the old object deleted, resumable at any point.
 */
export function createWithdrawal(parts: {
  database: Database;
  blobs: BlobStore;
  sealer: Sealer;
  custodian: Custodian;
  rows: SealedRows;
  outbox: Outbox;
  statements: LedgerStatements;
  log: Logger;
}) {
  const { database, blobs, sealer, custodian, rows, outbox, statements, log } = parts;

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
    const opened = await sealer.open(await blobs.get(row.pointer), {
      document,
      version,
      patient: row.pat,
      category: row.category,
      ciphertextHash: row.ciphertext_hash,
      commitment: row.commitment,
    });
    const sealed = await sealer.seal({
      institution: custodian.institution,
      document,
      version,
      patient: row.pat,
      category: row.category,
      categoryKey: { version: 0, publicJwk: encryption },
      // With its salt, so that the commitment stays the one on the ledger.
      inner: opened.inner,
      pdf: opened.pdf,
      bundle: opened.bundle,
    });
    const pointer = `${custodian.institution}/${sealed.ciphertextHash}`;
    await announcePuts(database, [pointer]);
    await blobs.put(pointer, sealed.bytes);
    const header = await rows.seal(row.pat, row.category, `header/${document}/${version}`, Buffer.from(JSON.stringify(opened.inner)));
    await database.transaction((tx) =>
      movePointer(tx, {
        document,
        version,
        pointer,
        ciphertextHash: sealed.ciphertextHash,
        commitment: sealed.commitment,
        sizeBytes: sealed.bytes.length,
        header,
      }),
    );
    // The old object goes last: until then a crash only repeats this.
    await blobs.delete(row.pointer);
    await forgetPuts(database, [row.pointer]);
    log.info({ document, version }, 'withdrawn document resealed to the institution');
  }

  return { withdraw, resealWithdrawn };
}
