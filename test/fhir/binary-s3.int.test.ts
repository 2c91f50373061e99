import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import type { OperationOutcome } from 'fhir/r4.js';
import request from 'supertest';
import { type StoreFault, startSharedStore } from '../../simulator/shared-store.ts';
import { createS3Blobs } from '../../src/store/blob-s3.ts';
import { sql } from '../../src/store/sql.ts';
import { padded } from '../../src/vault/sealed-object-format.ts';
import { createWorld, INST, laboratory } from './world.ts';

const ANNA = 'pat-anna';
const folder = await mkdtemp(join(tmpdir(), 'oncobridge-binary-s3-'));
const credential = { institution: INST, accessKeyId: 'AKHOME', secretAccessKey: randomBytes(30).toString('base64') };
const store = await startSharedStore({ folder, institutions: [credential] });
const { endpoint, region, bucket } = store;
const blobs = createS3Blobs({ endpoint, region, bucket, ...credential, timeoutMs: 1500, attempts: 2, maxObjectBytes: 50_000 });
const world = await createWorld({ blobs });
after(async () => {
  await world.close();
  await store.close();
  await rm(folder, { recursive: true, force: true });
});
const pdf = (document: string) => request(world.app).get(`/fhir/Binary/pdf-${document}`).set('Authorization', 'Bearer clinician');
const pointerOf = async (document: string): Promise<string> => {
  const [row] = await world.database.query<{ pointer: string }>(
    sql`select pointer from document_version where document = ${`doc-${document}`}`,
  );
  return row?.pointer ?? assert.fail();
};

test('a missing, altered, exchanged, oversized object is never served and alarms; a store that is away is 503, and no alarm', async () => {
  await world.patient(ANNA, { resourceType: 'Patient', name: [{ family: 'Müller' }] });
  for (const [document, bytes] of [
    ['l1', 100],
    ['l2', 9000],
    ['l3', 60_000],
  ] as const)
    await world.document({ ...laboratory(ANNA, document, '2026-03-14', [['718-7', '13.20']]), pdf: randomBytes(bytes) });
  await world.grant('clinician', ANNA, 'laboratory');
  await pdf('l1').expect(200);
  // Anybody who sees the store sees sizes: all of them filled up.
  const sizes = store.requests.filter((one) => one.operation === 'put').map((one) => one.bytes);
  assert.equal(sizes.length, 3);
  for (const size of sizes) assert.equal(padded(size), size);

  const [one, two] = [await pointerOf('l1'), await pointerOf('l2')];
  const faults: [StoreFault['kind'], string][] = [
    ['missing', 'BLOB_MISSING'],
    ['altered', 'SEAL_BROKEN'],
    ['swapped', 'SEAL_BROKEN'],
  ];
  const code = (body: unknown): string | undefined => (body as OperationOutcome).issue[0]?.details?.coding?.[0]?.code;
  for (const [kind, reason] of faults) {
    const heal = store.fault({ kind, match: (name) => name === one, other: two });
    const response = await pdf('l1').expect(500);
    assert.equal(code(response.body), 'INTEGRITY', kind);
    assert.deepEqual(world.alarms.at(-1), { document: 'doc-l1', version: 1, reason }, kind);
    heal();
    await pdf('l1').expect(200);
  }
  assert.equal(code((await pdf('l3').expect(500)).body), 'INTEGRITY');
  assert.deepEqual(world.alarms.at(-1), { document: 'doc-l3', version: 1, reason: 'BLOB_TOO_LARGE' });
  const alarms = world.alarms.length;
  for (const kind of ['unavailable', 'truncated', 'hung'] as const) {
    const heal = store.fault({ kind, match: (name) => name === one });
    assert.equal(code((await pdf('l1').expect(503)).body), 'UNAVAILABLE', kind);
    heal();
  }
  await pdf('l1').expect(200);
  // Once: the second attempt is whole.
  store.fault({ kind: 'truncated', match: (name) => name === one, times: 1 });
  await pdf('l1').expect(200);
  assert.equal(world.alarms.length, alarms);
});
