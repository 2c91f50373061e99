import { createHash, generateKeyPairSync, type KeyObject, randomBytes, sign as signBytes } from 'node:crypto';
import { runQuery } from '../../src/ledger/contract/contract.ts';
import type { EcJwk } from '../../src/ledger/contract/host.ts';
import { canonicalize } from '../../src/ledger/contract/jcs.ts';
import * as build from '../../src/ledger/contract/payloads.ts';
import { type SignedTransaction, TYP } from '../../src/ledger/contract/shapes.ts';
import { MemoryState } from '../../src/ledger/memory-state.ts';
import { Overlay, readHost, simulate } from '../../src/ledger/simulation.ts';

/** A P-256 key pair that signs as a person's device or a custodian does. */
export interface TestKey {
  jwk: EcJwk;
  /** The public key as the argument beside a JWS. */
  text: string;
  thumbprint: string;
  privateKey: KeyObject;
  jws(typ: string, payload: string): string;
  sign(bytes: Uint8Array): Promise<Uint8Array>;
}
export function newKey(): TestKey {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const jwk = build.ecJwk(publicKey.export({ format: 'jwk' }));
  const text = canonicalize(jwk);
  const thumbprint = createHash('sha256').update(text).digest('base64url');
  const raw = (bytes: Uint8Array): Buffer => signBytes('sha256', bytes, { key: privateKey, dsaEncoding: 'ieee-p1363' });
  return {
    jwk,
    text,
    thumbprint,
    privateKey,
    jws(typ, payload) {
      const head = Buffer.from(JSON.stringify({ alg: 'ES256', kid: thumbprint, typ })).toString('base64url');
      const signed = `${head}.${Buffer.from(payload).toString('base64url')}`;
      return `${signed}.${raw(Buffer.from(signed)).toString('base64url')}`;
    },
    sign: async (bytes) => raw(bytes),
  };
}

export function nonce(): string {
  return randomBytes(16).toString('base64url');
}
export function hex64(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}

export const LEDGER = 'ledger-test0001';
export const HOME = 'inst-home';
export const AWAY = 'inst-away';
export const T0 = '2026-11-23T10:00:00.000Z';
export const CATEGORIES = ['history-and-physical', 'laboratory', 'radiation-dose'];

/** Institutions' and persons' keys of one test, made once: key generation is the dear part. */
export function cast() {
  return {
    home: newKey(),
    away: newKey(),
    third: newKey(),
    /** What the third turns to. */
    thirdNext: newKey(),
    patient: newKey(),
    clinician: newKey(),
    other: newKey(),
    category: newKey(),
    delegate: newKey(),
    recovery: newKey(),
  };
}
export type Cast = ReturnType<typeof cast>;

