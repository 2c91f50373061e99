import type { Page, PullContext } from '../source.ts';
import type { Completion } from './completion.ts';
import type { Dialect } from './options.ts';
import { type ParsedRecord, type PullMeter, walkPages } from './page-chain.ts';
import { readResource, tombstone } from './read-resource.ts';
import { type SearchTemplate, searchUrl } from './search-template.ts';
import { refusal, type Session } from './session.ts';

/** What reading patients one by one needs, for the time of one pull. */
export interface PatientReading {
  session: Session;
  dialect: Dialect;
  searches: readonly SearchTemplate[];
  pageSize: number;
  completion: Completion;
  meter: PullMeter;
  context: PullContext;
  /** Searches refused in this pull; left out for the patients that follow. */
  refused: Set<SearchTemplate>;
  /** A refusal that is more than a missing right or a server guarding itself: thrown when all else is done. */
  failure?: unknown;
  /** Warnings not yet handed on. */
  pending: string[];
}

/** Takes the warnings gathered so far, in the form of a page's member. */
export function takeWarnings(reading: PatientReading): { warnings?: readonly string[] } {
  const warnings = reading.pending;
  reading.pending = [];
  return warnings.length > 0 ? { warnings } : {};
}

/**
 * All records of one patient, and a tombstone for each known one that is gone. Pages bear no mark: only a whole patient
 * moves one. Empty pages are not yielded.
 */
export async function* readPatient(reading: PatientReading, patient: string): AsyncGenerator<Page> {
  const { session, context, meter, completion } = reading;
  // Names and versions that the searches have shown: two of them may show the same record.
  const seen = new Map<string, string>();
  const answered = new Set<string>();
  const fresh = (matches: readonly ParsedRecord[]): ParsedRecord[] =>
    matches.filter(({ record }) => {
      const name = `${record.type}/${record.id}`;
      const repeat = record.versionId !== '' && seen.get(name) === record.versionId;
      seen.set(name, record.versionId);
      return !repeat;
    });
  async function* handOn(matches: readonly ParsedRecord[], included: readonly ParsedRecord[]): AsyncGenerator<Page> {
    for await (const part of completion.parts(matches, included)) {
      reading.pending.push(...part.warnings);
      if (part.records.length > 0) yield { records: part.records, ...takeWarnings(reading) };
    }
  }

  for (const search of reading.searches) {
    if (reading.refused.has(search)) continue;
    const extra: (readonly [string, string])[] = [
      ['patient', patient],
      ['_count', String(reading.pageSize)],
      ...reading.dialect.searchParameters,
    ];
    try {
      for await (const page of walkPages(session, searchUrl(session.base, search, extra), meter, context.signal)) {
        reading.pending.push(...page.warnings);
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
      reading.refused.add(search);
      reading.pending.push(`${search.type} is refused (${[why.status, ...why.issues].join(', ')}); it is left out in this pull.`);
      if (why.status !== 403 && !why.issues.includes('too-costly')) reading.failure ??= error;
    }
  }

  // Absence is believed only when a read confirms it: a server in trouble may answer with empty pages.
  const unanswered = new Set([...reading.refused].map(({ type }) => type));
  for (const { type, id } of (await context.knownRecords?.(patient)) ?? []) {
    if (seen.has(`${type}/${id}`) || !answered.has(type) || unanswered.has(type)) continue;
    const result = await readResource(session, type, id, meter, context.signal);
    if ('gone' in result) yield { records: [tombstone(type, id)], ...takeWarnings(reading) };
    else if ('found' in result) yield* handOn([result.found], []);
    else reading.pending.push(`A ${type} that no search shows any more cannot be read (${result.refused}).`);
  }
}

/** Ids in the order of their text, each once. */
export function sortIds(ids: Iterable<string>): string[] {
  return [...new Set(ids)].sort((a, b) => (a < b ? -1 : a > b ? 1 : 0));
}

/** The ids behind `after`, then those before it: where a rotation goes on. `ids` sorted by `sortIds`. */
export function rotateIds(ids: readonly string[], after: string | undefined): string[] {
  if (after === undefined) return [...ids];
  const start = ids.findIndex((id) => id > after);
  return start < 0 ? [...ids] : [...ids.slice(start), ...ids.slice(0, start)];
}
