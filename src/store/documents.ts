import type { Sql } from './database.ts';
import { sql } from './sql.ts';

/** A filed version of a document: where its sealed object lies and what the ledger says of it. */
export interface DocumentVersionRow {
  document: string;
  version: number;
  sub: string;
  pat: string;
  category: string;
  pointer: string;
  ciphertext_hash: string;
  commitment: string;
  key_version: number;
  size_bytes: number;
  manifest_hash: string;
  clinical_time: Date | null;
  outbox: string;
  filed_at: Date;
  header: Buffer;
}

export interface NewDocumentVersion {
  document: string;
  version: number;
  sub: string;
  pat: string;
  category: string;
  pointer: string;
  ciphertextHash: string;
  commitment: string;
  keyVersion: number;
  sizeBytes: number;
  manifestHash: string;
  clinicalTime: Date | null;
  outbox: string;
  header: Buffer;
  ownHash: string;
  ownRecords: readonly string[];
}

/** Names of objects about to be put, committed before the puts, so that a sweep can find what nothing points at. */
export async function announcePuts(sqlOn: Sql, names: readonly string[]): Promise<void> {
  await sqlOn.query(sql`insert into puts (name) select unnest(${names}::text[]) on conflict (name) do update set at = now()`);
}

/** Objects put longer ago than this that no document version or kept envelope points at, nor an entry of the ledger whose document version is missing here. */
export async function lockOrphanPuts(sqlOn: Sql, olderThanMs: number): Promise<string[]> {
  const rows = await sqlOn.query<{ name: string }>(sql`
    select name from puts where at < now() - ${olderThanMs} * interval '1 ms'
      and not exists (select 1 from document_version d where d.pointer = puts.name)
      and not exists (select 1 from device_envelope v where v.name = puts.name)
      and not exists (select 1 from shared_version v where v.pointer = puts.name)
      and not exists (select 1 from held_object h where h.pointer = puts.name)
      and not exists (select 1 from projection.entry e where e.pointer = puts.name
        and not exists (select 1 from document_version d where d.document = e.doc and d.version = e.version)
        and not exists (select 1 from projection.patient p where p.inst = e.inst and p.pat = e.pat and p.status = 'erased'))
    order by name limit 500 for update skip locked`);
  return rows.map((row) => row.name);
}

export async function forgetPuts(sqlOn: Sql, names: readonly string[]): Promise<void> {
  await sqlOn.query(sql`delete from puts where name = any(${names})`);
}

/**
 * Files document versions: their rows, the subject's new version and the records that each is about. Returns the
 * documents whose subject moved on meanwhile (another process filed it): the caller rolls back.
 */
export async function insertDocumentVersions(tx: Sql, documents: readonly NewDocumentVersion[]): Promise<string[]> {
  const column = <K extends keyof NewDocumentVersion>(name: K): NewDocumentVersion[K][] => documents.map((document) => document[name]);
  await tx.query(sql`
    insert into document_version (document, version, sub, pat, category, pointer, ciphertext_hash, commitment, key_version, size_bytes, manifest_hash,
      clinical_time, outbox, header)
    select * from unnest(${column('document')}::text[], ${column('version')}::int[], ${column('sub')}::text[], ${column('pat')}::text[],
      ${column('category')}::text[], ${column('pointer')}::text[], ${column('ciphertextHash')}::text[], ${column('commitment')}::text[],
      ${column('keyVersion')}::int[], ${column('sizeBytes')}::int[], ${column('manifestHash')}::text[], ${column('clinicalTime')}::timestamptz[],
      ${column('outbox')}::text[], ${column('header')}::bytea[])
    on conflict do nothing`);
  const updated = await tx.query<{ document: string }>(sql`
    update subject s set version = t.version, own_hash = t.own_hash
    from unnest(${column('sub')}::text[], ${column('version')}::int[], ${column('ownHash')}::text[]) as t(sub, version, own_hash)
    where s.sub = t.sub and s.version = t.version - 1 and s.withdrawn_at is null
    returning s.document`);
  const own = documents.flatMap((d) =>
    d.ownRecords.map((rec) => ({ rec, sub: d.sub, document: d.document, version: d.version, category: d.category, pat: d.pat })),
  );
  await tx.query(sql`
    update record r set outcome = 'own', reason = null, sub = t.sub, document = t.document, document_version = t.version, category = t.category, pat = t.pat
    from unnest(${own.map((o) => o.rec)}::text[], ${own.map((o) => o.sub)}::text[], ${own.map((o) => o.document)}::text[],
      ${own.map((o) => o.version)}::int[], ${own.map((o) => o.category)}::text[], ${own.map((o) => o.pat)}::text[]) as t(rec, sub, document, version, category, pat)
    where r.rec = t.rec`);
  const done = new Set(updated.map((row) => row.document));
  return documents.filter((d) => !done.has(d.document)).map((d) => d.document);
}

