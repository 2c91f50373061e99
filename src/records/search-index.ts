import { hull, periodRange, type TimeRange, timeRange } from './fhir-time.ts';
import { isObject, type Json, type JsonObject, numberOf, textOf } from './lossless-json.ts';
import { CHOICES, CLINICAL_TIME, SEARCH_PARAMETERS, type SearchParameter } from './search-parameters.ts';

/**
 * What the index keeps of a resource. `elements` is the clear index, one text per fact, made for array overlap:
 *
 *     code=http://loinc.org|718-7   a token with its system (empty system: `code=|x`)
 *     code~718-7                    the same whatever the system; also a reference by id alone
 *     code=http://loinc.org|        any code of that system
 *     subject=Patient/pat-…         a reference; uris likewise
 *     code?                         the parameter has a value (:missing)
 *     >Practitioner/mem-…           any reference anywhere in the resource
 */
export interface ResourceIndex {
  elements: string[];
  dates: { parameter: string; range: TimeRange }[];
  /** The caller puts their HMAC into the index as `identifier#<hex>`. */
  blind: { parameter: string; system: string; value: string }[];
  /** Folded words and texts of clear string parameters (directory only): prefix match. */
  strings: string[];
  /** `Type/id` of everything that the resource refers to, by local reference. */
  references: string[];
  /** The resource's own clinical time. */
  clinical: TimeRange | undefined;
}

/** The index of one resource. Unknown types give an empty one. Throws nothing: a wrong shape is no value. */
export function extractIndex(resource: JsonObject): ResourceIndex {
  const type = textOf(resource['resourceType']) ?? '';
  const elements = new Set<string>();
  const strings = new Set<string>();
  const dates: ResourceIndex['dates'] = [];
  const blind: ResourceIndex['blind'] = [];
  for (const parameter of SEARCH_PARAMETERS.get(type)?.values() ?? []) {
    if (parameter.class === 'sealed') continue;
    const values = valuesOf(resource, parameter);
    if (values.length === 0) continue;
    const { name } = parameter;
    if (parameter.class === 'blind') {
      for (const value of values) for (const { system, code } of tokensOf(value)) blind.push({ parameter: name, system, value: code });
      elements.add(`${name}?`);
      continue;
    }
    const before = elements.size;
    for (const value of values) {
      if (parameter.type === 'token') {
        for (const { system, code } of tokensOf(value)) {
          elements.add(`${name}=${system}|${code}`).add(`${name}~${code}`);
          if (system !== '') elements.add(`${name}=${system}|`);
        }
      } else if (parameter.type === 'reference') {
        const reference = referenceOf(value);
        if (reference === undefined || !wanted(parameter, reference)) continue;
        elements.add(`${name}=${reference}`);
        const slash = reference.lastIndexOf('/');
        if (slash > 0) elements.add(`${name}~${reference.slice(slash + 1)}`);
      } else if (parameter.type === 'uri') {
        const uri = textOf(value);
        if (uri !== undefined) elements.add(`${name}=${uri}`);
      } else if (parameter.type === 'date') {
        const range = rangeOf(value);
        if (range !== undefined) {
          dates.push({ parameter: name, range });
          elements.add(`${name}?`);
        }
      } else if (parameter.type === 'string') {
        for (const text of stringsOf(value)) strings.add(`${name}=${fold(text)}`);
        elements.add(`${name}?`);
      }
    }
    if (elements.size > before) elements.add(`${name}?`);
  }
  const references = localReferences(resource);
  for (const reference of references) elements.add(`>${reference}`);
  return { elements: storable(elements), dates, blind, strings: storable(strings), references, clinical: clinicalTime(type, resource) };
}

/** A text with a NUL, which FHIR forbids and PostgreSQL does not take, is in no index. */
function storable(texts: ReadonlySet<string>): string[] {
  return [...texts].filter((text) => !text.includes('\0'));
}

/** The elements that a parameter looks at, as they stand in the resource. */
export function valuesOf(resource: JsonObject, parameter: SearchParameter): readonly Json[] {
  const found: Json[] = [];
  for (const path of parameter.paths) collect(resource, path, 0, found);
  const { where } = parameter;
  return where === undefined ? found : found.filter((value) => isObject(value) && value[where.member] === where.is);
}

/** Elements at a path (`effective[x]` for a choice), lists flattened. */
export function elementsAt(resource: JsonObject, path: readonly string[]): readonly Json[] {
  const found: Json[] = [];
  collect(resource, path, 0, found);
  return found;
}

function collect(value: Json | undefined, path: readonly string[], at: number, found: Json[]): void {
  if (value === undefined || value === null) return;
  if (Array.isArray(value)) {
    for (const item of value as readonly Json[]) collect(item, path, at, found);
    return;
  }
  const step = path[at];
  if (step === undefined) {
    found.push(value);
    return;
  }
  if (!isObject(value)) return;
  if (step.endsWith('[x]')) {
    for (const name of CHOICES[step.slice(0, -3)] ?? []) collect(value[name], path, at + 1, found);
  } else collect(value[step], path, at + 1, found);
}

export interface Token {
  system: string;
  code: string;
}

