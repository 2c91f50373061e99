import { createPublicKey, type JsonWebKey } from 'node:crypto';
import { decodeJwt, decodeProtectedHeader, type JWTPayload, jwtVerify } from 'jose';
import type { Client, Clients } from './clients.ts';

export const ASSERTION_TYPE = 'urn:ietf:params:oauth:client-assertion-type:jwt-bearer';
export const ASSERTION_ALGORITHMS = ['RS384', 'ES384'] as const;
/** SMART Backend Services: an assertion lives at most five minutes. */
const MAX_LIFE_SECONDS = 300;
/** Clocks of two machines differ a little. */
const TOLERANCE_SECONDS = 5;

/**
 * Authenticates a client by private_key_jwt (RFC 7523 as SMART Backend Services narrows it): RS384 or ES384 by the kid
 * registered, iss = sub = client id, aud = our token URL, exp at most 5 minutes ahead, jti used once. Undefined for every
 * reason alike: who fails learns nothing about which clients exist.
 */
export async function verifyAssertion(
  assertion: string,
  parts: { clients: Clients; tokenUrl: string; now: Date },
): Promise<{ client: Client; claims: JWTPayload } | undefined> {
  const { clients, tokenUrl, now } = parts;
  try {
    const { alg, kid } = decodeProtectedHeader(assertion);
    const { iss, sub } = decodeJwt(assertion);
    if (!ASSERTION_ALGORITHMS.some((known) => known === alg) || typeof kid !== 'string') return undefined;
    if (iss === undefined || iss !== sub) return undefined;
    const client = await clients.find(iss);
    const jwk = client?.keys.find((key) => key.kid === kid && key.kty === (alg === 'RS384' ? 'RSA' : 'EC'));
    if (client === undefined || client.disabled || jwk === undefined) return undefined;
    const { payload } = await jwtVerify(assertion, createPublicKey({ key: jwk as JsonWebKey, format: 'jwk' }), {
      algorithms: [...ASSERTION_ALGORITHMS],
      issuer: client.client,
      subject: client.client,
      audience: tokenUrl,
      clockTolerance: TOLERANCE_SECONDS,
      currentDate: now,
      requiredClaims: ['exp', 'jti'],
    });
    const { exp, jti } = payload;
    if (exp === undefined || exp > now.getTime() / 1000 + MAX_LIFE_SECONDS + TOLERANCE_SECONDS) return undefined;
    if (typeof jti !== 'string' || jti === '' || jti.length > 256) return undefined;
    // Last, so that nobody but the client can use up its ids. Kept a little longer than the tolerance lets it live.
    const kept = new Date((exp + 2 * TOLERANCE_SECONDS) * 1000);
    return (await clients.useAssertion(client.client, jti, kept)) ? { client, claims: payload } : undefined;
  } catch (error) {
    if (isJoseOrKeyError(error)) return undefined;
    throw error;
  }
}

/** A database that is away is not a wrong signature. */
function isJoseOrKeyError(error: unknown): boolean {
  const code = (error as { code?: unknown } | null)?.code;
  return error instanceof TypeError || (typeof code === 'string' && /^ERR_(J|OSSL|CRYPTO)/.test(code));
}
