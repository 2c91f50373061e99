import type { Logger } from 'pino';
import { CodedError } from '../errors.ts';
import { isId } from '../ids.ts';
import { type JsonObject, parseResource } from '../records/lossless-json.ts';
import { compareDemographics, demographicsOf, identifiersOf, isTestPatient, patientLinksOf } from '../records/patient-identity.ts';
import type { Database } from '../store/database.ts';
import { identityDecisions, insertIdentityDecision } from '../store/identity-decisions.ts';
import { type BlindIdentifier, everKnownAs, findPatients, getPatients, identifiersOfPatient, sourcePatients } from '../store/patients.ts';
import {
  countHeldOf,
  currentPatientRecord,
  filedOf,
  holdAgain,
  patientOfRecord,
  recordsById,
  releaseStanding,
  setPatientOfRecord,
} from '../store/records.ts';
import { MISFILED, subjectById } from '../store/subjects.ts';
import type { SealedRows } from '../vault/sealed-rows.ts';
import type { createIntake } from './intake.ts';
import type { FilingConfig } from './parts.ts';
import type { createPatientMatching, PatientRecord } from './patient-matching.ts';
import { openRecord, sealedForText, sealRecord } from './record-seal.ts';
import type { SourceKeys } from './source-keys.ts';
import type { createWithdrawal } from './withdrawal.ts';

/** Who somebody is, as a person compares it. Shown to whoever decides and to nobody else. */
export interface ShownPerson {
  name: string;
  birthDate?: string;
  sex?: string;
  /** `authority value`. */
  identifiers: readonly string[];
}
export interface IdentityCandidate {
  patient: string;
  /** Authorities by whose identifiers the record leads here. */
  identifiers: readonly string[];
  /** The source's patient was matched to them before. */
  before: boolean;
  /** How the source's own link to them is called, where it has one. */
  link: string | null;
  differsOn: readonly string[];
  /** Documents of the source's patient that stand under them. */
  documents: number;
  person?: ShownPerson;
}
/** What a person must know to decide who a source's patient is. */
export interface IdentityQuestion {
  record: string;
  source: string;
  /** Why nobody could be told; null where a patient is known. */
  reason: string | null;
  /** As whom the source's patient is known now. */
  patient: string | null;
  /** Records that wait for the answer. */
  waiting: number;
  /** Names this state of things: an answer holds for it alone. */
  seen: string;
  person?: ShownPerson;
  candidates: readonly IdentityCandidate[];
  decided: { choice: string; patient: string | null; at: string } | null;
}

/** A person's answer: exactly one of `patient`, `create` and `reject`. */
export interface IdentityAnswer {
  record: string;
  patient?: string;
  create?: boolean;
  reject?: boolean;
  /** Of the question that was shown. */
  seen: string;
  /** Why, in words; kept sealed. */
  reason: string;
  /** Who decided. */
  by: string;
  /** Although an identifier of a configured authority says otherwise. */
  force?: boolean;
  /** This record's name and birth date are printed from now on. */
  takeDemographics?: boolean;
  /** What is filed of the source's patient under another pseudonym goes along. */
  move?: boolean;
}
export interface IdentityResolved {
  choice: 'patient' | 'new' | 'reject';
  patient: string | null;
  /** It had been decided so before; nothing was written. */
  already: boolean;
  /** Documents withdrawn because they stood under another patient. */
  withdrawn: number;
}

interface Facts {
  question: IdentityQuestion;
  /** The source's patient: key of the record, the record itself. */
  key: string;
  about: PatientRecord;
  facts: string;
  blind: readonly BlindIdentifier[];
  /** Whose each identifier of the record is. */
  owners: readonly (BlindIdentifier & { pat: string })[];
  /** Pseudonyms under which something of theirs may stand. */
  known: readonly string[];
}

/**
 * Questions of identity that a person answers (PATIENT_MISMATCH, PATIENT_LINK…, PATIENT_AMBIGUOUS, PATIENT_UNKNOWN): who a source's
 * patient is. An answer is kept, and counts for as long as the source says the same of who it is; everything that waits for it is
 * decided again by `replay.due`. The rows alone say what is due, so an answer that was written is never lost.
 */
