import { createHash } from 'node:crypto';
import { codeOf } from '../errors.ts';
import type { BlobStore } from '../store/blobs.ts';
import type { Database } from '../store/database.ts';
import { documentVersionsAfter, forgetPuts, orphanPuts } from '../store/documents.ts';
import { sql } from '../store/sql.ts';

/** One difference between documents, blobs and ledger. Names ids and hashes only. */
export interface Difference {
  kind:
    | 'missing-on-ledger'
    | 'missing-here'
    | 'hash-differs-from-ledger'
    | 'commitment-differs-from-ledger'
    | 'object-missing'
    | 'object-altered'
    | 'withdrawal-missing-on-ledger'
    | 'outbox-stuck'
    | 'record-without-document';
  document?: string;
  version?: number;
  pointer?: string;
  detail?: string;
}

export interface ReconcileReport {
  documents: number;
  entries: number;
  objects: number;
  /** Filed, and still on the way to the ledger: no difference. */
  underway: number;
  sweptObjects: number;
  differences: readonly Difference[];
}

/**
 * Compares documents, blobs and ledger both ways (architecture section 3, step 12). Reads every object's ciphertext and
 * hashes it; opens nothing, so it needs no audit event. Never lists a store: names come from rows, entries and `puts`.
 */
export function createReconcile(parts: { database: Database; blobs: BlobStore; institution: string; sweepAfterMs?: number }) {
  const { database, blobs, institution, sweepAfterMs = 3_600_000 } = parts;

  async function reconcile(onProgress?: (done: number) => void): Promise<ReconcileReport> {
    const differences: Difference[] = [];
    const counts = { documents: 0, entries: 0, objects: 0, underway: 0 };
    let after = { document: '', version: 0 };
    for (;;) {
      const page = await documentVersionsAfter(database, after, 200);
      if (page.length === 0) break;
      const entries = await entriesOf(page.map((row) => row.document));
      const settled = await settledOutbox(page.map((row) => row.outbox));
      const withdrawn = await withdrawnHere(page.map((row) => row.document));
      for (const row of page) {
        counts.documents++;
        const at = { document: row.document, version: row.version };
        // Withdrawn and resealed: the ledger keeps the old hash, the object here is the institution's own.
        if (!withdrawn.has(row.document)) {
          const entry = entries.get(`${row.document}/${row.version}`);
          if (entry === undefined) {
            if (settled.get(row.outbox) === 'committed' || settled.get(row.outbox) === undefined)
              differences.push({ kind: 'missing-on-ledger', ...at });
            else counts.underway++;
          } else {
            if (entry.ciphertext_hash !== row.ciphertext_hash) differences.push({ kind: 'hash-differs-from-ledger', ...at });
            if (entry.commitment !== row.commitment) differences.push({ kind: 'commitment-differs-from-ledger', ...at });
          }
        }
        counts.objects++;
        try {
          const hash = createHash('sha256')
            .update(await blobs.get(row.pointer))
            .digest('hex');
          if (hash !== row.ciphertext_hash) differences.push({ kind: 'object-altered', ...at, pointer: row.pointer });
        } catch (error) {
          if (codeOf(error) !== 'BLOB_MISSING') throw error;
          differences.push({ kind: 'object-missing', ...at, pointer: row.pointer });
        }
      }
      onProgress?.(counts.documents);
      const last = page.at(-1);
      if (last !== undefined) after = { document: last.document, version: last.version };
    }
    counts.entries = await countEntries();
    differences.push(
      ...(await missingHere()),
      ...(await withdrawalsMissing()),
      ...(await stuckOutbox()),
      ...(await recordsWithoutDocument()),
    );
    return { ...counts, differences, sweptObjects: await sweep() };
  }

  /** Deletes objects that were put over an hour ago and that neither a row nor an entry names. */
  async function sweep(): Promise<number> {
    const orphans = await orphanPuts(database, sweepAfterMs);
    for (const name of orphans) await blobs.delete(name);
    await forgetPuts(database, orphans);
    return orphans.length;
  }

  async function entriesOf(documents: readonly string[]): Promise<Map<string, { ciphertext_hash: string; commitment: string }>> {
    const rows = await database.query<{ doc: string; version: number; ciphertext_hash: string; commitment: string }>(sql`
      select distinct on (doc, version) doc, version, ciphertext_hash, commitment from projection.entry
      where recorder = ${institution} and doc = any(${documents}) and standing order by doc, version, n desc`);
    return new Map(rows.map((row) => [`${row.doc}/${row.version}`, row]));
  }

  async function settledOutbox(ids: readonly string[]): Promise<Map<string, string>> {
    const rows = await database.query<{ id: string; state: string }>(sql`select id, state from outbox where id = any(${ids})`);
    return new Map(rows.map((row) => [row.id, row.state]));
  }

  async function withdrawnHere(documents: readonly string[]): Promise<Set<string>> {
    const rows = await database.query<{ document: string }>(
      sql`select document from subject where document = any(${documents}) and withdrawn_at is not null`,
    );
    return new Set(rows.map((row) => row.document));
  }

  async function countEntries(): Promise<number> {
    const [row] = await database.query<{ count: number }>(
      sql`select count(*) as count from projection.entry where recorder = ${institution} and standing`,
    );
    return row?.count ?? 0;
  }

  async function missingHere(): Promise<Difference[]> {
    const rows = await database.query<{ doc: string; version: number; pointer: string }>(sql`
      select e.doc, e.version, e.pointer from projection.entry e
      where e.recorder = ${institution} and e.standing
        and not exists (select 1 from document_version d where d.document = e.doc and d.version = e.version)`);
    return rows.map((row) => ({ kind: 'missing-here', document: row.doc, version: row.version, pointer: row.pointer }));
  }

  async function withdrawalsMissing(): Promise<Difference[]> {
    const rows = await database.query<{ document: string }>(sql`
      select s.document from subject s
      where s.withdrawn_at is not null and s.version > 0
        and exists (select 1 from projection.document d where d.doc = s.document and d.recorder = ${institution} and not d.withdrawn)
        and not exists (select 1 from outbox o where o.transaction = 'withdrawDocument' and o.state not in ('committed', 'rejected') and o.args::text like '%' || s.document || '%')`);
    return rows.map((row) => ({ kind: 'withdrawal-missing-on-ledger', document: row.document }));
  }

  async function stuckOutbox(): Promise<Difference[]> {
    // A document refused for its key version was sealed again and has another row since.
    const rows = await database.query<{ id: string; state: string }>(sql`
      select o.id, o.state from outbox o where o.state in ('rejected', 'failed', 'conflict')
        and (o.error_code is distinct from 'KEY_VERSION_STALE' or exists (select 1 from document_version d where d.outbox = o.id)) order by o.id`);
    return rows.map((row) => ({ kind: 'outbox-stuck', detail: `${row.id} ${row.state}` }));
  }

  async function recordsWithoutDocument(): Promise<Difference[]> {
    const rows = await database.query<{ rec: string }>(sql`
      select r.rec from record r where r.outcome = 'own'
        and not exists (select 1 from document_version d where d.document = r.document and d.version = r.document_version) limit 100`);
    return rows.map((row) => ({ kind: 'record-without-document', detail: row.rec }));
  }

  return { reconcile, sweep };
}
