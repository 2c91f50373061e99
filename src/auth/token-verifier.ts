import { hash, type KeyObject } from 'node:crypto';
import { decodeProtectedHeader, errors, type JWTPayload, jwtVerify } from 'jose';
import { CodedError } from '../errors.ts';
import type { Actor } from './actor.ts';
import { purposeOf } from './purposes.ts';

/** RFC 9068. A client assertion or any other JWT is never taken for an access token. */
export const ACCESS_TOKEN_TYPE = 'at+jwt';
const MAX_TOKEN_LENGTH = 8192;
const MAX_CACHED = 10_000;

export interface TokenVerifier {
  /** The actor of `Authorization: Bearer …`. UNAUTHENTICATED where it is absent, malformed, expired, forged or for somebody else. */
  verify(authorization: string | undefined): Promise<Actor>;
}

/**
 * Verifies access tokens. A verified signature is remembered until the token's own `exp`, under the token's hash; what a
 * token's bearer may see is decided anew each time and never here.
 */
export function createTokenVerifier(parts: {
  issuerUrl: string;
  audience: string;
  institution: string;
  /** Public ES384 key by key id. */
  keyOf(kid: string): Promise<KeyObject | undefined>;
  now?: () => Date;
}): TokenVerifier {
  const { issuerUrl, audience, institution, keyOf } = parts;
  const now = parts.now ?? (() => new Date());
  const verified = new Map<string, { actor: Actor; expiresAtMs: number }>();

  const check = async (token: string): Promise<{ actor: Actor; expiresAtMs: number }> => {
    const { kid, alg } = decodeProtectedHeader(token);
    const key = alg === 'ES384' && typeof kid === 'string' ? await keyOf(kid) : undefined;
    if (key === undefined) throw unauthenticated('The token is not of this issuer.');
    const { payload } = await jwtVerify(token, key, {
      algorithms: ['ES384'],
      typ: ACCESS_TOKEN_TYPE,
      issuer: issuerUrl,
      audience,
      currentDate: now(),
      requiredClaims: ['exp', 'iat', 'sub', 'jti', 'client_id', 'scope'],
    });
    const actor = actorOf(payload, institution);
    if (actor === undefined || payload.exp === undefined) throw unauthenticated('The token names nobody known here.');
    return { actor, expiresAtMs: payload.exp * 1000 };
  };

  return {
    async verify(authorization) {
      const token = /^Bearer ([A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+)$/i.exec(authorization ?? '')?.[1];
      if (token === undefined || token.length > MAX_TOKEN_LENGTH) throw unauthenticated();
      const key = hash('sha256', token);
      const known = verified.get(key);
      if (known !== undefined) {
        if (now().getTime() < known.expiresAtMs) return known.actor;
        verified.delete(key);
        throw unauthenticated('The token has expired.');
      }
      try {
        const fresh = await check(token);
        for (const oldest of verified.keys()) {
          if (verified.size < MAX_CACHED) break;
          verified.delete(oldest);
        }
        verified.set(key, fresh);
        return fresh.actor;
      } catch (error) {
        if (error instanceof errors.JWTExpired) throw unauthenticated('The token has expired.');
        if (error instanceof errors.JOSEError || error instanceof TypeError) throw unauthenticated();
        throw error;
      }
    },
  };
}

function actorOf(claims: JWTPayload, institution: string): Actor | undefined {
  const text = (value: unknown): string => (typeof value === 'string' ? value : '');
  const facts = {
    client: text(claims['client_id']),
    scopes: Object.freeze(
      text(claims['scope'])
        .split(' ')
        .filter((one) => one !== ''),
    ),
    purpose: purposeOf(text(claims['purpose_of_use'])) ?? '',
    tokenId: text(claims.jti),
    institution,
  };
  const subject = text(claims.sub);
  if (claims['institution'] !== institution || facts.client === '' || facts.purpose === '' || facts.tokenId === '') return undefined;
  if (claims['actor'] === 'patient' && subject.startsWith('pat-')) return Object.freeze({ ...facts, kind: 'patient', patient: subject });
  if (claims['actor'] === 'system' && subject === facts.client) return Object.freeze({ ...facts, kind: 'system' });
  if (claims['actor'] === 'member' && subject.startsWith('mem-')) {
    const system = text((claims['act'] as { sub?: unknown } | undefined)?.sub);
    return Object.freeze({ ...facts, kind: 'member', member: subject, role: text(claims['role']), ...(system === '' ? {} : { system }) });
  }
  return undefined;
}

function unauthenticated(diagnostics?: string): CodedError {
  return new CodedError('UNAUTHENTICATED', diagnostics === undefined ? {} : { diagnostics });
}
