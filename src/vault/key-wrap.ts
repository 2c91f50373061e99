import {
  createCipheriv,
  createDecipheriv,
  createPublicKey,
  createSecretKey,
  diffieHellman,
  generateKeyPairSync,
  hash,
  type KeyObject,
  randomBytes,
} from 'node:crypto';
import { canonicalJson } from '../canonical-json.ts';
import type { PublicJwk } from './custodian.ts';
import { jwkThumbprint } from './thumbprint.ts';

/** AES-256-GCM under a random 96-bit nonce: base64url(nonce | ciphertext | tag). `bound` is authenticated, not stored. */
export function gcmSeal(key: KeyObject, plaintext: Uint8Array, bound: string): string {
  const nonce = randomBytes(12);
  const cipher = createCipheriv('aes-256-gcm', key, nonce).setAAD(Buffer.from(bound));
  return Buffer.concat([nonce, cipher.update(plaintext), cipher.final(), cipher.getAuthTag()]).toString('base64url');
}

/** The plaintext, or undefined where anything was altered. */
export function gcmOpen(key: KeyObject, wrapped: string, bound: string): Buffer | undefined {
  const bytes = Buffer.from(wrapped, 'base64url');
  // Base64url has spellings that decode alike: only the one we write counts.
  if (bytes.length < 28 || bytes.toString('base64url') !== wrapped) return undefined;
  return decrypt(key, bytes.subarray(0, 12), bytes.subarray(12, -16), bytes.subarray(-16), bound);
}

/** A document key under the institution's own key: compact JWE (RFC 7516), `alg` dir, `enc` A256GCM. */
export function sealDirectJwe(key: KeyObject, plaintext: Uint8Array, kid: string): string {
  const header = Buffer.from(canonicalJson({ alg: 'dir', enc: 'A256GCM', kid })).toString('base64url');
  const nonce = randomBytes(12);
  const cipher = createCipheriv('aes-256-gcm', key, nonce).setAAD(Buffer.from(header, 'ascii'));
  const ciphertext = Buffer.concat([cipher.update(plaintext), cipher.final()]);
  return [header, '', nonce.toString('base64url'), ciphertext.toString('base64url'), cipher.getAuthTag().toString('base64url')].join('.');
}

/** The plaintext, or undefined where the JWE is another than `sealDirectJwe` makes for this `kid`. */
export function openDirectJwe(key: KeyObject, jwe: string, kid: string): Buffer | undefined {
  const [header, encryptedKey, ...rest] = jwe.split('.');
  const parts = rest.map((text) => Buffer.from(text, 'base64url'));
  const [nonce, ciphertext, tag] = parts;
  const expected = Buffer.from(canonicalJson({ alg: 'dir', enc: 'A256GCM', kid })).toString('base64url');
  if (header !== expected || encryptedKey !== '' || parts.length !== 3 || !nonce || !ciphertext || !tag) return undefined;
  if (nonce.length !== 12 || tag.length !== 16 || rest.some((text, i) => parts[i]?.toString('base64url') !== text)) return undefined;
  return decrypt(key, nonce, ciphertext, tag, header);
}

/** RFC 3394, section 2.2.3.1. */
const KEY_WRAP_IV = Buffer.alloc(8, 0xa6);

/**
 * A document key to a category key's public half: compact JWE, `alg` ECDH-ES+A256KW (RFC 7518, section 4.6), `enc` A256GCM. The
 * same bytes as a library's, made without a turn through WebCrypto for each of its ten steps, which took three times as long.
 */
export function sealToCategory(plaintext: Uint8Array, recipient: PublicJwk): string {
  const { kty, crv, x, y } = recipient;
  const key = y === undefined ? { kty, crv, x } : { kty, crv, x, y };
  const own = crv === 'X25519' ? generateKeyPairSync('x25519') : generateKeyPairSync('ec', { namedCurve: crv });
  const epk = own.publicKey.export({ format: 'jwk' });
  const agreed = diffieHellman({ privateKey: own.privateKey, publicKey: createPublicKey({ key, format: 'jwk' }) });
  const contentKey = randomBytes(32);
  const wrap = createCipheriv('id-aes256-wrap', concatKdf(agreed, 'ECDH-ES+A256KW'), KEY_WRAP_IV);
  const encryptedKey = Buffer.concat([wrap.update(contentKey), wrap.final()]);
  const header = { alg: 'ECDH-ES+A256KW', enc: 'A256GCM', epk, kid: jwkThumbprint(recipient) };
  const protectedHeader = Buffer.from(JSON.stringify(header)).toString('base64url');
  const nonce = randomBytes(12);
  const cipher = createCipheriv('aes-256-gcm', createSecretKey(contentKey), nonce).setAAD(Buffer.from(protectedHeader, 'ascii'));
  const ciphertext = Buffer.concat([cipher.update(plaintext), cipher.final()]);
  agreed.fill(0);
  contentKey.fill(0);
  return [protectedHeader, ...[encryptedKey, nonce, ciphertext, cipher.getAuthTag()].map((part) => part.toString('base64url'))].join('.');
}

/** Concat KDF of NIST SP 800-56A with SHA-256 as RFC 7518, section 4.6.2 uses it: one round, no party information, 256 bits. */
function concatKdf(agreed: Buffer, algorithm: string): Buffer {
  const u32 = (value: number): Buffer => {
    const bytes = Buffer.alloc(4);
    bytes.writeUInt32BE(value);
    return bytes;
  };
  return hash('sha256', Buffer.concat([u32(1), agreed, u32(algorithm.length), Buffer.from(algorithm), u32(0), u32(0), u32(256)]), 'buffer');
}

function decrypt(key: KeyObject, nonce: Buffer, ciphertext: Buffer, tag: Buffer, bound: string): Buffer | undefined {
  try {
    const decipher = createDecipheriv('aes-256-gcm', key, nonce, { authTagLength: 16 }).setAAD(Buffer.from(bound)).setAuthTag(tag);
    return Buffer.concat([decipher.update(ciphertext), decipher.final()]);
  } catch {
    return undefined;
  }
}
