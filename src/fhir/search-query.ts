import { CodedError } from '../errors.ts';
import { type TimeRange, timeRange } from '../records/fhir-time.ts';
import { type ParameterType, SEARCH_PARAMETERS, type SearchParameter } from '../records/search-parameters.ts';
import type { Named } from './complete-reads.ts';
import { isSearchable } from './served-types.ts';

export type Prefix = 'eq' | 'ne' | 'gt' | 'lt' | 'ge' | 'le' | 'sa' | 'eb';

/** One value of a parameter, parsed (R4 3.1.1.4). */
export type Match =
  | { kind: 'token'; system: string | undefined; code: string | undefined }
  | { kind: 'reference'; reference: string | undefined; id: string | undefined }
  | { kind: 'date'; prefix: Prefix; range: TimeRange }
  | { kind: 'string'; text: string }
  | { kind: 'quantity'; prefix: Prefix; number: number; low: number; high: number; system: string | undefined; code: string | undefined }
  | { kind: 'uri'; uri: string }
  | { kind: 'composite'; parts: readonly [Match, Match] };

/** One parameter of a query: all clauses must hold, any of a clause's matches. */
export interface Clause {
  parameter: SearchParameter;
  modifier: 'not' | 'missing' | 'exact' | 'contains' | undefined;
  any: readonly Match[];
  /** Of `:missing`. */
  missing: boolean;
}
export interface SortKey {
  parameter: SearchParameter;
  descending: boolean;
}
export interface Include {
  reverse: boolean;
  /** Type whose reference it is. */
  source: string;
  parameter: string;
  /** Types at the other end; empty: any that is served. */
  targets: readonly string[];
}
export interface SearchQuery {
  type: string;
  clauses: readonly Clause[];
  sort: readonly SortKey[];
  /** 0: only the count. */
  count: number;
  total: boolean;
  summary: 'count' | 'data' | undefined;
  elements: readonly string[] | undefined;
  includes: readonly Include[];
  /** What was honoured, for the self link and the cursor. */
  honoured: readonly (readonly [string, string])[];
  /** Names that are not known here (lenient handling). */
  ignored: readonly string[];
}

const special = (name: string, type: ParameterType, path: readonly string[]): SearchParameter => ({
  name,
  type,
  class: 'clear',
  paths: [path],
  targets: [],
});
export const ID = special('_id', 'token', ['id']);
export const LAST_UPDATED = special('_lastUpdated', 'date', ['meta', 'lastUpdated']);

const PREFIX = /^(eq|ne|gt|lt|ge|le|sa|eb|ap)(?=[-\d.])/;
/** Two of them contradict each other, and which one counts is nowhere said. */
const ONCE = new Set(['_count', '_sort', '_total', '_summary', '_elements']);
const MAX_CLAUSES = 40;
const MAX_VALUES = 100;

/** Parameter of a type by name, the ones of every type included. */
export function parameterOf(type: string, name: string): SearchParameter | undefined {
  if (name === '_id') return ID;
  if (name === '_lastUpdated') return LAST_UPDATED;
  return SEARCH_PARAMETERS.get(type)?.get(name);
}

/**
 * Parses a search. Throws PARAMETER_INVALID for a bad value, PARAMETER_UNKNOWN for what is not supported here (with
 * `lenient`, unknown names are left out and named in `ignored`; a known name with a bad value or modifier never is).
 */
export function parseSearch(
  type: string,
  pairs: readonly (readonly [string, string])[],
  options: { lenient: boolean; baseUrl: string; defaultCount: number; maxCount: number },
): SearchQuery {
  const clauses: Clause[] = [];
  const honoured: [string, string][] = [];
  const ignored: string[] = [];
  const includes: Include[] = [];
  let sort: SortKey[] = [];
  let count = options.defaultCount;
  let total = true;
  let summary: SearchQuery['summary'];
  let elements: string[] | undefined;
  const seen = new Set<string>();
  for (const [key, value] of pairs) {
    // No stored text holds a NUL, and the database takes none.
    if (value.includes('\0')) throw new CodedError('PARAMETER_INVALID', { expression: [expressionName(key)] });
    if (ONCE.has(key) && seen.has(key)) throw new CodedError('PARAMETER_INVALID', { diagnostics: 'Said twice.', expression: [key] });
    seen.add(key);
    const colon = key.indexOf(':');
    const name = colon < 0 ? key : key.slice(0, colon);
    const modifier = colon < 0 ? undefined : key.slice(colon + 1);
    if (name === '_format' || name === '_pretty') continue;
    if (name === '_count') count = Math.min(wholeNumber(value, name), options.maxCount);
    else if (name === '_sort') sort = value.split(',').map((text) => sortKey(type, text));
    else if (name === '_total') total = oneOf(value, ['none', 'estimate', 'accurate'], name) !== 'none';
    else if (name === '_summary') {
      const asked = oneOf(value, ['count', 'data', 'false'], name);
      summary = asked === 'false' ? undefined : (asked as 'count' | 'data');
    } else if (name === '_elements') elements = value.split(',').map((text) => elementName(text, name));
    else if (name === '_include' || name === '_revinclude') includes.push(include(type, name === '_revinclude', modifier, value));
    else {
      const parameter = parameterOf(type, name);
      if (parameter === undefined) {
        if (!options.lenient) throw new CodedError('PARAMETER_UNKNOWN', { expression: [expressionName(name)] });
        ignored.push(expressionName(name));
        continue;
      }
      // An empty value says nothing (R4 3.1.1.3).
      if (value === '') continue;
      clauses.push(clause(parameter, modifier, value, options.baseUrl));
    }
    honoured.push([key, value]);
  }
  if (clauses.length > MAX_CLAUSES) throw new CodedError('PARAMETER_INVALID', { diagnostics: 'Too many parameters.' });
  if (count === 0) summary = 'count';
  return { type, clauses, sort, count, total, summary, elements, includes, honoured, ignored };
}

