import { newId } from '../ids.ts';
import type { Outbox, OutboxItem } from '../outbox/outbox.ts';
import { patientResource } from '../records/fhir-out.ts';
import { type JsonObject, parseResource, stringifyLossless } from '../records/lossless-json.ts';
import { compareDemographics, demographicsOf, identifiersOf, isTestPatient, patientLinksOf } from '../records/patient-identity.ts';
import type { Reason } from '../records/reasons.ts';
import type { Database, Sql } from '../store/database.ts';
import { type IdentityDecision, identityDecisions } from '../store/identity-decisions.ts';
import { wouldWiden } from '../store/patient-merges.ts';
import {
  addIdentifiers,
  type BlindIdentifier,
  everKnownAs,
  findPatients,
  forgetHeld,
  getPatients,
  insertPatients,
  linkSourcePatients,
  setDemographics,
  sourcePatients,
} from '../store/patients.ts';
import { currentPatientRecord, lastMatched, recordsById, setPatientOfRecord } from '../store/records.ts';
import { writePatients } from '../store/resources.ts';
import { addSuppressions, suppressed, suppressionMarks } from '../store/suppression.ts';
import type { Custodian } from '../vault/custodian.ts';
import type { SealedRows } from '../vault/sealed-rows.ts';
import { mapByTurns } from './by-turns.ts';
import { type Merges, readMerges } from './merged-patients.ts';
import type { FilingConfig, LedgerStatements } from './parts.ts';
import { openRecord, sealedForText, sealRecord } from './record-seal.ts';
import type { SourceKeys } from './source-keys.ts';

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
  /** Key of the source's patient whom this one goes on as, and the pseudonyms that were theirs. */
  merged?: { survivor: string; before: readonly string[] };
}
/** Ready to be written. */
interface Settled {
  key: string;
  rec: string;
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
  keys: SourceKeys;
  config: FilingConfig;
}) {
  const { database, rows, custodian, outbox, statements, keys, config } = parts;
  const categoryIds = config.categories.map((category) => category.id);
  const marks = suppressionMarks(rows);

  /**
   * The Patient records of a page. In three steps, so that two records of one new person get one pseudonym, and the
   * keys of all who are new are still written to the disk together. `around`: stored patients of whom something else is known now.
   */
  async function matchAll(source: string, records: readonly PatientRecord[], around: readonly string[] = []): Promise<MatchedPatients> {
    if (records.length === 0 && around.length === 0) return { patients: new Map(), store: async () => {} };
    const speaking = records.filter((record) => !isExcluded(record));
    const merges = await readMerges(database, keys, source, around, speaking);
    const before = await sourcePatients(database, source, [...merges.keys]);
    const earlier = await recordsBeside(source, records, merges, before);
    const found = await lookAll(source, [...records, ...earlier], merges);
    const inPage = new Map<string, { pat: string; resource: JsonObject }>();
    // In this order up to the first wait of each; the keys of all who are new still meet on their way to the disk.
    const settledFirst = await mapByTurns(
      found.filter((look) => look.merged === undefined),
      (look) => settleLook(look),
    );
    const settled = [...settledFirst];
    const now = new Map<string, { pat: string | null; reason: string | null; resource?: JsonObject }>(before);
    const resources = new Map(found.map(({ record }) => [record.key, record.resource]));
    for (const one of settledFirst) {
      const resource = resources.get(one.key);
      now.set(one.key, { pat: one.pat, reason: one.reason, ...(resource === undefined ? {} : { resource }) });
    }
    // Whoever goes on as somebody else comes after that one.
    for (const look of found) if (look.merged !== undefined) settled.push(await settleMerged(look, look.merged));
    const beside = new Set(earlier.map((record) => record.rec));
    const changed = settled.filter((one) => {
      const stood = before.get(one.key);
      return !beside.has(one.rec) || stood?.pat !== one.pat || stood.reason !== one.reason;
    });
    const resealed = await Promise.all(changed.filter((one) => beside.has(one.rec)).map(sealAnew));
    return {
      patients: new Map(changed.map(({ key, pat, reason }) => [key, { pat, reason }])),
      async store(tx) {
        await merges.store(tx);
        await store(tx, source, changed);
        for (const { rec, pat, raw, sealedFor } of resealed) await setPatientOfRecord(tx, rec, { pat, raw, sealedFor });
      },
    };

    async function settleLook({ record, reason, blind, existing, decided }: Look): Promise<Settled> {
      const held = (why: Reason): Promise<Settled> => settle({ record, reason: why });
      if (reason === 'ERASED')
        return {
          key: record.key,
          rec: record.rec,
          sealedId: Buffer.alloc(0),
          pat: null,
          reason,
          mark: await marks.ofSourcePatient(source, record.key),
        };
      if (decided !== undefined) return settleDecided(record, { pat: decided.pat, takesDemographics: decided.takes_demographics });
      if (reason !== undefined) return held(reason);
      const twins = blind.flatMap((identifier) => inPage.get(nameOf(identifier)) ?? []);
      const known = [...new Set([...(existing === undefined ? [] : [existing]), ...twins.map((twin) => twin.pat)])];
      if (known.length > 1) return held('PATIENT_AMBIGUOUS');
      if (twins.some((twin) => !isSamePerson(twin.resource, record))) return held('PATIENT_MISMATCH');
      const pat = known[0] ?? newId('pat');
      for (const identifier of blind) inPage.set(nameOf(identifier), { pat, resource: record.resource });
      return settle({ record, blind, pat, isNew: known.length === 0 });
    }

    /**
     * The survivor's pseudonym, where that widens nothing: what comes from now on is readable to whom the survivor's permissions let in, so
     * they must let in nobody whom those under a former pseudonym keep out (requirement F39). Else a person decides, and till then it is held.
     */
    async function settleMerged({ record, reason, blind, decided }: Look, merged: NonNullable<Look['merged']>): Promise<Settled> {
      const held = (why: Reason): Promise<Settled> => settle({ record, reason: why });
      if (decided !== undefined) return settleDecided(record, { pat: decided.pat, takesDemographics: decided.takes_demographics });
      if (reason !== undefined) return held(reason);
      const survivor = now.get(merged.survivor);
      // It has not come yet, or is held itself: this one follows when that is known.
      if (survivor === undefined || survivor.pat === null) return held('PATIENT_LINK');
      const { pat } = survivor;
      const theirs = survivor.resource ?? (await demographicsKept(pat));
      if (theirs === undefined || !isSamePerson(theirs, record)) return held('PATIENT_MISMATCH');
      const twins = blind.flatMap((identifier) => inPage.get(nameOf(identifier))?.pat ?? []);
      const others = [...new Set([...merged.before, ...twins])].filter((one) => one !== pat);
      const stands = before.get(record.key)?.pat === pat;
      if (!stands && others.length > 0 && (await wouldWiden(database, config.institution, others, pat)))
        return held('PATIENT_LINK_STRICTER');
      return settle({ record, blind, pat, isNew: false, keepsDemographics: true });
    }
  }

  /** Patient records of others whom what is said of merges may concern: they were stored before, and are matched again. */
  async function recordsBeside(
    source: string,
    records: readonly PatientRecord[],
    merges: Merges,
    stood: ReadonlyMap<string, { pat: string | null }>,
  ): Promise<PatientRecord[]> {
    const inPage = new Set(records.map((record) => record.key));
    // Who is known and goes on as themself stays so.
    const isSettled = (key: string): boolean => !merges.isGone(key) && (stood.get(key)?.pat ?? null) !== null;
    const others = [...merges.keys].filter((key) => !inPage.has(key) && !isSettled(key));
    const found = await mapByTurns(others, async (key): Promise<PatientRecord[]> => {
      const row = await currentPatientRecord(database, source, key);
      if (row === undefined) return [];
      const { record } = await openRecord(rows, row);
      const resource = parseResource(record.bytes);
      return [{ rec: row.rec, ref: `Patient/${record.id}`, key, resource, lastUpdated: record.lastUpdated ?? '' }];
    });
    return found.flat();
  }

  /** A stored record that is somebody else's from now on, or (held) nobody's. */
  async function sealAnew({ rec, pat }: Settled): Promise<{ rec: string; pat: string | null; raw: Buffer; sealedFor: string | null }> {
    const [row] = await recordsById(database, [rec]);
    if (row === undefined) throw new Error('the Patient record is gone');
    const sealedFor = pat === null ? 'intake' : { patient: pat, category: 'core' };
    return { rec, pat, raw: await sealRecord(rows, rec, sealedFor, await openRecord(rows, row)), sealedFor: sealedForText(sealedFor) };
  }

  function isExcluded({ resource }: PatientRecord): boolean {
    return config.excludeTestPatients && isTestPatient(resource);
  }

  async function demographicsKept(pat: string): Promise<JsonObject | undefined> {
    const row = (await getPatients(database, [pat])).get(pat);
    return row?.demographics ? parseResource(await rows.open(pat, 'core', `demographics/${pat}`, row.demographics)) : undefined;
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

  async function lookAll(source: string, records: readonly PatientRecord[], merges: Merges): Promise<Look[]> {
    const looks = await Promise.all(records.map(read));
    await findErased(source, looks, merges);
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
    const [before, decisions, replaced] = await Promise.all([
      lastMatched(database, keysOf(telling)),
      identityDecisions(database, source, keysOf(looks.filter((look) => look.reason !== 'TEST_PATIENT' && look.reason !== 'ERASED'))),
      everKnownAs(database, source, [...merges.keys]),
    ]);
    for (const look of telling) {
      const pats = [...new Set(look.blind.flatMap((identifier) => owners.get(nameOf(identifier)) ?? []))];
      const { survivor, problem, takenBack } = merges.of(look.record.key);
      if (problem === 'circular') look.reason = 'PATIENT_LINK_CIRCULAR';
      // A merge into several, or one that was taken back: what was filed meanwhile may be another person's.
      else if (problem !== undefined || takenBack) look.reason = 'PATIENT_LINK';
      if (look.reason !== undefined) continue;
      if (survivor !== undefined) {
        look.merged = { survivor, before: [...new Set([...pats, ...(replaced.get(look.record.key) ?? [])])] };
        continue;
      }
      // A survivor may bear the numbers of those whom it replaces: they lead to them, and speak for nobody else.
      const theirs = new Set(merges.goneInto(look.record.key).flatMap((key) => replaced.get(key) ?? []));
      const was = before.get(look.record.key);
      const own = theirs.size === 0 ? pats : pats.filter((pat) => pat === was || !theirs.has(pat));
      const named = own.length > 0 || was !== undefined ? own : pats;
      const existing = named[0] ?? was;
      if (named.length > 1) look.reason = 'PATIENT_AMBIGUOUS';
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
      const agrees = look.reason === undefined && look.merged === undefined && look.existing === decision?.pat;
      // It holds for what the person saw; where the source says anything else now, it is asked anew.
      if (decision !== undefined && !agrees && decision.facts === (await factsWith(look.record, merges))) look.decided = decision;
    }
    return looks;
  }

  /** Whoever was erased here is known by their number, or by their id at the source, and by nothing else. */
  async function findErased(source: string, looks: readonly Look[], merges: Merges): Promise<void> {
    const marked = await Promise.all(
      looks.map(async (look) => ({
        look,
        marks: await Promise.all([
          marks.ofSourcePatient(source, look.record.key),
          marks.ofSourcePatient(source, merges.of(look.record.key).survivor ?? look.record.key),
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

  /** HMAC of all that the source says of who it is: identifiers, names, birth date, links, merges. */
  async function factsOf(source: string, record: PatientRecord): Promise<string> {
    return factsWith(record, await readMerges(database, keys, source, [record.key]));
  }

  async function factsWith({ key, resource, lastUpdated }: PatientRecord, merges: Merges): Promise<string> {
    const { nameTokens, birthDate } = demographicsOf(resource, config.authorities, lastUpdated);
    const identifiers = identifiersOf(resource, config.authorities).map(({ authority, normalised, old }) => [authority, normalised, old]);
    const links = patientLinksOf(resource).map(({ type, other }) => [type, other]);
    return rows.blind('identity', JSON.stringify([identifiers, nameTokens, birthDate ?? null, links, merges.facts(key)]));
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
    if (isExcluded(record)) return held('TEST_PATIENT');
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
    if ('reason' in choice) return { key, rec: record.rec, sealedId, pat: null, reason: choice.reason };
    const { pat, blind, isNew } = choice;
    const enrolment = isNew ? await statements.enrollPatient(pat, await custodian.enrollPatient(pat, categoryIds)) : undefined;
    const demographics =
      choice.keepsDemographics === true
        ? undefined
        : await rows.seal(pat, 'core', `demographics/${pat}`, Buffer.from(JSON.stringify(resource)));
    return { key, rec: record.rec, sealedId, pat, reason: null, matched: { pat, record, blind, demographics, enrolment } };
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
    await forgetHeld(
      tx,
      source,
      settled.filter((one) => one.mark !== undefined).map((one) => one.key),
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
