import assert from 'node:assert/strict';
import { hash, randomBytes } from 'node:crypto';
import { mkdir, mkdtemp, readdir, readFile, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { codeOf } from '../../src/errors.ts';
import { createFileBlobs } from '../../src/store/blob-files.ts';
import { blobConformance } from './blob-conformance.ts';

const root = await mkdtemp(join(tmpdir(), 'oncobridge-blobs-'));
after(() => rm(root, { recursive: true, force: true }));
const directory = join(root, 'not', 'there', 'yet');

blobConformance('files', () => Promise.resolve(createFileBlobs({ directory })));

test('files: two levels of folders, private to the user, nothing left behind', async () => {
  const store = createFileBlobs({ directory: join(root, 'layout') });
  const bytes = randomBytes(10);
  const sha256 = hash('sha256', bytes);
  await store.put(`inst-a/${sha256}`, bytes);
  const folder = join(root, 'layout', 'inst-a', 'objects', sha256.slice(0, 2), sha256.slice(2, 4));
  assert.deepEqual(await readdir(folder), [sha256]);
  assert.equal((await stat(join(folder, sha256))).mode & 0o777, 0o600);
  assert.equal((await stat(folder)).mode & 0o777, 0o700);
  const temporaries = join(root, 'layout', '.tmp');
  assert.deepEqual(await readdir(temporaries), []);
  await writeFile(join(temporaries, 'old'), 'of a killed put');
  await utimes(join(temporaries, 'old'), 0, 0);
  await writeFile(join(temporaries, 'young'), 'of a put that runs');
  const again = createFileBlobs({ directory: join(root, 'layout') });
  await again.put(`inst-a/${hash('sha256', 'x')}`, Buffer.from('x'));
  assert.deepEqual(await readdir(temporaries), ['young']);
  await again.close();
  await store.close();
});

test('files: a damaged object is healed by a put of the right bytes; a folder removed behind us is made again', async () => {
  const store = createFileBlobs({ directory: join(root, 'heal') });
  const bytes = randomBytes(1000);
  const sha256 = hash('sha256', bytes);
  const name = `inst-a/${sha256}`;
  await store.put(name, bytes);
  const path = join(root, 'heal', 'inst-a', 'objects', sha256.slice(0, 2), sha256.slice(2, 4), sha256);
  const damaged = Buffer.from(bytes);
  damaged[500] = (damaged[500] ?? 0) ^ 1;
  for (const content of [damaged, bytes.subarray(0, 10)]) {
    await writeFile(path, content);
    assert.ok(content.equals(await store.get(name)), 'get hands out what is there: the reader checks');
    await store.put(name, bytes);
    assert.ok(bytes.equals(await readFile(path)));
  }
  await rm(join(root, 'heal'), { recursive: true });
  await assert.rejects(store.put(name, bytes), (error) => codeOf(error) === 'UNAVAILABLE');
  await store.put(name, bytes);
  assert.ok(bytes.equals(await store.get(name)));
  await store.close();
});

test('files: what cannot be written is UNAVAILABLE and leaves no object', async () => {
  const place = join(root, 'blocked');
  const bytes = randomBytes(10);
  const sha256 = hash('sha256', bytes);
  await mkdir(join(place, 'inst-a'), { recursive: true });
  await writeFile(join(place, 'inst-a', 'objects'), 'a file where a folder should be');
  const store = createFileBlobs({ directory: place });
  await assert.rejects(store.put(`inst-a/${sha256}`, bytes), (error) => codeOf(error) === 'UNAVAILABLE');
  await store.close();
});
