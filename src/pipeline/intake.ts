import type { Page, RawRecord } from '../adapters/source.ts';
import { newId } from '../ids.ts';
import type { Classifier } from '../records/classify.ts';
import { clinicalContent } from '../records/content-hash.ts';
import { ASSEMBLING, type Description, describe } from '../records/describe.ts';
import { millisOf, stringOf } from '../records/elements.ts';
import { analyteCode } from '../records/laboratory.ts';
import { type JsonObject, parseResource, stringifyLossless } from '../records/lossless-json.ts';
import type { Database, Sql } from '../store/database.ts';
import { resourceIds } from '../store/documents.ts';
import { sourcePatients } from '../store/patients.ts';
import {
  currentOf,
  type HeldRow,
  insertRecords,
  type NewRecord,
  previousVersions,
  redecideHeld,
  storedVersions,
} from '../store/records.ts';
import { type ResourceText, writeDirectory } from '../store/resources.ts';
import { suppressed, suppressionMarks } from '../store/suppression.ts';
import type { SealedRows } from '../vault/sealed-rows.ts';
import { mapByTurns } from './by-turns.ts';
import { type Decided, decide, orderOf, type Seen } from './decision.ts';
import type { FilingConfig } from './parts.ts';
import { isPassing } from './passing.ts';
import type { createPatientMatching } from './patient-matching.ts';
import { attachmentDigests, digestRecord, digestStatement } from './raw-record.ts';
import { openRecord, type SealedFor, sealedForText, sealRecord, sealVersionName } from './record-seal.ts';
import type { SourceKeys } from './source-keys.ts';

/** What became of a page's records, by outcome and reason: for the progress line and the metrics. */
export interface IntakeCounts {
  known: number;
  stored: number;
  outcomes: Record<string, number>;
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
  const marks = suppressionMarks(rows);
  // Two pages at once could both make a pseudonym for one new patient, so pages are taken one after the other.
  let last: Promise<unknown> = Promise.resolve();

  function storePage(
    source: string,
    stream: string,
    classify: Classifier,
    page: Page,
    also: (tx: Sql) => Promise<void>,
  ): Promise<IntakeCounts> {
    return inTurn(() => store(source, stream, classify, page.records, also));
  }

