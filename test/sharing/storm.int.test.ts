import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { CodedError, codeOf } from '../../src/errors.ts';
import { keyPlace } from '../../src/sharing/parts.ts';
import { resourcePlace } from '../../src/store/resources.ts';
import { sql } from '../../src/store/sql.ts';
import { holderName } from '../../src/vault/holder.ts';
import { CATEGORIES, createWorld, type World } from './world.ts';

let w: World;
before(async () => {
  w = await createWorld({ parts: { retry: { firstMs: 5, mostMs: 20, maxAttempts: 3, slowMs: 50 } } });
});
after(() => w.close());

interface Shared {
  patient: string;
  documents: { document: string; category: string; version: number; withdrawn: boolean }[];
  /** Newest version of the permission of each category, and whether it stands. */
  sequence: Map<string, number>;
  granted: Set<string>;
}

const SEED = Number(process.env['SEED'] ?? 20261124);
/** Numbers below n, the same for a seed; what falls together in time is not. */
function numbers(seed: number): (n: number) => number {
  let state = seed >>> 0;
  return (n) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * n);
  };
}

test(`filed, corrected, withdrawn, granted and revoked in any order, two workers, a store and a database that fail (SEED=${SEED}): in the end what is held is what is granted`, async () => {
  const below = numbers(SEED);
  const patients: Shared[] = [];
  for (let i = 0; i < 3; i++) {
    const patient = await w.enroll();
    await w.grant(patient, { link: await w.code(await w.ownPatient()) });
    patients.push({ patient, documents: [], sequence: new Map([['laboratory', 1]]), granted: new Set(['laboratory']) });
  }
  await w.pass();
  // Before or after it was done, one of ten times.
  const faulty = async <T>(work: () => Promise<T>): Promise<T> => {
    const fault = Math.random();
    if (fault < 0.05) throw new CodedError('UNAVAILABLE');
    await new Promise((done) => setTimeout(done, Math.random() * 4));
    const done = await work();
    if (fault < 0.1) throw new CodedError('UNAVAILABLE');
    return done;
  };
  const { store, database } = w;
  const over = {
    blobs: {
      ...store,
      get: (name: string) => faulty(() => store.get(name)),
      head: (name: string) => faulty(() => store.head(name)),
      put: (name: string, bytes: Uint8Array) => faulty(() => store.put(name, bytes)),
      delete: (name: string) => faulty(() => store.delete(name)),
    },
    database: {
      ...database,
      transaction: (work: Parameters<typeof database.transaction>[0], mode?: 'repeatable read') =>
        faulty(() => database.transaction(work, mode)),
    } as typeof database,
  };
  let stopped = false;
  const worker = async (): Promise<void> => {
    while (!stopped) {
      await w.pass(over).catch(() => {});
      await new Promise((done) => setTimeout(done, 1));
    }
  };
  const workers = [worker(), worker()];
  try {
    for (let n = 0; n < 30; n++) {
      const { patient, documents, sequence, granted } = patients[below(patients.length)] ?? assert.fail();
      const category = CATEGORIES[below(2)] ?? assert.fail();
      const standing = documents.filter((one) => !one.withdrawn);
      const what = below(10);
      const one = standing[below(standing.length)];
      if (what < 4) {
        const { document } = await w.file(patient, { category, value: `${n}` });
        documents.push({ document, category, version: 1, withdrawn: false });
      } else if (what < 6 && one !== undefined) {
        one.version++;
        await w.file(patient, { document: one.document, version: one.version, category: one.category, value: `${n}` });
      } else if (what < 7 && one !== undefined) {
        one.withdrawn = true;
        await w.withdraw(patient, one.document);
      } else if (granted.delete(category)) {
        sequence.set(category, (sequence.get(category) ?? 0) + 1);
        await w.revoke(patient, { categories: [category] });
      } else {
        granted.add(category);
        const next = (sequence.get(category) ?? 0) + 1;
        sequence.set(category, next);
        await w.grant(patient, { categories: [category], sequence: next });
      }
      await new Promise((done) => setTimeout(done, below(30)));
    }
  } finally {
    stopped = true;
    await Promise.all(workers);
  }
  for (let i = 1; i < 15; i++) {
    w.clock.at = new Date(Date.now() + i * 86_400_000);
    await w.pass();
  }

  for (const { patient, documents, granted } of patients) {
    const expected = documents
      .filter((one) => !one.withdrawn && granted.has(one.category))
      .map(({ document, version }) => `${document}/${version}`)
      .sort();
    const held = await database.query<{ document: string; version: number; category: string; pointer: string; size_bytes: number }>(
      sql`select document, version, category, pointer, size_bytes from shared_version where pat = ${patient} order by document`,
    );
    assert.deepEqual(
      held.map(({ document, version }) => `${document}/${version}`),
      expected,
    );
    for (const { pointer } of held) assert.ok(await store.head(pointer), pointer);
    const [sums] = await database.query(sql`select held_documents, held_bytes from patient_link where pat = ${patient}`);
    assert.deepEqual(sums, { held_documents: held.length, held_bytes: held.reduce((sum, row) => sum + row.size_bytes, 0) });
    assert.equal(await w.count('shared_object', patient), 0);
    const categories = await database.query<{ category: string; state: string }>(
      sql`select category, state from shared_category where pat = ${patient} order by category`,
    );
    assert.deepEqual(
      categories,
      [...granted].sort().map((category) => ({ category, state: 'live' })),
    );
    // All of it opens, and nothing that has ended does.
    const holder = holderName(w.b.institution, { institution: w.a.institution, patient });
    const rows = await database.query<{ id: string; version: number; category: string; document: string | null; body: Buffer }>(
      sql`select id, version, category, document, body from resource where pat = ${patient}`,
    );
    for (const { id, version, category, body } of rows) await w.rows.open(holder, category, resourcePlace(id, version), body);
    assert.equal(new Set(rows.flatMap(({ document }) => document ?? [])).size, expected.length);
    const keys = await database.query<{ category: string; version: number; jwk: Buffer }>(
      sql`select category, version, jwk from shared_key where pat = ${patient}`,
    );
    assert.deepEqual(keys.map(({ category }) => category).sort(), [...granted].sort());
    for (const { category, version, jwk } of keys) await w.rows.open(holder, category, keyPlace(version), jwk);
    for (const category of CATEGORIES.filter((one) => !granted.has(one))) {
      const code = await w.b.custodian.rowKey(holder, category, 'open').then(() => 'kept', codeOf);
      assert.equal(code, 'KEY_MISSING', category);
    }
  }
  assert.equal(await w.count('shared_removal'), 0);
  assert.equal((await database.query(sql`select 1 from sharing_end where deleted_at is null`)).length, 0);
});
