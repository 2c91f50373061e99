import { createHash, createPublicKey, type KeyObject, verify as verifySignature } from 'node:crypto';
import type { EcJwk } from './contract/host.ts';

const imported = new Map<string, KeyObject>();
const HELD = 1000;

/** ES256 (P-256, SHA-256) over bytes with a raw r||s signature; false for whatever is malformed. */
export async function verifyEs256(key: EcJwk, bytes: Uint8Array, signature: Uint8Array): Promise<boolean> {
  if (signature.length !== 64) return false;
  try {
    const name = `${key.x}.${key.y}`;
    let object = imported.get(name);
    if (object === undefined) {
      object = createPublicKey({ key: { kty: key.kty, crv: key.crv, x: key.x, y: key.y }, format: 'jwk' });
      // Importing costs as much as half a verification, and a ledger knows few signing keys.
      if (imported.size >= HELD) imported.clear();
      imported.set(name, object);
    }
    return verifySignature('sha256', bytes, { key: object, dsaEncoding: 'ieee-p1363' }, signature);
  } catch {
    return false;
  }
}

export function sha256Hex(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}

/** The cryptographic half of a contract host, the same for every host that runs in Node. */
export const hostCrypto = {
  verify: (_alg: 'ES256', key: EcJwk, bytes: Uint8Array, signature: Uint8Array): Promise<boolean> => verifyEs256(key, bytes, signature),
  sha256: async (bytes: Uint8Array): Promise<Uint8Array> => createHash('sha256').update(bytes).digest(),
};
