import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { codeOf } from '../../src/errors.ts';
import { enrollPatientPayload, plainJwk, TYP } from '../../src/ledger/contract/payloads.ts';
import { verifyLedger } from '../../src/ledger/verify.ts';
import { cosignFile, makeJoinFile, submitFile } from '../../src/membership/cosigned-file.ts';
import { ensureInstitution } from '../../src/membership/institution.ts';
import {
  followInstitutionKeys,
  makeRotationFile,
  projectedInstitution,
  rotateInstitutionKeys,
} from '../../src/membership/institution-keys.ts';
import { awaitCommit } from '../../src/outbox/await-commit.ts';
import { signAgain } from '../../src/outbox/sign-again.ts';
import { sql } from '../../src/store/sql.ts';
import { jwkThumbprint } from '../../src/vault/thumbprint.ts';
import { CATEGORIES, createLedgerWorld, type LedgerWorld } from '../consent/ledger-world.ts';
import { claimPatient } from '../vault/claimed-patient.ts';

let world: LedgerWorld;
before(async () => {
  world = await createLedgerWorld();
});
after(() => world.close());
const refusedWith = (code: string) => (error: unknown) => codeOf(error) === code;
const state = async () => {
  const found = await projectedInstitution(world.database, world.institution);
  assert.ok(found);
  return found;
};
const follow = async (): Promise<void> => void (await followInstitutionKeys(world.custodian, await state()));
const rotate = () => rotateInstitutionKeys({ ...world, on: world.database, follow });

test('new keys are used once the ledger names them; what was sealed to the old ones opens, and the ledger verifies', async () => {
  const { custodian } = world;
  const before = await custodian.institutionKeys();
  const patient = await world.enrol();
  const device = await claimPatient(world, patient);
  const toOld = await device.envelope('laboratory', before.encryption);

  const rotated = await rotate();
  const now = await custodian.institutionKeys();
  assert.deepEqual([rotated.version, rotated.thumbprint], [2, jwkThumbprint(now.signing)]);
  assert.notEqual(jwkThumbprint(now.signing), jwkThumbprint(before.signing));
  assert.equal(jwkThumbprint((await state()).encryption), jwkThumbprint(now.encryption));
  const expect = { institution: world.institution, patient, category: 'laboratory' };
  for (const envelope of [toOld, await device.envelope('laboratory', now.encryption)])
    assert.equal((await custodian.openEnvelope(envelope, expect)).keys.length, 2);

  // Life goes on, by the new key: of the ledger's blocks too.
  const other = await world.enrol();
  await world.membership.registerMember({ name: 'Dr. Ana Ruiz', role: 'clinician' });
  assert.ok(await custodian.categoryKey(other, 'laboratory'));
  // A grant goes to the key that the ledger names: to the former one it is refused.
  const permission = { grantee: `organization:${world.institution}`, category: 'laboratory', sequence: 1 };
  await assert.rejects(device.grant({ ...permission, recipient: before.encryption }), /ENVELOPE_RECIPIENT/);
  await device.grant(permission);

  const report = await verifyLedger({ database: world.database, tipFile: world.tipFile });
  assert.deepEqual(report.problems, []);
  const [signers] = await world.database.query<{ count: number }>(
    sql`select count(distinct header::jsonb -> 'signer' ->> 'x') as count from embedded.block`,
  );
  assert.equal(signers?.count, 2);
});

