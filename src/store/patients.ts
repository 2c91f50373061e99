import type { Sql } from './database.ts';
import { sql } from './sql.ts';

/** Patients of this institution: pseudonym, blind identifiers, sealed demographics. */
export interface PatientRow {
  pat: string;
  demographics: Buffer | null;
  demographics_record: string | null;
  enrolled_outbox: string | null;
}

/** Pseudonyms by any of these blind identifiers (`authority`, HMAC). More than one: the identifiers disagree. */
export async function findPatients(sqlOn: Sql, identifiers: readonly { authority: string; blind: string }[]): Promise<string[]> {
  if (identifiers.length === 0) return [];
  const rows = await sqlOn.query<{ pat: string }>(sql`
    select distinct pat from patient_identifier
    where (authority, blind) in (select * from unnest(${identifiers.map((i) => i.authority)}::text[], ${identifiers.map((i) => i.blind)}::text[]))`);
  return rows.map((row) => row.pat);
}

export async function insertPatient(tx: Sql, pat: string, enrolledOutbox: string): Promise<void> {
  await tx.query(sql`insert into patient (pat, enrolled_outbox) values (${pat}, ${enrolledOutbox})`);
}

/** Adds identifiers to a patient. Whose they are was decided before; one that is another's already stays that one's. */
export async function addIdentifiers(tx: Sql, pat: string, identifiers: readonly { authority: string; blind: string }[]): Promise<void> {
  await tx.query(sql`
    insert into patient_identifier (authority, blind, pat)
    select a, b, ${pat} from unnest(${identifiers.map((i) => i.authority)}::text[], ${identifiers.map((i) => i.blind)}::text[]) as t(a, b)
    on conflict (authority, blind) do nothing`);
}

export async function setDemographics(tx: Sql, pat: string, sealed: Buffer, record: string): Promise<void> {
  await tx.query(sql`
    update patient set demographics = ${sealed}, demographics_record = ${record} where pat = ${pat}`);
}

export async function getPatient(sqlOn: Sql, pat: string): Promise<PatientRow | undefined> {
  const [row] = await sqlOn.query<PatientRow>(
    sql`select pat, demographics, demographics_record, enrolled_outbox from patient where pat = ${pat}`,
  );
  return row;
}

export async function getPatients(sqlOn: Sql, pats: readonly string[]): Promise<Map<string, PatientRow>> {
  const rows = await sqlOn.query<PatientRow>(
    sql`select pat, demographics, demographics_record, enrolled_outbox from patient where pat = any(${pats})`,
  );
  return new Map(rows.map((row) => [row.pat, row]));
}

/** A source's own patient id to our pseudonym; without one, `reason` says why (test patient, unknown, held for a person). */
export async function linkSourcePatient(
  tx: Sql,
  link: { source: string; key: string; pat: string | null; reason: string | null; sealedId: Buffer },
): Promise<void> {
  await tx.query(sql`
    insert into source_patient (source, key, pat, reason, source_id)
    values (${link.source}, ${link.key}, ${link.pat}, ${link.reason}, ${link.sealedId})
    on conflict (source, key) do update set pat = excluded.pat, reason = excluded.reason`);
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
