import { hash } from 'node:crypto';
import type { PublicJwk } from './custodian.ts';

/** RFC 7638 thumbprint, SHA-256, base64url: the required members of the key in lexical order. */
export function jwkThumbprint(jwk: Pick<PublicJwk, 'kty' | 'crv' | 'x' | 'y'>): string {
  const members = jwk.kty === 'OKP' ? { crv: jwk.crv, kty: jwk.kty, x: jwk.x } : { crv: jwk.crv, kty: jwk.kty, x: jwk.x, y: jwk.y };
  return hash('sha256', JSON.stringify(members), 'base64url');
}
