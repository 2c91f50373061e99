import assert from 'node:assert/strict';
import { generateKeyPairSync, type KeyObject, randomBytes, randomUUID } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import express from 'express';
import { importJWK, type JWK, SignJWT } from 'jose';
import request from 'supertest';
import type { Actor } from '../../src/auth/actor.ts';
import { ASSERTION_TYPE } from '../../src/auth/client-assertion.ts';
import { createIssuer } from '../../src/auth/issuer.ts';
import { createTokenRouter } from '../../src/auth/token-router.ts';
import { createTokenVerifier } from '../../src/auth/token-verifier.ts';
import { codeOf } from '../../src/errors.ts';
import { newId } from '../../src/ids.ts';
import { sql } from '../../src/store/sql.ts';
import { createFileCustodian } from '../../src/vault/file-custodian.ts';
import { createSealedRows } from '../../src/vault/sealed-rows-store.ts';
import { withTestDatabase } from '../store/test-database.ts';

const { database } = await withTestDatabase();
const directory = await mkdtemp(join(tmpdir(), 'oncobridge-auth-'));
const institution = newId('inst');
const custodian = await createFileCustodian({ directory, passphrase: 'Tallow-harbour 71 quince', institution });
const rows = createSealedRows({ custodian });
after(async () => {
  await custodian.close();
  await rm(directory, { recursive: true, force: true });
});

const issuerUrl = 'http://127.0.0.1:8480/auth';
const tokenUrl = `${issuerUrl}/token`;
const audience = 'http://127.0.0.1:8480/fhir';
const clinician = newId('mem');
const registrar = newId('mem');
const members = new Map([
  [clinician, 'clinician'],
  [registrar, 'registrar'],
]);
let clock = new Date();
const now = (): Date => clock;
const at = async <T>(secondsLater: number, work: () => Promise<T>): Promise<T> => {
  const before = clock;
  clock = new Date(before.getTime() + secondsLater * 1000);
  try {
    return await work();
  } finally {
    clock = before;
  }
};
const memberRole = (inst: string, member: string): Promise<string | undefined> =>
  Promise.resolve(inst === institution ? members.get(member) : undefined);
const parts = { database, rows, institution, issuerUrl, audience, memberRole, userTokenLifetimeMs: 3_600_000, now };
const issuer = await createIssuer(parts);
const verifier = createTokenVerifier({ issuerUrl, audience, institution, keyOf: issuer.keys.find, now });
const app = express().use('/auth', createTokenRouter({ issuer }));

interface Signer {
  client: string;
  kid: string;
  key: Awaited<ReturnType<typeof importJWK>> | KeyObject;
  alg?: string;
}
async function register(over: Partial<Parameters<typeof issuer.clients.add>[0]> = {}): Promise<Signer> {
  const added = await issuer.clients.add({ name: 'a test system', scopes: ['system/*.rs'], ...over });
  assert.ok(added.privateJwk);
  return { client: added.client, kid: added.kid, key: await importJWK(added.privateJwk, 'ES384') };
}
async function assertion(signer: Signer, over: Record<string, unknown> = {}, header: Record<string, unknown> = {}): Promise<string> {
  const seconds = Math.floor(clock.getTime() / 1000);
  const claims = { iss: signer.client, sub: signer.client, aud: tokenUrl, exp: seconds + 240, iat: seconds, jti: randomUUID(), ...over };
  return new SignJWT(Object.fromEntries(Object.entries(claims).filter(([, value]) => value !== undefined)))
    .setProtectedHeader({ alg: signer.alg ?? 'ES384', kid: signer.kid, ...header } as { alg: string })
    .sign(signer.key);
}
const form = (client_assertion: string, over: Record<string, string> = {}): Record<string, string> => ({
  grant_type: 'client_credentials',
  client_assertion_type: ASSERTION_TYPE,
  client_assertion,
  scope: 'system/Observation.rs',
  ...over,
});
async function tokenFor(signer: Signer, over: Record<string, unknown> = {}, params: Record<string, string> = {}): Promise<string> {
  const answer = await issuer.token(form(await assertion(signer, over), params));
  assert.equal(answer.status, 200, JSON.stringify(answer.body));
  assert.ok('access_token' in answer.body);
  return answer.body.access_token;
}
const verify = (token: string): Promise<Actor> => verifier.verify(`Bearer ${token}`);
const unauthenticated = (error: unknown): boolean => codeOf(error) === 'UNAUTHENTICATED';

