import { createPublicKey, type JsonWebKey, type KeyObject, verify } from 'node:crypto';
import { canonicalJson } from '../canonical-json.ts';
import { CodedError } from '../errors.ts';
import type { InstitutionKeys, PublicJwk } from './custodian.ts';
import { jwkThumbprint } from './thumbprint.ts';

/** What the ring needs of the key store. A name's key is made where there is none, and durable before it resolves. */
export interface KeyStore {
  pair(name: string): Promise<{ key: KeyObject; publicJwk: PublicJwk }>;
  secret(name: string): Promise<KeyObject>;
  has(name: string): boolean;
}

/**
 * The versions of an institution's signing and encryption keys: records `inst/signing/<n>`, `inst/encryption/<n>`, and
 * `inst/current/<n>` for those that have been taken into use (a mark; the highest counts, version 1 needs none). None is
 * destroyed: envelopes to an older encryption key must open for as long as what they hold is wanted.
 */
export function createInstitutionKeyRing(store: KeyStore) {
  const kept = (version: number): boolean =>
    version === 1 || (store.has(`inst/signing/${version}`) && store.has(`inst/encryption/${version}`));
  const newest = (): number => {
    let version = 1;
    while (kept(version + 1)) version++;
    return version;
  };
  const current = (): number => {
    let version = newest();
    while (version > 1 && !store.has(`inst/current/${version}`)) version--;
    return version;
  };
  const signing = (version = current()) => store.pair(`inst/signing/${version}`);
  const encryption = (version: number) => store.pair(`inst/encryption/${version}`);

  async function at(version: number): Promise<InstitutionKeys> {
    const [s, e] = await Promise.all([signing(version), encryption(version)]);
    return {
      version,
      signing: { ...s.publicJwk, use: 'sig', alg: 'ES256' },
      encryption: { ...e.publicJwk, use: 'enc', alg: 'ECDH-ES+A256KW' },
    };
  }
  const requireKept = (version: number): void => {
    if (!kept(version)) throw new CodedError('KEY_MISSING', { diagnostics: 'No such version of the institution’s keys is kept here.' });
  };

  return {
    current: () => at(current()),
    next: () => at(current() + 1),
    async all(): Promise<InstitutionKeys[]> {
      const versions: InstitutionKeys[] = [];
      for (let version = 1; version <= newest(); version++) versions.push(await at(version));
      return versions;
    },
    async use(version: number): Promise<void> {
      requireKept(version);
      if (version < current())
        throw new CodedError('KEYS_BROKEN', { diagnostics: 'Older keys of the institution are not taken into use again.' });
      if (version > 1) await store.secret(`inst/current/${version}`);
    },
    /** The signing key in use, or that of a version. KEY_MISSING where it is not kept. */
    async signing(version?: number): Promise<{ key: KeyObject; publicJwk: PublicJwk }> {
      if (version !== undefined) requireKept(version);
      return signing(version);
    },
    /** The signing key with this public half among all kept. KEY_MISSING where there is none. */
    async signingOf({ x, y }: Pick<PublicJwk, 'x' | 'y'>): Promise<{ key: KeyObject; publicJwk: PublicJwk }> {
      for (let version = newest(); version > 0; version--) {
        const pair = await signing(version);
        if (pair.publicJwk.x === x && pair.publicJwk.y === y) return pair;
      }
      throw new CodedError('KEY_MISSING', { diagnostics: 'The institution’s signing key that the ledger names is not kept here.' });
    },
    /** Type and payload of a compact JWS by a version before the one in use; undefined for anything else. */
    async formerlySigned(jws: string): Promise<{ typ: string; payload: string } | undefined> {
      const [head = '', body = '', tail = ''] = jws.split('.');
      for (let version = current() - 1; version > 0; version--) {
        const { publicJwk } = await signing(version);
        const header = canonicalJson({ alg: 'ES256', kid: jwkThumbprint(publicJwk) });
        const given = parse(Buffer.from(head, 'base64url').toString());
        const { typ, ...others } = given ?? {};
        if (typeof typ !== 'string' || canonicalJson(others) !== header) continue;
        const key = createPublicKey({ key: publicJwk as JsonWebKey, format: 'jwk' });
        const isOurs = verify('sha256', Buffer.from(`${head}.${body}`), { key, dsaEncoding: 'ieee-p1363' }, Buffer.from(tail, 'base64url'));
        if (isOurs) return { typ, payload: Buffer.from(body, 'base64url').toString() };
      }
      return undefined;
    },
    /** The encryption key of this thumbprint among all kept, undefined where there is none. */
    async encryptionOf(kid: string): Promise<{ key: KeyObject; kid: string } | undefined> {
      for (let version = newest(); version > 0; version--) {
        const { key, publicJwk } = await encryption(version);
        if (jwkThumbprint(publicJwk) === kid) return { key, kid };
      }
      return undefined;
    },
  };
}

function parse(text: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : undefined;
  } catch {
    return undefined;
  }
}
