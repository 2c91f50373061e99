import { newId } from '../ids.ts';
import type { Outbox, OutboxItem } from '../outbox/outbox.ts';
import { patientResource } from '../records/fhir-out.ts';
import { type JsonObject, parseResource, stringifyLossless } from '../records/lossless-json.ts';
import { compareDemographics, demographicsOf, identifiersOf, isTestPatient, patientLinksOf } from '../records/patient-identity.ts';
import type { Reason } from '../records/reasons.ts';
import type { Database, Sql } from '../store/database.ts';
import { type IdentityDecision, identityDecisions } from '../store/identity-decisions.ts';
import {
  addIdentifiers,
  type BlindIdentifier,
  findPatients,
  getPatients,
  insertPatients,
  linkSourcePatients,
  setDemographics,
} from '../store/patients.ts';
import { lastMatched } from '../store/records.ts';
import { writePatients } from '../store/resources.ts';
import { addSuppressions, suppressed, suppressionMarks } from '../store/suppression.ts';
import type { Custodian } from '../vault/custodian.ts';
import type { SealedRows } from '../vault/sealed-rows.ts';
import { mapByTurns } from './by-turns.ts';
import type { FilingConfig, LedgerStatements } from './parts.ts';

/** Whom a page's Patient records mean, worked out before the page's transaction; `store` writes it inside. */
export interface MatchedPatients {
  /** By key of the record. Without a pseudonym `reason` says why, or why it is held. */
  patients: ReadonlyMap<string, { pat: string | null; reason: Reason | null }>;
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

/** What the record's identifiers lead to. `existing`: one patient; else a reason, or nobody yet. */
interface Look {
  record: PatientRecord;
  blind: readonly BlindIdentifier[];
  reason?: Reason;
  existing?: string;
  /** What a person decided about exactly what the record says. */
  decided?: IdentityDecision;
}
/** Ready to be written. */
interface Settled {
  key: string;
  sealedId: Buffer;
  pat: string | null;
  reason: Reason | null;
  /** Of an erased person: nothing is kept but this. */
  mark?: string;
  matched?: {
    pat: string;
    record: PatientRecord;
    blind: readonly BlindIdentifier[];
    /** Undefined: those that stand are kept. */
    demographics: Buffer | undefined;
    enrolment: OutboxItem | undefined;
  };
}

/**
 * Matches a source's Patient by the configured authorities' identifiers and by nothing else (aria-and-oncology.md, edge
 * cases 21-23, 27, 29). A new patient starts in the institution's custody: its keys are durable before its row is written,
 * and its enrolment is queued in the same transaction. Every look-up and every write is one statement for all of a page.
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
  const marks = suppressionMarks(rows);

  /**
   * The Patient records of a page. In three steps, so that two records of one new person get one pseudonym, and the
   * keys of all who are new are still written to the disk together.
   */
  async function matchAll(source: string, records: readonly PatientRecord[]): Promise<MatchedPatients> {
    if (records.length === 0) return { patients: new Map(), store: async () => {} };
    const found = await lookAll(source, records);
    const inPage = new Map<string, { pat: string; resource: JsonObject }>();
    // In this order up to the first wait of each; the keys of all who are new still meet on their way to the disk.
    const settled = await mapByTurns(found, async ({ record, reason, blind, existing, decided }) => {
      const held = (why: Reason): Promise<Settled> => settle({ record, reason: why });
      if (reason === 'ERASED')
        return { key: record.key, sealedId: Buffer.alloc(0), pat: null, reason, mark: await marks.ofSourcePatient(source, record.key) };
      if (decided !== undefined) return settleDecided(record, { pat: decided.pat, takesDemographics: decided.takes_demographics });
      if (reason !== undefined) return held(reason);
      const twins = blind.flatMap((identifier) => inPage.get(nameOf(identifier)) ?? []);
      const known = [...new Set([...(existing === undefined ? [] : [existing]), ...twins.map((twin) => twin.pat)])];
      if (known.length > 1) return held('PATIENT_AMBIGUOUS');
      if (twins.some((twin) => !isSamePerson(twin.resource, record))) return held('PATIENT_MISMATCH');
      const pat = known[0] ?? newId('pat');
      for (const identifier of blind) inPage.set(nameOf(identifier), { pat, resource: record.resource });
      return settle({ record, blind, pat, isNew: known.length === 0 });
    });
    return {
      patients: new Map(settled.map(({ key, pat, reason }) => [key, { pat, reason }])),
      store: (tx) => store(tx, source, settled),
    };
  }