test('a system gets a token over HTTP and is known by it', async () => {
  const signer = await register();
  const response = await request(app)
    .post('/auth/token')
    .type('form')
    .send(form(await assertion(signer), { scope: 'system/Observation.read system/Patient.cruds user/*.rs' }));
  assert.equal(response.status, 200);
  assert.equal(response.headers['cache-control'], 'no-store');
  const body = response.body as { access_token: string; token_type: string; expires_in: number; scope: string };
  assert.deepEqual([body.token_type, body.expires_in, body.scope], ['Bearer', 300, 'system/Observation.rs system/Patient.rs']);
  const actor = await verify(body.access_token);
  const { tokenId, ...rest } = actor;
  assert.deepEqual(rest, {
    kind: 'system',
    institution,
    client: signer.client,
    scopes: ['system/Observation.rs', 'system/Patient.rs'],
    purpose: 'TREAT',
  });
  assert.match(tokenId, /^req-/);

  const jwks = await request(app).get('/auth/jwks');
  const keys = (jwks.body as { keys: JWK[] }).keys;
  assert.deepEqual(
    keys.map((key) => [key.kty, key.crv, key.alg, key.d]),
    [['EC', 'P-384', 'ES384', undefined]],
  );
  for (const [type, sent] of [
    ['form', ''],
    ['json', '{"grant_type":"client_credentials"}'],
    ['form', 'grant_type=password'],
    ['form', 'grant_type=client_credentials&grant_type=client_credentials'],
  ] as const) {
    const refused = await request(app).post('/auth/token').type(type).send(sent);
    assert.equal(refused.status, 400, sent);
    assert.ok((refused.body as { error: string }).error.length > 0);
  }
});

test('an RS384 key that the client brings works; private, small and other keys are refused', async () => {
  const rsa = generateKeyPairSync('rsa', { modulusLength: 2048 });
  const added = await issuer.clients.add({
    name: 'rsa',
    jwk: { ...(rsa.publicKey.export({ format: 'jwk' }) as JWK), kid: 'mine' },
    scopes: ['system/Patient.r'],
  });
  assert.equal(added.kid, 'mine');
  assert.equal(added.privateJwk, undefined);
  const signer = { client: added.client, kid: 'mine', key: rsa.privateKey, alg: 'RS384' };
  assert.equal((await verify(await tokenFor(signer, {}, { scope: 'system/Patient.r' }))).client, added.client);
  const jwk = (key: KeyObject): JWK => key.export({ format: 'jwk' }) as JWK;
  for (const bad of [
    jwk(rsa.privateKey),
    jwk(generateKeyPairSync('rsa', { modulusLength: 1024 }).publicKey),
    jwk(generateKeyPairSync('ec', { namedCurve: 'P-256' }).publicKey),
    jwk(generateKeyPairSync('ed25519').publicKey),
    { kty: 'oct', k: 'c2VjcmV0' },
    { kty: 'EC', crv: 'P-384', x: 'AA', y: 'AA' },
  ]) {
    await assert.rejects(
      issuer.clients.add({ name: 'bad', jwk: bad, scopes: ['system/*.r'] }),
      (error) => codeOf(error) === 'UNPROCESSABLE',
      bad.kty,
    );
  }
});

test('registration refuses roles, scopes and purposes that are not known', async () => {
  const ok = { name: 'x', scopes: ['system/*.rs'] };
  const refused = (error: unknown): boolean => codeOf(error) === 'UNPROCESSABLE';
  for (const bad of [
    { ...ok, actsForRoles: ['wizard'] },
    { ...ok, scopes: ['everything'] },
    { ...ok, scopes: [] },
    { ...ok, purposes: ['FUN'] },
    { ...ok, purposes: [] },
    { ...ok, name: ' ' },
  ]) {
    await assert.rejects(issuer.clients.add(bad), refused, JSON.stringify(bad));
  }
});