  /** Between two pages: whoever else makes pseudonyms. */
  function inTurn<T>(work: () => Promise<T>): Promise<T> {
    const run = last.then(work);
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
    const { fresh, current } = await news(source, await see(source, records));
    counts.known = records.length - fresh.length;
    if (fresh.length === 0) {
      await database.transaction(also, 'unforced');
      return counts;
    }
    const newestInPage = new Map<string, Seen>();
    for (const s of fresh) if (!(newestInPage.has(s.key) && orderOf(s) < orderOf(newestInPage.get(s.key)))) newestInPage.set(s.key, s);

    // Patients first: what comes with them in the page is about them.
    const { patients, store: storePatients } = await matching.matchAll(
      source,
      fresh.flatMap(({ description, resource, key, rec, ref, raw }) =>
        description?.role === 'patient' && resource !== undefined && newestInPage.get(key)?.rec === rec
          ? [{ rec, ref, key, resource, lastUpdated: raw.lastUpdated ?? '' }]
          : [],
      ),
    );
    const patientKeys = new Map<Seen, string>();
    for (const s of fresh) {
      const patient = s.description?.patient;
      if (patient !== undefined) patientKeys.set(s, await keys.ref(source, patient));
    }
    const stored = await sourcePatients(database, source, [...new Set(patientKeys.values())]);
    const erased = await erasedOf(source, [
      ...new Set([...patientKeys.values(), ...fresh.flatMap(({ raw, key }) => (raw.type === 'Patient' ? [key] : []))]),
    ]);
    const patientOf = (s: Seen): { pat: string | null; reason: string | null } | undefined => {
      const key = patientKeys.get(s);
      if (key === undefined) return undefined;
      return erased.has(key) ? { pat: null, reason: 'ERASED' } : (patients.get(key) ?? stored.get(key));
    };
    // Of an erased person nothing is taken, and nothing is kept that says so.
    const isErased = (s: Seen): boolean => erased.has(s.key) || (patients.get(s.key) ?? patientOf(s))?.reason === 'ERASED';
    const taken = fresh.filter((s) => !isErased(s));
    if (taken.length < fresh.length) counts.outcomes['skip:ERASED'] = fresh.length - taken.length;

    const directory: { ref: string; resource: JsonObject }[] = [];
    // Beside each other, so that the row keys of all who are new are written to the disk together.
    const rowsToInsert = await mapByTurns(taken, async (s): Promise<NewRecord> => {
      const before = current.get(s.key);
      const patientKey = patientKeys.get(s);
      const decided = decide(s, before, patientOf(s), newestInPage.get(s.key) === s, { source, stream, classify });
      const own = s.description?.role === 'patient' ? (patients.get(s.key)?.pat ?? null) : null;
      const pat = own ?? decided.pat;
      const sealedFor = sealedForOf(s, { ...decided, pat });
      if (s.description?.role === 'directory' && s.resource !== undefined && decided.current)
        directory.push({ ref: s.ref, resource: s.resource });
      const outcome = decided.outcome === 'pending' ? 'taken' : `${decided.outcome}:${decided.reason}`;
      counts.outcomes[outcome] = (counts.outcomes[outcome] ?? 0) + 1;
      const links = s.description === undefined ? [] : await linksOf(source, s.description);
      return {
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
        corrects: before?.outcome === 'own',
        deleted: s.raw.deleted === true,
        outcome: decided.outcome,
        reason: decided.reason,
        rule: decided.rule,
        configHash: config.configHash,
        category: decided.category,
        pat,
        patientKey: patientKey ?? null,
        links,
        analyte: pat === null ? null : await analyteOf(s),
        attachments: await Promise.all(attachmentDigests(s.raw, s.resource).map((digest) => keys.content(`attachment|${digest}`))),
        notBefore: notBefore(before?.pat ?? null, pat),
      };
    });

    await database.transaction(async (tx) => {
      await storePatients(tx);
      await writeDirectory(tx, await directoryTexts(tx, source, directory), new Date());
      await insertRecords(tx, rowsToInsert);
      await also(tx);
      // The mark goes with the page: lost together, pulled again.
    }, 'unforced');
    counts.stored = rowsToInsert.length;
    return counts;
  }

  /** Those of these keys of a source's patients that are of persons who were erased here. */
  async function erasedOf(source: string, patientKeys: readonly string[]): Promise<Set<string>> {
    const marked = await Promise.all(patientKeys.map(async (key) => ({ key, mark: await marks.ofSourcePatient(source, key) })));
    const found = await suppressed(
      database,
      marked.map((one) => one.mark),
    );
    return new Set(marked.filter((one) => found.has(one.mark)).map((one) => one.key));
  }

  /**
   * What is not stored yet, with the current versions of the same records. A tombstone carries no version of its own, and a
   * record may come back as the very version that it was: so either is news where the other stands.
   */
  async function news(source: string, seen: readonly Seen[]): Promise<{ fresh: Seen[]; current: Awaited<ReturnType<typeof currentOf>> }> {
    if (seen.length === 0) return { fresh: [], current: new Map() };
    const stored = await storedVersions(
      database,
      seen.flatMap((s) => (s.raw.deleted === true ? [] : [s.versionKey])),
    );
    const candidates = seen.filter((s) => stored.get(s.versionKey)?.gone !== false);
    const current =
      candidates.length === 0 ? new Map<string, never>() : await currentOf(database, [...new Set(candidates.map((s) => s.key))]);
    const after = (s: Seen): Promise<string> =>
      keys.version(source, s.ref, s.raw.versionId, `${digestStatement(s.raw)} after ${current.get(s.key)?.rec ?? ''}`);
    const fresh: Seen[] = [];
    for (const s of candidates) {
      if (s.raw.deleted === true && current.get(s.key)?.deleted === true) continue;
      fresh.push(s.raw.deleted === true || stored.has(s.versionKey) ? { ...s, versionKey: await after(s) } : s);
    }
    return { fresh: dedupe(fresh), current };
  }