function clause(parameter: SearchParameter, modifier: string | undefined, value: string, baseUrl: string): Clause {
  const invalid = (why: string): CodedError => new CodedError('PARAMETER_INVALID', { diagnostics: why, expression: [parameter.name] });
  if (modifier === 'missing' && parameter !== ID && parameter !== LAST_UPDATED) {
    if (value !== 'true' && value !== 'false') throw invalid(':missing takes true or false.');
    return { parameter, modifier, any: [], missing: value === 'true' };
  }
  let referenceType: string | undefined;
  if (modifier !== undefined) {
    const real =
      (modifier === 'not' && parameter.type === 'token' && parameter !== ID) ||
      ((modifier === 'exact' || modifier === 'contains') && parameter.type === 'string');
    if (!real) {
      if (parameter.type !== 'reference' || !/^[A-Z][A-Za-z]+$/.test(modifier)) throw invalid('The modifier is not supported here.');
      referenceType = modifier;
    }
  }
  const texts = split(value, ',');
  if (texts.length > MAX_VALUES) throw invalid('Too many values.');
  const any = texts.map((text) => {
    const match = parseMatch(parameter, text, baseUrl, referenceType);
    if (match === undefined) throw invalid('The value does not have the form that this parameter takes.');
    return match;
  });
  return { parameter, modifier: referenceType === undefined ? (modifier as Clause['modifier']) : undefined, any, missing: false };
}

function parseMatch(parameter: SearchParameter, text: string, baseUrl: string, referenceType: string | undefined): Match | undefined {
  if (parameter.parts !== undefined) {
    const [first, second, ...more] = split(text, '$');
    const [one, two] = parameter.parts.values;
    if (first === undefined || second === undefined || more.length > 0) return undefined;
    const parts = [value(one.type, first, baseUrl, undefined), value(two.type, second, baseUrl, undefined)];
    return parts[0] === undefined || parts[1] === undefined ? undefined : { kind: 'composite', parts: [parts[0], parts[1]] };
  }
  const match = value(parameter.type, text, baseUrl, referenceType);
  // A blind index knows equality of system and value, nothing else: one HMAC key a system.
  if (parameter.class === 'blind' && match?.kind === 'token' && (match.system === undefined || match.code === undefined)) return undefined;
  return match;
}

function value(type: ParameterType, text: string, baseUrl: string, referenceType: string | undefined): Match | undefined {
  if (type === 'token') {
    const [first = '', second, ...more] = split(text, '|').map(unescape);
    if (more.length > 0 || text === '|') return undefined;
    if (second === undefined) return first === '' ? undefined : { kind: 'token', system: undefined, code: first };
    return { kind: 'token', system: first, code: second === '' ? undefined : second };
  }
  if (type === 'reference') return reference(unescape(text), baseUrl, referenceType);
  if (type === 'uri') return { kind: 'uri', uri: unescape(text) };
  if (type === 'string') return text.trim() === '' ? undefined : { kind: 'string', text: unescape(text) };
  const found = PREFIX.exec(text)?.[1];
  if (found === 'ap') return undefined;
  const prefix = (found ?? 'eq') as Prefix;
  const bare = found === undefined ? text : text.slice(2);
  if (type === 'date') {
    const range = timeRange(bare);
    return range === undefined ? undefined : { kind: 'date', prefix, range };
  }
  if (type === 'quantity') return quantity(prefix, bare);
  return undefined;
}

function reference(text: string, baseUrl: string, type: string | undefined): Match | undefined {
  const local = text.startsWith(`${baseUrl}/`) ? text.slice(baseUrl.length + 1) : text;
  if (/^[a-z][a-z0-9+.-]*:/i.test(local)) return { kind: 'reference', reference: local, id: undefined };
  const m = /^(?:([A-Z][A-Za-z]+)\/)?([A-Za-z0-9.-]{1,64})$/.exec(local);
  if (m === null) return undefined;
  const [, named, id] = m;
  if (named !== undefined && type !== undefined && named !== type) return undefined;
  const of = named ?? type;
  return of === undefined
    ? { kind: 'reference', reference: undefined, id }
    : { kind: 'reference', reference: `${of}/${id}`, id: undefined };
}