test('an assertion is refused for every single thing wrong with it, and all refusals look alike', async () => {
  const signer = await register();
  const stranger = { ...signer, key: generateKeyPairSync('ec', { namedCurve: 'P-384' }).privateKey };
  const seconds = Math.floor(clock.getTime() / 1000);
  const used = await assertion(signer);
  assert.equal((await issuer.token(form(used))).status, 200);
  const good = await assertion(signer);
  const [head, body, tail] = good.split('.');
  const none = `${Buffer.from(JSON.stringify({ alg: 'none', kid: signer.kid })).toString('base64url')}.${body}.`;
  const hmac = await new SignJWT({ iss: signer.client, sub: signer.client, aud: tokenUrl, exp: seconds + 60, jti: 'h' })
    .setProtectedHeader({ alg: 'HS384', kid: signer.kid })
    .sign(randomBytes(48));
  const other = await register();
  const refused: Record<string, string> = {
    replayed: used,
    'signed by another key': await assertion(stranger),
    'another kid': await assertion(signer, {}, { kid: other.kid }),
    'no kid': await assertion({ ...signer, kid: undefined as unknown as string }),
    expired: await assertion(signer, { exp: seconds - 10 }),
    'too far ahead': await assertion(signer, { exp: seconds + 600 }),
    'no exp': await assertion(signer, { exp: undefined }),
    'no jti': await assertion(signer, { jti: undefined }),
    'empty jti': await assertion(signer, { jti: '' }),
    'for another audience': await assertion(signer, { aud: 'https://elsewhere.example/token' }),
    'for the FHIR base': await assertion(signer, { aud: audience }),
    'iss is not sub': await assertion(signer, { sub: other.client }),
    'another client': await assertion(signer, { iss: other.client, sub: other.client }),
    'unknown client': await assertion(signer, { iss: newId('cli'), sub: newId('cli') }),
    'not yet valid': await assertion(signer, { nbf: seconds + 120 }),
    'alg none': none,
    'alg HS384': hmac,
    cut: `${head}.${body}`,
    altered: `${head}.${body}.${tail?.startsWith('A') ? 'B' : 'A'}${tail?.slice(1)}`,
    'no JWT': 'x',
    empty: '',
  };
  const answers = new Set<string>();
  for (const [why, text] of Object.entries(refused)) {
    const answer = await issuer.token(form(text));
    assert.equal(answer.status, 401, why);
    answers.add(JSON.stringify(answer.body));
  }
  assert.equal(answers.size, 1);
  assert.equal((await issuer.token(form(good))).status, 200, 'the good one works, for a refused copy of it used nothing up');
  const race = await assertion(signer);
  const both = await Promise.all([issuer.token(form(race)), issuer.token(form(race))]);
  assert.deepEqual(
    both.map((one) => one.status).toSorted((a, b) => a - b),
    [200, 401],
  );
  const scope = await issuer.token(form(await assertion(signer), { scope: 'system/*.cud' }));
  assert.deepEqual([scope.status, 'error' in scope.body && scope.body.error], [400, 'invalid_scope']);

  assert.equal(await issuer.clients.disable(signer.client), true);
  assert.equal((await issuer.token(form(await assertion(signer)))).status, 401);
  assert.equal(await issuer.clients.disable(newId('cli')), false);
});

test('used assertions outlive a restart and are forgotten when they have expired', async () => {
  const signer = await register();
  const used = await assertion(signer);
  assert.equal((await issuer.token(form(used))).status, 200);
  const restarted = await createIssuer(parts);
  assert.equal((await restarted.token(form(used))).status, 401);
  await at(400, async () => {
    assert.equal((await restarted.token(form(await assertion(signer)))).status, 200);
  });
  const left = await database.query<{ n: number }>(sql`select count(*) as n from auth_assertion where client = ${signer.client}`);
  assert.equal(left[0]?.n, 1);
});

test('a system acts for a named member only as far as its registration allows; audit can name both', async () => {
  const signer = await register({ actsForRoles: ['clinician'], purposes: ['TREAT', 'HPAYMT'] });
  const b2b = (over: Record<string, unknown>): Record<string, unknown> => ({ extensions: { 'hl7-b2b': { version: '1', ...over } } });
  const actor = await verify(
    await tokenFor(signer, b2b({ subject_id: clinician, purpose_of_use: ['urn:oid:2.16.840.1.113883.5.8#HPAYMT'] })),
  );
  assert.ok(actor.kind === 'member');
  assert.deepEqual(
    [actor.member, actor.system, actor.client, actor.role, actor.purpose],
    [clinician, signer.client, signer.client, 'clinician', 'HPAYMT'],
  );
  const plain = await register();
  for (const [who, claims] of [
    [signer, b2b({ subject_id: registrar })],
    [signer, b2b({ subject_id: newId('mem') })],
    [signer, b2b({ subject_id: 7 })],
    [signer, b2b({ purpose_of_use: ['BTG'] })],
    [signer, b2b({ purpose_of_use: ['FUN'] })],
    [plain, b2b({ subject_id: clinician })],
  ] as const) {
    const answer = await issuer.token(form(await assertion(who, claims)));
    assert.deepEqual([answer.status, 'error' in answer.body && answer.body.error], [400, 'invalid_grant']);
  }
});

test('user tokens: patient, member, emergency; unknown ones are refused', async () => {
  const patient = newId('pat');
  const asPatient = await issuer.issueUserToken({ as: { kind: 'patient', patient } });
  assert.equal(asPatient.expiresInSeconds, 3600);
  const one = await verify(asPatient.accessToken);
  assert.ok(one.kind === 'patient');
  assert.deepEqual([one.patient, one.purpose, one.scopes], [patient, 'PATRQT', ['patient/*.rs', 'patient/Consent.cu']]);
  const asMember = await issuer.issueUserToken({
    as: { kind: 'member', member: clinician },
    purpose: 'BTG',
    scopes: ['user/Observation.read'],
  });
  assert.equal(asMember.expiresInSeconds, 300, 'an emergency token is short');
  const two = await verify(asMember.accessToken);
  assert.ok(two.kind === 'member');
  assert.deepEqual(
    [two.member, two.role, two.purpose, two.scopes, two.system],
    [clinician, 'clinician', 'BTG', ['user/Observation.rs'], undefined],
  );
  await assert.rejects(issuer.issueUserToken({ as: { kind: 'member', member: newId('mem') } }), (error) => codeOf(error) === 'NOT_FOUND');
  for (const bad of [{ purpose: 'FUN' }, { scopes: ['root'] }]) {
    await assert.rejects(issuer.issueUserToken({ as: { kind: 'patient', patient }, ...bad }), (error) => codeOf(error) === 'UNPROCESSABLE');
  }
});

