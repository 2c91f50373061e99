import { fromBase64url } from './bytes.ts';
import type { EncryptionJwk } from './host.ts';

// FIPS 186-4 D.1.2.3
const P = 0xffffffff00000001000000000000000000000000ffffffffffffffffffffffffn;
const B = 0x5ac635d8aa3a93e7b3ebbd55769886bc651d06b0cc53b0f63bce3c3e27d2604bn;

function integer(coordinate: string): bigint | undefined {
  const bytes = fromBase64url(coordinate);
  if (bytes?.length !== 32) return undefined;
  return bytes.reduce((sum, byte) => (sum << 8n) | BigInt(byte), 0n);
}

/** A P-256 point is checked to lie on the curve (protocol section 1); an X25519 key is any 32 bytes but zero. */
export function isPublicKey(key: EncryptionJwk): boolean {
  const x = integer(key.x);
  if (key.kty === 'OKP') return x !== undefined && x !== 0n;
  const y = integer(key.y);
  if (x === undefined || y === undefined || x >= P || y >= P) return false;
  return (y * y - (x * x * x - 3n * x + B)) % P === 0n;
}
