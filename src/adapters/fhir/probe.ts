import type { CapabilityStatement, CapabilityStatementRestResource } from 'fhir/r4.js';
import { CodedError, codeOf, type ErrorCode } from '../../errors.ts';
import type { ProbeReport } from '../source.ts';
import type { Dialect, SourceOptions } from './options.ts';
import { walkPages } from './page-chain.ts';
import { referencesIn } from './references.ts';
import { parseTemplate, type SearchTemplate, searchUrl, splitIntoSingleValues } from './search-template.ts';
import { refusal, type Session } from './session.ts';

type Problem = ProbeReport['problems'][number];

/** Parameters of every resource or of the search itself; servers need not list them per type (R4 3.1.1.1.2). */
const COMMON = new Set(['_id', '_count', '_sort', '_total', '_format', '_summary', '_elements', '_include', '_revinclude']);

/**
 * Looks at a server without storing anything: reads its capability statement, gets a token, compares scopes, and tries
 * each search with one record. Never throws; what is wrong is a problem with a stable id and a cure.
 */
export async function probeServer(
  session: Session,
  dialect: Dialect,
  options: SourceOptions,
  signal: AbortSignal = new AbortController().signal,
): Promise<ProbeReport> {
  const problems = new Map<string, Problem>();
  const add = (id: string, text: string, cure: string): void => void problems.set(id + text, { id, text, cure });
  let statement: CapabilityStatement | undefined;
  try {
    statement = await session.capabilities(signal);
    if (statement.resourceType !== 'CapabilityStatement') {
      statement = undefined;
      add('not-fhir', 'GET metadata gives no CapabilityStatement.', 'Check that `baseUrl` is the FHIR base.');
    }
  } catch (error) {
    const { id, cure } = problemOf(error);
    add(id, `The capability statement cannot be read: ${textOf(error)}`, cure);
  }
  const fhirVersion = statement?.fhirVersion ?? '';
  if (statement && !fhirVersion.startsWith('4.0')) {
    add('fhir-version', `The server speaks FHIR ${fhirVersion || 'of no stated version'}.`, 'Point `baseUrl` at its R4 (4.0.x) base.');
  }

  const wanted = wantedSearches(options, dialect);
  if (statement) checkStatement(statement, wanted, options, add);

  let signedIn = true;
  try {
    await session.authentication.token(signal);
    for (const scope of session.authentication.missingScopes()) {
      add(
        'scope-missing',
        `The scope ${scope} was asked for and not granted.`,
        'Have the source grant it to our client, or take its search out of the stream.',
      );
    }
  } catch (error) {
    signedIn = false;
    const { id, cure } = problemOf(error);
    add(id, `No token: ${textOf(error)}`, cure);
  }

  if (signedIn && !problems.has('unreachable')) {
    let patient: string | undefined;
    for (const { search, perPatient, since } of wanted) {
      if (perPatient && patient === undefined) continue;
      const extra: (readonly [string, string])[] = [
        ...(perPatient && patient ? [['patient', patient] as const] : []),
        ...(since === undefined ? [] : [['_lastUpdated', `ge${since}`] as const]),
        ['_count', '1'],
        ...dialect.searchParameters,
      ];
      try {
        for await (const page of walkPages(session, searchUrl(session.base, search, extra), { bytes: 0 }, signal)) {
          patient ??= page.matches
            .flatMap(({ resource }) => referencesIn(resource, session.base))
            .find(({ type }) => type === 'Patient')?.id;
          break;
        }
      } catch (error) {
        const { id, cure } = problemOf(error);
        add(refusal(error) ? 'search-refused' : id, `A search of ${search.type} fails: ${textOf(error)}`, cure);
        if (!refusal(error)) break;
      }
    }
  }
  const software = [statement?.software?.name ?? statement?.publisher ?? 'unknown', statement?.software?.version].filter(Boolean).join(' ');
  return { software, fhirVersion, problems: [...problems.values()] };
}

interface WantedSearch {
  search: SearchTemplate;
  perPatient: boolean;
  /** As a first pull would ask: a server may refuse the same search without it. */
  since?: string | undefined;
  needs: readonly string[];
}

