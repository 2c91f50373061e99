import { type KeyObject, verify, X509Certificate } from 'node:crypto';
import type { Caller } from '../contract/host.ts';
import { callerOf } from './caller.ts';

/** Who has signed a transaction, out of its serialised identity. */
export interface Creator {
  caller: Caller;
  /** Whether it has signed these bytes; false too where the identity holds no certificate that can be read. */
  verify(bytes: Uint8Array, signature: Uint8Array): boolean;
}

const known = new Map<string, Creator>();
/** A channel has few gateways, and reading a certificate costs as much as a verification. */
const HELD = 1000;

export function readCreator(identity: { getMspid(): string; getIdBytes_asU8(): Uint8Array }): Creator {
  const mspId = identity.getMspid();
  const pem = Buffer.from(identity.getIdBytes_asU8()).toString();
  const name = `${mspId}\n${pem}`;
  const found = known.get(name);
  if (found !== undefined) return found;
  const key = publicKey(pem);
  const creator: Creator = {
    caller: callerOf(mspId, pem),
    verify(bytes, signature) {
      if (key === undefined) return false;
      try {
        // Ed25519 (Fabric 3) hashes by itself; with ECDSA the channel's hash is SHA-256, whatever the curve.
        return verify(key.asymmetricKeyType === 'ed25519' ? null : 'sha256', bytes, key, signature);
      } catch {
        return false;
      }
    },
  };
  if (known.size >= HELD) known.clear();
  known.set(name, creator);
  return creator;
}

function publicKey(pem: string): KeyObject | undefined {
  try {
    return new X509Certificate(pem).publicKey;
  } catch {
    return undefined;
  }
}
