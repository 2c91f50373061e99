import type { Page, PullContext } from '../source.ts';
import { createCompletion } from './completion.ts';
import { type LastUpdatedMark, lookBack, readMark, type SearchState } from './marks.ts';
import type { Dialect, LastUpdatedStream } from './options.ts';
import { type PullMeter, type SearchPage, walkPages } from './page-chain.ts';
import { type PatientReading, readPatient, rotateIds, sortIds, takeWarnings } from './patient-records.ts';
import { parseTemplate, searchUrl } from './search-template.ts';
import { refusal, type Session } from './session.ts';

/**
 * Pulls a stream from a server that searches by `_lastUpdated` (config-and-operations.md section 5). Each search has its
 * own cursor, `ge` with a lookback. The cursor becomes the server's own time at the query, and only when the chain's last
 * page is stored; within a chain the mark holds the next link, so that a restart goes on there.
 */
export async function* pullByLastUpdated(
  session: Session,
  dialect: Dialect,
  stream: LastUpdatedStream,
  stored: string | undefined,
  context: PullContext,
): AsyncGenerator<Page> {
  const mark = readMark<LastUpdatedMark>('last-updated', stored, { v: 1, strategy: 'last-updated', searches: {} });
  const meter: PullMeter = { bytes: 0 };
  const completion = createCompletion(session, stream.follow, meter, context);
  let failure: unknown;
  let saidScopes = false;
  // Chosen before anything is read: whom this pull discovers it reads whole, and a first pull reads everybody.
  const isFirst = stream.searches.every((template) => mark.searches[template]?.since === undefined);
  const rescan =
    isFirst || !stream.rescanPatientsPerPull
      ? []
      : rotateIds(sortIds(await context.knownPatients()), mark.rotation).slice(0, stream.rescanPatientsPerPull);

  for (const template of stream.searches) {
    const firstUrl = (state: SearchState): URL => {
      const from = state.since === undefined ? stream.initialSince : lookBack(state.since, stream.lookbackMs);
      return searchUrl(session.base, parseTemplate(template), [
        ...(from === undefined ? [] : [['_lastUpdated', `ge${from}`] as const]),
        ...(stream.sort === undefined ? [] : [['_sort', stream.sort] as const]),
        ['_count', String(stream.pageSize)] as const,
        ...dialect.searchParameters,
      ]);
    };
    let resumed = mark.searches[template]?.chain !== undefined;
    for (;;) {
      const { since, chain } = mark.searches[template] ?? {};
      const start = chain ? session.guard.page(chain.next, session.base) : firstUrl(since === undefined ? {} : { since });
      try {
        let until = chain?.until;
        let newest = chain?.newest;
        let atQuery = chain === undefined;
        for await (const page of walkPages(session, start, meter, context.signal)) {
          // The first page of a chain tells the time of its query; later ones are answers to the same query.
          if (atQuery) until = page.serverTime;
          atQuery = false;
          newest = newestOf(newest, page);
          resumed = false;
          let warnings: readonly string[] = page.warnings;
          const missing = session.authentication.missingScopes();
          if (!saidScopes && missing.length > 0) warnings = [`Scopes asked and not granted: ${missing.join(' ')}.`, ...warnings];
          saidScopes = true;
          for await (const part of completion.parts(page.matches, page.included)) {
            warnings = [...warnings, ...part.warnings];
            const said = warnings.length > 0 ? { warnings } : {};
            if (!part.last) {
              yield { records: part.records, ...said };
              warnings = [];
              continue;
            }
            mark.searches[template] = afterPage(since, page.next, until, newest);
            yield { records: part.records, mark: JSON.stringify(mark), ...said };
          }
        }
        break;
      } catch (error) {
        const refused = refusal(error);
        if (!refused || refused.status === 401) throw error;
        if (resumed && [400, 404, 410].includes(refused.status)) {
          // The server has forgotten the chain while we were away: begin it again, repeats are harmless.
          mark.searches[template] = since === undefined ? {} : { since };
          resumed = false;
          continue;
        }
        const { type } = parseTemplate(template);
        yield {
          records: [],
          warnings: [`${type} is refused (${[refused.status, ...refused.issues].join(', ')}); it is left out in this pull.`],
        };
        // A right that we lack, or a server that guards itself, is a state of affairs; any other refusal is a wrong search.
        if (refused.status !== 403 && !refused.issues.includes('too-costly')) failure ??= error;
        break;
      }
    }
  }
  if (rescan.length > 0) {
    const reading: PatientReading = {
      session,
      dialect,
      searches: stream.searches.map(parseTemplate),
      pageSize: stream.pageSize,
      completion,
      meter,
      context,
      refused: new Set(),
      pending: [],
    };
    for (const id of rescan) {
      yield* readPatient(reading, id);
      mark.rotation = id;
      yield { records: [], mark: JSON.stringify(mark), ...takeWarnings(reading) };
    }
    failure ??= reading.failure;
  }
  if (failure) throw failure;
}

function afterPage(since: string | undefined, next: URL | undefined, until: string | undefined, newest: string | undefined): SearchState {
  if (!next) {
    const reached = until ?? newest ?? since;
    return reached === undefined ? {} : { since: reached };
  }
  return {
    ...(since === undefined ? {} : { since }),
    chain: { next: next.href, ...(until === undefined ? {} : { until }), ...(newest === undefined ? {} : { newest }) },
  };
}

function newestOf(known: string | undefined, page: SearchPage): string | undefined {
  let newestMs = known === undefined ? Number.NEGATIVE_INFINITY : Date.parse(known);
  for (const { record } of page.matches) {
    const atMs = Date.parse(record.lastUpdated ?? '');
    if (atMs > newestMs) newestMs = atMs;
  }
  return Number.isFinite(newestMs) ? new Date(newestMs).toISOString() : undefined;
}
