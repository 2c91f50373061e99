import type { Page, PullContext } from '../source.ts';
import { createCompletion } from './completion.ts';
import { lookBack, type PatientSweepMark, readMark, type SweepState } from './marks.ts';
import type { Dialect, PatientSweepStream } from './options.ts';
import { type PullMeter, walkPages } from './page-chain.ts';
import { type PatientReading, readPatient, rotateIds, sortIds, takeWarnings } from './patient-records.ts';
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
  const reading: PatientReading = {
    session,
    dialect,
    searches: stream.perPatient.flatMap((text) => searchesOf(text, dialect)),
    pageSize: stream.pageSize,
    completion: createCompletion(session, stream.follow, meter, context),
    meter,
    context,
    refused: new Set(),
    pending: [],
  };

  const known = sortIds(await context.knownPatients());
  const resumed = mark.sweep !== undefined;
  const sweep: SweepState = mark.sweep ?? { phase: 'discovered', taken: 0 };
  mark.sweep = sweep;

  let discovered: string[] = [];
  if (sweep.phase === 'discovered' && stream.discover) {
    const found = await discoverPatients(session, dialect, stream, mark.since, meter, context.signal);
    discovered = sortIds(found.patients);
    reading.pending = [...found.warnings];
    if (found.refused) sweep.incomplete = true;
    // A resumed sweep keeps the time of its own beginning; whoever turned up since then is found again by the next.
    if (!resumed && found.serverTime !== undefined) sweep.until = found.serverTime;
  }
  const missing = session.authentication.missingScopes();
  if (missing.length > 0) reading.pending.push(`Scopes asked and not granted: ${missing.join(' ')}.`);

  const budget = Math.max(0, Math.min(stream.knownPatientsPerPull ?? Number.POSITIVE_INFINITY, known.length) - sweep.taken);
  const newlyFound = new Set(discovered);
  const plan = [
    ...discovered.filter((id) => sweep.after === undefined || id > sweep.after).map((id) => ({ id, phase: 'discovered' as const })),
    ...rotateIds(
      known.filter((id) => !newlyFound.has(id)),
      mark.rotation,
    )
      .slice(0, budget)
      .map((id) => ({ id, phase: 'known' as const })),
  ];

  for (const { id, phase } of plan) {
    let yielded = false;
    for await (const page of readPatient(reading, id)) {
      yielded = true;
      yield page;
    }
    if (reading.refused.size > 0) sweep.incomplete = true;
    sweep.phase = phase;
    if (phase === 'known') {
      sweep.taken += 1;
      delete sweep.after;
      mark.rotation = id;
    } else sweep.after = id;
    // A patient without records needs no transaction of its own; the position goes with the next one.
    if (yielded) yield { records: [], mark: JSON.stringify(mark), ...takeWarnings(reading) };
  }

  const reached = sweep.incomplete ? mark.since : (sweep.until ?? mark.since);
  const end: PatientSweepMark = {
    v: 1,
    strategy: 'patient-sweep',
    ...(reached === undefined ? {} : { since: reached }),
    ...(mark.rotation === undefined ? {} : { rotation: mark.rotation }),
  };
  yield { records: [], mark: JSON.stringify(end), ...takeWarnings(reading) };
  if (reading.failure) throw reading.failure;
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
