import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { hash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdir, mkdtemp, readdir, readFile, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
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
  await store.close();
});

test('files: what a killed put left goes at the next sweep, and nothing of puts that run', async () => {
  const place = join(root, 'killed');
  const store = createFileBlobs({ directory: place });
  await store.sweep(); // before the first put: there is nothing yet
  const temporaries = join(place, '.tmp');
  // A process that is killed in the middle of a put, and another one beside us that is in the middle of one for as long as we look.
  const putting = `
    import { createFileBlobs } from ${JSON.stringify(new URL('../../src/store/blob-files.ts', import.meta.url).href)};
    import { mkdirSync, watch } from 'node:fs';
    mkdirSync(${JSON.stringify(temporaries)}, { recursive: true });
    const bytes = Buffer.alloc(200e6, 1);
    const put = () => createFileBlobs({ directory: ${JSON.stringify(place)} }).put('inst-a/' + '0'.repeat(64), bytes).catch(() => {});
    watch(${JSON.stringify(temporaries)}, () => process.kill(process.pid, 'SIGSTOP'));
    put();`;
  const children = [0, 1].map(() => spawn(process.execPath, ['--input-type=module', '-e', putting], { stdio: 'ignore' }));
  const ends = children.map((child) => once(child, 'exit'));
  try {
    const begun = async (): Promise<string[]> => readdir(temporaries).catch(() => []);
    for (const until = Date.now() + 20_000; (await begun()).length < 2 && Date.now() < until; ) await sleep(20);
    assert.equal((await begun()).length, 2);
    await store.sweep();
    assert.equal((await begun()).length, 2, 'both run');
    children[0]?.kill('SIGKILL');
    await ends[0];
    await store.sweep();
    const [left, ...none] = await begun();
    assert.deepEqual([left?.split('.')[1], none], [String(children[1]?.pid), []]);
    // Of another machine, or of this one before it was started again, or of no form that we know: by age.
    const [, pid, started, random] = left?.split('.') ?? [];
    const others = [['0000-11', pid, started, random].join('.'), 'other'];
    for (const name of others) await writeFile(join(temporaries, name), 'x');
    await store.sweep();
    assert.equal((await begun()).length, 3);
    for (const name of others) await utimes(join(temporaries, name), 0, 0);
    await store.sweep();
    assert.deepEqual(await begun(), [left]);
  } finally {
    for (const child of children) child.kill('SIGKILL');
    await Promise.all(ends);
  }
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