test('a token is refused where it is absent, malformed, expired, forged or for somebody else', async () => {
  const { accessToken } = await issuer.issueUserToken({ as: { kind: 'member', member: clinician }, lifetimeSeconds: 60 });
  const [head, body, tail] = accessToken.split('.');
  const edited = JSON.parse(Buffer.from(body ?? '', 'base64url').toString()) as Record<string, unknown>;
  const claims = (over: Record<string, unknown>): string => Buffer.from(JSON.stringify({ ...edited, ...over })).toString('base64url');
  for (const header of [
    undefined,
    '',
    'Bearer',
    'Bearer x',
    `Basic ${accessToken}`,
    accessToken,
    `Bearer ${accessToken} `,
    `Bearer ${'a'.repeat(9000)}.b.c`,
  ]) {
    await assert.rejects(verifier.verify(header), unauthenticated, header ?? 'absent');
  }
  const forged = [
    `${head}.${claims({ sub: registrar })}.${tail}`,
    `${head}.${claims({ exp: 4_000_000_000 })}.${tail}`,
    `${Buffer.from('{"alg":"none"}').toString('base64url')}.${body}.`,
    `${head}.${body}.${tail?.startsWith('A') ? 'B' : 'A'}${tail?.slice(1)}`,
  ];
  for (const token of forged) await assert.rejects(verify(token), unauthenticated);
  const signer = await register();
  await assert.rejects(
    verify(await assertion(signer, { aud: audience, iss: issuerUrl, client_id: 'x', scope: 'x' })),
    unauthenticated,
    'a client’s own signature',
  );
  for (const other of [{ audience: 'http://other/fhir' }, { issuerUrl: 'http://other/auth' }, { institution: newId('inst') }]) {
    const elsewhere = await createIssuer({ ...parts, ...other, memberRole: () => Promise.resolve('clinician') });
    const foreign = await elsewhere.issueUserToken({ as: { kind: 'member', member: clinician } });
    await assert.rejects(verify(foreign.accessToken), unauthenticated, Object.keys(other).join());
  }
  // The first time and from memory alike.
  assert.equal((await verify(accessToken)).kind, 'member');
  assert.equal(await verify(accessToken), await verify(accessToken), 'a verified signature is remembered');
  await at(61, () => assert.rejects(verify(accessToken), unauthenticated, 'expired, though remembered'));
  await at(61, () =>
    assert.rejects(
      createTokenVerifier({ issuerUrl, audience, institution, keyOf: issuer.keys.find, now }).verify(`Bearer ${accessToken}`),
      unauthenticated,
    ),
  );
});

test('signing keys are shared, sealed at rest and rotate', async () => {
  const [a, b] = await Promise.all([createIssuer(parts), createIssuer(parts)]);
  assert.deepEqual(a.keys.jwks(), b.keys.jwks());
  const [stored] = await database.query<{ private_key: Buffer }>(sql`select private_key from auth_key`);
  assert.equal(stored?.private_key[0], 3, 'a sealed row');
  const old = await a.issueUserToken({ as: { kind: 'member', member: clinician } });
  await a.rotateKey();
  assert.equal(a.keys.jwks().keys.length, 2);
  const fresh = await a.issueUserToken({ as: { kind: 'member', member: clinician } });
  const of = createTokenVerifier({ issuerUrl, audience, institution, keyOf: a.keys.find, now });
  assert.notEqual((await of.verify(`Bearer ${fresh.accessToken}`)).tokenId, (await of.verify(`Bearer ${old.accessToken}`)).tokenId);
  await database.query(sql`update auth_key set created_at = created_at - interval '30 days'`);
  await a.rotateKey();
  await a.rotateKey();
  assert.ok(a.keys.jwks().keys.length <= 3, 'retired keys go');
});

test('smart-configuration says what there is', () => {
  const facts = issuer.smartConfiguration();
  assert.equal(facts['token_endpoint'], tokenUrl);
  assert.equal(facts['jwks_uri'], `${issuerUrl}/jwks`);
  assert.deepEqual(facts['token_endpoint_auth_signing_alg_values_supported'], ['RS384', 'ES384']);
  assert.ok((facts['capabilities'] as string[]).includes('client-confidential-asymmetric'));
});
