import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { compactDecrypt } from 'jose';
import type { StepName } from '../../simulator/stories/steps.ts';
import { codeOf } from '../../src/errors.ts';
import { openAlarms } from '../../src/ledger/projection-alarms.ts';
import { createCategoryKeys } from '../../src/pipeline/category-keys.ts';
import { documentVersion } from '../../src/store/documents.ts';
import { sql } from '../../src/store/sql.ts';
import { readHeader } from '../../src/vault/sealed-object-format.ts';
import { newKey } from '../ledger/world.ts';
import { withTestDatabase } from '../store/test-database.ts';
import { type ClaimedPatient, claimPatient } from '../vault/claimed-patient.ts';
import { createPipelineWorld, type PipelineWorld, settled } from './world.ts';

const DOSE = 'radiation-dose';
const NOTE = 'history-and-physical';

let world: PipelineWorld;
before(async () => {
  world = await createPipelineWorld({ databaseUrl: (await withTestDatabase()).url });
  await world.pull();
});
after(() => world.close());

async function pullWithoutWaiting(): Promise<void> {
  for (const configured of world.core.sources)
    for (const stream of configured.source.streams)
      await world.core.pull.pullStream(configured, stream, new AbortController().signal, () => {});
  await world.core.assembler.drain();
}
type Filed = { document: string; version: number; pat: string; category: string; key_version: number; pointer: string };
const filed = (): Promise<Filed[]> =>
  world.core.database.query<Filed>(
    sql`select document, version, pat, category, key_version, pointer from document_version order by document, version`,
  );
const held = async (reason: string): Promise<number> =>
  (await world.core.database.query(sql`select 1 from record where outcome = 'quarantine' and reason = ${reason} and current`)).length;
/** Versions that a step and the pull after it made. */
async function versionsAfter(steps: readonly StepName[], pull: () => Promise<unknown> = world.pull): Promise<Filed[]> {
  const before = new Set((await filed()).map((one) => `${one.document}/${one.version}`));
  for (const step of steps) world.simulator.control.step(step);
  await pull();
  return (await filed()).filter((one) => !before.has(`${one.document}/${one.version}`));
}

/** The institution opens what it produced with its own key, the device with the category key that the object names. */
async function readable(one: Filed, device: ClaimedPatient | undefined): Promise<void> {
  const { core } = world;
  const row = await documentVersion(core.database, one.document, one.version);
  assert.ok(row);
  const bytes = Buffer.from(await core.blobs.get(row.pointer));
  const opened = await core.sealer.open(bytes, {
    document: row.document,
    version: row.version,
    patient: row.pat,
    category: row.category,
    ciphertextHash: row.ciphertext_hash,
    commitment: row.commitment,
  });
  assert.equal(Buffer.from(opened.pdf.subarray(0, 5)).toString(), '%PDF-');
  if (device === undefined) return;
  const { wrap } = readHeader(bytes).header;
  assert.equal(wrap.categoryKeyVersion, row.key_version);
  const key = device.keys.get(`${row.category}/${row.key_version}`);
  assert.ok(key, `the device has version ${row.key_version} of ${row.category}`);
  assert.equal((await compactDecrypt(wrap.toCategory, key)).plaintext.length, 32);
}

test('in custody nothing is sealed to a key of the ledger that is not the key store’s: held with a reason, alarmed, filed after a replay', async () => {
  const { core } = world;
  const foreign = JSON.stringify(newKey().jwk);
  await core.database.query(sql`create table spared as select * from projection.category_key`);
  await core.database.query(sql`update projection.category_key set public_jwk = ${foreign}::jsonb where category = ${NOTE}`);
  assert.deepEqual(await versionsAfter(['note-amended']), []);
  assert.ok((await held('CATEGORY_KEY_DIFFERS')) > 0);
  assert.equal((await openAlarms(core.database)).find(({ kind }) => kind === 'category-key')?.count, 1);
  await core.database.query(sql`update projection.category_key k set public_jwk = s.public_jwk from spared s
    where (k.inst, k.pat, k.category, k.version) = (s.inst, s.pat, s.category, s.version)`);
  await core.replay.replay({ reason: 'CATEGORY_KEY_DIFFERS' });
  await core.assembler.drain();
  await settled(core);
  assert.equal(await held('CATEGORY_KEY_DIFFERS'), 0);
  assert.equal((await filed()).filter((one) => one.category === NOTE && one.version === 2).length, 1);
  await core.database.query(sql`update ledger_alarm set cleared_at = now() where kind = 'category-key'`);
});

