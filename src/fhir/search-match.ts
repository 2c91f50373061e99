import { compareBounds, type TimeRange } from '../records/fhir-time.ts';
import { isObject, type Json, type JsonObject } from '../records/lossless-json.ts';
import { elementsAt, fold, quantityOf, rangeOf, referenceOf, stringsOf, tokensOf, valuesOf, wanted } from '../records/search-index.ts';
import type { Clause, Match, Prefix, SortKey } from './search-query.ts';

/** Whether an opened resource satisfies a clause: the way of sealed parameters, and of resources that lie in no index. */
export function matches(resource: JsonObject, clause: Clause): boolean {
  const { parameter, any, modifier } = clause;
  if (parameter.parts !== undefined) {
    const { bases, values } = parameter.parts;
    const elements = bases.flatMap((base) => (base.length === 0 ? [resource] : elementsAt(resource, base)));
    const present = elements.filter(isObject);
    if (modifier === 'missing') {
      const has = present.some((element) => values.every((part) => at(element, part.paths).length > 0));
      return has !== clause.missing;
    }
    return present.some((element) =>
      any.some(
        (match) =>
          match.kind === 'composite' &&
          at(element, values[0].paths).some((value) => one(value, match.parts[0], undefined)) &&
          at(element, values[1].paths).some((value) => one(value, match.parts[1], undefined)),
      ),
    );
  }
  const values = valuesOf(resource, parameter).filter((value) => {
    if (parameter.type !== 'reference') return true;
    const reference = referenceOf(value);
    return reference !== undefined && wanted(parameter, reference);
  });
  if (modifier === 'missing') return (values.length === 0) === clause.missing;
  const found = values.some((value) => any.some((match) => one(value, match, modifier)));
  return modifier === 'not' ? !found : found;
}

function at(resource: JsonObject, paths: readonly (readonly string[])[]): Json[] {
  return paths.flatMap((path) => elementsAt(resource, path));
}

function one(value: Json, match: Match, modifier: Clause['modifier']): boolean {
  switch (match.kind) {
    case 'token':
      return tokensOf(value).some(
        (token) => (match.system === undefined || token.system === match.system) && (match.code === undefined || token.code === match.code),
      );
    case 'reference': {
      const reference = referenceOf(value);
      return reference !== undefined && (match.reference === reference || (match.id !== undefined && reference.endsWith(`/${match.id}`)));
    }
    case 'uri':
      return value === match.uri;
    case 'date': {
      const range = rangeOf(value);
      return range !== undefined && dateMatches(match.prefix, match.range, range);
    }
    case 'string': {
      if (modifier === 'exact') return rawStrings(value).includes(match.text);
      const text = fold(match.text);
      return stringsOf(value).some((part) => (modifier === 'contains' ? fold(part).includes(text) : fold(part).startsWith(text)));
    }
    case 'quantity': {
      const quantity = quantityOf(value);
      if (quantity === undefined) return false;
      if (match.system !== undefined && quantity.system !== match.system) return false;
      if (match.code !== undefined && quantity.code !== match.code && (match.system !== undefined || quantity.unit !== match.code))
        return false;
      return numberMatches(match, quantity.number);
    }
    default:
      return false;
  }
}

function rawStrings(value: Json): string[] {
  if (typeof value === 'string') return [value];
  return stringsOf(value);
}

function numberMatches(match: { prefix: Prefix; number: number; low: number; high: number }, n: number): boolean {
  const equal = n >= match.low && n < match.high;
  switch (match.prefix) {
    case 'eq':
      return equal;
    case 'ne':
      return !equal;
    case 'gt':
    case 'sa':
      return n > match.number;
    case 'lt':
    case 'eb':
      return n < match.number;
    case 'ge':
      return n >= match.number;
    default:
      return n <= match.number;
  }
}

/** R4 3.1.1.4.6 on ranges: `asked` of the query, `value` of the resource. The SQL of search-sql.ts says the same. */
export function dateMatches(prefix: Prefix, asked: TimeRange, value: TimeRange): boolean {
  const within = compareBounds(value.start, asked.start) >= 0 && compareBounds(value.end, asked.end) <= 0;
  switch (prefix) {
    case 'eq':
      return within;
    case 'ne':
      return !within;
    case 'gt':
      return compareBounds(value.end, asked.end) > 0;
    case 'ge':
      return compareBounds(value.end, asked.end) > 0 || within;
    case 'lt':
      return compareBounds(value.start, asked.start) < 0;
    case 'le':
      return compareBounds(value.start, asked.start) < 0 || within;
    case 'sa':
      return compareBounds(value.start, asked.end) > 0;
    default:
      return compareBounds(value.end, asked.start) < 0;
  }
}

/** What a resource is sorted by, as text that compares in code units; absent sorts last. */
export function sortText(resource: JsonObject, { parameter }: SortKey): string | undefined {
  const values = valuesOf(resource, parameter);
  const texts =
    parameter.type === 'date'
      ? values.flatMap((value) => rangeOf(value)?.start ?? [])
      : values.flatMap((value) => stringsOf(value).map(fold));
  return texts.sort((a, b) => (a < b ? -1 : 1))[0];
}