function quantity(prefix: Prefix, text: string): Match | undefined {
  const [number = '', system, code, ...more] = split(text, '|').map(unescape);
  const m = /^-?\d{1,15}(?:\.(\d{1,15}))?(?:[eE]([+-]?\d{1,3}))?$/.exec(number);
  if (m === null || more.length > 0 || (system !== undefined && code === undefined)) return undefined;
  // 5.40 stands for 5.395 up to 5.405 (R4 3.1.1.4.11, implicit precision).
  const half = 0.5 * 10 ** (Number(m[2] ?? 0) - (m[1]?.length ?? 0));
  const n = Number(number);
  const named = (part: string | undefined): string | undefined => (part === undefined || part === '' ? undefined : part);
  return { kind: 'quantity', prefix, number: n, low: n - half, high: n + half, system: named(system), code: named(code) };
}

function sortKey(type: string, text: string): SortKey {
  const descending = text.startsWith('-');
  const name = descending ? text.slice(1) : text;
  const parameter = parameterOf(type, name);
  const sortable =
    parameter !== undefined &&
    (parameter.type === 'date' || parameter === ID || (parameter.type === 'string' && parameter.class === 'sealed'));
  if (!sortable) throw new CodedError('PARAMETER_INVALID', { diagnostics: 'Cannot sort by this.', expression: ['_sort'] });
  return { parameter, descending };
}

function include(type: string, reverse: boolean, modifier: string | undefined, value: string): Include {
  const name = reverse ? '_revinclude' : '_include';
  const bad = (why: string): CodedError => new CodedError('PARAMETER_INVALID', { diagnostics: why, expression: [name] });
  if (modifier !== undefined) throw bad('The modifier is not supported here.');
  const [source = '', parameter = '', target, ...more] = value.split(':');
  const known = SEARCH_PARAMETERS.get(source)?.get(parameter);
  if (more.length > 0 || !isSearchable(source) || known?.type !== 'reference' || known.class !== 'clear') throw bad('No such reference.');
  if (!reverse && source !== type) throw bad('The source must be the type that is searched.');
  if (target !== undefined && !isSearchable(target)) throw bad('The target type is not served.');
  if (reverse && target !== undefined && target !== type) throw bad('The target must be the type that is searched.');
  return { reverse, source, parameter, targets: target !== undefined ? [target] : known.targets };
}

function wholeNumber(text: string, name: string): number {
  if (!/^\d{1,9}$/.test(text)) throw new CodedError('PARAMETER_INVALID', { expression: [name] });
  return Number(text);
}
function oneOf(text: string, allowed: readonly string[], name: string): string {
  if (!allowed.includes(text))
    throw new CodedError('PARAMETER_INVALID', { diagnostics: `Supported: ${allowed.join(', ')}.`, expression: [name] });
  return text;
}
function elementName(text: string, name: string): string {
  if (!/^[a-z][A-Za-z]*$/.test(text)) throw new CodedError('PARAMETER_INVALID', { expression: [name] });
  return text;
}
/** A name of the client's goes back only where it looks like one: it might be anything. */
function expressionName(name: string): string {
  return /^_?[a-z][a-z0-9.:_-]{0,40}$/i.test(name) ? name : 'unknown';
}

/** Splits at an unescaped separator, keeping escapes. */
function split(text: string, separator: ',' | '|' | '$'): string[] {
  const parts: string[] = [];
  let start = 0;
  for (let i = 0; i < text.length; i++) {
    if (text[i] === '\\') i++;
    else if (text[i] === separator) {
      parts.push(text.slice(start, i));
      start = i + 1;
    }
  }
  parts.push(text.slice(start));
  return parts;
}
function unescape(text: string): string {
  return text.replace(/\\([\\,|$])/g, '$1');
}

/** Ids of patients that a clause on `patient` or `subject` names. */
export function patientIds(clause: Clause): string[] {
  return clause.any.flatMap((match) => {
    if (match.kind !== 'reference') return [];
    return match.id ?? (match.reference?.startsWith('Patient/') ? match.reference.slice('Patient/'.length) : []);
  });
}

/**
 * Patients that a search names anywhere, and those that it holds to: only they can be in its answer, for a reference leads to no other
 * person's resource from theirs.
 */
export function namedPatients(query: Pick<SearchQuery, 'type' | 'clauses'>): Named {
  const names = new Set<string>();
  let only: Set<string> | undefined;
  for (const clause of query.clauses) {
    const { parameter, modifier, any } = clause;
    if (modifier !== undefined) continue;
    const byId = parameter === ID && query.type === 'Patient';
    if (!byId && parameter.type !== 'reference') continue;
    const ids = byId ? any.flatMap((match) => (match.kind === 'token' ? (match.code ?? []) : [])) : patientIds(clause);
    for (const id of ids) names.add(id);
    const toPatients =
      byId ||
      parameter.targets.join() === 'Patient' ||
      any.every((match) => match.kind === 'reference' && (match.reference?.startsWith('Patient/') ?? false));
    if (toPatients) only = only === undefined ? new Set(ids) : only.intersection(new Set(ids));
  }
  return { names: [...names], only: only === undefined ? undefined : [...only] };
}