/** What the transactions of the tests are made of: one place for statements with sensible facts, to be varied. */
export function statements(keys: Cast, ledger: string) {
  const base = () => ({ ledger, nonce: nonce() });
  const of = (patient: string) => ({ institution: HOME, patient });
  const founder = (institution: string, key: TestKey) =>
    key.jws(
      TYP.init,
      build.initPayload({ ...base(), institution, msp: `${institution}-msp`, signing: key.jwk, encryption: keys.category.jwk }),
    );
  return {
    base,
    of,
    sign: (type: SignedTransaction, payload: string, by: TestKey) => by.jws(TYP[type], payload),
    init: (...founders: [string, TestKey][]) => [ledger, ...founders.map(([institution, key]) => founder(institution, key))],
    enroll: (patient: string, by = keys.home) => [
      by.jws(
        TYP.enrollPatient,
        build.enrollPatientPayload({
          ...base(),
          ...of(patient),
          keys: CATEGORIES.map((category) => ({ category, key: keys.category.jwk })),
        }),
      ),
    ],
    member: (
      member: string,
      facts: {
        role?: 'clinician' | 'carer' | 'privacy-officer' | 'registrar';
        key?: TestKey;
        institution?: string;
        validUntil?: string;
      } = {},
    ) => [
      build.registerMemberArgument({
        member,
        role: facts.role ?? 'clinician',
        validUntil: facts.validUntil ?? '2027-11-23T10:00:00.000Z',
        proof:
          facts.key === undefined
            ? null
            : facts.key.jws(
                TYP.registerMember,
                build.memberProofPayload({
                  ...base(),
                  institution: facts.institution ?? HOME,
                  member,
                  signing: facts.key.jwk,
                  encryption: keys.category.jwk,
                }),
              ),
      }),
    ],
    grantText: (
      patient: string,
      permissions: Parameters<typeof build.grantPayload>[0]['permissions'],
      facts: Partial<Parameters<typeof build.grantPayload>[0]> = {},
    ) =>
      build.grantPayload({
        ...base(),
        ...of(patient),
        consent: 'con-1',
        evidence: null,
        grantor: 'patient',
        notAfter: '2099-01-01T00:00:00.000Z',
        onBehalf: patient,
        permissions,
        ...facts,
      }),
    permission: (
      grantee: string,
      category: string,
      sequence: number,
      facts: Partial<Parameters<typeof build.clause>[0]> & { none?: boolean } = {},
    ) => {
      const { none, ...rest } = facts;
      return {
        category,
        clauses: none ? [] : [build.clause({ consent: 'con-1', rights: ['read'], ...rest })],
        envelope: null,
        grantee,
        sequence,
      };
    },
    revokeText: (
      patient: string,
      permissions: { grantee: string; category: string }[],
      facts: Partial<Parameters<typeof build.revokePayload>[0]> = {},
    ) => build.revokePayload({ ...base(), ...of(patient), consent: null, grantor: 'patient', onBehalf: patient, permissions, ...facts }),
    entry: (patient: string, document: string, facts: Partial<Parameters<typeof build.recordDocumentsArgument>[0][number]> = {}) => {
      const ciphertextHash = facts.ciphertextHash ?? hex64(`${patient}/${document}/${facts.version ?? 1}`);
      return {
        ...of(patient),
        category: 'laboratory',
        ciphertextHash,
        clinician: null,
        commitment: hex64(`commitment ${document}`),
        document,
        keyVersion: 1,
        permission: null,
        pointer: `${HOME}/${ciphertextHash}`,
        version: 1,
        ...facts,
      };
    },
  };
}

/** The contract on a state in memory, one transaction a block. */
export function createWorld(keys: Cast = cast()) {
  const state = new MemoryState();
  const say = statements(keys, LEDGER);
  let block = 0;
  let time = T0;
  return {
    keys,
    say,
    state,
    get block() {
      return block;
    },
    at(moment: string) {
      time = moment;
    },
    async run(name: string, args: readonly string[], institution = HOME): Promise<Record<string, unknown>> {
      const caller = { msp: `${institution}-msp`, institution };
      const done = await simulate(state, { name, args, caller, time });
      const overlay = new Overlay(state);
      overlay.apply(done.writes, [block++, 0]);
      state.apply(overlay);
      return JSON.parse(done.result) as Record<string, unknown>;
    },
    async query(name: string, ...args: string[]): Promise<unknown> {
      return JSON.parse(await runQuery(readHost(state), name, args)) as unknown;
    },
    /** Two institutions, a patient in custody at home, two clinicians away and one at home. */
    async found() {
      await this.run('init', say.init([HOME, keys.home], [AWAY, keys.away]));
      await this.run('enrollPatient', say.enroll('pat-1'));
      await this.run('registerMember', say.member('mem-1', { key: keys.clinician }));
      await this.run('registerMember', say.member('mem-2', { key: keys.other }));
      return this;
    },
    async grant(
      patient: string,
      permissions: Parameters<typeof say.grantText>[1],
      facts: Parameters<typeof say.grantText>[2] = {},
      by = keys.home,
    ) {
      return this.run('grantPermission', [say.sign('grantPermission', say.grantText(patient, permissions, facts), by)]);
    },
    async revoke(
      patient: string,
      permissions: { grantee: string; category: string }[],
      facts: Parameters<typeof say.revokeText>[2] = {},
      by = keys.home,
    ) {
      return this.run('revokePermission', [say.sign('revokePermission', say.revokeText(patient, permissions, facts), by)]);
    },
    async decide(
      facts: Partial<Parameters<typeof build.questionArgument>[0]> = {},
    ): Promise<{ decision: string; reason: string; dataPeriods: unknown[] }> {
      const argument = build.questionArgument({
        actorId: 'mem-1',
        actorInstitution: HOME,
        actorKind: 'member',
        at: time,
        category: 'laboratory',
        emergency: null,
        institution: HOME,
        patient: 'pat-1',
        purpose: 'TREAT',
        right: 'read',
        ...facts,
      });
      return (await this.query('decide', argument)) as { decision: string; reason: string; dataPeriods: unknown[] };
    },
  };
}
