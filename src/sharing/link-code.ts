import { hash, randomBytes } from 'node:crypto';
import { canonicalJson } from '../canonical-json.ts';
import { CodedError } from '../errors.ts';
import { isId, newId } from '../ids.ts';
import type { Json } from '../ledger/contract/jcs.ts';
import { type Infer, instant, object, text } from '../ledger/contract/schema.ts';

/**
 * A one-time code by which a patient of another institution shows to be a patient of ours (protocol section 8). It is a secret:
 * whoever has it can say so once. It travels inside a grant's envelope only, never in a URL, a log or a row.
 */
const SHAPE = object({
  clinician: text(/^[a-z0-9][a-z0-9-]{0,63}$/),
  expires: instant(),
  institution: text(/^[a-z0-9][a-z0-9-]{0,63}$/),
  key: text(/^[A-Za-z0-9_-]{43}$/),
  link: text(/^lnk-[a-z2-7]{26}$/),
  // 16 bytes: 22 letters, of which the last carries two bits.
  secret: text(/^[A-Za-z0-9_-]{21}[AQgw]$/),
});

/**
 * `institution` made it, `clinician` (a member of it) is whom the grant is meant for, `key` the RFC 7638 thumbprint of the
 * institution's encryption key, to which the grant's envelope is sealed; `expires` an instant with milliseconds.
 */
export type LinkCode = Infer<typeof SHAPE>;

const PREFIX = 'ob1.';
/** No code is nearly so long; a longer text is not looked into. */
const MAX_LENGTH = 1024;
/** 48 bits: a damaged code is told from an unknown one before anybody is asked. No protection against a forger, who needs the secret. */
const CHECK_BYTES = 6;

/** A new code with a secret of 128 random bits. */
export function makeLinkCode(of: { institution: string; clinician: string; key: string; expires: Date }): LinkCode {
  const { institution, clinician, key, expires } = of;
  const code = {
    clinician,
    expires: expires.toISOString(),
    institution,
    key,
    link: newId('lnk'),
    secret: randomBytes(16).toString('base64url'),
  };
  return checked(code) ?? malformed();
}

/** `ob1.<base64url of the JCS form>.<check>`: about 380 characters, letters, digits, `-`, `_` and two dots. */
export function formatLinkCode(code: LinkCode): string {
  const { clinician, expires, institution, key, link, secret } = code;
  const body = PREFIX + Buffer.from(canonicalJson({ clinician, expires, institution, key, link, secret })).toString('base64url');
  return `${body}.${checkOf(body)}`;
}

/**
 * Reads a code as `formatLinkCode` writes it; white space, which mail programs put into long words, is left out. Anything else
 * (another version, a wrong letter, a member too many, a second spelling of the same) throws LINK_MALFORMED.
 */
export function parseLinkCode(given: string): LinkCode {
  if (given.length > MAX_LENGTH) return malformed();
  const whole = given.replace(/\s+/g, '');
  const [, body = '', check = ''] = /^(ob1\.[A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)$/.exec(whole) ?? [];
  if (body === '' || checkOf(body) !== check) return malformed();
  let value: unknown;
  try {
    value = JSON.parse(Buffer.from(body.slice(PREFIX.length), 'base64url').toString('utf8'));
  } catch {
    return malformed();
  }
  const code = checked(value);
  // One text per code: other orders, white space inside and stray bits of base64url are no second spelling.
  return code !== undefined && formatLinkCode(code) === whole ? code : malformed();
}

/**
 * SHA-256, hex, of the whole code: what is kept of it. Every member goes in, so that a code with another clinician or expiry beside
 * a true secret is unknown; the secret's 128 bits keep it from being guessed out of the hash.
 */
export function secretHash(code: LinkCode): string {
  return hash('sha256', formatLinkCode(code), 'hex');
}

function checked(value: unknown): LinkCode | undefined {
  try {
    const code = SHAPE.check(value as Json, '');
    return isId('lnk', code.link) ? code : undefined;
  } catch {
    return undefined;
  }
}

function checkOf(body: string): string {
  return hash('sha256', body, 'buffer').subarray(0, CHECK_BYTES).toString('base64url');
}

function malformed(): never {
  // Nothing of the text: it may hold the secret.
  throw new CodedError('LINK_MALFORMED');
}
