import { newId } from '../ids.ts';
import type { Outbox } from '../outbox/outbox.ts';
import { patientResource } from '../records/fhir-out.ts';
import { type JsonObject, parseResource, stringifyLossless } from '../records/lossless-json.ts';
import { compareDemographics, demographicsOf, identifiersOf, isTestPatient, patientLinksOf } from '../records/patient-identity.ts';
import type { Reason } from '../records/reasons.ts';
import type { Database, Sql } from '../store/database.ts';
import { addIdentifiers, findPatients, getPatient, insertPatient, linkSourcePatient, setDemographics } from '../store/patients.ts';
import { writePatient } from '../store/resources.ts';
import type { Custodian } from '../vault/custodian.ts';
import type { SealedRows } from '../vault/sealed-rows.ts';
import type { FilingConfig, LedgerStatements } from './parts.ts';
import type { SourceKeys } from './source-keys.ts';

/** What a Patient record means here, worked out before the page's transaction; `store` writes it inside. */
export interface MatchedPatient {
  pat: string | null;
  /** Why there is no pseudonym, or why it is held. */
  reason: Reason | null;
  isNew: boolean;
  store(tx: Sql): Promise<void>;
}

/**
 * Matches a source's Patient by the configured authorities' identifiers and by nothing else (aria-and-oncology.md, edge
 * cases 21-23, 27, 29). A new patient starts in the institution's custody: its keys are durable before its row is written,
 * and its enrolment is queued in the same transaction.
 */
export function createPatientMatching(parts: {
  database: Database;
  rows: SealedRows;
  keys: SourceKeys;
  custodian: Custodian;
  outbox: Outbox;
  statements: LedgerStatements;
  config: FilingConfig;
}) {
  const { database, rows, keys, custodian, outbox, statements, config } = parts;
  const categoryIds = config.categories.map((category) => category.id);

  async function match(record: {
    source: string;
    rec: string;
    ref: string;
    resource: JsonObject;
    lastUpdated: string;
  }): Promise<MatchedPatient> {
    const { source, resource } = record;
    const key = await keys.ref(source, record.ref);
    const sealedId = await rows.sealPurpose('directory', `source-patient/${key}`, Buffer.from(record.ref));
    const unmatched = (reason: Reason): MatchedPatient => ({
      pat: null,
      reason,
      isNew: false,
      store: (tx) => linkSourcePatient(tx, { source, key, pat: null, reason, sealedId }),
    });

    if (config.excludeTestPatients && isTestPatient(resource)) return unmatched('TEST_PATIENT');
    if (patientLinksOf(resource).some((link) => link.type === 'replaced-by' || link.type === 'replaces')) return unmatched('PATIENT_LINK');
    const identifiers = identifiersOf(resource, config.authorities);
    if (identifiers.length === 0) return unmatched('PATIENT_UNKNOWN');
    const blind = await Promise.all(
      identifiers.map(async (identifier) => ({
        authority: identifier.authority,
        blind: await rows.blind(`identifier:${identifier.authority}`, identifier.normalised),
      })),
    );
    const found = await findPatients(database, blind);
    if (found.length > 1) return unmatched('PATIENT_AMBIGUOUS');

    const text = Buffer.from(JSON.stringify(resource));
    const existing = found[0];
    if (existing !== undefined) {
      const row = await getPatient(database, existing);
      if (row?.demographics) {
        const known = parseResource(await rows.open(existing, 'core', `demographics/${existing}`, row.demographics));
        const compared = compareDemographics(
          demographicsOf(known, config.authorities, record.lastUpdated),
          demographicsOf(resource, config.authorities, record.lastUpdated),
        );
        if (compared.result === 'differs') return unmatched('PATIENT_MISMATCH');
      }
    }
    const pat = existing ?? newId('pat');
    const enrolment =
      existing === undefined ? await statements.enrollPatient(pat, await custodian.enrollPatient(pat, categoryIds)) : undefined;
    const sealed = await rows.seal(pat, 'core', `demographics/${pat}`, text);
    return {
      pat,
      reason: null,
      isNew: existing === undefined,
      async store(tx) {
        if (enrolment !== undefined) await insertPatient(tx, pat, await outbox.add(tx, enrolment));
        await addIdentifiers(tx, pat, blind);
        await linkSourcePatient(tx, { source, key, pat, reason: null, sealedId });
        await setDemographics(tx, pat, sealed, record.rec);
        await writePatient(tx, rows, {
          institution: config.institution,
          patient: pat,
          text: stringifyLossless(patientResource(pat, resource, config.authorities)),
          lastUpdated: new Date(),
        });
      },
    };
  }

  return { match };
}