const COLUMNS = sql`document, version, sub, pat, category, pointer, ciphertext_hash, commitment, key_version, size_bytes, manifest_hash, clinical_time, outbox, filed_at, header`;

export async function documentVersion(sqlOn: Sql, document: string, version: number): Promise<DocumentVersionRow | undefined> {
  const [row] = await sqlOn.query<DocumentVersionRow>(
    sql`select ${COLUMNS} from document_version where document = ${document} and version = ${version}`,
  );
  return row;
}

/** Documents that the ledger lets stand while the row here names another object than its entry, or is gone; some of them where they are many. */
export async function unnamedVersions(sqlOn: Sql, institution: string): Promise<{ document: string; version: number }[]> {
  return sqlOn.query(sql`
    select d.doc as document, d.version from projection.document d
    where d.recorder = ${institution} and not d.withdrawn
      and not exists (select 1 from document_version v where v.document = d.doc and v.version = d.version and v.ciphertext_hash = d.ciphertext_hash)
      and not exists (select 1 from subject s where s.document = d.doc and s.withdrawn_at is not null)
    limit 100`);
}

/** All filed versions in pages by key, for reconcile. */
export async function documentVersionsAfter(
  sqlOn: Sql,
  after: { document: string; version: number },
  limit: number,
): Promise<DocumentVersionRow[]> {
  return sqlOn.query<DocumentVersionRow>(sql`
    select ${COLUMNS} from document_version where (document, version) > (${after.document}, ${after.version}) order by document, version limit ${limit}`);
}

/** A version now lies under another name, sealed to another key; key version 0: to the institution alone. */
export async function movePointer(
  tx: Sql,
  moved: {
    document: string;
    version: number;
    pointer: string;
    ciphertextHash: string;
    commitment: string;
    keyVersion: number;
    sizeBytes: number;
    header: Buffer;
    outbox: string;
  },
): Promise<void> {
  await tx.query(sql`
    update document_version set pointer = ${moved.pointer}, ciphertext_hash = ${moved.ciphertextHash}, commitment = ${moved.commitment},
      size_bytes = ${moved.sizeBytes}, header = ${moved.header}, key_version = ${moved.keyVersion}, outbox = ${moved.outbox}
    where document = ${moved.document} and version = ${moved.version}`);
}

/** Standing versions whose entry the ledger refused with this code. */
export async function refusedVersions(
  sqlOn: Sql,
  code: string,
  limit: number,
  excluding: readonly string[],
): Promise<DocumentVersionRow[]> {
  return sqlOn.query<DocumentVersionRow>(sql`
    select ${COLUMNS} from document_version where outbox in (select id from outbox where state = 'rejected' and error_code = ${code})
      and document <> all(${excluding}) and exists (select 1 from subject s where s.document = document_version.document and s.withdrawn_at is null)
    order by document, version limit ${limit}`);
}

/** Ids that source resources got, the same over versions and rebuilds; missing ones are made. */
export async function resourceIds(tx: Sql, wanted: readonly { key: string; id: string }[]): Promise<Map<string, string>> {
  if (wanted.length === 0) return new Map();
  // In one order for all, so that two writers with the same keys wait for one another instead of deadlocking.
  const unique = [...new Map(wanted.map((one) => [one.key, one])).values()].sort((a, b) => (a.key < b.key ? -1 : 1));
  const keys = unique.map((one) => one.key);
  const made = await tx.query<{ key: string; id: string }>(sql`
    insert into resource_identity (key, id) select * from unnest(${keys}::text[], ${unique.map((one) => one.id)}::text[])
    on conflict (key) do nothing returning key, id`);
  const ids = new Map(made.map((row) => [row.key, row.id]));
  if (ids.size === unique.length) return ids;
  // What stood before, or was made by another writer whom the insert has waited for.
  const stood = await tx.query<{ key: string; id: string }>(sql`
    select key, id from resource_identity where key = any(${keys.filter((key) => !ids.has(key))})`);
  for (const row of stood) ids.set(row.key, row.id);
  return ids;
}
