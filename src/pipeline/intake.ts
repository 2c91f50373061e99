import type { Page, RawRecord } from '../adapters/source.ts';
import { CodedError } from '../errors.ts';
import { newId } from '../ids.ts';
import type { Classifier } from '../records/classify.ts';
import { clinicalContent } from '../records/content-hash.ts';
import { ASSEMBLING, type Description, describe } from '../records/describe.ts';
import { millisOf, stringOf } from '../records/elements.ts';
import { analyteCode } from '../records/laboratory.ts';
import { type JsonObject, parseResource, stringifyLossless } from '../records/lossless-json.ts';
import type { Reason } from '../records/reasons.ts';
import type { Database, Sql } from '../store/database.ts';
import { resourceIds } from '../store/documents.ts';
import { sourcePatients } from '../store/patients.ts';
import { currentOf, insertRecords, knownVersions, type NewRecord, type RecordRow } from '../store/records.ts';
import { type ResourceText, writeDirectory } from '../store/resources.ts';
import type { SealedRows } from '../vault/sealed-rows.ts';
import type { FilingConfig } from './parts.ts';
import type { createPatientMatching, MatchedPatient } from './patient-matching.ts';
import { digestRecord, digestStatement } from './raw-record.ts';
import { type SealedFor, sealedForText, sealRecord, sealVersionName } from './record-seal.ts';
import type { SourceKeys } from './source-keys.ts';

/** What became of a page's records, by outcome and reason: for the progress line and the metrics. */
export interface IntakeCounts {
  known: number;
  stored: number;
  outcomes: Record<string, number>;
}

interface Seen {
  raw: RawRecord;
  rec: string;
  ref: string;
  key: string;
  versionKey: string;
  resource?: JsonObject;
  description?: Description;
  content: string;
  /** The resource cannot be read. */
  invalid: boolean;
}

/**
 * Intake and classification of a page (architecture section 3, steps 2-4): every version that is not known yet is sealed,
 * described, decided and stored with its links, together with the stream's mark, in one transaction. What is about a
 * subject stays `pending` until a document takes it; every other outcome is final and has a reason.
 */