  /**
   * Decides a held record again, by what is known of its patient now and by the rules of today; its bytes are sealed anew
   * under the key that fits. Returns the decision, undefined where somebody else was first. Nothing is fetched.
   */
  async function reconsider(row: HeldRow, classify: Classifier): Promise<{ outcome: string; reason: string | null } | undefined> {
    const kept = await openRecord(rows, row);
    const [found] = await see(row.source, [kept.record]);
    if (found === undefined) return undefined;
    const s: Seen = { ...found, rec: row.rec, key: row.key };
    const patient =
      row.patient_key === null ? undefined : (await sourcePatients(database, row.source, [row.patient_key])).get(row.patient_key);
    const [before] = await previousVersions(database, [row.key]);
    // Only what became of the version before counts: this one is the newest, and its content is no repeat.
    const was = before === undefined ? undefined : { content: '', last_updated: null, outcome: before.outcome, pat: before.pat };
    const decided = decide(s, was, patient, true, { source: row.source, stream: row.stream, classify });
    const sealedFor = sealedForOf(s, decided);
    const raw = await sealRecord(rows, row.rec, sealedFor, kept);
    const analyte = decided.pat === null ? null : await analyteOf(s);
    const done = await database.transaction((tx) =>
      redecideHeld(tx, row.rec, {
        outcome: decided.outcome,
        reason: decided.reason,
        rule: decided.rule,
        configHash: config.configHash,
        category: decided.category,
        pat: decided.pat,
        raw,
        sealedFor: sealedForText(sealedFor),
        analyte,
        notBefore: notBefore(row.pat ?? before?.pat ?? null, decided.pat),
      }),
    );
    return done ? { outcome: decided.outcome, reason: decided.reason } : undefined;
  }

  async function analyteOf(s: Seen): Promise<{ analyte: string; at: Date } | null> {
    const code = s.description?.role === 'laboratory-result' ? analyteCode(s.resource ?? {}) : undefined;
    const clinicalTime = millisOf(s.description?.clinicalTime);
    return code === undefined || clinicalTime === undefined
      ? null
      : { analyte: await keys.content(`analyte|${code}`), at: new Date(clinicalTime) };
  }

  /** The right patient's document must not follow the wrong one's withdrawal so closely that the ledger links them. */
  function notBefore(before: string | null, now: string | null): Date | null {
    return before !== null && now !== null && before !== now ? new Date(Date.now() + config.wrongPatientDelayMs) : null;
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
    return mapByTurns(records, async (raw): Promise<Seen> => {
      const ref = `${raw.type}/${raw.id}`;
      const [key, versionKey] = await Promise.all([keys.ref(source, ref), keys.version(source, ref, raw.versionId, digestStatement(raw))]);
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
        // Whatever a record of a strange shape makes of us, it is that record's fault, and the page goes on.
        if (isPassing(error)) throw error;
        return { ...base, content: await keys.content(versionKey), invalid: true };
      }
    });
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
    const { fresh, current } = await news(source, await see(source, records));
    const counts: IntakeCounts = { known: records.length - fresh.length, stored: 0, outcomes: {} };
    for (const s of fresh) {
      const decided = decide(s, current.get(s.key), { pat: 'preview', reason: null }, true, { source, stream, classify });
      const outcome = decided.outcome === 'pending' ? `taken:${decided.category}` : `${decided.outcome}:${decided.reason}`;
      counts.outcomes[outcome] = (counts.outcomes[outcome] ?? 0) + 1;
    }
    return counts;
  }

  return { storePage, preview, reconsider, inTurn };
}

function sealedForOf(s: Seen, decided: Pick<Decided, 'pat' | 'category'>): SealedFor {
  if (s.description?.role === 'directory' || s.description?.role === 'appointment') return 'directory';
  return decided.pat === null ? 'intake' : { patient: decided.pat, category: decided.category ?? 'core' };
}

/** One page may hold the same version twice (edge case 6). */
function dedupe(seen: readonly Seen[]): Seen[] {
  return [...new Map(seen.map((s) => [s.versionKey, s])).values()];
}
