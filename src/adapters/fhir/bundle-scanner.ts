import { CodedError } from '../../errors.ts';

/**
 * Finds the exact source text of each `entry[i].resource` in a Bundle. JSON.parse would lose decimals (2.00 becomes 2)
 * and re-serialising would lose member order, so records are slices of the bytes as they came. Only the structure is
 * scanned here (strings, brackets, commas); the slices are parsed by JSON.parse, which settles everything else.
 * Structural characters of JSON are ASCII, so the scan works on UTF-8 bytes without decoding.
 */
export interface ScannedBundle {
  /** Text of the Bundle's own members other than `entry`, each a slice. */
  members: ReadonlyMap<string, Uint8Array>;
  entries: readonly ScannedEntry[];
}
export interface ScannedEntry {
  fullUrl?: string;
  /** Slice of `resource`; absent in an entry that has none (a deletion in a history). */
  resource?: Uint8Array;
  searchMode?: string;
  request?: unknown;
}

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const COMMA = 0x2c;
const COLON = 0x3a;
const OPEN_OBJECT = 0x7b;
const CLOSE_OBJECT = 0x7d;
const OPEN_ARRAY = 0x5b;
const CLOSE_ARRAY = 0x5d;
const decoder = new TextDecoder('utf-8');

/** Scans the text of one Bundle. Throws SOURCE_RESPONSE where the JSON is cut off or is no object. */
export function scanBundle(bytes: Uint8Array): ScannedBundle {
  const members = new Map<string, Uint8Array>();
  let entries: ScannedEntry[] = [];
  const top = { bytes, at: afterByteOrderMark(bytes) };
  forEachMember(top, (name, slice) => {
    if (name === 'entry') entries = scanEntries(slice);
    else members.set(name, slice);
  });
  skipSpace(top);
  if (top.at !== bytes.length) throw damaged('there is text after the end of the JSON');
  return { members, entries };
}

function scanEntries(bytes: Uint8Array): ScannedEntry[] {
  const cursor = { bytes, at: 0 };
  const entries: ScannedEntry[] = [];
  expect(cursor, OPEN_ARRAY);
  skipSpace(cursor);
  if (peek(cursor) === CLOSE_ARRAY) return entries;
  for (;;) {
    entries.push(scanEntry(value(cursor)));
    skipSpace(cursor);
    if (peek(cursor) !== COMMA) break;
    cursor.at += 1;
  }
  expect(cursor, CLOSE_ARRAY);
  return entries;
}

function scanEntry(bytes: Uint8Array): ScannedEntry {
  const entry: ScannedEntry = {};
  forEachMember({ bytes, at: 0 }, (name, slice) => {
    if (name === 'resource') entry.resource = slice;
    else if (name === 'fullUrl') {
      const url = parse(slice);
      if (typeof url === 'string') entry.fullUrl = url;
    } else if (name === 'search') {
      const search = parse(slice) as { mode?: unknown } | null;
      if (typeof search?.mode === 'string') entry.searchMode = search.mode;
    } else if (name === 'request') entry.request = parse(slice);
  });
  return entry;
}

interface Cursor {
  bytes: Uint8Array;
  at: number;
}

function forEachMember(cursor: Cursor, visit: (name: string, slice: Uint8Array) => void): void {
  expect(cursor, OPEN_OBJECT);
  skipSpace(cursor);
  if (peek(cursor) === CLOSE_OBJECT) {
    cursor.at += 1;
    return;
  }
  for (;;) {
    skipSpace(cursor);
    const name = parse(value(cursor));
    if (typeof name !== 'string') throw damaged('a member has no name');
    expect(cursor, COLON);
    visit(name, value(cursor));
    skipSpace(cursor);
    if (peek(cursor) !== COMMA) break;
    cursor.at += 1;
  }
  expect(cursor, CLOSE_OBJECT);
}

/** The slice of the value that begins here (a copy-free view); the cursor moves behind it. */
function value(cursor: Cursor): Uint8Array {
  skipSpace(cursor);
  const { bytes } = cursor;
  const start = cursor.at;
  const first = peek(cursor);
  if (first === QUOTE) skipString(cursor);
  else if (first === OPEN_OBJECT || first === OPEN_ARRAY) {
    let depth = 0;
    do {
      const byte = peek(cursor);
      if (byte === QUOTE) {
        skipString(cursor);
        continue;
      }
      if (byte === OPEN_OBJECT || byte === OPEN_ARRAY) depth += 1;
      else if (byte === CLOSE_OBJECT || byte === CLOSE_ARRAY) depth -= 1;
      cursor.at += 1;
    } while (depth > 0);
  } else {
    for (;;) {
      const byte = bytes[cursor.at];
      if (byte === undefined || byte === COMMA || byte === CLOSE_OBJECT || byte === CLOSE_ARRAY || byte <= 0x20) break;
      cursor.at += 1;
    }
    if (cursor.at === start) throw damaged('a value is missing');
  }
  return bytes.subarray(start, cursor.at);
}

function skipString(cursor: Cursor): void {
  const { bytes } = cursor;
  let at = cursor.at + 1;
  for (;;) {
    const byte = bytes[at];
    if (byte === undefined) throw damaged('the JSON is cut off');
    if (byte === QUOTE) break;
    at += byte === BACKSLASH ? 2 : 1;
  }
  cursor.at = at + 1;
}

function skipSpace(cursor: Cursor): void {
  for (;;) {
    const byte = cursor.bytes[cursor.at];
    if (byte !== 0x20 && byte !== 0x0a && byte !== 0x0d && byte !== 0x09) return;
    cursor.at += 1;
  }
}

function peek(cursor: Cursor): number {
  const byte = cursor.bytes[cursor.at];
  if (byte === undefined) throw damaged('the JSON is cut off');
  return byte;
}

function expect(cursor: Cursor, wanted: number): void {
  skipSpace(cursor);
  if (peek(cursor) !== wanted) throw damaged(`"${String.fromCharCode(wanted)}" is missing at byte ${cursor.at}`);
  cursor.at += 1;
}

/** RFC 8259 section 8.1 lets a parser ignore a byte-order mark; some Windows servers send one. */
function afterByteOrderMark(bytes: Uint8Array): number {
  return bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf ? 3 : 0;
}

function parse(slice: Uint8Array): unknown {
  try {
    return JSON.parse(decoder.decode(slice)) as unknown;
  } catch {
    throw damaged('the JSON is malformed');
  }
}

function damaged(what: string): CodedError {
  return new CodedError('SOURCE_RESPONSE', { diagnostics: `The answer cannot be read: ${what}.` });
}
