import type { Sql } from './database.ts';
import { sql } from './sql.ts';

/** What a document is about, and which version of it is filed. */
export interface SubjectRow {
  sub: string;
  category: string;
  key: string;
  pat: string;
  document: string;
  /** Newest filed version; 0 before the first. */
  version: number;
  own_hash: string | null;
  withdrawn_at: Date | null;
  withdrawn_reason: string | null;
}

/** Why a subject was withdrawn, where it had been filed to the wrong person: its producer's privacy officer may still read it. */
export const MISFILED = 'WRONG_PATIENT';

const COLUMNS = sql`sub, category, key, pat, document, version, own_hash, withdrawn_at, withdrawn_reason`;

/**
 * Standing subjects by any of their names (hashed) and those that hold any version of these records, of whatever patient:
 * another patient's means that the record was moved.
 */
export async function standingSubjects(sqlOn: Sql, names: readonly string[], records: readonly string[]): Promise<SubjectRow[]> {
  return sqlOn.query<SubjectRow>(sql`
    select ${COLUMNS} from subject where withdrawn_at is null and sub in (
      select sub from subject where key = any(${names})
      union all select r.sub from record r where r.key = any(${records}) and r.outcome = 'own')`);
}

/** Which of these names stand for a subject already, and which of these records were own in any document. */
export async function takenNames(sqlOn: Sql, names: readonly string[], records: readonly string[]): Promise<Set<string>> {
  if (names.length + records.length === 0) return new Set();
  const rows = await sqlOn.query<{ key: string }>(sql`
    select found.key from unnest(${names}::text[]) n cross join lateral (select key from subject where key = n and withdrawn_at is null offset 0) found
    union select found.key from unnest(${records}::text[]) n cross join lateral (select key from record where key = n and outcome = 'own' offset 0) found`);
  return new Set(rows.map((row) => row.key));
}

export interface NewSubject {
  sub: string;
  category: string;
  key: string;
  pat: string;
  document: string;
}

/** The subject's row, made where it is not there yet; `document` is fixed from then on. */
export async function ensureSubject(tx: Sql, subject: NewSubject): Promise<SubjectRow> {
  const [row] = await ensureSubjects(tx, [subject]);
  if (row === undefined) throw new Error('subject was neither inserted nor found');
  return row;
}

/** The same for many in one statement; no two of them may be the same (category, key, pat). In no order. */
export async function ensureSubjects(sqlOn: Sql, subjects: readonly NewSubject[]): Promise<SubjectRow[]> {
  if (subjects.length === 0) return [];
  const column = (name: keyof NewSubject): string[] => subjects.map((subject) => subject[name]);
  return sqlOn.query<SubjectRow>(sql`
    insert into subject (sub, category, key, pat, document)
    select * from unnest(${column('sub')}::text[], ${column('category')}::text[], ${column('key')}::text[], ${column('pat')}::text[], ${column('document')}::text[])
    on conflict (category, key, pat) do update set key = excluded.key returning ${COLUMNS}`);
}

/** While less was known a subject went by another name; it keeps its document under the lasting one. */
export async function renameSubject(tx: Sql, sub: string, key: string): Promise<void> {
  await tx.query(sql`update subject set key = ${key} where sub = ${sub}`);
}

export async function subjectById(sqlOn: Sql, sub: string): Promise<SubjectRow | undefined> {
  const [row] = await sqlOn.query<SubjectRow>(sql`select ${COLUMNS} from subject where sub = ${sub}`);
  return row;
}

/** Of these subjects, the ones that no current record is about any more. */
export async function emptiedSubjects(sqlOn: Sql, subs: readonly string[]): Promise<SubjectRow[]> {
  if (subs.length === 0) return [];
  return sqlOn.query<SubjectRow>(sql`
    select ${COLUMNS} from subject s where sub = any(${subs}) and withdrawn_at is null and version > 0
      and not exists (select 1 from record r where r.sub = s.sub and r.current and r.outcome = 'own')`);
}

/**
 * Marks a subject withdrawn; returns the version that its document has at this moment (0: none is filed), undefined where it
 * was withdrawn already. The reason stays here, off the ledger. Its name becomes free: a withdrawal
 * is for good, so the same thing stated again is a new document.
 */
export async function markWithdrawn(tx: Sql, sub: string, reason: string): Promise<number | undefined> {
  const [row] = await tx.query<{ version: number }>(sql`
    update subject set withdrawn_at = now(), withdrawn_reason = ${reason}, own_hash = null, key = key || '#' || sub where sub = ${sub} and withdrawn_at is null returning version`);
  return row?.version;
}

/** Withdrawn documents with a version that still lies sealed to the category key; without those named. */
export async function withdrawnUnsealed(
  sqlOn: Sql,
  limit: number,
  without: readonly string[],
): Promise<{ document: string; version: number }[]> {
  return sqlOn.query(sql`
    select d.document, d.version from subject s join document_version d on d.document = s.document
    where s.withdrawn_at is not null and d.key_version > 0 and d.document <> all(${without}) limit ${limit}`);
}
