import { CodedError } from '../errors.ts';

/**
 * JSON that loses no digit: a laboratory value of 2.00 is not 2 (fhir-facade.md section 2.3), and JSON.parse makes it so.
 * A number whose text is not what JavaScript would print stays a raw number (JSON.rawJSON), all others are plain.
 * A raw number does not survive structuredClone or a worker's message: send text across such borders.
 */
export interface RawNumber {
  readonly rawJSON: string;
}
export type JsonNumber = number | RawNumber;
export type Json = null | boolean | string | JsonNumber | readonly Json[] | JsonObject;
export interface JsonObject {
  readonly [key: string]: Json | undefined;
}

export interface JsonLimits {
  /** Length of the text, UTF-16 units. */
  maxLength: number;
  /** Objects and arrays inside one another. */
  maxDepth: number;
}
/** Large enough for a 200 MB attachment refused elsewhere by its own limit; deep enough for any FHIR resource. */
export const JSON_LIMITS: JsonLimits = { maxLength: 64 * 1024 * 1024, maxDepth: 64 };

interface RawJsonApi {
  rawJSON(text: string): RawNumber;
  isRawJSON(value: unknown): value is RawNumber;
  parse(text: string, reviver: (key: string, value: unknown, context: { source?: string }) => unknown): Json;
}
// Node 24 has JSON.rawJSON and the reviver's context (ECMAScript "JSON.parse source text access"); TypeScript's lib has neither yet.
const rawApi = JSON as unknown as RawJsonApi;

/**
 * Parses one JSON text. Throws CONTENT_INVALID where it is no JSON, too long, too deep, or has a member `__proto__`
 * (which would change the prototype of any object that it is copied into). The diagnostics never quote the text.
 */
export function parseLossless(text: string, limits: JsonLimits = JSON_LIMITS): Json {
  const source = text.charCodeAt(0) === 0xfeff ? text.slice(1) : text;
  if (source.length > limits.maxLength)
    throw new CodedError('CONTENT_INVALID', { diagnostics: `Longer than ${limits.maxLength} characters.` });
  const lossy = scan(source, limits.maxDepth);
  if (source.includes('"__proto__"')) throw new CodedError('CONTENT_INVALID', { diagnostics: 'A member may not be named __proto__.' });
  try {
    return lossy.length === 0 ? (JSON.parse(source) as Json) : parseMarked(source, lossy);
  } catch {
    // The engine's message quotes the text, which is clinical: it is not passed on.
    throw new CodedError('CONTENT_INVALID', { diagnostics: 'Not valid JSON.' });
  }
}

/** Parses bytes as UTF-8 (refused where they are not) and expects an object. */
export function parseResource(bytes: Uint8Array | string, limits: JsonLimits = JSON_LIMITS): JsonObject {
  let text: string;
  try {
    text = typeof bytes === 'string' ? bytes : new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    throw new CodedError('CONTENT_INVALID', { diagnostics: 'Not UTF-8.' });
  }
  const value = parseLossless(text, limits);
  if (!isObject(value)) throw new CodedError('CONTENT_INVALID', { diagnostics: 'Not a JSON object.' });
  return value;
}

/** The text of a value: numbers with the digits they came with. */
export function stringifyLossless(value: Json): string {
  return JSON.stringify(value);
}

export function isRawNumber(value: unknown): value is RawNumber {
  return rawApi.isRawJSON(value);
}
export function isObject(value: Json | undefined): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value) && !rawApi.isRawJSON(value);
}
/** The number, for computing with; undefined where the value is none. */
export function numberOf(value: Json | undefined): number | undefined {
  if (typeof value === 'number') return value;
  return isRawNumber(value) ? Number(value.rawJSON) : undefined;
}
/** The text of a number or string as the source wrote it; undefined for everything else. */
export function textOf(value: Json | undefined): string | undefined {
  if (typeof value === 'string') return value;
  if (typeof value === 'number') return String(value);
  return isRawNumber(value) ? value.rawJSON : undefined;
}

