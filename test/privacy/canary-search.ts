import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';

/** One place where a canary was found, and in which form. */
export interface Finding {
  canary: string;
  form: string;
  place: string;
  at: number;
}

interface Needle {
  canary: string;
  form: string;
  bytes: Buffer;
  /** Short and plain: an id or a hash may hold it by chance, so what stands beside it must not be of one. */
  bounded: boolean;
}

/** Shorter than this it turns up in random bytes. */
const SHORTEST = 5;
const OF_A_WORD = /^[0-9a-z]$/i;

/**
 * Finds canaries in bytes, in every form in which they could have been left: as text in the usual encodings, escaped, in base64
 * at each of its three offsets, in hex, in lower case and without accents. One pass, whatever the number of canaries.
 */
export function createCanarySearch(canaries: readonly string[]) {
  const needles = canaries.flatMap(needlesOf);
  // Which three bytes a needle may begin with: one bit each.
  const begins = new Uint8Array(2 ** 21);
  const byStart = new Map<number, Needle[]>();
  for (const needle of needles) {
    const start = needle.bytes.readUIntBE(0, 3);
    begins[start >> 3] = (begins[start >> 3] ?? 0) | (1 << (start & 7));
    byStart.set(start, [...(byStart.get(start) ?? []), needle]);
  }

  function search(place: string, bytes: Buffer): Finding[] {
    const found: Finding[] = [];
    let window = ((bytes[0] ?? 0) << 8) | (bytes[1] ?? 0);
    for (let at = 2; at < bytes.length; at++) {
      window = ((window << 8) | (bytes[at] ?? 0)) & 0xffffff;
      if (((begins[window >> 3] ?? 0) & (1 << (window & 7))) === 0) continue;
      const start = at - 2;
      for (const { canary, form, bytes: wanted, bounded } of byStart.get(window) ?? []) {
        if (start + wanted.length > bytes.length || bytes.compare(wanted, 0, wanted.length, start, start + wanted.length) !== 0) continue;
        if (bounded && (inWord(bytes, start - 1) || inWord(bytes, start + wanted.length))) continue;
        found.push({ canary, form, place, at: start });
      }
    }
    return found;
  }

  return {
    forms: needles.length,
    search,
    searchText: (place: string, text: string): Finding[] => search(place, Buffer.from(text)),
    /** Every file below a folder, links not followed. */
    async searchFolder(folder: string): Promise<{ findings: Finding[]; files: number; bytes: number }> {
      const total = { findings: [] as Finding[], files: 0, bytes: 0 };
      for (const name of await readdir(folder, { recursive: true })) {
        const path = join(folder, name);
        const facts = await stat(path).catch(() => undefined);
        if (facts?.isFile() !== true) continue;
        const bytes = await readFile(path).catch(() => undefined);
        if (bytes === undefined) continue; // PostgreSQL removed it meanwhile
        total.files++;
        total.bytes += bytes.length;
        total.findings.push(...search(name, bytes), ...search('a file name', Buffer.from(name)));
      }
      return total;
    },
  };
}

function inWord(bytes: Buffer, at: number): boolean {
  return OF_A_WORD.test(String.fromCharCode(bytes[at] ?? 0));
}

function needlesOf(canary: string): Needle[] {
  const folded = canary.normalize('NFD').replace(/\p{M}/gu, '').normalize('NFC');
  const spellings = new Set([canary, canary.normalize('NFD'), canary.toLowerCase(), canary.toUpperCase(), folded, folded.toLowerCase()]);
  const needles: Needle[] = [];
  const seen = new Set<string>();
  const add = (form: string, bytes: Buffer, bounded = false): void => {
    if (bytes.length < SHORTEST || seen.has(bytes.toString('hex'))) return;
    seen.add(bytes.toString('hex'));
    needles.push({ canary, form, bytes, bounded });
  };
  for (const text of spellings) {
    const utf8 = Buffer.from(text);
    const plain = /^[0-9a-z]{1,8}$/i.test(text);
    add('utf8', utf8, plain);
    add('utf16le', Buffer.from(text, 'utf16le'));
    add('utf16be', Buffer.from(text, 'utf16le').swap16());
    add('latin1', Buffer.from(text, 'latin1').includes(0) ? utf8 : latin1(text));
    add('hex', Buffer.from(utf8.toString('hex')));
    add('HEX', Buffer.from(utf8.toString('hex').toUpperCase()));
    add('json escapes', Buffer.from(text.replace(/[^ -~]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`)), plain);
    add('percent', Buffer.from(encodeURIComponent(text)), plain);
    for (let offset = 0; offset < 3; offset++) {
      // What stands before and after shares characters with it: those are left out.
      const encoded = Buffer.concat([Buffer.alloc(offset), utf8])
        .toString('base64')
        .replace(/=+$/, '');
      const inner = encoded.slice(offset === 0 ? 0 : offset + 1, (utf8.length + offset) % 3 === 0 ? undefined : -1);
      add(`base64+${offset}`, Buffer.from(inner));
      add(`base64url+${offset}`, Buffer.from(inner.replaceAll('+', '-').replaceAll('/', '_')));
    }
  }
  return needles;
}

/** Latin-1 where the text can be said in it; else nothing that could be found. */
function latin1(text: string): Buffer {
  return /^[\u0020-\u00ff]*$/.test(text) ? Buffer.from(text, 'latin1') : Buffer.alloc(0);
}
