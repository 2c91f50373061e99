import assert from 'node:assert/strict';
import { generateKeyPairSync, sign } from 'node:crypto';
import { after, before, test } from 'node:test';
import { codeOf } from '../../src/errors.ts';
import { createNpiCheck } from '../../src/membership/credentials.ts';
import { ensureInstitution } from '../../src/membership/institution.ts';
import { sql } from '../../src/store/sql.ts';
import type { PublicJwk } from '../../src/vault/custodian.ts';
import { jwkThumbprint } from '../../src/vault/thumbprint.ts';
import { createLedgerWorld, type LedgerWorld } from '../consent/ledger-world.ts';

let world: LedgerWorld;
before(async () => {
  world = await createLedgerWorld();
});
after(() => world.close());
const refusedWith = (code: string) => (error: unknown) => codeOf(error) === code;

test('the institution is founded once; another key store is refused', async () => {
  const { database, ledger, custodian, msp, projected } = world;
  const height = await ledger.height();
  await ensureInstitution({ database, ledger, custodian, msp, projected });
  assert.equal(await ledger.height(), height);
  const other = await createLedgerWorld();
  try {
    const stranger = { ...other.custodian, institution: world.institution };
    await assert.rejects(ensureInstitution({ database, ledger, custodian: stranger, msp, projected }), refusedWith('KEYS_BROKEN'));
  } finally {
    await other.close();
  }
});

test('a member is registered, found in the directory, suspended and renewed', async () => {
  const { membership, database, institution } = world;
  const { member } = await membership.registerMember({ name: ' Dr. Ana Ruiz ', role: 'clinician', npi: '1234567893' });
  assert.equal(await membership.activeRole(institution, member), 'clinician');
  const [listed] = await membership.list();
  assert.equal(listed?.member, member);
  assert.equal(listed?.name, 'Dr. Ana Ruiz');
  assert.equal(listed?.status, 'active');
  const signed = await membership.signAsMember(member, 'emergency+jws', '{}');
  assert.equal(signed && jwkThumbprint(signed.publicJwk), listed?.signingThumbprint);

  // The name stands in the directory, and nowhere on the ledger.
  const [entry] = await database.query<{ body: string; version: number }>(
    sql`select body, version from directory_resource where id = ${member}`,
  );
  assert.deepEqual((JSON.parse(entry?.body ?? '{}') as { name: object }).name, [{ text: 'Dr. Ana Ruiz' }]);
  const blocks = await database.query<{ body: string }>(sql`select body from embedded.block`);
  assert.ok(blocks.length > 1 && blocks.every(({ body }) => !body.includes('Ruiz') && !body.includes('1234567893')));
  const [key] = await database.query<{ private_key: Buffer }>(sql`select private_key from member_key where mem = ${member}`);
  assert.notEqual(key?.private_key[0], 0x30, 'the private key lies sealed');

  await membership.suspend(member);
  assert.equal(await membership.activeRole(institution, member), undefined);
  assert.equal((await membership.list())[0]?.status, 'suspended');
  const [after] = await database.query<{ body: string }>(sql`select body from directory_resource where id = ${member}`);
  assert.equal((JSON.parse(after?.body ?? '{}') as { active: boolean }).active, false);
  const until = new Date(Date.now() + 3_600_000);
  await membership.renew(member, until);
  assert.equal(await membership.activeRole(institution, member), 'clinician');
  assert.equal((await membership.list())[0]?.validUntil?.getTime(), until.getTime());
  await assert.rejects(membership.suspend('mem-aaaaaaaaaaaaaaaaaaaaaaaaaa'), refusedWith('NOT_FOUND'));
});

test('a member who keeps the key proves possession; a proof of another key registers nobody', async () => {
  const { membership, institution } = world;
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const publicJwk = publicKey.export({ format: 'jwk' }) as PublicJwk;
  const { member, typ, payload } = membership.proofPayload(publicJwk);
  const proofBy = (key: typeof privateKey): string => {
    const header = JSON.stringify({ alg: 'ES256', kid: jwkThumbprint(publicJwk), typ });
    const text = `${Buffer.from(header).toString('base64url')}.${Buffer.from(payload).toString('base64url')}`;
    return `${text}.${sign('sha256', Buffer.from(text), { key, dsaEncoding: 'ieee-p1363' }).toString('base64url')}`;
  };
  const stranger = generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey;
  const facts = { name: 'Dr. Ben Okafor', role: 'clinician' };
  await assert.rejects(
    membership.registerMember({ ...facts, ownKey: { member, publicJwk, proof: proofBy(stranger) } }),
    refusedWith('LEDGER_REFUSED'),
  );
  assert.equal(await membership.activeRole(institution, member), undefined);
  await membership.registerMember({ ...facts, ownKey: { member, publicJwk, proof: proofBy(privateKey) } });
  assert.equal(await membership.activeRole(institution, member), 'clinician');
  assert.equal(await membership.signAsMember(member, typ, payload), undefined);
});

test('what cannot be registered', async () => {
  const { membership } = world;
  for (const facts of [
    { name: 'x', role: 'surgeon' },
    { name: ' ', role: 'clinician' },
    { name: 'x', role: 'clinician', npi: '1234567890' },
  ]) {
    await assert.rejects(membership.registerMember(facts), refusedWith('UNPROCESSABLE'));
  }
});

test('NPI: ten digits with the Luhn check digit over 80840', async () => {
  const { check } = createNpiCheck();
  for (const number of ['1234567893', '1245319599', '1003000126']) assert.equal((await check(number)).status, 'well-formed', number);
  for (const number of ['1234567890', '123456789', '3234567891', '12345678931', '1254319599', 'x234567893']) {
    assert.equal((await check(number)).status, 'malformed', number);
  }
});
