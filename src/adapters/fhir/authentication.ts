import { randomUUID, type webcrypto } from 'node:crypto';
import { calculateJwkThumbprint, exportJWK, importJWK, importPKCS8, type JWK, SignJWT } from 'jose';
import { CodedError } from '../../errors.ts';
import type { AuthOptions, ClientCredentials, SmartBackend } from './options.ts';

/** The sign-in to one source: one token, shared by all requests, got anew when it ends or is refused. */
export interface Authentication {
  /** A live token, or undefined where the source wants none. SOURCE_AUTHENTICATION where the token service refuses us. */
  token(signal?: AbortSignal): Promise<string | undefined>;
  /** Says that the server answered 401 to this token; the next `token()` gets another. */
  refused(token: string | undefined): void;
  /** Scopes asked for and not granted; known once a token was got. */
  missingScopes(): readonly string[];
}

/** Posts a form to the token service, under the source's retries and limits. */
export type PostForm = (url: string, form: URLSearchParams, signal?: AbortSignal) => Promise<{ status: number; text: string }>;

interface Token {
  text: string;
  /** On the monotonic clock: what our wall clock says is of no matter. */
  endsAtMs: number;
}

// A token is taken as ended this long before its end, so that none ends on its way.
const MARGIN_MS = 30_000;

export function createAuthentication(
  options: AuthOptions,
  dependencies: { postForm: PostForm; discoverTokenUrl: (signal?: AbortSignal) => Promise<string> },
): Authentication {
  if (options.type === 'none') {
    return { token: () => Promise.resolve(undefined), refused: () => undefined, missingScopes: () => [] };
  }
  let current: Token | undefined;
  let pending: Promise<Token> | undefined;
  let missing: readonly string[] = [];

  const obtain = async (signal?: AbortSignal): Promise<Token> => {
    const { url, form } =
      options.type === 'client-credentials' ? secretForm(options) : await assertionForm(options, dependencies.discoverTokenUrl, signal);
    const answer = await dependencies.postForm(url, form, signal);
    const body = parseObject(answer.text);
    if (answer.status >= 400 || typeof body?.access_token !== 'string') {
      // RFC 6749 section 5.2: the code is one of a fixed list, the description is free text and is left out.
      const code = typeof body?.error === 'string' && /^[a-z_]{1,40}$/.test(body.error) ? ` (${body.error})` : '';
      throw new CodedError('SOURCE_AUTHENTICATION', { diagnostics: `The token service answers ${answer.status}${code}.` });
    }
    // RFC 6749 section 5.1: no `scope` means that all of it was granted.
    missing = typeof body.scope === 'string' ? scopesMissing(options.scopes, body.scope.split(/\s+/)) : [];
    const lifeMs = typeof body.expires_in === 'number' || typeof body.expires_in === 'string' ? Number(body.expires_in) * 1000 : 300_000;
    const margin = Math.min(MARGIN_MS, lifeMs / 4);
    return { text: body.access_token, endsAtMs: performance.now() + (Number.isFinite(lifeMs) ? lifeMs : 300_000) - margin };
  };

  return {
    token: async (signal) => {
      if (current && performance.now() < current.endsAtMs) return current.text;
      // One request for however many wait.
      pending ??= obtain(signal).finally(() => {
        pending = undefined;
      });
      current = await pending;
      return current.text;
    },
    refused: (token) => {
      if (current?.text === token) current = undefined;
    },
    missingScopes: () => missing,
  };
}

function secretForm(options: ClientCredentials): { url: string; form: URLSearchParams } {
  const form = new URLSearchParams({
    grant_type: 'client_credentials',
    client_id: options.clientId,
    client_secret: options.clientSecret,
    scope: options.scopes.join(' '),
  });
  return { url: options.tokenUrl, form };
}

async function assertionForm(
  options: SmartBackend,
  discover: (signal?: AbortSignal) => Promise<string>,
  signal?: AbortSignal,
): Promise<{ url: string; form: URLSearchParams }> {
  const url = options.tokenUrl ?? (await discover(signal));
  const { key, kid } = await signingKey(options);
  // SMART App Launch 2.2, "Authenticating to the Token endpoint": aud is the token URL, life at most five minutes, jti once.
  const assertion = await new SignJWT({})
    .setProtectedHeader({ alg: options.algorithm, kid, typ: 'JWT' })
    .setIssuer(options.clientId)
    .setSubject(options.clientId)
    .setAudience(url)
    .setJti(randomUUID())
    .setIssuedAt()
    .setExpirationTime('4m')
    .sign(key);
  const form = new URLSearchParams({
    grant_type: 'client_credentials',
    scope: options.scopes.join(' '),
    client_assertion_type: 'urn:ietf:params:oauth:client-assertion-type:jwt-bearer',
    client_assertion: assertion,
  });
  return { url, form };
}

async function signingKey(options: SmartBackend): Promise<{ key: webcrypto.CryptoKey; kid: string }> {
  try {
    const written = options.privateKey.trim();
    const jwk = written.startsWith('{') ? (JSON.parse(written) as JWK) : undefined;
    const key = jwk
      ? await importJWK({ ...jwk, ext: true }, options.algorithm)
      : await importPKCS8(written, options.algorithm, { extractable: true });
    if (key instanceof Uint8Array) throw new Error('a symmetric key');
    const kid = options.keyId ?? jwk?.kid ?? (await calculateJwkThumbprint(jwk ?? (await exportJWK(key))));
    return { key, kid };
  } catch {
    // The cause may quote the key's text; it stays here.
    throw new CodedError('SOURCE_AUTHENTICATION', { diagnostics: `The private key is no PKCS#8 PEM or JWK for ${options.algorithm}.` });
  }
}

/**
 * Scopes of `asked` that `granted` does not cover. Understands SMART v1 (`read`, `write`, `*`), v2 (`rs`, `cruds`) and
 * wildcards for the type; a scope restricted by a query (`?...`) covers only itself.
 */
export function scopesMissing(asked: readonly string[], granted: readonly string[]): string[] {
  const grants = granted.map(parseScope);
  return asked.filter((text) => {
    if (granted.includes(text)) return false;
    const want = parseScope(text);
    if (!want) return true;
    const have = new Set(grants.flatMap((grant) => (grant && covers(grant, want) ? grant.letters.split('') : [])));
    return want.letters.split('').some((letter) => !have.has(letter));
  });
}

interface Scope {
  context: string;
  type: string;
  letters: string;
}
function parseScope(text: string): Scope | undefined {
  const match = /^(system|user|patient)\/([A-Za-z]+|\*)\.([a-z]+|\*)$/.exec(text);
  if (!match) return undefined;
  const [, context = '', type = '', written = ''] = match;
  const letters = written === 'read' ? 'rs' : written === 'write' ? 'cud' : written === '*' ? 'cruds' : written;
  return { context, type, letters };
}
function covers(grant: Scope, want: Scope): boolean {
  return grant.context === want.context && (grant.type === '*' || grant.type === want.type);
}

function parseObject(text: string): Record<string, unknown> | undefined {
  try {
    const value = JSON.parse(text) as unknown;
    return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : undefined;
  } catch {
    return undefined;
  }
}
