import assert from 'node:assert/strict';
import { createPrivateKey, type KeyObject } from 'node:crypto';
import type { JWK } from 'jose';
import * as build from '../../src/ledger/contract/payloads.ts';
import type { Ledger } from '../../src/ledger/ledger.ts';
import type { Custodian, PublicJwk } from '../../src/vault/custodian.ts';
import { openEnvelope, sealEnvelope } from '../../src/vault/envelope.ts';
import { jwkThumbprint } from '../../src/vault/thumbprint.ts';
import { hex64, newKey, nonce, type TestKey } from '../ledger/world.ts';

interface Site {
  custodian: Custodian;
  ledger: Ledger;
  ledgerId: string;
  projection: { waitFor(block: number, timeoutMs: number): Promise<boolean> };
}

/** A patient who holds their own keys: what their device keeps, and what it signs. Only their signatures count from then on. */
export interface ClaimedPatient {
  patient: string;
  signing: TestKey;
  /** Private halves by `<category>/<version>`: the custodian's from the envelopes, later ones the device's own. */
  keys: ReadonlyMap<string, KeyObject>;
  publish(category: string): Promise<void>;
  /** All versions of a category's key that the device has, to a recipient's key. */
  envelope(category: string, recipient: PublicJwk): Promise<string>;
  /** With an envelope to our own institution's key, or to the recipient given. */
  grant(permission: { grantee: string; category: string; sequence: number; periodEnd?: string; recipient?: PublicJwk }): Promise<void>;
  revoke(permission: { grantee: string; category: string }): Promise<void>;
}

/** The whole claim: envelopes opened, keys of every category on the ledger, custody released. */
export async function claimPatient({ custodian, ledger, ledgerId, projection }: Site, patient: string): Promise<ClaimedPatient> {
  const of = { institution: custodian.institution, patient };
  const base = () => ({ ...of, ledger: ledgerId, nonce: nonce() });
  const submit = async (name: string, args: readonly string[]): Promise<void> => {
    const { block } = await ledger.submit((await ledger.endorse({ name, args })).bytes);
    assert.ok(await projection.waitFor(block, 10_000));
  };
  const [signing, encryption, recovery] = [newKey(), newKey(), newKey()];
  const keys = new Map<string, KeyObject>();
  const versions = new Map<string, number>();
  const next = (category: string): { key: ReturnType<typeof build.plainJwk>; version: number } => {
    const pair = newKey();
    const version = (versions.get(category) ?? 0) + 1;
    versions.set(category, version);
    keys.set(`${category}/${version}`, pair.privateKey);
    return { key: pair.jwk, version };
  };
  const kid = encryption.thumbprint;
  for (const category of await custodian.heldCategories(patient)) {
    const envelope = await custodian.sealEnvelope(patient, category, encryption.jwk);
    const content = await openEnvelope(envelope, { key: encryption.privateKey, kid }, { patient: of, category });
    for (const { version, jwk } of content.keys) {
      keys.set(`${category}/${version}`, createPrivateKey({ key: jwk as JWK & { kty: string }, format: 'jwk' }));
      versions.set(category, version);
    }
  }
  const payload = build.claimPatientPayload({
    ...base(),
    encryption: encryption.jwk,
    keys: [...versions.keys()].map((category) => ({ category, envelopes: [], ...next(category) })),
    onBehalf: patient,
    recovery: recovery.thumbprint,
    signing: signing.jwk,
    version: 2,
  });
  const typ = build.TYP.claimPatient;
  const authority = await custodian.signForPatient({ patient, actor: { kind: 'patient', id: patient }, typ, payload });
  await submit('claimPatient', [signing.jws(typ, payload), authority]);
  await custodian.release(patient);
  const envelope = (category: string, recipient: PublicJwk): Promise<string> => {
    const held = [...keys].filter(([name]) => name.startsWith(`${category}/`));
    const content = held.map(([name, key]) => ({ version: Number(name.split('/')[1]), jwk: key.export({ format: 'jwk' }) }));
    return sealEnvelope({ patient: of, category, keys: content }, { ...recipient, kid: jwkThumbprint(recipient) });
  };
  return {
    patient,
    signing,
    keys,
    publish(category) {
      const statement = build.publishCategoryKeyPayload({ ...base(), category, envelopes: [], onBehalf: null, ...next(category) });
      return submit('publishCategoryKey', [signing.jws(build.TYP.publishCategoryKey, statement)]);
    },
    envelope,
    async grant({ grantee, category, sequence, periodEnd, recipient }) {
      const to = recipient ?? (await custodian.institutionKeys()).encryption;
      const hash = hex64(await envelope(category, to));
      const sealed = { hash, path: `${of.institution}/envelopes/${hash}`, recipient: jwkThumbprint(to) };
      const clauses = [build.clause({ consent: 'con-1', rights: ['read'], ...(periodEnd === undefined ? {} : { periodEnd }) })];
      const statement = build.grantPayload({
        ...base(),
        consent: 'con-1',
        evidence: null,
        grantor: 'patient',
        notAfter: new Date(Date.now() + 600_000).toISOString(),
        onBehalf: null,
        permissions: [{ category, clauses, envelope: sealed, grantee, sequence }],
      });
      return submit('grantPermission', [signing.jws(build.TYP.grantPermission, statement)]);
    },
    revoke(permission) {
      const statement = build.revokePayload({ ...base(), consent: null, grantor: 'patient', onBehalf: null, permissions: [permission] });
      return submit('revokePermission', [signing.jws(build.TYP.revokePermission, statement)]);
    },
  };
}
