import type { Logger } from 'pino';
import { codeOf } from '../errors.ts';
import type { Outbox } from '../outbox/outbox.ts';
import type { BlobStore } from '../store/blobs.ts';
import type { Database, Sql } from '../store/database.ts';
import { announcePuts, type DocumentVersionRow, forgetPuts, movePointer, refusedVersions } from '../store/documents.ts';
import type { Custodian, PublicJwk } from '../vault/custodian.ts';
import type { Sealer } from '../vault/sealed-object.ts';
import type { SealedRows } from '../vault/sealed-rows.ts';
import type { createCategoryKeys } from './category-keys.ts';
import type { LedgerStatements } from './parts.ts';
import { isPassing } from './passing.ts';

/**
 * Seals filed documents again under another key, the same plaintext with the same salt, so that the commitment stays.
 * A document that was sealed just before its patient's category key got a new version is refused by the ledger
 * (KEY_VERSION_STALE, protocol section 3): it is sealed again and entered anew.
 */
export function createResealing(parts: {
  database: Database;
  blobs: BlobStore;
  sealer: Sealer;
  custodian: Custodian;
  categoryKeys: ReturnType<typeof createCategoryKeys>;
  rows: SealedRows;
  outbox: Outbox;
  statements: LedgerStatements;
  log: Logger;
}) {
  const { database, blobs, sealer, custodian, categoryKeys, rows, outbox, statements, log } = parts;
  /** Documents that could not be opened since the start: not tried again and again. */
  const unreadable = new Set<string>();

  /** Puts the object anew, moves the row to it in one transaction with `also`, and deletes the old object last. */
  async function reseal(
    row: DocumentVersionRow,
    key: { version: number; publicJwk: PublicJwk },
    also: (tx: Sql, sealed: { pointer: string; ciphertextHash: string; commitment: string }) => Promise<string | undefined> = async () =>
      undefined,
  ): Promise<void> {
    const { document, version } = row;
    const opened = await sealer.open(await blobs.get(row.pointer), {
      document,
      version,
      patient: row.pat,
      category: row.category,
      ciphertextHash: row.ciphertext_hash,
      commitment: row.commitment,
    });
    const { bytes, ciphertextHash, commitment } = await sealer.seal({
      institution: custodian.institution,
      document,
      version,
      patient: row.pat,
      category: row.category,
      categoryKey: key,
      inner: opened.inner,
      pdf: opened.pdf,
      bundle: opened.bundle,
    });
    const pointer = `${custodian.institution}/${ciphertextHash}`;
    await announcePuts(database, [pointer]);
    await blobs.put(pointer, bytes);
    const header = await rows.seal(row.pat, row.category, `header/${document}/${version}`, Buffer.from(JSON.stringify(opened.inner)));
    await database.transaction(async (tx) => {
      const entered = await also(tx, { pointer, ciphertextHash, commitment });
      await movePointer(tx, {
        document,
        version,
        pointer,
        ciphertextHash,
        commitment,
        keyVersion: key.version,
        sizeBytes: bytes.length,
        header,
        outbox: entered ?? row.outbox,
      });
      // Should we be killed now, the sweep deletes the old object.
      await forgetPuts(tx, [pointer]);
      await announcePuts(tx, [row.pointer]);
    });
    await blobs.delete(row.pointer);
    await forgetPuts(database, [row.pointer]);
  }

  /** Seals refused documents under the key that stands now and enters them anew; returns how many it took up. */
  async function resealStale(limit = 50): Promise<number> {
    const due = await refusedVersions(database, 'KEY_VERSION_STALE', limit, [...unreadable]);
    for (const row of due) {
      const { document, version } = row;
      try {
        const key = await categoryKeys.sealingKey(row.pat, row.category);
        await reseal(row, key, (tx, sealed) =>
          outbox.add(
            tx,
            statements.recordDocument({ patient: row.pat, document, version, category: row.category, keyVersion: key.version, ...sealed }),
          ),
        );
        outbox.wake();
        log.info({ document, version, keyVersion: key.version }, 'document sealed again under the new category key');
      } catch (error) {
        if (isPassing(error)) throw error;
        unreadable.add(document);
        log.error({ document, version, code: codeOf(error) ?? 'INTERNAL' }, 'a refused document cannot be sealed again');
      }
    }
    return due.length;
  }

  return { reseal, resealStale };
}