export function createIdentity(parts: {
  database: Database;
  rows: SealedRows;
  keys: SourceKeys;
  intake: Pick<ReturnType<typeof createIntake>, 'inTurn'>;
  matching: ReturnType<typeof createPatientMatching>;
  withdrawal: ReturnType<typeof createWithdrawal>;
  config: FilingConfig;
  log: Logger;
}) {
  const { database, rows, keys, intake, matching, withdrawal, config, log } = parts;

  /** `reveal`: with names, birth dates and identifiers. Throws NOT_FOUND, or CONFLICT where it is no question of identity. */
  async function question(record: string, reveal: boolean): Promise<IdentityQuestion> {
    return (await look(record, reveal)).question;
  }

  async function look(record: string, reveal: boolean): Promise<Facts> {
    const { source, key } = await sourcePatientOf(record);
    const row = await currentPatientRecord(database, source, key);
    if (row === undefined)
      throw new CodedError('CONFLICT', { diagnostics: 'The source has not given its Patient record, so there is nothing to decide on.' });
    const kept = await openRecord(rows, row);
    const resource = parseResource(kept.record.bytes);
    if (config.excludeTestPatients && isTestPatient(resource)) throw new CodedError('CONFLICT', { diagnostics: 'This is a test patient.' });
    const about = { rec: row.rec, ref: `Patient/${kept.record.id}`, key, resource, lastUpdated: kept.record.lastUpdated ?? '' };
    const blind = await matching.blindIdentifiers(resource);
    const links = await Promise.all(
      patientLinksOf(resource).map(async ({ type, other }) => ({ type, key: await keys.ref(source, other) })),
    );
    const [owners, before, linked, facts, waiting, decisions] = await Promise.all([
      findPatients(database, blind),
      everKnownAs(database, source, [key]),
      sourcePatients(database, source, [key, ...links.map((link) => link.key)]),
      matching.factsOf(source, about),
      countHeldOf(database, source, key),
      identityDecisions(database, source, [key]),
    ]);
    const now = linked.get(key);
    const decision = decisions.get(key);
    const known = [
      ...new Set(
        [
          ...owners.map((owner) => owner.pat),
          ...(before.get(key) ?? []),
          now?.pat,
          ...links.map((link) => linked.get(link.key)?.pat),
        ].filter((pat) => pat !== undefined && pat !== null),
      ),
    ].sort();
    const [patients, filed] = await Promise.all([getPatients(database, known), filedOf(database, source, key, known)]);
    const own = demographicsOf(resource, config.authorities, about.lastUpdated);
    const candidates = await Promise.all(
      known.map(async (patient): Promise<IdentityCandidate> => {
        const sealed = patients.get(patient)?.demographics;
        const theirs = sealed ? parseResource(await rows.open(patient, 'core', `demographics/${patient}`, sealed)) : undefined;
        const compared =
          theirs === undefined ? undefined : compareDemographics(demographicsOf(theirs, config.authorities, about.lastUpdated), own);
        const link = links.find((one) => linked.get(one.key)?.pat === patient && one.key !== key);
        return {
          patient,
          identifiers: owners.filter((owner) => owner.pat === patient).map((owner) => owner.authority),
          before: (before.get(key) ?? []).includes(patient),
          link: link?.type ?? null,
          differsOn: compared?.result === 'differs' ? compared.on : [],
          documents: new Set(filed.filter((one) => one.pat === patient).map((one) => one.sub)).size,
          ...(reveal && theirs !== undefined ? { person: shown(theirs, about.lastUpdated) } : {}),
        };
      }),
    );
    const state = [facts, now?.pat ?? null, now?.reason ?? null, known.map((pat) => [pat, patients.get(pat)?.demographics_record ?? null])];
    const seen = (await rows.blind('identity', JSON.stringify(state))).slice(0, 8);
    return {
      key,
      about,
      facts,
      blind,
      owners,
      known,
      question: {
        record,
        source,
        reason: now?.reason ?? null,
        patient: now?.pat ?? null,
        waiting,
        seen,
        candidates,
        decided:
          decision === undefined || decision.facts !== facts
            ? null
            : { choice: decision.choice, patient: decision.pat, at: decision.decided_at.toISOString() },
        ...(reveal ? { person: shown(resource, about.lastUpdated) } : {}),
      },
    };
  }

  /** The source's patient whom a record is, or is about. */
  async function sourcePatientOf(record: string): Promise<{ source: string; key: string }> {
    if (!isId('rec', record)) throw new CodedError('BAD_REQUEST', { diagnostics: 'Name a record (rec-…).' });
    const found = await patientOfRecord(database, record);
    if (found === undefined) throw new CodedError('NOT_FOUND', { diagnostics: 'No record has this id.' });
    const { source, key } = found;
    if (key === null) throw new CodedError('CONFLICT', { diagnostics: 'This record names no patient of its source.' });
    return { source, key };
  }

  function shown(patient: JsonObject, asOf: string): ShownPerson {
    const { name, birthDate, sex } = demographicsOf(patient, config.authorities, asOf);
    return {
      name,
      ...(birthDate === undefined ? {} : { birthDate }),
      ...(sex === undefined ? {} : { sex }),
      identifiers: identifiersOf(patient, config.authorities).map(
        ({ authority, value, old }) => `${authority} ${value}${old ? ' (old)' : ''}`,
      ),
    };
  }

  /**
   * Writes a person's answer down and links the source's patient by it, in one transaction. The same answer again does nothing.
   * Throws CONFLICT where things are no longer as they were shown, IDENTITY_CONTRADICTED where an identifier speaks against it.
   */
  function resolve(answer: IdentityAnswer): Promise<IdentityResolved> {
    return intake.inTurn(async () => {
      const choice = choiceOf(answer);
      const found = await look(answer.record, false);
      const { question: asked, key, about } = found;
      const { decided } = asked;
      const stands =
        decided !== null &&
        decided.choice === choice &&
        (choice !== 'patient' || decided.patient === answer.patient) &&
        asked.patient === decided.patient;
      if (stands && answer.move !== true) {
        await follow(asked.source, key);
        return { choice, patient: decided.patient, already: true, withdrawn: 0 };
      }
      if (answer.seen !== asked.seen)
        throw new CodedError('CONFLICT', {
          diagnostics: 'This is not what was shown: without an answer the command shows what is known now, and the code for --seen.',
        });
      // A new patient who has been made once is not made twice.
      const target =
        choice === 'reject' ? null : choice === 'patient' ? answer.patient : stands ? (decided.patient ?? undefined) : undefined;
      const against = await contradictions(found, target);
      if (against.length > 0 && answer.force !== true) throw new CodedError('IDENTITY_CONTRADICTED', { diagnostics: against.join('; ') });

      const takesDemographics = answer.takeDemographics === true;
      const matched = await matching.matchDecided(asked.source, about, { pat: target, takesDemographics });
      const { pat } = matched;
      const detail = Buffer.from(JSON.stringify({ by: answer.by, reason: answer.reason, against }));
      const sealedDetail = await rows.sealPurpose('identity', `decision/${asked.source}/${key}`, detail);
      const [row] = await recordsById(database, [about.rec]);
      if (row === undefined) throw new Error('the Patient record is gone');
      const sealedFor = pat === null ? 'intake' : { patient: pat, category: 'core' };
      const raw = await sealRecord(rows, about.rec, sealedFor, await openRecord(rows, row));
      const withdrawn = await database.transaction(async (tx) => {
        await matched.store(tx);
        await insertIdentityDecision(tx, {
          source: asked.source,
          key,
          facts: found.facts,
          choice,
          pat,
          takes_demographics: takesDemographics,
          forced: against.length > 0,
          detail: sealedDetail,
        });
        await setPatientOfRecord(tx, about.rec, { pat, raw, sealedFor: sealedForText(sealedFor) });
        const others = found.known.filter((one) => one !== pat);
        const misfiled = answer.move === true ? await filedOf(tx, asked.source, key, others) : [];
        const subs = [...new Set(misfiled.map(({ sub }) => sub))];
        await holdAgain(tx, { source: asked.source, patientKey: key, pats: others, subs });
        let count = 0;
        for (const sub of subs) {
          const subject = await subjectById(tx, sub);
          if (subject !== undefined && (await withdrawal.withdraw(tx, subject, MISFILED))) count++;
        }
        await releaseStanding(tx, subs);
        return count;
      });
      await follow(asked.source, key);
      log.info({ record: answer.record, choice, patient: pat, withdrawn }, 'a question of identity was answered');
      return { choice, patient: pat, already: false, withdrawn };
    });
  }

  /** Whoever was merged into this patient of the source at the source, and waited for them. */
  async function follow(source: string, key: string): Promise<void> {
    const matched = await matching.matchAll(source, [], [key]);
    if (matched.patients.size > 0) await database.transaction((tx) => matched.store(tx));
  }

  /** What identifiers of configured authorities say against this answer; authorities and pseudonyms only. */
  async function contradictions({ blind, owners }: Facts, target: string | null | undefined): Promise<string[]> {
    if (target === null) return [];
    const theirs = owners.filter((owner) => owner.pat !== target);
    const against = theirs.map(({ authority, pat }) => `the record's identifier of ${authority} is that of ${pat}`);
    if (target === undefined) return against;
    const known = await getPatients(database, [target]);
    if (!known.has(target)) throw new CodedError('NOT_FOUND', { diagnostics: 'No patient has this pseudonym here.' });
    const held = await identifiersOfPatient(database, target);
    for (const authority of new Set(blind.map((identifier) => identifier.authority))) {
      const here = held.filter((identifier) => identifier.authority === authority);
      const said = blind.filter((identifier) => identifier.authority === authority);
      if (theirs.some((owner) => owner.authority === authority) || here.length === 0) continue;
      if (!said.some((identifier) => here.some((one) => one.blind === identifier.blind)))
        against.push(`${target} has another identifier of ${authority} than the record`);
    }
    return against;
  }

  return { question, resolve };
}

function choiceOf({ patient, create, reject, reason }: IdentityAnswer): IdentityResolved['choice'] {
  const given = [patient !== undefined, create === true, reject === true].filter(Boolean).length;
  if (given !== 1) throw new CodedError('BAD_REQUEST', { diagnostics: 'Answer with one of --patient, --new and --reject.' });
  if (patient !== undefined && !isId('pat', patient)) throw new CodedError('BAD_REQUEST', { diagnostics: 'Name a patient (pat-…).' });
  if (reason.trim() === '') throw new CodedError('BAD_REQUEST', { diagnostics: 'Say why: --reason "…". It is kept sealed.' });
  return patient !== undefined ? 'patient' : create === true ? 'new' : 'reject';
}
