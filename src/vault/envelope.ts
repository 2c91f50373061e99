import type { KeyObject } from 'node:crypto';
import { CompactEncrypt, compactDecrypt, decodeProtectedHeader, importJWK, type JWK } from 'jose';
import { z } from 'zod';
import { CodedError } from '../errors.ts';
import type { EnvelopeContent, PublicJwk } from './custodian.ts';
import { padded } from './sealed-object-format.ts';

/** The `typ` of the protected header; a new form of envelope gets a new one. */
const ENVELOPE_TYPE = 'oncobridge-envelope+jwe';
/** A category key has few versions; what is longer did not come from us. */
export const MAX_ENVELOPE_LENGTH = 256 * 1024;
/** What is wrapped fills whole steps of this many bytes: a code, or a few versions more or less, do not show in the size. */
const STEP_BYTES = 2048;

/**
 * Wraps a category key's private halves to a recipient: compact JWE, `ECDH-ES+A256KW` and `A256GCM`, content a JWK set
 * (RFC 7517 section 5). The protected header names patient, category, versions and the recipient's thumbprint (`kid`),
 * so that a store's envelope cannot be shown as another. Blanks after the JSON fill it up.
 */
export async function sealEnvelope(content: EnvelopeContent, recipient: PublicJwk & { kid: string }): Promise<string> {
  const keys = content.keys.map(({ version, jwk }) => ({ ...jwk, kid: String(version) }));
  const text = JSON.stringify(content.link === undefined ? { keys } : { keys, link: content.link });
  const bytes = Buffer.byteLength(text);
  const filled = Math.ceil(padded(bytes) / STEP_BYTES) * STEP_BYTES;
  return new CompactEncrypt(Buffer.from(text + ' '.repeat(filled - bytes)))
    .setProtectedHeader({
      alg: 'ECDH-ES+A256KW',
      enc: 'A256GCM',
      typ: ENVELOPE_TYPE,
      cty: 'jwk-set+json',
      kid: recipient.kid,
      patient: [content.patient.institution, content.patient.patient],
      category: content.category,
      versions: content.keys.map(({ version }) => version),
    })
    .encrypt(
      await importJWK(
        { kty: recipient.kty, crv: recipient.crv, x: recipient.x, ...(recipient.y ? { y: recipient.y } : {}) },
        'ECDH-ES+A256KW',
      ),
    );
}

/** Opens an envelope with the recipient's private key. SEAL_BROKEN where it was altered, or is not the one expected. */
export async function openEnvelope(
  envelope: string,
  recipient: { key: KeyObject; kid: string },
  expect: Pick<EnvelopeContent, 'patient' | 'category'>,
): Promise<EnvelopeContent> {
  try {
    if (envelope.length > MAX_ENVELOPE_LENGTH) throw new Error('too long');
    const header = decodeProtectedHeader(envelope) as Record<string, unknown>;
    const named = JSON.stringify([header['typ'], header['kid'], header['patient'], header['category']]);
    const wanted = [ENVELOPE_TYPE, recipient.kid, [expect.patient.institution, expect.patient.patient], expect.category];
    if (named !== JSON.stringify(wanted)) throw new Error('another envelope');
    const { plaintext } = await compactDecrypt(envelope, recipient.key, {
      keyManagementAlgorithms: ['ECDH-ES+A256KW'],
      contentEncryptionAlgorithms: ['A256GCM'],
    });
    const set = JSON.parse(Buffer.from(plaintext).toString('utf8')) as { keys: (JWK & { kid: string })[]; link?: unknown };
    const keys = set.keys.map(({ kid, ...jwk }) => ({ version: Number(kid), jwk }));
    if (JSON.stringify(keys.map((key) => key.version)) !== JSON.stringify(header['versions'])) throw new Error('other versions');
    const { link } = set;
    if (link !== undefined && typeof link !== 'string') throw new Error('another form');
    return { patient: expect.patient, category: expect.category, keys, ...(link === undefined ? {} : { link }) };
  } catch {
    // The cause stays out of the error: it could tell which check failed to who forged it.
    throw new CodedError('SEAL_BROKEN', { diagnostics: 'An envelope does not open.' });
  }
}

const coordinate = z.string().regex(/^[A-Za-z0-9_-]{43}$/);
const protectedHeader = z.strictObject({
  alg: z.literal('ECDH-ES+A256KW'),
  enc: z.literal('A256GCM'),
  typ: z.literal(ENVELOPE_TYPE),
  cty: z.literal('jwk-set+json'),
  kid: z.string(),
  patient: z.tuple([z.string(), z.string()]),
  category: z.string(),
  versions: z.array(z.int().min(1)).min(1),
  epk: z.union([
    z.strictObject({ kty: z.literal('EC'), crv: z.literal('P-256'), x: coordinate, y: coordinate }),
    z.strictObject({ kty: z.literal('OKP'), crv: z.literal('X25519'), x: coordinate }),
  ]),
});
/** Characters of an A256KW wrap of a 256-bit key, of an IV and of a tag (RFC 7518 sections 4.4 and 5.3). */
const WRAPPED_LENGTH = 54;
const IV_LENGTH = 16;
const TAG_LENGTH = 22;

/**
 * Whether what anybody can read of an envelope, its protected header and the lengths of its parts, is that of an envelope of this
 * category to this key: nothing that is no envelope is kept as one.
 */
export function isEnvelopeTo(envelope: string, expect: Pick<EnvelopeContent, 'patient' | 'category'> & { recipient: string }): boolean {
  const parts = envelope.split('.');
  if (parts.length !== 5 || !parts.every((part) => /^[A-Za-z0-9_-]+$/.test(part))) return false;
  const [, wrapped = '', iv = '', ciphertext = '', tag = ''] = parts;
  if (wrapped.length !== WRAPPED_LENGTH || iv.length !== IV_LENGTH || tag.length !== TAG_LENGTH) return false;
  if (Buffer.from(ciphertext, 'base64url').length % STEP_BYTES !== 0) return false;
  const header = protectedHeader.safeParse(headerOf(envelope));
  if (!header.success) return false;
  const { kid, patient, category, versions } = header.data;
  return (
    kid === expect.recipient &&
    patient[0] === expect.patient.institution &&
    patient[1] === expect.patient.patient &&
    category === expect.category &&
    versions.every((version, i) => version > (versions[i - 1] ?? 0))
  );
}

function headerOf(envelope: string): unknown {
  try {
    return decodeProtectedHeader(envelope);
  } catch {
    return undefined;
  }
}

/** A JWK with its private half, as the most talkative library writes it, and its place in the header. */
const VERSION_BYTES = 320;
/** What else an envelope holds: a link code's text; names and a key in the header. */
const LINK_BYTES = 1100;
const HEADER_BYTES = 900;

/** Characters of the longest envelope of so many versions of a category key. */
export function longestEnvelope(versions: number): number {
  const filled = Math.ceil(padded(LINK_BYTES + versions * VERSION_BYTES) / STEP_BYTES) * STEP_BYTES;
  const header = HEADER_BYTES + versions * String(versions).length + versions;
  return Math.ceil(((header + filled) * 4) / 3) + WRAPPED_LENGTH + IV_LENGTH + TAG_LENGTH + 8;
}

/** Thumbprint of the key that an envelope says it is sealed to; undefined where it is none. */
export function envelopeRecipient(envelope: string): string | undefined {
  try {
    const { kid } = envelope.length > MAX_ENVELOPE_LENGTH ? {} : decodeProtectedHeader(envelope);
    return kid;
  } catch {
    return undefined;
  }
}
