import { createPrivateKey, createPublicKey, generateKeyPairSync, type KeyObject } from 'node:crypto';
import { calculateJwkThumbprint, type JWK } from 'jose';
import type { Database, Sql } from '../store/database.ts';
import { sql } from '../store/sql.ts';
import type { SealedRows } from '../vault/sealed-rows.ts';

export interface SigningKeys {
  /** The newest key; it signs. */
  current(): { kid: string; key: KeyObject };
  /** The public key of this id, looked up anew (another process may have rotated) at most every few seconds. */
  find(kid: string): Promise<KeyObject | undefined>;
  /** The public keys, as a JWKS. */
  jwks(): { keys: JWK[] };
  /** A new key signs from now on; older ones verify until `retireBefore`, which is past every token they signed. */
  rotate(retireBefore: Date): Promise<void>;
}

const PURPOSE = 'token-signing';
const RELOAD_MS = 5_000;

/** The issuer's ES384 keys, shared by all processes through the database, private halves sealed. Made at first use. */
export async function loadSigningKeys(parts: { database: Database; rows: SealedRows }): Promise<SigningKeys> {
  const { database, rows } = parts;
  let keys: { kid: string; key: KeyObject; publicKey: KeyObject; jwk: JWK }[] = [];
  let loadedAt = 0;

  const make = async (tx: Sql): Promise<void> => {
    const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-384' });
    const publicJwk = publicKey.export({ format: 'jwk' }) as JWK;
    const kid = await calculateJwkThumbprint(publicJwk);
    const sealed = await rows.sealPurpose(PURPOSE, `auth_key/${kid}`, privateKey.export({ format: 'der', type: 'pkcs8' }));
    await tx.query(
      sql`insert into auth_key (kid, public_jwk, private_key) values (${kid}, ${JSON.stringify(publicJwk)}::jsonb, ${sealed})`,
    );
  };
  const load = async (): Promise<void> => {
    loadedAt = performance.now();
    const found = await database.query<{ kid: string; private_key: Buffer }>(
      sql`select kid, private_key from auth_key order by created_at desc, kid`,
    );
    keys = await Promise.all(
      found.map(async ({ kid, private_key }) => {
        const der = await rows.openPurpose(PURPOSE, `auth_key/${kid}`, private_key);
        const key = createPrivateKey({ key: der, format: 'der', type: 'pkcs8' });
        // The public half comes from the sealed private one: whoever can write the table cannot add a key.
        const publicKey = createPublicKey(key);
        return { kid, key, publicKey, jwk: { ...(publicKey.export({ format: 'jwk' }) as JWK), kid, use: 'sig', alg: 'ES384' } };
      }),
    );
  };
  await database.transaction(async (tx) => {
    await tx.query(sql`select pg_advisory_xact_lock(hashtext('oncobridge auth_key'))`);
    const [existing] = await tx.query(sql`select kid from auth_key limit 1`);
    if (existing === undefined) await make(tx);
  });
  await load();

  return {
    current() {
      const [newest] = keys;
      if (newest === undefined) throw new Error('unreachable: a key is made before the first use');
      return newest;
    },
    async find(kid) {
      const known = keys.find((one) => one.kid === kid);
      if (known === undefined && performance.now() - loadedAt > RELOAD_MS) await load();
      return keys.find((one) => one.kid === kid)?.publicKey;
    },
    jwks: () => ({ keys: keys.map((one) => one.jwk) }),
    async rotate(retireBefore) {
      await database.transaction(async (tx) => {
        await tx.query(sql`select pg_advisory_xact_lock(hashtext('oncobridge auth_key'))`);
        await make(tx);
        // A key counts as retired once its successor is older than every token that it may have signed.
        await tx.query(sql`delete from auth_key k where exists
          (select 1 from auth_key s where s.created_at > k.created_at and s.created_at < ${retireBefore})`);
      });
      await load();
    },
  };
}
