import type { Page, PullContext } from '../source.ts';
import { createCompletion } from './completion.ts';
import { lookBack, type PatientSweepMark, readMark, type SweepState } from './marks.ts';
import type { Dialect, PatientSweepStream } from './options.ts';
import { type ParsedRecord, type PullMeter, walkPages } from './page-chain.ts';
import { readResource, tombstone } from './read-resource.ts';
import { referencesIn } from './references.ts';
import { parseTemplate, type SearchTemplate, searchUrl, splitIntoSingleValues } from './search-template.ts';
import { refusal, type Session } from './session.ts';

/**
 * Pulls a stream from a server without `_lastUpdated` on what is wanted (aria-and-oncology.md section 1, item 3): patients
 * with news are found through another type that has it, then each patient's records are read anew. First the discovered
 * patients, then the known ones in rotation, both by id, so that the mark needs no list: a position is enough.
 */
export async function* pullByPatient(
  session: Session,
  dialect: Dialect,
  stream: PatientSweepStream,
  stored: string | undefined,
  context: PullContext,
): AsyncGenerator<Page> {
  const mark = readMark<PatientSweepMark>('patient-sweep', stored, { v: 1, strategy: 'patient-sweep' });
  const meter: PullMeter = { bytes: 0 };
  const completion = createCompletion(session, stream.follow, meter, context);
  const searches = stream.perPatient.flatMap((text) => searchesOf(text, dialect));
  const refused = new Map<SearchTemplate, string>();
  let failure: unknown;
  let pending: string[] = [];

  const known = sorted(await context.knownPatients());
  const resumed = mark.sweep !== undefined;
  const sweep: SweepState = mark.sweep ?? { phase: 'discovered', taken: 0 };
  mark.sweep = sweep;

  let discovered: string[] = [];
  if (sweep.phase === 'discovered' && stream.discover) {
    const found = await discoverPatients(session, dialect, stream, mark.since, meter, context.signal);
    discovered = sorted(found.patients);
    pending = [...found.warnings];
    if (found.refused) sweep.incomplete = true;
    // A resumed sweep keeps the time of its own beginning; whoever turned up since then is found again by the next.
    if (!resumed && found.serverTime !== undefined) sweep.until = found.serverTime;
  }
  const missing = session.authentication.missingScopes();
  if (missing.length > 0) pending.push(`Scopes asked and not granted: ${missing.join(' ')}.`);

  const budget = Math.max(0, Math.min(stream.knownPatientsPerPull ?? Number.POSITIVE_INFINITY, known.length) - sweep.taken);
  const newlyFound = new Set(discovered);
  const plan = [
    ...discovered.filter((id) => sweep.after === undefined || id > sweep.after).map((id) => ({ id, phase: 'discovered' as const })),
    ...rotate(
      known.filter((id) => !newlyFound.has(id)),
      mark.rotation,
    )
      .slice(0, budget)
      .map((id) => ({ id, phase: 'known' as const })),
  ];

  for (const { id, phase } of plan) {
    // What one patient's searches have shown, by versions: two searches may show the same record.
    const seen = new Map<string, string>();
    const answered = new Set<string>();
    let yielded = false;
    const said = (): { warnings?: readonly string[] } => {
      const warnings = pending;
      pending = [];
      return warnings.length > 0 ? { warnings } : {};
    };
    const fresh = (matches: readonly ParsedRecord[]): ParsedRecord[] =>
      matches.filter(({ record }) => {
        const name = `${record.type}/${record.id}`;
        const repeat = seen.has(name) && seen.get(name) === record.versionId && record.versionId !== '';
        seen.set(name, record.versionId);
        return !repeat;
      });
    async function* handOn(matches: readonly ParsedRecord[], included: readonly ParsedRecord[]): AsyncGenerator<Page> {
      for await (const part of completion.parts(matches, included)) {
        pending.push(...part.warnings);
        if (part.records.length === 0) continue;
        yielded = true;
        yield { records: part.records, ...said() };
      }
    }

    for (const search of searches) {
      if (refused.has(search)) continue;
      const url = searchUrl(session.base, search, [['patient', id], ['_count', String(stream.pageSize)], ...dialect.searchParameters]);
      try {
        for await (const page of walkPages(session, url, meter, context.signal)) {
          pending.push(...page.warnings);
          yield* handOn(fresh(page.matches), page.included);
        }
        answered.add(search.type);
      } catch (error) {
        const why = refusal(error);
        if (!why || why.status === 401) throw error;
        // HAPI says 404 for a search on a patient that it does not know: no records, which the check below settles.
        if (why.status === 404) {
          answered.add(search.type);
          continue;
        }
        refused.set(search, search.type);
        sweep.incomplete = true;
        pending.push(`${search.type} is refused (${[why.status, ...why.issues].join(', ')}); it is left out in this pull.`);
        if (why.status !== 403 && !why.issues.includes('too-costly')) failure ??= error;
      }
    }

    // Absence is believed only when a read confirms it: a server in trouble may answer with empty pages.
    const unanswered = new Set(refused.values());
    for (const { type, id: recordId } of (await context.knownRecords?.(id)) ?? []) {
      if (seen.has(`${type}/${recordId}`) || !answered.has(type) || unanswered.has(type)) continue;
      const result = await readResource(session, type, recordId, meter, context.signal);
      if ('gone' in result) {
        yielded = true;
        yield { records: [tombstone(type, recordId)], ...said() };
      } else if ('found' in result) yield* handOn([result.found], []);
      else pending.push(`A ${type} that no search shows any more cannot be read (${result.refused}).`);
    }

    sweep.phase = phase;
    if (phase === 'known') {
      sweep.taken += 1;
      delete sweep.after;
      mark.rotation = id;
    } else sweep.after = id;
    // A patient without records needs no transaction of its own; the position goes with the next one.
    if (yielded) yield { records: [], mark: JSON.stringify(mark), ...said() };
  }

  const reached = sweep.incomplete ? mark.since : (sweep.until ?? mark.since);
  const end: PatientSweepMark = {
    v: 1,
    strategy: 'patient-sweep',
    ...(reached === undefined ? {} : { since: reached }),
    ...(mark.rotation === undefined ? {} : { rotation: mark.rotation }),
  };
  yield { records: [], mark: JSON.stringify(end), ...(pending.length > 0 ? { warnings: pending } : {}) };
  if (failure) throw failure;
}

