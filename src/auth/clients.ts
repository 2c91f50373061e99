import { createPublicKey, generateKeyPairSync, hash, type JsonWebKey, type KeyObject } from 'node:crypto';
import { calculateJwkThumbprint, type JWK } from 'jose';
import { CodedError } from '../errors.ts';
import { newId } from '../ids.ts';
import { ROLES } from '../ledger/contract/shapes.ts';
import type { Database } from '../store/database.ts';
import { sql } from '../store/sql.ts';
import { purposeOf } from './purposes.ts';
import { formatScope, parseScope } from './scopes.ts';

/** A registered system (SMART Backend Services client). */
export interface Client {
  client: string;
  name: string;
  keys: readonly JWK[];
  scopes: readonly string[];
  purposes: readonly string[];
  /** Roles of the members that it may name in an assertion; empty: it acts as its organisation only. */
  actsForRoles: readonly string[];
  disabled: boolean;
}

export interface Registration {
  name: string;
  /** Public JWK, RSA of 2048 bits or more (RS384) or P-384 (ES384). Without one, a P-384 pair is made. */
  jwk?: JWK;
  scopes: readonly string[];
  /** HL7 PurposeOfUse that it may claim, the default first. `TREAT` where nothing is said. */
  purposes?: readonly string[];
  actsForRoles?: readonly string[];
}

export interface Clients {
  /** Registers a system. UNPROCESSABLE names what is not known: a role, scope, purpose or kind of key. The private key is given out once and kept nowhere. */
  add(registration: Registration): Promise<{ client: string; kid: string; scopes: readonly string[]; privateJwk?: JWK }>;
  find(client: string): Promise<Client | undefined>;
  list(): Promise<Client[]>;
  /** Gives no further tokens; those given out end within 5 minutes. False where there is no such client. */
  disable(client: string): Promise<boolean>;
  /** True once for each assertion of a client, false for every repeat until it has expired. */
  useAssertion(client: string, jti: string, expiresAt: Date): Promise<boolean>;
  /** Forgets assertions that have expired. */
  sweep(now: Date): Promise<void>;
}

interface ClientRow {
  client: string;
  name: string;
  jwks: { keys: JWK[] };
  scopes: string[];
  purposes: string[];
  acts_for_roles: string[];
  disabled_at: Date | null;
}

export function createClients(parts: { database: Database }): Clients {
  const { database } = parts;
  const columns = sql`client, name, jwks, scopes, purposes, acts_for_roles, disabled_at`;
  return {
    async add(registration) {
      const name = registration.name.trim();
      if (name === '' || name.length > 100) throw refused('A client needs a name of at most 100 characters.');
      const scopes = registration.scopes.map((text) => {
        const scope = parseScope(text);
        if (scope === undefined) throw refused(`The scope "${printable(text)}" is not known.`);
        return formatScope(scope);
      });
      if (scopes.length === 0) throw refused('A client needs at least one scope.');
      const purposes = (registration.purposes ?? ['TREAT']).map((text) => {
        const purpose = purposeOf(text);
        if (purpose === undefined) throw refused(`The purpose "${printable(text)}" is not known.`);
        return purpose;
      });
      if (purposes.length === 0) throw refused('A client needs at least one purpose.');
      const roles = registration.actsForRoles ?? [];
      for (const role of roles) {
        if (!ROLES.some((known) => known === role))
          throw refused(`The role "${printable(role)}" is not known. Known: ${ROLES.join(', ')}.`);
      }
      const { publicJwk, privateJwk } = registration.jwk === undefined ? newPair() : { publicJwk: requirePublic(registration.jwk) };
      const kid = publicJwk.kid ?? (await calculateJwkThumbprint(publicJwk));
      const client = newId('cli');
      const jwks = JSON.stringify({ keys: [{ ...publicJwk, kid }] });
      await database.query(sql`insert into auth_client (client, name, jwks, scopes, purposes, acts_for_roles)
        values (${client}, ${name}, ${jwks}::jsonb, ${scopes}::text[], ${purposes}::text[], ${[...roles]}::text[])`);
      return { client, kid, scopes, ...(privateJwk === undefined ? {} : { privateJwk: { ...privateJwk, kid, alg: 'ES384' } }) };
    },
    async find(client) {
      const [row] = await database.query<ClientRow>(sql`select ${columns} from auth_client where client = ${client}`);
      return row && fromRow(row);
    },
    async list() {
      return (await database.query<ClientRow>(sql`select ${columns} from auth_client order by created_at, client`)).map(fromRow);
    },
    async disable(client) {
      const rows = await database.query(
        sql`update auth_client set disabled_at = coalesce(disabled_at, now()) where client = ${client} returning client`,
      );
      return rows.length > 0;
    },
    async useAssertion(client, jti, expiresAt) {
      const rows = await database.query(sql`insert into auth_assertion (client, jti_sha256, expires_at)
        values (${client}, ${hash('sha256', jti)}, ${expiresAt}) on conflict do nothing returning client`);
      return rows.length === 1;
    },
    async sweep(now) {
      await database.query(sql`delete from auth_assertion where expires_at < ${now}`);
    },
  };
}

function fromRow(row: ClientRow): Client {
  const { client, name, scopes, purposes } = row;
  return { client, name, scopes, purposes, keys: row.jwks.keys, actsForRoles: row.acts_for_roles, disabled: row.disabled_at !== null };
}

function newPair(): { publicJwk: JWK; privateJwk: JWK } {
  const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-384' });
  return { publicJwk: publicKey.export({ format: 'jwk' }) as JWK, privateJwk: privateKey.export({ format: 'jwk' }) as JWK };
}

/** The public members of a key that RS384 or ES384 can use; anything else is refused, a private key above all. */
function requirePublic(jwk: JWK): JWK {
  if ('d' in jwk || 'k' in jwk) throw refused('Register the public half of the key only.');
  const { kty, crv, x, y, n, e, kid } = jwk;
  let key: KeyObject;
  try {
    const members = kty === 'RSA' ? { kty, n, e } : { kty, crv, x, y };
    key = createPublicKey({ key: members as JsonWebKey, format: 'jwk' });
  } catch {
    throw refused('The key is not a valid public JWK.');
  }
  const details = key.asymmetricKeyDetails;
  const fits = key.asymmetricKeyType === 'rsa' ? (details?.modulusLength ?? 0) >= 2048 : details?.namedCurve === 'secp384r1';
  if (!fits) throw refused('The key must be RSA of at least 2048 bits (RS384) or P-384 (ES384).');
  return { ...(key.export({ format: 'jwk' }) as JWK), ...(kid === undefined ? {} : { kid }) };
}

function refused(diagnostics: string): CodedError {
  return new CodedError('UNPROCESSABLE', { diagnostics });
}

function printable(text: string): string {
  return text.replace(/[^\x21-\x7e]/g, '?').slice(0, 60);
}