  /**
   * What a person decided about this record's patient: their pseudonym, a new one (`pat` undefined), or nobody's (null). Nothing is
   * matched; an identifier that is another's stays that one's.
   */
  async function matchDecided(
    source: string,
    record: PatientRecord,
    decision: { pat: string | null | undefined; takesDemographics: boolean },
  ): Promise<{ pat: string | null; store(tx: Sql): Promise<void> }> {
    const settled = await settleDecided(record, decision);
    return { pat: settled.pat, store: (tx) => store(tx, source, [settled]) };
  }

  async function settleDecided(
    record: PatientRecord,
    { pat, takesDemographics }: { pat: string | null | undefined; takesDemographics: boolean },
  ): Promise<Settled> {
    if (pat === null) return settle({ record, reason: 'PATIENT_REJECTED' });
    const blind = await blindIdentifiers(record.resource);
    if (pat === undefined) return settle({ record, blind, pat: newId('pat'), isNew: true });
    return settle({ record, blind, pat, isNew: false, keepsDemographics: !takesDemographics });
  }

  async function lookAll(source: string, records: readonly PatientRecord[]): Promise<Look[]> {
    const looks = await Promise.all(records.map(read));
    await findErased(source, looks);
    const telling = looks.filter((look) => look.reason === undefined);
    const owners = new Map(
      (
        await findPatients(
          database,
          telling.flatMap((look) => look.blind),
        )
      ).map((row) => [nameOf(row), row.pat]),
    );
    // A number that nobody has, on a record that is somebody's: the number was corrected, where name and birth date agree.
    const keysOf = (some: readonly Look[]): string[] => some.map((look) => look.record.key);
    const [before, decisions] = await Promise.all([
      lastMatched(database, keysOf(telling)),
      identityDecisions(database, source, keysOf(looks.filter((look) => look.reason !== 'TEST_PATIENT' && look.reason !== 'ERASED'))),
    ]);
    for (const look of telling) {
      const pats = [...new Set(look.blind.flatMap((identifier) => owners.get(nameOf(identifier)) ?? []))];
      const existing = pats[0] ?? before.get(look.record.key);
      if (pats.length > 1) look.reason = 'PATIENT_AMBIGUOUS';
      else if (existing !== undefined) look.existing = existing;
    }
    const known = await getPatients(database, [...new Set(telling.flatMap((look) => look.existing ?? []))]);
    await Promise.all(
      telling.map(async (look) => {
        const row = look.existing === undefined ? undefined : known.get(look.existing);
        if (!row?.demographics) return;
        const demographics = parseResource(await rows.open(row.pat, 'core', `demographics/${row.pat}`, row.demographics));
        if (!isSamePerson(demographics, look.record)) look.reason = 'PATIENT_MISMATCH';
      }),
    );
    for (const look of looks) {
      const decision = decisions.get(look.record.key);
      const agrees = look.reason === undefined && look.existing === decision?.pat;
      // It holds for what the person saw; where the source says anything else now, it is asked anew.
      if (decision !== undefined && !agrees && decision.facts === (await factsOf(look.record))) look.decided = decision;
    }
    return looks;
  }

  /** Whoever was erased here is known by their number, or by their id at the source, and by nothing else. */
  async function findErased(source: string, looks: readonly Look[]): Promise<void> {
    const marked = await Promise.all(
      looks.map(async (look) => ({
        look,
        marks: await Promise.all([
          marks.ofSourcePatient(source, look.record.key),
          ...(await blindIdentifiers(look.record.resource)).map((one) => marks.ofIdentifier(one)),
        ]),
      })),
    );
    const erased = await suppressed(
      database,
      marked.flatMap((one) => one.marks),
    );
    for (const one of marked) if (one.marks.some((mark) => erased.has(mark))) one.look.reason = 'ERASED';
  }

