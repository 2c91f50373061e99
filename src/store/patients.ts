import type { Sql } from './database.ts';
import { sql } from './sql.ts';

/** Patients of this institution: pseudonym, blind identifiers, sealed demographics. */
export interface PatientRow {
  pat: string;
  demographics: Buffer | null;
  demographics_record: string | null;
  enrolled_outbox: string | null;
}

/** An identifier as it is looked up: the authority's id, and its HMAC. */
export interface BlindIdentifier {
  authority: string;
  blind: string;
}

/** Whose each of these identifiers is; those that are nobody's are left out. */
export async function findPatients(sqlOn: Sql, identifiers: readonly BlindIdentifier[]): Promise<(BlindIdentifier & { pat: string })[]> {
  if (identifiers.length === 0) return [];
  return sqlOn.query(sql`
    select authority, blind, pat from patient_identifier
    where (authority, blind) in (select * from unnest(${identifiers.map((i) => i.authority)}::text[], ${identifiers.map((i) => i.blind)}::text[]))`);
}

export async function identifiersOfPatient(sqlOn: Sql, pat: string): Promise<BlindIdentifier[]> {
  return sqlOn.query(sql`select authority, blind from patient_identifier where pat = ${pat}`);
}

export async function insertPatients(tx: Sql, patients: readonly { pat: string; enrolledOutbox: string }[]): Promise<void> {
  if (patients.length === 0) return;
  await tx.query(sql`
    insert into patient (pat, enrolled_outbox)
    select * from unnest(${patients.map((p) => p.pat)}::text[], ${patients.map((p) => p.enrolledOutbox)}::text[])`);
}

/** Adds identifiers to patients. Whose they are was decided before; one that is another's already stays that one's. */
export async function addIdentifiers(tx: Sql, identifiers: readonly (BlindIdentifier & { pat: string })[]): Promise<void> {
  if (identifiers.length === 0) return;
  await tx.query(sql`
    insert into patient_identifier (authority, blind, pat)
    select * from unnest(${identifiers.map((i) => i.authority)}::text[], ${identifiers.map((i) => i.blind)}::text[], ${identifiers.map((i) => i.pat)}::text[])
    on conflict (authority, blind) do nothing`);
}

/** One entry a patient at most. */
export async function setDemographics(tx: Sql, patients: readonly { pat: string; sealed: Buffer; record: string }[]): Promise<void> {
  if (patients.length === 0) return;
  await tx.query(sql`
    update patient p set demographics = t.sealed, demographics_record = t.record
    from unnest(${patients.map((p) => p.pat)}::text[], ${patients.map((p) => p.sealed)}::bytea[], ${patients.map((p) => p.record)}::text[]) as t(pat, sealed, record)
    where p.pat = t.pat`);
}

export async function getPatients(sqlOn: Sql, pats: readonly string[]): Promise<Map<string, PatientRow>> {
  if (pats.length === 0) return new Map();
  const rows = await sqlOn.query<PatientRow>(
    sql`select pat, demographics, demographics_record, enrolled_outbox from patient where pat = any(${pats})`,
  );
  return new Map(rows.map((row) => [row.pat, row]));
}

/** A source's own patient ids to our pseudonyms; without one, `reason` says why (test patient, unknown, held for a person). Each key once. */
export async function linkSourcePatients(
  tx: Sql,
  source: string,
  links: readonly { key: string; pat: string | null; reason: string | null; sealedId: Buffer }[],
): Promise<void> {
  if (links.length === 0) return;
  await tx.query(sql`
    insert into source_patient (source, key, pat, reason, source_id)
    select ${source}, key, pat, reason, source_id from unnest(${links.map((l) => l.key)}::text[], ${links.map((l) => l.pat)}::text[],
      ${links.map((l) => l.reason)}::text[], ${links.map((l) => l.sealedId)}::bytea[]) as t(key, pat, reason, source_id)
    on conflict (source, key) do update set pat = excluded.pat, reason = excluded.reason`);
  const known = links.filter((link) => link.pat !== null);
  await tx.query(sql`
    insert into source_patient_was (source, key, pat)
    select ${source}, key, pat from unnest(${known.map((l) => l.key)}::text[], ${known.map((l) => l.pat)}::text[]) as t(key, pat)
    on conflict do nothing`);
}

/** Every pseudonym that each of these patients of a source has had here. */
export async function everKnownAs(sqlOn: Sql, source: string, keys: readonly string[]): Promise<Map<string, readonly string[]>> {
  if (keys.length === 0) return new Map();
  const rows = await sqlOn.query<{ key: string; pats: string[] }>(sql`
    select key, array_agg(pat order by pat) as pats from (
      select key, pat from source_patient_was where source = ${source} and key = any(${keys})
      union select key, pat from identity_decision where source = ${source} and key = any(${keys}) and pat is not null) t group by key`);
  return new Map(rows.map((row) => [row.key, row.pats]));
}

/** Drops what was held of these patients of a source before it was known that they were erased here. */
export async function forgetHeld(tx: Sql, source: string, keys: readonly string[]): Promise<void> {
  if (keys.length === 0) return;
  await tx.query(sql`
    delete from record where source = ${source} and (key = any(${keys}) or patient_key = any(${keys})) and pat is null`);
  await tx.query(sql`delete from source_patient where source = ${source} and key = any(${keys}) and pat is null`);
}

export async function sourcePatients(
  sqlOn: Sql,
  source: string,
  keys: readonly string[],
): Promise<Map<string, { pat: string | null; reason: string | null }>> {
  if (keys.length === 0) return new Map();
  const rows = await sqlOn.query<{ key: string; pat: string | null; reason: string | null }>(
    sql`select key, pat, reason from source_patient where source = ${source} and key = any(${keys})`,
  );
  return new Map(rows.map((row) => [row.key, row]));
}

export async function sourcePatientIds(sqlOn: Sql, source: string): Promise<{ key: string; source_id: Buffer }[]> {
  return sqlOn.query(sql`select key, source_id from source_patient where source = ${source}`);
}