export function createIntake(parts: {
  database: Database;
  rows: SealedRows;
  keys: SourceKeys;
  matching: ReturnType<typeof createPatientMatching>;
  config: FilingConfig;
}) {
  const { database, rows, keys, matching, config } = parts;
  // Two pages at once could both make a pseudonym for one new patient, so pages are taken one after the other.
  let last: Promise<unknown> = Promise.resolve();

  function storePage(
    source: string,
    stream: string,
    classify: Classifier,
    page: Page,
    also: (tx: Sql) => Promise<void>,
  ): Promise<IntakeCounts> {
    const run = last.then(() => store(source, stream, classify, page.records, also));
    last = run.catch(() => {});
    return run;
  }

  async function store(
    source: string,
    stream: string,
    classify: Classifier,
    records: readonly RawRecord[],
    also: (tx: Sql) => Promise<void>,
  ): Promise<IntakeCounts> {
    const counts: IntakeCounts = { known: 0, stored: 0, outcomes: {} };
    const seen = await see(source, records);
    const known = await knownVersions(
      database,
      seen.map((s) => s.versionKey),
    );
    const fresh = dedupe(seen.filter((s) => !known.has(s.versionKey)));
    counts.known = seen.length - fresh.length;

    const current = await currentOf(database, [...new Set(fresh.map((s) => s.key))]);
    const newestInPage = new Map<string, Seen>();
    for (const s of fresh) if (!(newestInPage.has(s.key) && orderOf(s) < orderOf(newestInPage.get(s.key)))) newestInPage.set(s.key, s);

    // Patients first: what comes with them in the page is about them.
    const patients = new Map<string, MatchedPatient>();
    for (const s of fresh) {
      if (s.description?.role !== 'patient' || s.resource === undefined || newestInPage.get(s.key) !== s) continue;
      patients.set(
        s.key,
        await matching.match({ source, rec: s.rec, ref: s.ref, resource: s.resource, lastUpdated: s.raw.lastUpdated ?? '' }),
      );
    }
    const patientKeys = new Map<Seen, string>();
    for (const s of fresh) {
      const patient = s.description?.patient;
      if (patient !== undefined) patientKeys.set(s, await keys.ref(source, patient));
    }
    const stored = await sourcePatients(database, source, [...new Set(patientKeys.values())]);

    const rowsToInsert: NewRecord[] = [];
    const directory: { ref: string; resource: JsonObject }[] = [];
    for (const s of fresh) {
      const before = current.get(s.key);
      const patientKey = patientKeys.get(s);
      const patient = patientKey === undefined ? undefined : (patients.get(patientKey) ?? stored.get(patientKey));
      const decided = decide(s, before, patient ?? undefined, newestInPage.get(s.key) === s, { source, stream, classify });
      const own = s.description?.role === 'patient' ? (patients.get(s.key)?.pat ?? null) : null;
      const pat = own ?? decided.pat;
      const sealedFor: SealedFor =
        s.description?.role === 'directory' || s.description?.role === 'appointment'
          ? 'directory'
          : pat === null
            ? 'intake'
            : { patient: pat, category: decided.category ?? 'core' };
      if (s.description?.role === 'directory' && s.resource !== undefined && decided.current)
        directory.push({ ref: s.ref, resource: s.resource });
      const links = s.description === undefined ? [] : await linksOf(source, s.description);
      const clinicalTime = millisOf(s.description?.clinicalTime);
      rowsToInsert.push({
        rec: s.rec,
        source,
        stream,
        type: s.raw.type,
        key: s.key,
        versionKey: s.versionKey,
        content: s.content,
        raw: await sealRecord(rows, s.rec, sealedFor, { source, stream, record: s.raw }),
        sealedFor: sealedForText(sealedFor),
        versionId: await sealVersionName(rows, s.rec, { type: s.raw.type, id: s.raw.id, versionId: s.raw.versionId }),
        lastUpdated: orderOf(s) === 0 ? null : new Date(orderOf(s)),
        current: decided.current,
        deleted: s.raw.deleted === true,
        outcome: decided.outcome,
        reason: decided.reason,
        rule: decided.rule,
        configHash: config.configHash,
        category: decided.category,
        pat,
        links,
        analyte:
          s.description?.role === 'laboratory-result' &&
          pat !== null &&
          clinicalTime !== undefined &&
          analyteCode(s.resource ?? {}) !== undefined
            ? { analyte: await keys.content(`analyte|${analyteCode(s.resource ?? {})}`), at: new Date(clinicalTime) }
            : null,
        // The right patient's document must not follow the wrong one's withdrawal so closely that the ledger links them.
        notBefore: before?.pat != null && pat !== null && before.pat !== pat ? new Date(Date.now() + config.wrongPatientDelayMs) : null,
      });
      const outcome = decided.outcome === 'pending' ? 'taken' : `${decided.outcome}:${decided.reason}`;
      counts.outcomes[outcome] = (counts.outcomes[outcome] ?? 0) + 1;
    }

    await database.transaction(async (tx) => {
      for (const matched of patients.values()) await matched.store(tx);
      await writeDirectory(tx, await directoryTexts(tx, source, directory), new Date());
      await insertRecords(tx, rowsToInsert);
      await also(tx);
    });
    counts.stored = rowsToInsert.length;
    return counts;
  }

  /** Staff and organisations under ids of ours; a source's own references inside them lead nowhere here and are left out. */
  async function directoryTexts(tx: Sql, source: string, found: readonly { ref: string; resource: JsonObject }[]): Promise<ResourceText[]> {
    const wanted = await Promise.all(
      found.map(async ({ ref }) => ({ key: await keys.resource(source, ref, 'directory'), id: newId('res') })),
    );
    const ids = await resourceIds(tx, wanted);
    return found.flatMap(({ resource }, index): ResourceText[] => {
      const id = ids.get(wanted[index]?.key ?? '');
      const type = stringOf(resource['resourceType']);
      if (id === undefined || (type !== 'Practitioner' && type !== 'Organization')) return [];
      const { meta: _meta, text: _text, contained: _contained, partOf: _partOf, endpoint: _endpoint, ...kept } = resource;
      return [{ type, id, text: stringifyLossless({ ...kept, id }) }];
    });
  }

  async function see(source: string, records: readonly RawRecord[]): Promise<Seen[]> {
    return Promise.all(
      records.map(async (raw): Promise<Seen> => {
        const ref = `${raw.type}/${raw.id}`;
        const [key, versionKey] = await Promise.all([
          keys.ref(source, ref),
          keys.version(source, ref, raw.versionId, digestStatement(raw)),
        ]);
        const base = { raw, rec: newId('rec'), ref, key, versionKey };
        if (raw.deleted === true) return { ...base, content: await keys.content(`deleted|${key}`), invalid: false };
        try {
          const resource = parseResource(raw.bytes);
          const attachments = digestRecord({ ...raw, bytes: Buffer.alloc(0) });
          return {
            ...base,
            resource,
            description: describe(resource),
            content: await keys.content(`${clinicalContent(resource)}\n${attachments}`),
            invalid: false,
          };
        } catch (error) {
          if (!(error instanceof CodedError) || error.code !== 'CONTENT_INVALID') throw error;
          return { ...base, content: await keys.content(versionKey), invalid: true };
        }
      }),
    );
  }

  interface Decided {
    outcome: RecordRow['outcome'];
    reason: string | null;
    rule: string | null;
    category: string | null;
    pat: string | null;
    current: boolean;
  }

  function decide(
    s: Seen,
    before: { content: string; last_updated: Date | null; outcome: string; pat: string | null } | undefined,
    patient: { pat: string | null; reason: string | null } | undefined,
    newest: boolean,
    by: { source: string; stream: string; classify: Classifier },
  ): Decided {
    const pat = patient?.pat ?? null;
    const none = { rule: null, category: null, pat };
    const skip = (reason: Reason, current: boolean, rule: string | null = null): Decided => ({
      ...none,
      outcome: 'skip',
      reason,
      rule,
      current,
    });
    const hold = (reason: Reason, rule: string | null = null): Decided => ({
      ...none,
      outcome: 'quarantine',
      reason,
      rule,
      current: newest,
    });
    if (s.raw.deleted === true)
      return before === undefined
        ? skip('DELETED_AT_SOURCE', true)
        : { ...none, pat: before.pat, outcome: 'pending', reason: null, current: true };
    if (s.invalid || s.description === undefined || s.resource === undefined) return hold('CONTENT_INVALID');
    // An older statement that comes late never overwrites a newer one (edge case 33).
    if (!newest || (before?.last_updated && orderOf(s) !== 0 && orderOf(s) < before.last_updated.getTime()))
      return skip('SUPERSEDED', false);
    if (before !== undefined && before.content === s.content && before.outcome !== 'quarantine') return skip('DUPLICATE_HASH', false);
    if (s.description.role === 'patient' || s.description.role === 'directory' || s.description.role === 'appointment')
      return skip('NOT_CLINICAL', true);

    const classified = by.classify(s.resource, { source: by.source, stream: by.stream, description: s.description });
    // A rule that skips a withdrawn or drafted version must not leave the earlier one standing: assembly withdraws it.
    const wasOwn = before?.outcome === 'own' || before?.outcome === 'pending';
    if (classified.outcome === 'skip' && !(wasOwn && s.description.status === 'withdrawn'))
      return skip(classified.reason ?? 'NO_RULE_MATCH', true, classified.rule);
    if (classified.outcome === 'quarantine') return hold(classified.reason ?? 'NO_RULE_MATCH', classified.rule);
    // A note whose content cannot be had is no note: it is held with what there is.
    const problem = s.raw.attachments?.find((attachment) => attachment.problem !== undefined)?.problem;
    if (problem !== undefined) return hold(attachmentReason(problem), classified.rule);
    if (s.description.patient === undefined || patient === undefined) return hold('PATIENT_UNKNOWN', classified.rule);
    if (patient.pat === null) {
      const reason = (patient.reason ?? 'PATIENT_UNKNOWN') as Reason;
      return reason === 'TEST_PATIENT' ? skip(reason, true, classified.rule) : hold(reason, classified.rule);
    }
    return { outcome: 'pending', reason: null, rule: classified.rule, category: classified.category ?? null, pat, current: true };
  }

  async function linksOf(source: string, description: Description): Promise<{ relation: string; target: string }[]> {
    const links = description.links
      .filter((link) => ASSEMBLING.has(link.relation))
      .map((link) => ({ relation: link.relation as string, name: link.target }));
    // Results of one collection stand together where no report claims them.
    if (description.orphanKey !== undefined) links.push({ relation: 'collection', name: description.orphanKey });
    return Promise.all(links.map(async ({ relation, name }) => ({ relation, target: await keys.ref(source, name) })));
  }

  /** What `storePage` would decide by content alone, without storing or matching anybody: for a dry run. */
  async function preview(source: string, stream: string, classify: Classifier, records: readonly RawRecord[]): Promise<IntakeCounts> {
    const seen = await see(source, records);
    const known = await knownVersions(
      database,
      seen.map((s) => s.versionKey),
    );
    const counts: IntakeCounts = { known: 0, stored: 0, outcomes: {} };
    for (const s of seen) {
      if (known.has(s.versionKey)) {
        counts.known++;
        continue;
      }
      const decided = decide(s, undefined, { pat: 'preview', reason: null }, true, { source, stream, classify });
      const outcome = decided.outcome === 'pending' ? `taken:${decided.category}` : `${decided.outcome}:${decided.reason}`;
      counts.outcomes[outcome] = (counts.outcomes[outcome] ?? 0) + 1;
    }
    return counts;
  }

  return { storePage, preview };
}

/** Milliseconds of what orders versions of one fact: issued, else lastUpdated; 0 where the source says neither. */
function orderOf(s: Seen | undefined): number {
  return millisOf(s?.description?.orderTime) ?? millisOf(s?.raw.lastUpdated) ?? 0;
}

/** One page may hold the same version twice (edge case 6). */
function dedupe(seen: readonly Seen[]): Seen[] {
  return [...new Map(seen.map((s) => [s.versionKey, s])).values()];
}

/** The adapter's words for what is wrong with an attachment, as reasons of ours. */
function attachmentReason(problem: string): Reason {
  if (problem === 'too-large') return 'TOO_LARGE';
  return /refused|scheme|unc|file/.test(problem) ? 'ATTACHMENT_REFUSED' : 'ATTACHMENT_UNAVAILABLE';
}
