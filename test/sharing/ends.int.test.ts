import assert from 'node:assert/strict';
import { after, afterEach, before, test } from 'node:test';
import { CodedError } from '../../src/errors.ts';
import { sql } from '../../src/store/sql.ts';
import { holderName } from '../../src/vault/holder.ts';
import { createWorld, type World } from './world.ts';

let w: World;
before(async () => {
  w = await createWorld();
});
after(() => w.close());
afterEach(() => {
  w.clock.at = undefined;
});

const holderOf = (patient: string) => holderName(w.b.institution, { institution: w.a.institution, patient });
const keyOf = (patient: string, category: string): Promise<string> =>
  w.b.custodian.rowKey(holderOf(patient), category, 'open').then(
    () => 'kept',
    (error: { code?: string; message: string }) => error.code ?? error.message,
  );
/** What is left of a patient of theirs. */
async function left(patient: string, categories: readonly string[] = ['laboratory', 'radiation-dose']) {
  const keys: Record<string, string> = {};
  for (const category of [...categories, 'core']) keys[category] = await keyOf(patient, category);
  const ends = await w.database.query<{ category: string; done: boolean }>(
    sql`select category, deleted_at is not null as done from sharing_end where pat = ${patient} order by category`,
  );
  return {
    rows: await w.count('resource', patient),
    categories: await w.count('shared_category', patient),
    sharedKeys: await w.count('shared_key', patient),
    keys,
    ends: ends.map(({ category, done }) => `${category} ${done ? 'done' : 'open'}`),
  };
}
const GONE = { rows: 0, categories: 0, sharedKeys: 0 };
const NO_KEYS = { laboratory: 'KEY_MISSING', 'radiation-dose': 'KEY_MISSING', core: 'KEY_MISSING' };

/** Both categories held. */
async function both(): Promise<string> {
  const own = await w.ownPatient();
  const patient = await w.enroll();
  await w.file(patient);
  await w.file(patient, { category: 'radiation-dose' });
  await w.grant(patient, { categories: ['laboratory', 'radiation-dose'], link: await w.code(own) });
  await w.pass();
  assert.equal(await w.count('shared_version', patient), 2);
  return patient;
}

test('two categories revoked in one act: name, birth date and the key of the core go with them', async () => {
  const patient = await both();
  await w.revoke(patient, { categories: ['laboratory', 'radiation-dose'] });
  await w.pass();
  assert.deepEqual(await left(patient), { ...GONE, keys: NO_KEYS, ends: ['laboratory done', 'radiation-dose done'] });
});

test('erased, alarmed and rejected with two categories: the same', async () => {
  const erased = await both();
  const alarmed = await both();
  const rejected = await both();
  await w.erase(erased);
  await w.database.query(sql`update projection.patient set status = 'alarmed' where pat = ${alarmed}`);
  await w.database.query(sql`update patient_link set state = 'rejected' where pat = ${rejected}`);
  await w.pass();
  const ends = ['laboratory done', 'radiation-dose done'];
  assert.deepEqual(await left(erased), { ...GONE, keys: NO_KEYS, ends });
  assert.deepEqual(await left(alarmed), { ...GONE, keys: NO_KEYS, ends });
  const { categories: _waiting, ...rest } = await left(rejected);
  assert.deepEqual(rest, { rows: 0, sharedKeys: 0, keys: NO_KEYS, ends });
});

test('one held, one that waits for its envelope: rejected or revoked, no name stays for the one that waits', async () => {
  const { patient } = await w.granted();
  await w.pass();
  const envelope = await w.envelope(w.a, patient, 'radiation-dose');
  await w.store.delete(envelope.path);
  await w.grant(patient, { categories: ['radiation-dose'], envelope });
  await w.pass();
  assert.equal(await w.count('shared_category', patient), 2);
  await w.revoke(patient);
  await w.pass();
  assert.deepEqual(await left(patient), { rows: 0, categories: 1, sharedKeys: 0, keys: NO_KEYS, ends: ['laboratory done'] });
});

test('a category granted while another end still waits for its copies keeps its keys, and the name', async () => {
  const { patient } = await w.granted();
  await w.pass();
  await w.revoke(patient);
  // The copies cannot be deleted: the end stays open.
  const blobs = {
    ...w.store,
    delete: async (name: string) => {
      if (name.includes('/copies/')) throw new CodedError('UNAVAILABLE');
      return w.store.delete(name);
    },
  };
  await w.pass({ blobs });
  assert.deepEqual((await left(patient)).ends, ['laboratory open']);
  await w.file(patient, { category: 'radiation-dose' });
  await w.grant(patient, { categories: ['radiation-dose'] });
  await w.pass({ blobs });
  assert.equal(await w.count('shared_version', patient), 1);
  w.clock.at = new Date(Date.now() + 600_000);
  await w.pass();
  assert.deepEqual(await left(patient), {
    rows: 7,
    categories: 1,
    sharedKeys: 1,
    keys: { laboratory: 'KEY_MISSING', 'radiation-dose': 'kept', core: 'kept' },
    ends: ['laboratory done'],
  });
  // What comes later opens too.
  await w.file(patient, { category: 'radiation-dose' });
  await w.pass();
  assert.equal(await w.count('shared_version', patient), 2);
  await w.revoke(patient, { categories: ['radiation-dose'] });
  await w.pass();
  assert.deepEqual(await left(patient), { ...GONE, keys: NO_KEYS, ends: ['laboratory done', 'radiation-dose done'] });
});