/** The same value with plain numbers, for libraries that know no raw ones. Copies only where one is found. */
export function toPlain(value: Json): Json {
  if (isRawNumber(value)) return Number(value.rawJSON);
  if (Array.isArray(value)) {
    let changed = false;
    const copy = (value as readonly Json[]).map((item) => {
      const plain = toPlain(item);
      if (plain !== item) changed = true;
      return plain;
    });
    return changed ? copy : value;
  }
  if (isObject(value)) {
    let copy: { [key: string]: Json | undefined } | undefined;
    for (const [key, item] of Object.entries(value)) {
      if (item === undefined) continue;
      const plain = toPlain(item);
      if (plain !== item) {
        copy ??= { ...value };
        copy[key] = plain;
      }
    }
    return copy ?? value;
  }
  return value;
}

/** A number in the text, where JSON.parse would lose its digits. */
interface LossyNumber {
  start: number;
  end: number;
}

const NUMBER = /^-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?$/;

/**
 * One walk over the text before parsing: its depth, since every walk after it recurses, and the numbers whose text is not what
 * JavaScript would print. What is no JSON is left to the parser to say.
 */
function scan(text: string, maxDepth: number): LossyNumber[] {
  const lossy: LossyNumber[] = [];
  let depth = 0;
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code === 0x22) {
      i = endOfString(text, i);
      if (i < 0) return []; // unterminated: JSON.parse says so
    } else if (code === 0x7b || code === 0x5b) {
      if (++depth > maxDepth) throw new CodedError('CONTENT_INVALID', { diagnostics: `Nested deeper than ${maxDepth}.` });
    } else if (code === 0x7d || code === 0x5d) depth--;
    else if (code === 0x2d || (code >= 0x30 && code <= 0x39)) {
      const start = i;
      while (isNumberPart(text.charCodeAt(i + 1))) i++;
      const digits = text.slice(start, i + 1);
      if (String(Number(digits)) !== digits && NUMBER.test(digits)) lossy.push({ start, end: i + 1 });
    }
  }
  return lossy;
}

/** Digits, `+`, `-`, `.`, `e`, `E`. */
function isNumberPart(code: number): boolean {
  return (code >= 0x30 && code <= 0x39) || code === 0x2e || code === 0x2d || code === 0x2b || code === 0x65 || code === 0x45;
}

/**
 * Lossy numbers go through the parser as strings that bear a mark, and become raw numbers afterwards. A reviver, which is told
 * each number's text, takes five times as long, since it is called for every value there is.
 */
function parseMarked(source: string, lossy: readonly LossyNumber[]): Json {
  // A text that holds the mark itself, escaped or not, or a number where a name belongs, goes the slow way.
  if (MARKED.test(source) || lossy.some(({ end }) => COLON.test(source.slice(end, end + 64)))) return rawApi.parse(source, keepDigits);
  let marked = '';
  let at = 0;
  for (const { start, end } of lossy) {
    marked += `${source.slice(at, start)}"${MARK}${source.slice(start, end)}"`;
    at = end;
  }
  return unmark(JSON.parse(marked + source.slice(at)) as Json);
}

/** Of the private use area, where FHIR's text has nothing to seek. */
const MARK = '\uf8ff\ue000';
const MARKED = /\uf8ff|\\uf8ff/i;
const COLON = /^\s*(?::|$)/;

type Filled = Json[] | { [key: string]: Json | undefined };

function unmark(value: Json): Json {
  if (typeof value === 'string') return value.startsWith(MARK) ? rawApi.rawJSON(value.slice(MARK.length)) : value;
  if (typeof value === 'object' && value !== null) fill(value as Filled);
  return value;
}

function fill(container: Filled): void {
  if (Array.isArray(container)) {
    for (const [index, item] of container.entries())
      if (typeof item === 'string' || typeof item === 'object') container[index] = unmark(item);
  } else {
    for (const key of Object.keys(container)) {
      const item = container[key];
      if (typeof item === 'string' ? item.startsWith(MARK) : typeof item === 'object') container[key] = unmark(item as Json);
    }
  }
}

function keepDigits(_key: string, value: unknown, context: { source?: string }): unknown {
  if (typeof value !== 'number' || context.source === undefined || String(value) === context.source) return value;
  return rawApi.rawJSON(context.source);
}

/** Index of the quote that ends the string beginning at `start`; -1 where none does. indexOf makes long base64 cheap. */
function endOfString(text: string, start: number): number {
  let end = text.indexOf('"', start + 1);
  while (end > 0) {
    let backslashes = 0;
    while (text.charCodeAt(end - 1 - backslashes) === 0x5c) backslashes++;
    if (backslashes % 2 === 0) return end;
    end = text.indexOf('"', end + 1);
  }
  return -1;
}
