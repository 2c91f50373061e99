import type { Consent } from 'fhir/r4.js';
import type { Sql } from '../store/database.ts';
import { type SqlFragment, sql } from '../store/sql.ts';
import type { PatientName } from './permissions.ts';

/** A version of a Consent that shows. */
export interface ConsentRow {
  consent: string;
  version: number;
  inst: string;
  pat: string;
  status: string;
  last_updated: Date;
  body: Buffer;
}

/** Where the sealed text belongs. */
export function consentPlace(consent: string, version: number): string {
  return `consent/${consent}/${version}`;
}

/** Where the sealed salt of its evidence belongs. */
export function evidencePlace(consent: string, version: number): string {
  return `${consentPlace(consent, version)}/evidence`;
}

/** The text of one version. */
export function stampedConsent(resource: Consent, as: { consent: string; version: number; lastUpdated: Date }): string {
  const { id: _id, meta, resourceType: _type, ...rest } = resource;
  return JSON.stringify({
    resourceType: 'Consent',
    id: as.consent,
    meta: { ...meta, versionId: String(as.version), lastUpdated: as.lastUpdated.toISOString() },
    ...rest,
  });
}

/** Whether the ledger has erased the patient: nothing is written of them any more. */
export async function isErased(on: Sql, of: PatientName): Promise<boolean> {
  const [row] = await on.query(
    sql`select 1 from projection.patient where inst = ${of.institution} and pat = ${of.patient} and status = 'erased'`,
  );
  return row !== undefined;
}

/** A version with the salt of its evidence; undefined where it has none. */
export async function evidenceRow(
  on: Sql,
  consent: string,
  version: number,
): Promise<(ConsentRow & { state_key: string; evidence: Buffer }) | undefined> {
  const [row] = await on.query<ConsentRow & { state_key: string; evidence: Buffer }>(sql`
    select v.consent, v.version, v.inst, v.pat, v.status, v.last_updated, v.body, v.state_key, v.evidence
    from consent_version v where v.consent = ${consent} and v.version = ${version} and v.evidence is not null`);
  return row;
}

/**
 * A version counts once the projection holds what its own statement wrote; an end already when it is accepted here, for it
 * denies from then on.
 */
const COUNTS = sql`(v.status <> 'active' or exists (select 1 from projection.state s where s.key = v.state_key and s.value::jsonb ->> 'statement' = v.statement))`;

/** The newest version that counts of each Consent that meets the condition on `v`, of patients who are not erased. */
export async function currentConsents(on: Sql, condition: SqlFragment, limit: number): Promise<ConsentRow[]> {
  return on.query<ConsentRow>(sql`
    select distinct on (v.consent) v.consent, v.version, v.inst, v.pat, v.status, v.last_updated, v.body
    from consent_version v join projection.patient p on p.inst = v.inst and p.pat = v.pat and p.status = 'active'
    where ${condition} and ${COUNTS} order by v.consent, v.version desc limit ${limit}`);
}

/** The number of the next version, and the pairs of all versions so far. */
export async function consentHistory(on: Sql, consent: string): Promise<{ next: number; pairs: { grantee: string; category: string }[] }> {
  const rows = await on.query<{ version: number; grantees: string[]; categories: string[] }>(
    sql`select version, grantees, categories from consent_version where consent = ${consent} order by version`,
  );
  return {
    next: (rows.at(-1)?.version ?? 0) + 1,
    pairs: rows.flatMap((row) => row.grantees.map((grantee, i) => ({ grantee, category: row.categories[i] ?? '' }))),
  };
}

export async function insertConsent(
  tx: Sql,
  row: PatientName & {
    consent: string;
    version: number;
    status: string;
    stateKey: string;
    statement: string;
    pairs: readonly { grantee: string; category: string }[];
    /** Null: it came from the ledger. */
    outbox: string | null;
    lastUpdated: Date;
    body: Buffer;
    /** Sealed salt of the commitment to the evidence; null where nothing was shown. */
    evidence: Buffer | null;
  },
): Promise<void> {
  await tx.query(sql`
    insert into consent_version (consent, version, inst, pat, status, state_key, statement, grantees, categories, outbox, last_updated, body, evidence)
    values (${row.consent}, ${row.version}, ${row.institution}, ${row.patient}, ${row.status}, ${row.stateKey}, ${row.statement},
      ${row.pairs.map((p) => p.grantee)}::text[], ${row.pairs.map((p) => p.category)}::text[], ${row.outbox}, ${row.lastUpdated}, ${row.body}, ${row.evidence})`);
}

export async function deleteConsent(tx: Sql, consent: string, version: number): Promise<void> {
  await tx.query(sql`delete from consent_version where consent = ${consent} and version = ${version}`);
}