/** Discovery first, so that a patient is at hand for the searches that need one. */
function wantedSearches(options: SourceOptions, dialect: Dialect): WantedSearch[] {
  const split = (text: string): SearchTemplate[] =>
    dialect.singleValuesOnly ? splitIntoSingleValues(parseTemplate(text)) : [parseTemplate(text)];
  return options.streams.flatMap((stream): WantedSearch[] => {
    if (stream.strategy === 'last-updated') {
      return stream.searches.map((text) => ({
        search: parseTemplate(text),
        perPatient: false,
        since: stream.initialSince ?? '1970-01-01',
        needs: ['_lastUpdated'],
      }));
    }
    const { discover } = stream;
    const since = discover?.initialSince ?? '1970-01-01';
    const discovery = discover
      ? split(discover.search).map((search) => ({ search, perPatient: false, since, needs: ['_lastUpdated'] }))
      : [];
    return [...discovery, ...stream.perPatient.flatMap(split).map((search) => ({ search, perPatient: true, needs: ['patient'] }))];
  });
}

function checkStatement(
  statement: CapabilityStatement,
  wanted: readonly WantedSearch[],
  options: SourceOptions,
  add: (id: string, text: string, cure: string) => void,
): void {
  const rest = statement.rest?.find(({ mode }) => mode === 'server') ?? statement.rest?.[0];
  const resources = new Map((rest?.resource ?? []).map((resource): [string, CapabilityStatementRestResource] => [resource.type, resource]));
  const everywhere = new Set((rest?.searchParam ?? []).map(({ name }) => name));
  for (const { search, needs } of wanted) {
    const resource = resources.get(search.type);
    if (!resource) {
      add(
        'type-not-offered',
        `The server does not list ${search.type}.`,
        'Take its searches out of the stream, or ask the vendor to switch the type on.',
      );
      continue;
    }
    if (resource.interaction && !resource.interaction.some(({ code }) => code === 'search-type')) {
      add('search-not-offered', `The server does not list search on ${search.type}.`, 'Take its searches out of the stream.');
    }
    const offered = new Set((resource.searchParam ?? []).map(({ name }) => name));
    for (const name of new Set([...search.parameters.map(([written]) => written.split(/[:.]/)[0] ?? written), ...needs])) {
      if (COMMON.has(name) || offered.has(name) || everywhere.has(name)) continue;
      const cure =
        name === '_lastUpdated'
          ? 'Use the strategy patient-sweep, or confirm by a pull that the server takes it all the same.'
          : 'Correct the search.';
      add('parameter-not-offered', `The server does not list the parameter ${name} of ${search.type}.`, cure);
    }
  }
  for (const type of new Set(options.streams.flatMap(({ follow }) => follow.types))) {
    if (!resources.has(type)) add('type-not-offered', `The server does not list ${type}.`, `Take ${type} out of \`follow\`.`);
  }
}

const CURES: Partial<Record<ErrorCode, { id: string; cure: string }>> = {
  SOURCE_TLS: { id: 'tls', cure: 'Name the PEM file of its certificate authority in `tls.ca`; check host name and expiry.' },
  SOURCE_AUTHENTICATION: {
    id: 'authentication-failing',
    cure: 'Check client id, secret or key, and that the client is registered for these scopes.',
  },
  SOURCE_UNREACHABLE: { id: 'unreachable', cure: 'Check `baseUrl`, DNS, firewall, and that the server runs.' },
  SOURCE_THROTTLED: { id: 'throttled', cure: 'Lower `limits.requestsPerSecond`, or ask for a higher limit.' },
  SOURCE_ORIGIN: { id: 'origin-refused', cure: 'Add the origin to `allowedOrigins` if it is the same server.' },
  SOURCE_REFUSED: { id: 'refused', cure: 'Check the search, and the scopes of our client.' },
  SOURCE_TOO_LARGE: { id: 'too-large', cure: 'Lower `pageSize` or raise the limit.' },
};

function problemOf(error: unknown): { id: string; cure: string } {
  const code = codeOf(error);
  return (code && CURES[code]) ?? { id: 'unexpected-answer', cure: 'Check that `baseUrl` is the FHIR base.' };
}

/** The public text of an error of the table; anything else stays unsaid, for it may quote the answer. */
function textOf(error: unknown): string {
  return error instanceof CodedError ? (error.detail.diagnostics ?? error.code) : 'an unexpected error.';
}