/** Tokens of a code, boolean, Coding, CodeableConcept, Identifier or ContactPoint (R4 3.1.1.4.10). */
export function tokensOf(value: Json): Token[] {
  if (typeof value === 'string' || typeof value === 'boolean') return [{ system: '', code: String(value) }];
  if (!isObject(value)) return [];
  if (Array.isArray(value['coding'])) return (value['coding'] as readonly Json[]).flatMap(tokensOf);
  const code = textOf(value['code']) ?? textOf(value['value']);
  if (code === undefined || code === '') return [];
  // A ContactPoint's system (phone, email) is a use and no namespace: its value is searched without one.
  const system = textOf(value['system']) ?? '';
  return [{ system: CONTACT_SYSTEMS.has(system) ? '' : system, code }];
}

const CONTACT_SYSTEMS = new Set(['phone', 'fax', 'email', 'pager', 'url', 'sms', 'other']);

/** `Type/id` of a local reference, an absolute url as it stands; undefined for contained and purely logical ones. */
export function referenceOf(value: Json): string | undefined {
  const text = isObject(value) ? textOf(value['reference']) : textOf(value);
  if (text === undefined || text === '' || text.startsWith('#')) return undefined;
  return text.replace(/\/_history\/[^/]+$/, '');
}

export function wanted(parameter: SearchParameter, reference: string): boolean {
  return parameter.targets.length === 0 || parameter.targets.some((type) => typeOfReference(reference) === type);
}

export function typeOfReference(reference: string): string {
  const parts = reference.split('/');
  return parts.length > 1 ? (parts[parts.length - 2] ?? '') : '';
}

/** The range of a date, dateTime, instant, Period or Timing (hull of its events, else its bounds). */
export function rangeOf(value: Json): TimeRange | undefined {
  const text = textOf(value);
  if (text !== undefined) return timeRange(text);
  if (!isObject(value)) return undefined;
  if (Array.isArray(value['event'])) return hull((value['event'] as readonly Json[]).flatMap((event) => rangeOf(event) ?? []));
  const { repeat } = value;
  if (isObject(repeat)) return isObject(repeat['boundsPeriod']) ? rangeOf(repeat['boundsPeriod']) : undefined;
  return periodRange(textOf(value['start']), textOf(value['end']));
}

const TEXT_MEMBERS = ['text', 'family', 'given', 'prefix', 'suffix', 'line', 'city', 'district', 'state', 'postalCode', 'country'] as const;

/** Texts of a string, HumanName or Address, whole and word by word. */
export function stringsOf(value: Json): string[] {
  const texts: string[] = [];
  const add = (text: string): void => {
    texts.push(text);
    const words = text.split(/\s+/);
    if (words.length > 1) texts.push(...words.filter((word) => word !== ''));
  };
  if (typeof value === 'string') add(value);
  else if (isObject(value)) {
    for (const member of TEXT_MEMBERS) {
      for (const item of elementsAt(value, [member])) if (typeof item === 'string') add(item);
    }
  }
  return texts;
}

/** Case and accents away (R4 3.1.1.4.8: a string search ignores both). */
export function fold(text: string): string {
  return text
    .normalize('NFD')
    .replace(/\p{Mn}/gu, '')
    .normalize('NFC')
    .replace(/[đĐ]/g, 'd')
    .toLowerCase()
    .trim();
}

export interface QuantityValue {
  number: number;
  unit: string;
  system: string;
  code: string;
}
export function quantityOf(value: Json): QuantityValue | undefined {
  if (!isObject(value)) return undefined;
  const number = numberOf(value['value']);
  // A comparator (`<10`) says that the number is a bound, not the value: no search by number may match it as one.
  if (number === undefined || value['comparator'] !== undefined) return undefined;
  return { number, unit: textOf(value['unit']) ?? '', system: textOf(value['system']) ?? '', code: textOf(value['code']) ?? '' };
}

/** The first clinical time present; undefined where the resource tells none. */
export function clinicalTime(type: string, resource: JsonObject): TimeRange | undefined {
  for (const path of CLINICAL_TIME[type] ?? []) {
    const range = hull(elementsAt(resource, path.split('.')).flatMap((value) => rangeOf(value) ?? []));
    if (range !== undefined) return range;
  }
  return undefined;
}

const LOCAL = /^[A-Z][A-Za-z]+\/[A-Za-z0-9.-]{1,64}$/;

/** Local references anywhere in the resource, attachments' `Binary/…` urls included. */
export function localReferences(resource: JsonObject): string[] {
  const found = new Set<string>();
  const walk = (value: Json | undefined): void => {
    if (Array.isArray(value)) {
      for (const item of value as readonly Json[]) walk(item);
    } else if (isObject(value)) {
      for (const [name, item] of Object.entries(value)) {
        if ((name === 'reference' || name === 'url') && typeof item === 'string') {
          const reference = item.replace(/\/_history\/[^/]+$/, '');
          if (LOCAL.test(reference)) found.add(reference);
        } else if (typeof item === 'object' && item !== null) walk(item);
      }
    }
  };
  walk(resource);
  return [...found];
}