  /** HMAC of all that the record says of who it is: identifiers, names, birth date, links. */
  async function factsOf({ resource, lastUpdated }: PatientRecord): Promise<string> {
    const { nameTokens, birthDate } = demographicsOf(resource, config.authorities, lastUpdated);
    const identifiers = identifiersOf(resource, config.authorities).map(({ authority, normalised, old }) => [authority, normalised, old]);
    const links = patientLinksOf(resource).map(({ type, other }) => [type, other]);
    return rows.blind('identity', JSON.stringify([identifiers, nameTokens, birthDate ?? null, links]));
  }

  function blindIdentifiers(resource: JsonObject): Promise<BlindIdentifier[]> {
    return Promise.all(
      identifiersOf(resource, config.authorities).map(async ({ authority, normalised }) => ({
        authority,
        blind: await rows.blind(`identifier:${authority}`, normalised),
      })),
    );
  }

  /** What the record says by itself: its identifiers, or why nobody may be told by them. */
  async function read(record: PatientRecord): Promise<Look> {
    const { resource } = record;
    const held = (reason: Reason): Look => ({ record, reason, blind: [] });
    if (config.excludeTestPatients && isTestPatient(resource)) return held('TEST_PATIENT');
    if (patientLinksOf(resource).some((link) => link.type === 'replaced-by' || link.type === 'replaces')) return held('PATIENT_LINK');
    const blind = await blindIdentifiers(resource);
    return blind.length === 0 ? held('PATIENT_UNKNOWN') : { record, blind };
  }

  function isSamePerson(known: JsonObject, { resource, lastUpdated }: PatientRecord): boolean {
    const of = (patient: JsonObject) => demographicsOf(patient, config.authorities, lastUpdated);
    return compareDemographics(of(known), of(resource)).result === 'same';
  }

  async function settle(
    choice:
      | { record: PatientRecord; reason: Reason }
      | { record: PatientRecord; blind: readonly BlindIdentifier[]; pat: string; isNew: boolean; keepsDemographics?: boolean },
  ): Promise<Settled> {
    const { record } = choice;
    const { key, ref, resource } = record;
    const sealedId = await rows.sealPurpose('directory', `source-patient/${key}`, Buffer.from(ref));
    if ('reason' in choice) return { key, sealedId, pat: null, reason: choice.reason };
    const { pat, blind, isNew } = choice;
    const enrolment = isNew ? await statements.enrollPatient(pat, await custodian.enrollPatient(pat, categoryIds)) : undefined;
    const demographics =
      choice.keepsDemographics === true
        ? undefined
        : await rows.seal(pat, 'core', `demographics/${pat}`, Buffer.from(JSON.stringify(resource)));
    return { key, sealedId, pat, reason: null, matched: { pat, record, blind, demographics, enrolment } };
  }

  async function store(tx: Sql, source: string, settled: readonly Settled[]): Promise<void> {
    const matched = settled.flatMap((one) => one.matched ?? []);
    const fresh = matched.flatMap(({ pat, enrolment }) => (enrolment === undefined ? [] : [{ pat, enrolment }]));
    const enrolled = await outbox.addAll(
      tx,
      fresh.map((one) => one.enrolment),
    );
    await insertPatients(
      tx,
      fresh.map(({ pat }, index) => ({ pat, enrolledOutbox: enrolled[index] ?? '' })),
    );
    await addIdentifiers(
      tx,
      matched.flatMap(({ pat, blind }) => blind.map((identifier) => ({ ...identifier, pat }))),
    );
    await addSuppressions(
      tx,
      settled.flatMap((one) => one.mark ?? []),
    );
    await linkSourcePatients(
      tx,
      source,
      settled.filter((one) => one.mark === undefined),
    );
    // Of two records of one person the last one tells.
    const telling = matched.flatMap(({ demographics, ...one }) => (demographics === undefined ? [] : [{ ...one, demographics }]));
    const last = [...new Map(telling.map((one) => [one.pat, one])).values()];
    await setDemographics(
      tx,
      last.map(({ pat, demographics, record }) => ({ pat, sealed: demographics, record: record.rec })),
    );
    await writePatients(tx, rows, {
      institution: config.institution,
      patients: last.map(({ pat, record }) => ({
        patient: pat,
        text: stringifyLossless(patientResource(pat, record.resource, config.authorities)),
      })),
      lastUpdated: new Date(),
    });
  }

  return { matchAll, matchDecided, factsOf, blindIdentifiers };
}

function nameOf({ authority, blind }: BlindIdentifier): string {
  return `${authority}|${blind}`;
}
