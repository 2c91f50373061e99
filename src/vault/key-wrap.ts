import { createCipheriv, createDecipheriv, type KeyObject, randomBytes } from 'node:crypto';
import { canonicalJson } from './canonical-json.ts';

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

function decrypt(key: KeyObject, nonce: Buffer, ciphertext: Buffer, tag: Buffer, bound: string): Buffer | undefined {
  try {
    const decipher = createDecipheriv('aes-256-gcm', key, nonce, { authTagLength: 16 }).setAAD(Buffer.from(bound)).setAuthTag(tag);
    return Buffer.concat([decipher.update(ciphertext), decipher.final()]);
  } catch {
    return undefined;
  }
}
