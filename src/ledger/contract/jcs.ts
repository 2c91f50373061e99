import { Refusal } from './refusals.ts';

/** JSON as payloads and state values use it: no fractions, no exponents. */
export type Json = string | number | boolean | null | readonly Json[] | { readonly [member: string]: Json };

const MAX_DEPTH = 12;

/**
 * RFC 8785 text. Members sort by UTF-16 code units (its section 3.2.3). Only integers within 2^53 are allowed, for which
 * the ECMAScript form that JCS prescribes is the decimal one. Throws SCHEMA for anything else.
 */
export function canonicalize(value: unknown): string {
  return write(value, 0);
}

function write(value: unknown, depth: number): string {
  if (depth > MAX_DEPTH) throw new Refusal('SCHEMA', 'depth');
  if (value === null || value === true || value === false) return String(value);
  if (typeof value === 'string') return quoted(value);
  if (typeof value === 'number') {
    if (!Number.isSafeInteger(value) || Object.is(value, -0)) throw new Refusal('SCHEMA', 'number');
    return String(value);
  }
  if (Array.isArray(value)) return `[${value.map((item) => write(item, depth + 1)).join(',')}]`;
  if (typeof value !== 'object') throw new Refusal('SCHEMA', 'type');
  const members = value as { readonly [member: string]: unknown };
  const names = Object.keys(members);
  if (!ascending(names)) names.sort((a, b) => (a < b ? -1 : a > b ? 1 : 0));
  let text = '{';
  for (const name of names) text += `${text === '{' ? '' : ','}${quoted(name)}:${write(members[name], depth + 1)}`;
  return `${text}}`;
}

/** What stands between its quotes as it is. Nearly every text of a ledger does. */
const PLAIN = /^[ !#-[\]-~]*$/;

function quoted(value: string): string {
  if (PLAIN.test(value)) return `"${value}"`;
  if (!value.isWellFormed()) throw new Refusal('SCHEMA', 'surrogate');
  return JSON.stringify(value);
}

function ascending(names: readonly string[]): boolean {
  for (let i = 1; i < names.length; i++) if ((names[i - 1] as string) > (names[i] as string)) return false;
  return true;
}

/**
 * The value of a text that is its own canonical form. A duplicate member, a different order, a blank or another way of
 * writing a number makes it serialise differently and is refused (protocol section 1).
 */
export function parseCanonical(text: string): Json {
  let value: Json;
  try {
    value = JSON.parse(text) as Json;
  } catch {
    throw new Refusal('NOT_CANONICAL');
  }
  let again: string;
  try {
    again = canonicalize(value);
  } catch {
    throw new Refusal('NOT_CANONICAL');
  }
  if (again !== text) throw new Refusal('NOT_CANONICAL');
  return value;
}