test('killed between the commit and the use: the next start uses what the ledger names; an old copy of the key store signs nothing', async () => {
  const { database, ledger, ledgerId, custodian, msp } = world;
  const file = await makeRotationFile({ on: database, custodian, ledgerId });
  const payload = Buffer.from(file.signatures[0]?.split('.')[1] ?? '', 'base64url').toString();
  // Endorsed before, submitted after the change: it is endorsed anew, as after any conflict.
  const early = await ledger.endorse({ name: 'enrollPatient', args: await enrolment('pat-early') });
  const { block } = await submitFile(
    { ledger, ledgerId },
    { ...file, signatures: [...file.signatures, await custodian.signAsInstitution(TYP.rotateInstitutionKey, payload)] },
  );
  assert.ok(await world.projected(block, 5000));
  const stale = await custodian.institutionKeys();
  assert.notEqual(jwkThumbprint(stale.signing), jwkThumbprint((await state()).signing), 'the process has not heard of it');
  await assert.rejects(ledger.submit(early.bytes), refusedWith('LEDGER_CONFLICT'));

  // Signed by the former key and waiting: refused, and gone out again by the new one, with the same payload.
  const patient = `pat-${'w'.repeat(26)}`;
  const [jws] = await enrolment(patient);
  const id = await database.transaction((tx) =>
    world.outbox.add(tx, { transaction: 'enrollPatient', args: [jws ?? ''], patient: `${world.institution}/${patient}` }),
  );
  assert.deepEqual(await awaitCommit(world, id, 10_000), { state: 'rejected', code: 'JWS_KEY' });
  assert.equal(await signAgain({ ...world }), 0, 'the new keys are not in use yet');

  const again = { database, ledger, custodian, msp, projected: world.projected };
  await ensureInstitution(again);
  const now = await custodian.institutionKeys();
  assert.equal(jwkThumbprint(now.signing), jwkThumbprint((await state()).signing));
  await ensureInstitution(again);
  assert.deepEqual(await custodian.institutionKeys(), now);
  assert.equal(await signAgain({ ...world }), 1);
  assert.equal((await awaitCommit(world, id, 10_000)).state, 'committed');
  const [row] = await database.query<{ args: string[] }>(sql`select args from outbox where id = ${id}`);
  assert.deepEqual([row?.args[0]?.split('.')[1], row?.args[0] === jws], [jws?.split('.')[1], false]);
  // Nothing but what a former key has signed.
  assert.equal(await custodian.signAgain(row?.args[0] ?? ''), undefined);
  assert.equal(await custodian.signAgain(`${jws?.slice(0, -8)}AAAAAAAA`), undefined);
  assert.equal(await custodian.signAgain('no statement'), undefined);

  const lost = { ...custodian, institutionKeys: async () => stale, keptInstitutionKeys: async () => [stale] };
  await assert.rejects(ensureInstitution({ ...again, custodian: lost }), refusedWith('KEYS_BROKEN'));
  // A view of the ledger that lies behind takes nothing back.
  const behind = { ...(await state()), signing: plainJwk(stale.signing) as never, encryption: plainJwk(stale.encryption) };
  assert.equal(await followInstitutionKeys(custodian, behind), false);
  assert.deepEqual(await custodian.institutionKeys(), now);
});

test('where the current key is lost two other institutions sign, of whom each has the thumbprint from the institution itself', async () => {
  const { database, ledger, ledgerId, custodian } = world;
  const others = await Promise.all([createLedgerWorld(), createLedgerWorld()]);
  try {
    for (const [n, other] of others.entries()) {
      const join = await makeJoinFile({ custodian: other.custodian, ledgerId, msp: `Other${n}MSP` });
      let signed = await cosignFile({ custodian, ledgerId }, join, join.thumbprint);
      if (n === 1) signed = await cosignFile({ custodian: others[0].custodian, ledgerId }, signed, join.thumbprint);
      assert.ok(await world.projected((await submitFile({ ledger, ledgerId }, signed)).block, 5000));
    }
    const file = await makeRotationFile({ on: database, custodian, ledgerId });
    assert.deepEqual([file.version, file.signatures.length], [4, 1]);
    await assert.rejects(submitFile({ ledger, ledgerId }, file), /ARGUMENTS_WRONG/);
    await assert.rejects(cosignFile({ custodian: others[0].custodian, ledgerId }, file, 'A'.repeat(43)), /do not sign/);
    await assert.rejects(
      cosignFile({ custodian: others[0].custodian, ledgerId }, { ...file, version: 5 }, file.thumbprint),
      /not what was signed/,
    );
    const once = await cosignFile({ custodian: others[0].custodian, ledgerId }, file, file.thumbprint);
    await assert.rejects(submitFile({ ledger, ledgerId }, once), /SIGNERS_MISSING/);
    const twice = await cosignFile({ custodian: others[1].custodian, ledgerId }, once, file.thumbprint);
    const { block } = await submitFile({ ledger, ledgerId }, twice);
    assert.ok(await world.projected(block, 5000));
    await follow();
    assert.equal(jwkThumbprint((await custodian.institutionKeys()).signing), file.thumbprint);
    await world.enrol();
    assert.equal((await rotate()).version, 5);
    assert.deepEqual((await verifyLedger({ database, tipFile: world.tipFile })).problems, []);
  } finally {
    await Promise.all(others.map((other) => other.close()));
  }
});

/** Arguments of an enrolment as the pipeline signs it. */
async function enrolment(patient: string): Promise<string[]> {
  const { custodian, institution, ledgerId } = world;
  const keys = [...(await custodian.enrollPatient(patient, CATEGORIES)).values()];
  const payload = enrollPatientPayload({
    institution,
    patient,
    keys: keys.map(({ category, publicJwk }) => ({ category, key: plainJwk(publicJwk) })),
    ledger: ledgerId,
    nonce: `nonce-${patient}-0000`,
  });
  return [await custodian.signAsInstitution(TYP.enrollPatient, payload)];
}
