import { isObject, type Json, type JsonObject, textOf } from './lossless-json.ts';

/** Reading FHIR R4 elements out of untrusted JSON: a wrong shape reads as absent, never throws. */

export const SNOMED = 'http://snomed.info/sct';
export const LOINC = 'http://loinc.org';

const NONE: readonly never[] = [];

export function objectOf(value: Json | undefined): JsonObject | undefined {
  return isObject(value) ? value : undefined;
}
/** The objects of an array; a lone object counts as an array of one (some servers send it so). */
export function objectsOf(value: Json | undefined): readonly JsonObject[] {
  if (Array.isArray(value)) return (value as readonly Json[]).filter(isObject);
  return isObject(value) ? [value] : NONE;
}
/** Text that is not blank; numbers are not text. */
export function stringOf(value: Json | undefined): string | undefined {
  return typeof value === 'string' && value.trim() !== '' ? value : undefined;
}
export function stringsOf(value: Json | undefined): readonly string[] {
  if (!Array.isArray(value)) return NONE;
  return (value as readonly Json[]).filter((item): item is string => typeof item === 'string' && item.trim() !== '');
}
export function booleanOf(value: Json | undefined): boolean | undefined {
  return typeof value === 'boolean' ? value : undefined;
}

export interface Coding {
  system: string;
  code: string;
  display?: string;
}
/** Every coding of one CodeableConcept, or of an array of them. */
export function codingsOf(concept: Json | undefined): readonly Coding[] {
  const found: Coding[] = [];
  for (const item of objectsOf(concept)) {
    for (const coding of objectsOf(item['coding'])) {
      const code = textOf(coding['code']);
      if (code === undefined) continue;
      const display = stringOf(coding['display']);
      found.push({ system: stringOf(coding['system']) ?? '', code, ...(display === undefined ? {} : { display }) });
    }
  }
  return found;
}
export function token(coding: Coding): string {
  return `${coding.system}|${coding.code}`;
}
/** How a concept reads: its text, else the first display, else the first code. */
export function conceptText(concept: Json | undefined): string | undefined {
  for (const item of objectsOf(concept)) {
    const text = stringOf(item['text']);
    if (text !== undefined) return text;
    const codings = codingsOf(item);
    const display = codings.find((coding) => coding.display !== undefined)?.display ?? codings[0]?.code;
    if (display !== undefined) return display;
  }
  return undefined;
}
const REFERENCE = /(?:^|\/)([A-Z][A-Za-z]{2,63})\/([A-Za-z0-9.-]{1,64})(?:\/_history\/[A-Za-z0-9.-]{1,64})?$/;

/**
 * `Type/id` of a literal reference: relative, absolute (the base is dropped: one source, one namespace), versioned
 * (the version is dropped). `urn:uuid:…` and `#contained` come back as they are, everything else is undefined.
 */
export function targetOf(reference: Json | undefined): string | undefined {
  const text = stringOf(objectOf(reference)?.['reference']);
  if (text === undefined) return undefined;
  if (text.startsWith('urn:') || text.startsWith('#')) return text;
  if (text.includes('?')) return undefined;
  const match = REFERENCE.exec(text);
  return match ? `${match[1]}/${match[2]}` : undefined;
}
/** `system|value` of a logical reference. */
export function identifierTargetOf(reference: Json | undefined): string | undefined {
  const identifier = objectOf(objectOf(reference)?.['identifier']);
  const value = textOf(identifier?.['value']);
  return value === undefined ? undefined : `${stringOf(identifier?.['system']) ?? ''}|${value}`;
}
export function displayOf(reference: Json | undefined): string | undefined {
  return stringOf(objectOf(reference)?.['display']);
}

export function extensionsOf(element: JsonObject | undefined, url: string): readonly JsonObject[] {
  return objectsOf(element?.['extension']).filter((extension) => extension['url'] === url);
}
export function extensionOf(element: JsonObject | undefined, url: string): JsonObject | undefined {
  return objectsOf(element?.['extension']).find((extension) => extension['url'] === url);
}

const TIME = /^(\d{4})(?:-(\d{2})(?:-(\d{2})(?:T(\d{2}:\d{2}(?::\d{2})?(?:\.\d+)?)(Z|[+-]\d{2}:\d{2})?)?)?)?$/;

/**
 * Milliseconds of a FHIR date, dateTime or instant, for ordering only. A partial date counts as its beginning and a time
 * without offset as UTC: the machine's own zone must never decide an order.
 */
export function millisOf(time: string | undefined): number | undefined {
  const match = time === undefined ? null : TIME.exec(time);
  if (!match) return undefined;
  const [, year, month = '01', day = '01', clock = '00:00', offset = 'Z'] = match;
  const millis = Date.parse(`${year}-${month}-${day}T${clock}${offset}`);
  return Number.isNaN(millis) ? undefined : millis;
}
/** Orders two times, unknown ones first; equal instants by their text, so that the order is total. */
export function compareTimes(a: string | undefined, b: string | undefined): number {
  const left = millisOf(a) ?? Number.NEGATIVE_INFINITY;
  const right = millisOf(b) ?? Number.NEGATIVE_INFINITY;
  if (left !== right) return left < right ? -1 : 1;
  return compareText(a ?? '', b ?? '');
}
/** By UTF-16 units: the same on every machine, whatever its locale. */
export function compareText(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
