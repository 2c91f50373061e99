import { createCipheriv, createDecipheriv, createHmac, createSecretKey, hkdfSync, type KeyObject } from 'node:crypto';
import { CodedError } from '../errors.ts';
import { random128 } from '../ids.ts';
import type { Custodian } from './custodian.ts';
import type { SealedRows } from './sealed-rows.ts';

/**
 * Sealed rows, AES-256-GCM, docs/sealed-object.md "Sealed rows":
 *   row      0x01 | nonce 12 | ciphertext | tag 16
 *   intake   0x02 | month 7 (ASCII) | salt 16 | ciphertext | tag 16
 *   purpose  0x03 | salt 16 | ciphertext | tag 16
 * A row key serves one patient and category, far below the 2^32 messages that random nonces allow. Intake and purpose
 * keys serve a whole institution, so each of their messages has a key of its own: HKDF(key, salt), nonce zero.
 */
const ROW = 1;
const INTAKE = 2;
const PURPOSE = 3;
const TAG_BYTES = 16;
const ZERO_NONCE = Buffer.alloc(12);

/** Keys are asked of the custodian each time, which keeps them unwrapped: so a destroyed key is gone at once. */
export function createSealedRows(parts: { custodian: Custodian; now?: () => Date }): SealedRows {
  const { custodian } = parts;
  const now = parts.now ?? (() => new Date());
  return {
    async seal(patient, category, place, plaintext) {
      const key = await custodian.rowKey(patient, category);
      const head = Buffer.concat([Buffer.of(ROW), random128()], 13);
      return encrypt(key, head, head.subarray(1), bound('row', patient, category, place), plaintext);
    },
    async open(patient, category, place, sealed) {
      const bytes = view(sealed, ROW, 13);
      const key = await custodian.rowKey(patient, category, 'open');
      return decrypt(key, bytes, 13, bytes.subarray(1, 13), bound('row', patient, category, place));
    },
    async sealIntake(place, plaintext) {
      const month = now().toISOString().slice(0, 7);
      const head = Buffer.concat([Buffer.of(INTAKE), Buffer.from(month, 'ascii'), random128()]);
      const key = messageKey(await custodian.intakeKey(month), head.subarray(8));
      return encrypt(key, head, ZERO_NONCE, bound('intake', month, place), plaintext);
    },
    async openIntake(place, sealed) {
      const bytes = view(sealed, INTAKE, 24);
      const month = bytes.toString('latin1', 1, 8);
      if (!/^\d{4}-(0[1-9]|1[0-2])$/.test(month)) throw broken();
      const key = messageKey(await custodian.intakeKey(month, 'open'), bytes.subarray(8, 24));
      return decrypt(key, bytes, 24, ZERO_NONCE, bound('intake', month, place));
    },
    async sealPurpose(purpose, place, plaintext) {
      const head = Buffer.concat([Buffer.of(PURPOSE), random128()]);
      const key = messageKey(await custodian.purposeKey(purpose), head.subarray(1));
      return encrypt(key, head, ZERO_NONCE, bound('purpose', purpose, place), plaintext);
    },
    async openPurpose(purpose, place, sealed) {
      const bytes = view(sealed, PURPOSE, 17);
      const key = messageKey(await custodian.purposeKey(purpose), bytes.subarray(1, 17));
      return decrypt(key, bytes, 17, ZERO_NONCE, bound('purpose', purpose, place));
    },
    async blind(purpose, text) {
      return createHmac('sha256', await custodian.hmacKey(purpose))
        .update(text)
        .digest('hex');
    },
  };
}

/** Names of the place, unambiguous: none of the parts may run into the next. */
function bound(...names: string[]): Buffer {
  return Buffer.from(JSON.stringify(['oncobridge-row/1', ...names]));
}

function messageKey(key: KeyObject, salt: Buffer): KeyObject {
  return createSecretKey(Buffer.from(hkdfSync('sha256', key, salt, 'oncobridge-row/1 message', 32)));
}

function encrypt(key: KeyObject, head: Buffer, nonce: Buffer, aad: Buffer, plaintext: Uint8Array): Buffer {
  const cipher = createCipheriv('aes-256-gcm', key, nonce).setAAD(aad);
  const body = cipher.update(plaintext);
  cipher.final();
  return Buffer.concat([head, body, cipher.getAuthTag()], head.length + body.length + TAG_BYTES);
}

function decrypt(key: KeyObject, bytes: Buffer, headBytes: number, nonce: Buffer, aad: Buffer): Buffer {
  const decipher = createDecipheriv('aes-256-gcm', key, nonce, { authTagLength: TAG_BYTES });
  decipher.setAAD(aad).setAuthTag(bytes.subarray(bytes.length - TAG_BYTES));
  const body = decipher.update(bytes.subarray(headBytes, bytes.length - TAG_BYTES));
  try {
    decipher.final();
  } catch {
    throw broken();
  }
  return body;
}

function view(sealed: Uint8Array, kind: number, headBytes: number): Buffer {
  if (sealed[0] !== kind || sealed.length < headBytes + TAG_BYTES) throw broken();
  return Buffer.isBuffer(sealed) ? sealed : Buffer.from(sealed.buffer, sealed.byteOffset, sealed.byteLength);
}

function broken(): CodedError {
  return new CodedError('SEAL_BROKEN', { diagnostics: 'A sealed row does not open at its place.' });
}