test('after the claim it is sealed to the device’s keys; a version that the device publishes has what is under way sealed again; withdrawal works', async () => {
  const { core } = world;
  const devices = new Map<string, ClaimedPatient>();
  for (const { pat } of await core.database.query<{ pat: string }>(sql`select pat from patient`))
    devices.set(pat, await claimPatient(core, pat));
  const deviceOf = (one: Filed): ClaimedPatient => {
    const device = devices.get(one.pat);
    assert.ok(device);
    return device;
  };
  const before = await filed();
  assert.ok(before.length > 10);
  for (const one of before) await readable(one, deviceOf(one));

  const corrected = await versionsAfter(['lab-corrected', 'note-addendum']);
  assert.deepEqual(corrected.map((one) => one.category).sort(), [NOTE, 'laboratory']);
  for (const one of corrected) {
    assert.equal(one.key_version, 2);
    await readable(one, deviceOf(one));
    await assert.rejects(core.custodian.rotateCategoryKey(one.pat, one.category), (error) => codeOf(error) === 'CUSTODY_REFUSED');
  }

  // Sealed under version 2 and not entered yet, while the device publishes version 3.
  core.relay.pause();
  const underWay = await versionsAfter(['course-completed'], pullWithoutWaiting);
  assert.deepEqual(
    underWay.map((one) => [one.category, one.key_version]),
    [[DOSE, 2]],
  );
  for (const one of underWay) await deviceOf(one).publish(DOSE);
  core.relay.resume();
  const keyVersions = async (): Promise<number[]> =>
    (await filed())
      .filter((one) => underWay.some((was) => was.document === one.document && was.version === one.version))
      .map((one) => one.key_version);
  for (const until = Date.now() + 20_000; Date.now() < until && (await keyVersions()).some((version) => version !== 3); ) {
    await settled(core);
    await core.assembler.drain();
  }
  await settled(core);
  const [stale] = await core.database.query<{ count: number }>(
    sql`select count(*) as count from outbox where error_code = 'KEY_VERSION_STALE'`,
  );
  assert.equal(stale?.count, 1, 'nothing was refused: the test proves nothing');
  for (const one of underWay) {
    const now = (await filed()).find((row) => row.document === one.document && row.version === one.version);
    assert.ok(now);
    assert.equal(now.key_version, 3);
    await readable(now, deviceOf(now));
  }

  // While the view is being rebuilt the claim is not there yet: that is passing, and holds no record.
  const patients = await core.database.query<{ pat: string }>(sql`select pat from projection.patient`);
  const someone = patients[0]?.pat ?? '';
  const keysOf = createCategoryKeys({ database: core.database, custodian: core.custodian, onDiffers: () => assert.fail('no alarm') });
  await core.database.query(sql`update projection.patient set custody = true where pat = ${someone}`);
  await assert.rejects(keysOf.sealingKey(someone, NOTE), (error) => codeOf(error) === 'UNAVAILABLE');
  await core.database.query(sql`update projection.patient set inst = 'inst-none' where pat = ${someone}`);
  await assert.rejects(keysOf.sealingKey(someone, NOTE), (error) => codeOf(error) === 'UNAVAILABLE');
  await core.database.query(sql`update projection.patient set inst = ${core.institution}, custody = false where pat = ${someone}`);
  assert.equal((await keysOf.sealingKey(someone, NOTE)).version, 2);
  await assert.rejects(keysOf.sealingKey('pat-none', NOTE), (error) => codeOf(error) === 'KEY_MISSING');

  // Withdrawn: to a key of the institution alone, without any custody key.
  await versionsAfter(['course-entered-in-error']);
  const withdrawn = (await filed()).filter((one) => one.key_version === 0);
  assert.equal(new Set(withdrawn.map((one) => one.document)).size, 1);
  for (const one of withdrawn) await readable(one, undefined);
  const report = await core.reconcile.reconcile();
  assert.deepEqual([report.differences, report.underway], [[], 0]);

  // A category without a published key: records wait, visibly, and go on by themselves.
  await core.database.query(sql`delete from projection.category_key where category = 'laboratory'`);
  assert.deepEqual(await versionsAfter(['new-lab', 'lab-finalized']), []);
  assert.ok((await held('CATEGORY_KEY_UNPUBLISHED')) > 0);
  const waiting = await core.database.query<{ pat: string }>(
    sql`select distinct pat from record where outcome = 'quarantine' and reason = 'CATEGORY_KEY_UNPUBLISHED'`,
  );
  await core.assembler.drain();
  assert.ok((await held('CATEGORY_KEY_UNPUBLISHED')) > 0);
  const known = new Set((await filed()).map((one) => `${one.document}/${one.version}`));
  for (const { pat } of waiting) await devices.get(pat)?.publish('laboratory');
  for (const until = Date.now() + 10_000; Date.now() < until && (await held('CATEGORY_KEY_UNPUBLISHED')) > 0; )
    await new Promise((resolve) => setTimeout(resolve, 20));
  await core.assembler.drain();
  await settled(core);
  assert.equal(await held('CATEGORY_KEY_UNPUBLISHED'), 0);
  const taken = (await filed()).filter((one) => !known.has(`${one.document}/${one.version}`));
  assert.ok(taken.length > 0);
  for (const one of taken) {
    assert.deepEqual([one.category, one.key_version], ['laboratory', 3]);
    await readable(one, deviceOf(one));
  }
});
