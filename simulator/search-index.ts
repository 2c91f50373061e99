import { type Json, type JsonObject, type Resource, strings, values } from './json.ts';

/** What a search may ask of a record, taken out of it once. Tokens are `system|code`. */
export interface SearchIndex {
  patients: readonly string[];
  tokens: Readonly<Record<string, readonly string[]>>;
  /** First and last millisecond that the record's clinical date covers. */
  date?: readonly [number, number];
  /** Lower-case words of names, for string parameters. */
  words: Readonly<Record<string, readonly string[]>>;
}

/** Reads the searchable parts of a resource. */
export function indexOf(resource: Resource): SearchIndex {
  const patients = [
    ...strings(resource, 'subject', 'reference'),
    ...strings(resource, 'patient', 'reference'),
    ...strings(resource, 'participant', 'actor', 'reference'),
  ]
    .filter((reference) => reference.startsWith('Patient/'))
    .map((reference) => reference.slice('Patient/'.length));
  const family = strings(resource, 'name', 'family').map((text) => text.toLowerCase());
  const given = strings(resource, 'name', 'given').map((text) => text.toLowerCase());
  const named = resource.resourceType === 'Organization' ? strings(resource, 'name').map((text) => text.toLowerCase()) : [];
  const when =
    strings(resource, 'effectiveDateTime')[0] ??
    strings(resource, 'date')[0] ??
    strings(resource, 'start')[0] ??
    strings(resource, 'performedPeriod', 'start')[0];
  const end = strings(resource, 'performedPeriod', 'end')[0];
  const date = when === undefined ? undefined : dateRange(when);
  const last = end === undefined ? undefined : dateRange(end);
  return {
    patients,
    tokens: {
      category: codings(resource, 'category'),
      code: codings(resource, 'code'),
      type: codings(resource, 'type'),
      status: strings(resource, 'status').map((code) => `|${code}`),
      'doc-status': strings(resource, 'docStatus').map((code) => `|${code}`),
      intent: strings(resource, 'intent').map((code) => `|${code}`),
      gender: strings(resource, 'gender').map((code) => `|${code}`),
      birthdate: strings(resource, 'birthDate').map((code) => `|${code}`),
      active: values(resource, 'active').map((flag) => (flag === true ? '|true' : '|false')),
      identifier: [...values(resource, 'identifier'), ...values(resource, 'masterIdentifier')].map(identifierToken),
    },
    words: { family, given, name: [...family, ...given, ...named] },
    ...(date ? { date: [date[0], last?.[1] ?? date[1]] as const } : {}),
  };
}

function codings(resource: Resource, member: string): string[] {
  return values(resource, member, 'coding').map((coding) => {
    const { system, code } = coding as JsonObject;
    return `${text(system)}|${text(code)}`;
  });
}

function identifierToken(identifier: Json): string {
  const { system, value } = identifier as JsonObject;
  return `${text(system)}|${text(value)}`;
}

function text(value: Json | undefined): string {
  return typeof value === 'string' ? value : '';
}

/** True where a token parameter's value (`code`, `system|code`, `|code`, `system|`) names one of the tokens. */
export function matchesToken(wanted: string, tokens: readonly string[]): boolean {
  const bar = wanted.indexOf('|');
  if (bar < 0) return tokens.some((token) => token.slice(token.lastIndexOf('|') + 1) === wanted);
  if (bar === wanted.length - 1) return tokens.some((token) => token.startsWith(wanted));
  return tokens.includes(wanted);
}

/** First and last millisecond of a FHIR date, dateTime or instant; without an offset it is taken as UTC. */
function dateRange(value: string): readonly [number, number] | undefined {
  const parts = /^(\d{4})(-\d{2})?(-\d{2})?(T\d{2}:\d{2}(:\d{2}(\.\d+)?)?(Z|[+-]\d{2}:\d{2})?)?$/.exec(value);
  if (!parts) return undefined;
  const [, year, month, day, time, seconds, fraction, offset] = parts;
  const start = Date.parse(time ? (offset ? value : `${value}Z`) : `${year}${month ?? '-01'}${day ?? '-01'}T00:00:00Z`);
  if (Number.isNaN(start)) return undefined;
  if (time) return [start, start + (fraction ? 0 : seconds ? 999 : 59_999)];
  const next = new Date(start);
  if (day) next.setUTCDate(next.getUTCDate() + 1);
  else if (month) next.setUTCMonth(next.getUTCMonth() + 1);
  else next.setUTCFullYear(next.getUTCFullYear() + 1);
  return [start, next.getTime() - 1];
}

/**
 * True where the range [first, last] satisfies a date parameter with its prefix (eq ge gt le lt; R4 3.1.1.4.7); undefined where the
 * parameter is malformed.
 */
export function matchesDate(wanted: string, range: readonly [number, number]): boolean | undefined {
  const parts = /^(eq|ge|gt|le|lt)?(.+)$/.exec(wanted);
  const asked = dateRange(parts?.[2] ?? '');
  if (!asked) return undefined;
  const [first, last] = range;
  switch (parts?.[1]) {
    case 'ge':
      return last >= asked[0];
    case 'gt':
      return last > asked[1];
    case 'le':
      return first <= asked[1];
    case 'lt':
      return first < asked[0];
    default:
      return first >= asked[0] && last <= asked[1];
  }
}
