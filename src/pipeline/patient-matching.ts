import { newId } from '../ids.ts';
import type { Outbox } from '../outbox/outbox.ts';
import { patientResource } from '../records/fhir-out.ts';
import { type JsonObject, parseResource, stringifyLossless } from '../records/lossless-json.ts';
import { compareDemographics, demographicsOf, identifiersOf, isTestPatient, patientLinksOf } from '../records/patient-identity.ts';
import type { Reason } from '../records/reasons.ts';
import type { Database, Sql } from '../store/database.ts';
import { addIdentifiers, findPatients, getPatient, insertPatient, linkSourcePatient, setDemographics } from '../store/patients.ts';
import { lastMatched } from '../store/records.ts';
import { writePatient } from '../store/resources.ts';
import type { Custodian } from '../vault/custodian.ts';
import type { SealedRows } from '../vault/sealed-rows.ts';
import type { FilingConfig, LedgerStatements } from './parts.ts';

/** What a Patient record means here, worked out before the page's transaction; `store` writes it inside. */
export interface MatchedPatient {
  pat: string | null;
  /** Why there is no pseudonym, or why it is held. */
  reason: Reason | null;
  store(tx: Sql): Promise<void>;
}

/** A source's Patient record; `key` is the HMAC of its `ref`. */
export interface PatientRecord {
  rec: string;
  ref: string;
  key: string;
  resource: JsonObject;
  lastUpdated: string;
}

interface BlindIdentifier {
  authority: string;
  blind: string;
}
type Choice = { record: PatientRecord; reason: Reason } | { record: PatientRecord; blind: BlindIdentifier[]; pat: string; isNew: boolean };

/**
 * Matches a source's Patient by the configured authorities' identifiers and by nothing else (aria-and-oncology.md, edge
 * cases 21-23, 27, 29). A new patient starts in the institution's custody: its keys are durable before its row is written,
 * and its enrolment is queued in the same transaction.
 */
export function createPatientMatching(parts: {
  database: Database;
  rows: SealedRows;
  custodian: Custodian;
  outbox: Outbox;
  statements: LedgerStatements;
  config: FilingConfig;
}) {
  const { database, rows, custodian, outbox, statements, config } = parts;
  const categoryIds = config.categories.map((category) => category.id);

  /**
   * The Patient records of a page, by key. In three steps, so that two records of one new person get one pseudonym, and the
   * keys of all who are new are still written to the disk together.
   */
  async function matchAll(source: string, records: readonly PatientRecord[]): Promise<Map<string, MatchedPatient>> {
    const before = await lastMatched(
      database,
      records.map((record) => record.key),
    );
    const found = await Promise.all(records.map(async (record) => ({ record, ...(await look(record, before.get(record.key))) })));
    const inPage = new Map<string, { pat: string; resource: JsonObject }>();
    const chosen = found.map(({ record, reason, blind, existing }): Choice => {
      if (reason !== undefined) return { record, reason };
      const twins = blind.flatMap((identifier) => inPage.get(nameOf(identifier)) ?? []);
      if (new Set([...twins.map((twin) => twin.pat), ...(existing ?? [])]).size > 1) return { record, reason: 'PATIENT_AMBIGUOUS' };
      if (twins.some((twin) => !isSamePerson(twin.resource, record))) return { record, reason: 'PATIENT_MISMATCH' };
      const known = existing?.[0] ?? twins[0]?.pat;
      const pat = known ?? newId('pat');
      for (const identifier of blind) inPage.set(nameOf(identifier), { pat, resource: record.resource });
      return { record, blind, pat, isNew: known === undefined };
    });
    return new Map(await Promise.all(chosen.map(async (choice) => [choice.record.key, await settle(source, choice)] as const)));
  }

  /** What the record's identifiers lead to, or why nobody may be told by them. `before`: whose record it was until now. */
  async function look(
    record: PatientRecord,
    before: string | undefined,
  ): Promise<{ reason?: Reason; blind: BlindIdentifier[]; existing?: [string] }> {
    const { resource } = record;
    if (config.excludeTestPatients && isTestPatient(resource)) return { reason: 'TEST_PATIENT', blind: [] };
    if (patientLinksOf(resource).some((link) => link.type === 'replaced-by' || link.type === 'replaces'))
      return { reason: 'PATIENT_LINK', blind: [] };
    const identifiers = identifiersOf(resource, config.authorities);
    if (identifiers.length === 0) return { reason: 'PATIENT_UNKNOWN', blind: [] };
    const blind = await Promise.all(
      identifiers.map(async (identifier) => ({
        authority: identifier.authority,
        blind: await rows.blind(`identifier:${identifier.authority}`, identifier.normalised),
      })),
    );
    const [found, ...others] = await findPatients(database, blind);
    if (others.length > 0) return { reason: 'PATIENT_AMBIGUOUS', blind };
    // A number that nobody has, on a record that is somebody's: the number was corrected, where name and birth date agree.
    const existing = found ?? before;
    if (existing === undefined) return { blind };
    const row = await getPatient(database, existing);
    if (row?.demographics) {
      const known = parseResource(await rows.open(existing, 'core', `demographics/${existing}`, row.demographics));
      if (!isSamePerson(known, record)) return { reason: 'PATIENT_MISMATCH', blind };
    }
    return { blind, existing: [existing] };
  }

  function isSamePerson(known: JsonObject, { resource, lastUpdated }: PatientRecord): boolean {
    const of = (patient: JsonObject) => demographicsOf(patient, config.authorities, lastUpdated);
    return compareDemographics(of(known), of(resource)).result === 'same';
  }

  async function settle(source: string, choice: Choice): Promise<MatchedPatient> {
    const { key, ref, rec, resource } = choice.record;
    const sealedId = await rows.sealPurpose('directory', `source-patient/${key}`, Buffer.from(ref));
    if ('reason' in choice) {
      const { reason } = choice;
      return { pat: null, reason, store: (tx) => linkSourcePatient(tx, { source, key, pat: null, reason, sealedId }) };
    }
    const { pat, blind, isNew } = choice;
    const enrolment = isNew ? await statements.enrollPatient(pat, await custodian.enrollPatient(pat, categoryIds)) : undefined;
    const sealed = await rows.seal(pat, 'core', `demographics/${pat}`, Buffer.from(JSON.stringify(resource)));
    return {
      pat,
      reason: null,
      async store(tx) {
        if (enrolment !== undefined) await insertPatient(tx, pat, await outbox.add(tx, enrolment));
        await addIdentifiers(tx, pat, blind);
        await linkSourcePatient(tx, { source, key, pat, reason: null, sealedId });
        await setDemographics(tx, pat, sealed, rec);
        await writePatient(tx, rows, {
          institution: config.institution,
          patient: pat,
          text: stringifyLossless(patientResource(pat, resource, config.authorities)),
          lastUpdated: new Date(),
        });
      },
    };
  }

  return { matchAll };
}

function nameOf({ authority, blind }: BlindIdentifier): string {
  return `${authority}|${blind}`;
}
