import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { startSharedStore } from '../../simulator/shared-store.ts';
import { examineStore } from '../../src/app/examine-store.ts';
import type { Settings } from '../../src/cli/settings.ts';
import type { ServerConfig } from '../../src/config/schema.ts';
import { newId } from '../../src/ids.ts';

const root = await mkdtemp(join(tmpdir(), 'oncobridge-doctor-'));
const home = { institution: newId('inst'), accessKeyId: 'AKHOME', secretAccessKey: randomBytes(30).toString('base64') };
const store = await startSharedStore({ folder: join(root, 'good'), institutions: [home] });
const careless = await startSharedStore({ folder: join(root, 'careless'), institutions: [home], missing: 'NoSuchKey', careless: true });
after(async () => {
  await Promise.all([store.close(), careless.close()]);
  await rm(root, { recursive: true, force: true });
});

/** What the doctor says of each thing it looks at. */
async function stateOf(blobs: Partial<ServerConfig['blobs']>): Promise<Record<string, string>> {
  const defaults = { region: 'us-east-1', bucket: 'oncobridge', addressing: 'path', timeout: '5s', attempts: 2, maxObjectBytes: 1_000_000 };
  // Only what the doctor reads: the rest of a configuration has nothing to do with it.
  const server = { institution: { id: home.institution }, blobs: { ...defaults, ...home, ...blobs } };
  const settings = { data: root, config: { server, file: join(root, 'server.yaml') } } as unknown as Settings;
  const findings = await examineStore(settings);
  assert.ok(!JSON.stringify(findings).includes(home.secretAccessKey));
  for (const one of findings) assert.ok(one.state === 'ok' || one.state === 'unknown' || one.todo, `${one.check}: nothing to do?`);
  return Object.fromEntries(findings.map((one) => [one.check, one.state]));
}

test('a store as it should be, and one whose operator was careless', async () => {
  const good = { TLS: 'warning', clock: 'ok', credential: 'ok', 'own objects': 'ok', versions: 'ok' };
  assert.deepEqual(await stateOf({ kind: 's3', endpoint: store.endpoint }), {
    ...good,
    lists: 'ok',
    'put elsewhere': 'ok',
    'delete elsewhere': 'ok',
  });
  assert.deepEqual(await stateOf({ kind: 's3', endpoint: careless.endpoint }), {
    ...good,
    lists: 'warning',
    'put elsewhere': 'failed',
    'delete elsewhere': 'failed',
  });
  // It leaves nothing behind and has listed nothing.
  const requests = [...store.requests, ...careless.requests];
  const put = requests.filter((one) => one.operation === 'put' && one.status === 200).map((one) => one.name);
  const deleted = new Set(requests.filter((one) => one.operation === 'delete' && one.status === 204).map((one) => one.name));
  assert.ok(put.length >= 3);
  for (const name of put) assert.ok(deleted.has(name), 'an object of the doctor stays');
  assert.equal(requests.filter((one) => one.operation === 'list').length, 0);
});

test('a wrong secret, nobody there, a directory', async () => {
  const wrong = await stateOf({ kind: 's3', endpoint: store.endpoint, secretAccessKey: 'another' });
  assert.deepEqual(wrong, { TLS: 'warning', clock: 'ok', credential: 'failed' });
  assert.deepEqual(await stateOf({ kind: 's3', endpoint: 'http://127.0.0.1:1' }), { TLS: 'warning', store: 'failed' });
  assert.equal((await stateOf({ kind: 's3', endpoint: 'https://127.0.0.1:1' }))['TLS'], 'failed');
  assert.deepEqual(await stateOf({ kind: 'files', directory: join(root, 'files') }), { 'own objects': 'ok' });
});
