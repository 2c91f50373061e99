import { randomBytes } from 'node:crypto';

/** Kinds of typed random ids; the prefix says what an id names wherever it turns up (logs, ledger, URLs). */
export type IdKind =
  | 'inst'
  | 'pat'
  | 'mem'
  | 'doc'
  | 'rec'
  | 'sub'
  | 'con'
  | 'obx'
  | 'batch'
  | 'aud'
  | 'res'
  | 'cli'
  | 'req'
  | 'emg'
  | 'put'
  | 'run'
  | 'lnk'
  | 'end';

const BASE32 = 'abcdefghijklmnopqrstuvwxyz234567';
const ID_BYTES = 16;

// Asking the system for 16 bytes costs as much as for 4096, and every request and audit event has an id. No byte serves twice.
let drawn = Buffer.alloc(0);
let used = 0;

/** 16 random bytes: an id's, or a salt. They lie in a block with others' and are not to be written to. */
export function random128(): Uint8Array {
  if (used === drawn.length) {
    drawn = randomBytes(256 * ID_BYTES);
    used = 0;
  }
  used += ID_BYTES;
  return drawn.subarray(used - ID_BYTES, used);
}

/**
 * A new random id: `<kind>-` and 128 bits as 26 lower-case base32 characters, which is a legal FHIR id (R4 2.24.0.1).
 * Never derived from an MRN or a name, so it may stand in logs, on the ledger and in URLs.
 */
export function newId(kind: IdKind): string {
  return `${kind}-${base32(random128())}`;
}

/** True where `text` is an id of this kind, as `newId` makes it. */
export function isId(kind: IdKind, text: string): boolean {
  return text.startsWith(`${kind}-`) && /^[a-z2-7]{26}$/.test(text.slice(kind.length + 1));
}

/** RFC 4648 base32, lower case, without padding. */
export function base32(bytes: Uint8Array): string {
  let text = '';
  let bits = 0;
  let value = 0;
  for (const byte of bytes) {
    value = (value << 8) | byte;
    bits += 8;
    while (bits >= 5) {
      bits -= 5;
      text += BASE32[(value >>> bits) & 31];
    }
    value &= (1 << bits) - 1;
  }
  return bits > 0 ? text + BASE32[(value << (5 - bits)) & 31] : text;
}