interface Discovery {
  patients: Set<string>;
  warnings: string[];
  serverTime?: string;
  refused: boolean;
}

async function discoverPatients(
  session: Session,
  dialect: Dialect,
  stream: PatientSweepStream,
  since: string | undefined,
  meter: PullMeter,
  signal: AbortSignal,
): Promise<Discovery> {
  const found: Discovery = { patients: new Set(), warnings: [], refused: false };
  const { discover } = stream;
  if (!discover) return found;
  const from = since === undefined ? discover.initialSince : lookBack(since, discover.lookbackMs);
  let newestMs = Number.NEGATIVE_INFINITY;
  let serverTime: string | undefined;
  for (const [at, search] of searchesOf(discover.search, dialect).entries()) {
    const url = searchUrl(session.base, search, [
      ...(from === undefined ? [] : [['_lastUpdated', `ge${from}`] as const]),
      ['_count', String(stream.pageSize)],
      ...dialect.searchParameters,
    ]);
    try {
      let first = true;
      for await (const page of walkPages(session, url, meter, signal)) {
        // The earliest query of them all bounds what they have seen together.
        if (first && at === 0) serverTime = page.serverTime;
        first = false;
        found.warnings.push(...page.warnings);
        for (const { record, resource } of page.matches) {
          for (const { type, id } of referencesIn(resource, session.base)) if (type === 'Patient') found.patients.add(id);
          newestMs = Math.max(newestMs, Date.parse(record.lastUpdated ?? '') || newestMs);
        }
      }
    } catch (error) {
      const why = refusal(error);
      if (!why || why.status === 401) throw error;
      found.refused = true;
      found.warnings.push(`${search.type} is refused (${[why.status, ...why.issues].join(', ')}); only known patients are swept.`);
    }
  }
  const until = serverTime ?? (Number.isFinite(newestMs) ? new Date(newestMs).toISOString() : undefined);
  if (until !== undefined) found.serverTime = until;
  return found;
}

function searchesOf(text: string, dialect: Dialect): SearchTemplate[] {
  const template = parseTemplate(text);
  return dialect.singleValuesOnly ? splitIntoSingleValues(template) : [template];
}

function sorted(ids: Iterable<string>): string[] {
  return [...new Set(ids)].sort((a, b) => (a < b ? -1 : a > b ? 1 : 0));
}

/** The ids behind `after`, then those before it. */
function rotate(ids: readonly string[], after: string | undefined): string[] {
  if (after === undefined) return [...ids];
  const start = ids.findIndex((id) => id > after);
  return start < 0 ? [...ids] : [...ids.slice(start), ...ids.slice(0, start)];
}
