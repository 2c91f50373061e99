import { createHash } from 'node:crypto';
import { codeOf } from '../errors.ts';
import type { BlobStore } from '../store/blobs.ts';
import type { Database } from '../store/database.ts';
import { type DocumentVersionRow, documentVersion, documentVersionsAfter, forgetPuts, lockOrphanPuts } from '../store/documents.ts';
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
    | 'shared-object-missing'
    | 'shared-object-altered'
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
  /** Of patients of other institutions; `pending` and `missing` are still to be fetched and no difference of ours. */
  shared: { held: number; pending: number; missing: number };
  differences: readonly Difference[];
}

/** Whose refusal is answered to whoever asked for it, or taken up again by whoever it was due to; it leaves nothing here. */
const ANSWERED = [
  'grantPermission',
  'publishCategoryKey',
  'claimPatient',
  'rotatePatientKey',
  'delegate',
  'setPrivateInfo',
  'erasePatient',
  'suspendMember',
  'renewMember',
];

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
      counts.documents += page.length;
      counts.objects += page.length;
      const first = await examine(page);
      counts.underway += first.underway;
      // Beside a server that is at work a row may change between two of these questions: what differs is looked at again.
      const suspects = await Promise.all(first.suspects.map(({ document, version }) => documentVersion(database, document, version)));
      const second = await examine(suspects.filter((row) => row !== undefined));
      counts.underway += second.underway;
      differences.push(...second.differences);
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
    const shared = await sharedCopies();
    differences.push(...shared.differences);
    return { ...counts, shared: shared.counts, differences, sweptObjects: await sweep() };
  }

  async function examine(
    page: readonly DocumentVersionRow[],
  ): Promise<{ underway: number; suspects: DocumentVersionRow[]; differences: Difference[] }> {
    const documents = page.map((row) => row.document);
    let underway = 0;
    const suspects: DocumentVersionRow[] = [];
    const differences: Difference[] = [];
    // In this order: what has a receipt by now, in a block that is projected by now, has its entry.
    const outbox = await outboxOf(page.map((row) => row.outbox));
    const height = await projectedHeight();
    const entries = await entriesOf(documents);
    const withdrawn = await withdrawnHere(documents);
    for (const row of page) {
      const at = { document: row.document, version: row.version };
      const found: Difference[] = [];
      let isUnderway = false;
      const entry = entries.get(`${row.document}/${row.version}`);
      // Withdrawn and resealed: the ledger keeps the old hash, the object here is the institution's own.
      if (withdrawn.has(row.document)) {
        // nothing to compare
      } else if (entry === undefined) {
        const sent = outbox.get(row.outbox);
        if (sent === undefined || (sent.state === 'committed' && (sent.block ?? 0) < height))
          found.push({ kind: 'missing-on-ledger', ...at });
        else isUnderway = true;
      } else {
        if (entry.ciphertext_hash !== row.ciphertext_hash) found.push({ kind: 'hash-differs-from-ledger', ...at });
        if (entry.commitment !== row.commitment) found.push({ kind: 'commitment-differs-from-ledger', ...at });
      }
      const state = await objectState(row.pointer, row.ciphertext_hash);
      if (state !== 'whole') found.push({ kind: `object-${state}`, ...at, pointer: row.pointer });
      if (found.length > 0) suspects.push(row);
      else if (isUnderway) underway++;
      differences.push(...found);
    }
    return { underway, suspects, differences };
  }

  async function objectState(pointer: string, ciphertextHash: string): Promise<'whole' | 'altered' | 'missing'> {
    try {
      const hash = createHash('sha256')
        .update(await blobs.get(pointer))
        .digest('hex');
      return hash === ciphertextHash ? 'whole' : 'altered';
    } catch (error) {
      if (codeOf(error) !== 'BLOB_MISSING') throw error;
      return 'missing';
    }
  }

  /** Our copies of what patients of other institutions share: their bytes, and how many there are. */
  async function sharedCopies(): Promise<{ counts: ReconcileReport['shared']; differences: Difference[] }> {
    const [left] = await database.query<{ pending: number; missing: number }>(sql`
      select count(*) filter (where state = 'wanted') as pending, count(*) filter (where state <> 'wanted') as missing from shared_object`);
    const counts = { held: 0, pending: left?.pending ?? 0, missing: left?.missing ?? 0 };
    const differences: Difference[] = [];
    for (let after = ''; ; ) {
      const page = await database.query<{ pointer: string; ciphertext_hash: string; document: string; version: number }>(sql`
        select pointer, ciphertext_hash, document, version from shared_version where pointer > ${after} order by pointer limit 200`);
      const last = page.at(-1);
      if (last === undefined) return { counts, differences };
      after = last.pointer;
      counts.held += page.length;
      for (const { pointer, ciphertext_hash, document, version } of page) {
        if ((await objectState(pointer, ciphertext_hash)) === 'whole') continue;
        // Ended or sealed anew meanwhile: its copy went with its row.
        const still = await database.query(sql`select 1 from shared_version where pointer = ${pointer}`);
        const state = still.length === 0 ? 'whole' : await objectState(pointer, ciphertext_hash);
        if (state !== 'whole') differences.push({ kind: `shared-object-${state}`, document, version, pointer });
      }
    }
  }

  /** Deletes objects that were put over an hour ago and that no row needs, nor an entry that still lacks its row. */
  async function sweep(): Promise<number> {
    // The rows are locked until the objects are gone: whoever is about to put one of them again waits for it, and puts after that.
    return database.transaction(async (tx) => {
      const orphans = await lockOrphanPuts(tx, sweepAfterMs);
      for (const name of orphans) await blobs.delete(name);
      await forgetPuts(tx, orphans);
      return orphans.length;
    });
  }

  async function entriesOf(documents: readonly string[]): Promise<Map<string, { ciphertext_hash: string; commitment: string }>> {
    const rows = await database.query<{ doc: string; version: number; ciphertext_hash: string; commitment: string }>(sql`
      select distinct on (doc, version) doc, version, ciphertext_hash, commitment from projection.entry
      where recorder = ${institution} and doc = any(${documents}) and standing order by doc, version, n desc`);
    return new Map(rows.map((row) => [`${row.doc}/${row.version}`, row]));
  }

  async function outboxOf(ids: readonly string[]): Promise<Map<string, { state: string; block: number | null }>> {
    const rows = await database.query<{ id: string; state: string; block: number | null }>(
      sql`select id, state, block from outbox where id = any(${ids})`,
    );
    return new Map(rows.map((row) => [row.id, row]));
  }

  /** Number of blocks that the projection has applied. */
  async function projectedHeight(): Promise<number> {
    const [row] = await database.query<{ height: number }>(sql`select height from projection.checkpoint`);
    return row?.height ?? 0;
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
        and not exists (select 1 from document_version d where d.document = e.doc and d.version = e.version)
        and not exists (select 1 from projection.patient p where p.inst = e.inst and p.pat = e.pat and p.status = 'erased')`);
    return rows.map((row) => ({ kind: 'missing-here', document: row.doc, version: row.version, pointer: row.pointer }));
  }

  async function withdrawalsMissing(): Promise<Difference[]> {
    const rows = await database.query<{ document: string }>(sql`
      select s.document from subject s
      where s.withdrawn_at is not null and s.version > 0
        and exists (select 1 from projection.document d where d.doc = s.document and d.recorder = ${institution} and not d.withdrawn)
        and not exists (select 1 from outbox o where o.transaction = 'withdrawDocument' and o.args::text like '%' || s.document || '%'
          and (o.settled_at is null or (o.state = 'committed' and o.block >= (select height from projection.checkpoint))))`);
    return rows.map((row) => ({ kind: 'withdrawal-missing-on-ledger', document: row.document }));
  }

  /** Given up, or refused and something here still waits for it. */
  async function stuckOutbox(): Promise<Difference[]> {
    // A document refused for its key version was sealed again and has another row since; a refused anchor has been replaced. What a
    // person signed was answered to them, whoever else signed of the same at that moment; nothing stands here by it but a denial of ours.
    const rows = await database.query<{ id: string; transaction: string; state: string; error_code: string | null }>(sql`
      select o.id, o.transaction, o.state, o.error_code from outbox o where o.state in ('failed', 'conflict') or (o.state = 'rejected' and case
        when o.transaction = any(${ANSWERED}) then false
        when o.transaction = 'revokePermission' then exists (select 1 from revocation v where v.outbox = o.id)
          and not exists (select 1 from device_statement d where d.outbox = o.id)
        when o.transaction = 'anchorAudit' then exists (select 1 from audit_anchor a where a.outbox = o.id)
        when o.error_code = 'PATIENT_ERASED' then false
        else o.error_code is distinct from 'KEY_VERSION_STALE' or exists (select 1 from document_version d where d.outbox = o.id) end)
      order by o.id`);
    return rows.map((row) => ({
      kind: 'outbox-stuck',
      detail: [row.id, row.transaction, row.state, row.error_code].filter((one) => one !== null).join(' '),
    }));
  }

  async function recordsWithoutDocument(): Promise<Difference[]> {
    const rows = await database.query<{ rec: string }>(sql`
      select r.rec from record r where r.outcome = 'own'
        and not exists (select 1 from document_version d where d.document = r.document and d.version = r.document_version) limit 100`);
    return rows.map((row) => ({ kind: 'record-without-document', detail: row.rec }));
  }

  return { reconcile, sweep };
}
