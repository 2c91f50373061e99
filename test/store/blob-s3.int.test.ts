import assert from 'node:assert/strict';
import { hash, randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import * as http from 'node:http';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, beforeEach, test } from 'node:test';
import { AwsV4Signer } from 'aws4fetch';
import { type StoreFault, startSharedStore } from '../../simulator/shared-store.ts';
import { codeOf, type ErrorCode } from '../../src/errors.ts';
import { newId } from '../../src/ids.ts';
import { isPassing } from '../../src/pipeline/passing.ts';
import { createS3Blobs } from '../../src/store/blob-s3.ts';
import type { BlobStore } from '../../src/store/blobs.ts';
import type { S3Options } from '../../src/store/s3-requests.ts';
import { blobConformance } from './blob-conformance.ts';

const root = await mkdtemp(join(tmpdir(), 'oncobridge-s3-'));
const credential = (institution: string) => ({
  institution,
  accessKeyId: `AK${randomBytes(8).toString('hex')}`,
  secretAccessKey: randomBytes(30).toString('base64'),
});
// The conformance suite's own institution, and two that share the store with it.
const [own, home, other] = [credential('inst-aaaaaaaaaaaaaaaaaaaaaaaaaa'), credential(newId('inst')), credential(newId('inst'))];
const store = await startSharedStore({ folder: join(root, 'store'), institutions: [own, home, other] });
const telling = await startSharedStore({ folder: join(root, 'telling'), institutions: [own], missing: 'NoSuchKey' });
after(async () => {
  await Promise.all([store.close(), telling.close()]);
  await rm(root, { recursive: true, force: true });
});

const { endpoint, region, bucket } = store;
const open = (as: typeof own, more: Partial<S3Options> = {}): BlobStore =>
  createS3Blobs({ endpoint, region, bucket, accessKeyId: as.accessKeyId, secretAccessKey: as.secretAccessKey, ...more });
const nameOf = (as: typeof own, bytes: Uint8Array): string => `${as.institution}/${hash('sha256', bytes)}`;
const coded =
  (code: ErrorCode, words = /./) =>
  (error: unknown) =>
    codeOf(error) === code && words.test((error as Error).message);

/** Requests that show names, made on purpose by a test. */
let listsOnPurpose = 0;
let undo: (() => void)[] = [];
const fault = (one: StoreFault): void => void undo.push(store.fault(one));
beforeEach(() => {
  for (const one of undo) one();
  undo = [];
});

blobConformance('S3, missing objects hidden', () => Promise.resolve(open(own)));
blobConformance('S3, missing objects told', () => Promise.resolve(open(own, { endpoint: telling.endpoint })));

test('an institution gets what another has put, and neither puts nor deletes there', async () => {
  const [a, b] = [open(home), open(other)];
  const bytes = randomBytes(5000);
  const name = nameOf(home, bytes);
  await a.put(name, bytes);
  assert.ok(bytes.equals(await b.get(name)));
  assert.deepEqual(await b.head(name), { sizeBytes: 5000 });
  await assert.rejects(b.put(name, bytes), coded('STORE_REFUSED', /403 AccessDenied/));
  await assert.rejects(b.delete(name), coded('STORE_REFUSED'));
  assert.ok(bytes.equals(await a.get(name)));
  // What a policy refuses is asked once: trying again would change nothing.
  assert.equal(store.requests.filter((one) => one.institution === other.institution && one.operation === 'put').length, 1);
  await Promise.all([a.close(), b.close()]);
});

test('a wrong secret, an unknown key, another bucket, a withdrawn credential: refused, and never taken for a missing object', async () => {
  const name = nameOf(home, randomBytes(1));
  const wrong: [Partial<S3Options>, RegExp][] = [
    [{ secretAccessKey: `${home.secretAccessKey}x` }, /403 SignatureDoesNotMatch/],
    [{ accessKeyId: 'AKUNKNOWN' }, /403 InvalidAccessKeyId/],
  ];
  for (const [more, words] of wrong) {
    const blobs = open(home, more);
    for (const call of [() => blobs.get(name), () => blobs.head(name), () => blobs.put(name, randomBytes(1)), () => blobs.delete(name)])
      await assert.rejects(call(), (error: Error) => {
        assert.ok(coded('STORE_REFUSED', words)(error), error.message);
        assert.ok(isPassing(error), 'a record would be set aside because a credential has ended');
        for (const secret of [home.secretAccessKey, home.accessKeyId, name.split('/')[1] ?? '', home.institution])
          assert.ok(!`${error.message} ${error.stack}`.includes(secret), 'the error tells a credential or a name');
        return true;
      });
    await blobs.close();
  }
  const rotated = credential(home.institution);
  const before = open(rotated);
  await assert.rejects(before.get(name), coded('STORE_REFUSED'));
  store.issue(rotated);
  await assert.rejects(before.get(name), coded('BLOB_MISSING'));
  store.withdraw(rotated.accessKeyId);
  await assert.rejects(before.get(name), coded('STORE_REFUSED'));
  await before.close();
});

test('missing, cut off, altered, swapped, busy', async () => {
  const blobs = open(home);
  const [bytes, others] = [randomBytes(200_000), randomBytes(100)];
  const name = nameOf(home, bytes);
  await blobs.put(name, bytes);
  await blobs.put(nameOf(home, others), others);
  const match = (asked: string): boolean => asked === name;

  fault({ kind: 'missing', match, times: 1 });
  await assert.rejects(blobs.get(name), coded('BLOB_MISSING'));
  // An answer that ends early, twice, and one that is whole.
  fault({ kind: 'truncated', match, times: 2 });
  assert.ok(bytes.equals(await blobs.get(name)));
  fault({ kind: 'unavailable', match, times: 2 });
  assert.ok(bytes.equals(await blobs.get(name)));
  fault({ kind: 'unavailable', match, times: 2 });
  await blobs.put(name, bytes);
  fault({ kind: 'unavailable', match, times: 3 });
  await blobs.delete(name);
  await blobs.put(name, bytes);
  // The bytes are the store's; whether they are the right ones is the reader's to say.
  fault({ kind: 'altered', match, times: 1 });
  assert.ok(!bytes.equals(await blobs.get(name)));
  fault({ kind: 'swapped', match, other: nameOf(home, others), times: 1 });
  assert.ok(others.equals(await blobs.get(name)));
  await blobs.close();
});

test('a store that asks for patience gets it, within the deadline', async () => {
  const blobs = open(home, { timeoutMs: 3000 });
  const bytes = randomBytes(10);
  const name = nameOf(home, bytes);
  fault({ kind: 'throttled', match: (asked) => asked === name, times: 1, retryAfter: 1 });
  let started = performance.now();
  await blobs.put(name, bytes);
  assert.ok(performance.now() - started >= 1000);
  fault({ kind: 'throttled', match: (asked) => asked === name, retryAfter: 60 });
  started = performance.now();
  await assert.rejects(blobs.get(name), coded('UNAVAILABLE', /429 TooManyRequests/));
  assert.ok(performance.now() - started < 1000, 'waited for what cannot come in time');
  await blobs.close();
});

test('a store that fails for good, hangs or is away: a coded error, within the deadline', async () => {
  const bytes = randomBytes(10);
  const name = nameOf(home, bytes);
  const match = (asked: string): boolean => asked === name;
  const blobs = open(home, { timeoutMs: 900, attempts: 3 });
  await blobs.put(name, bytes);
  for (const kind of ['unavailable', 'truncated'] as const) {
    undo.splice(0).forEach((one) => one());
    fault({ kind, match });
    const before = store.requests.length;
    await assert.rejects(blobs.get(name), coded('UNAVAILABLE'));
    assert.equal(store.requests.length - before, 3);
  }
  undo.splice(0).forEach((one) => one());
  fault({ kind: 'hung', match });
  const started = performance.now();
  await assert.rejects(blobs.get(name), coded('UNAVAILABLE', /nothing moves|in time/));
  await assert.rejects(blobs.put(name, bytes), coded('UNAVAILABLE'));
  assert.ok(performance.now() - started < 2500, `took ${performance.now() - started} ms`);
  await blobs.close();

  // It takes the connection and says nothing, not even that it was taken.
  const silent = createServer((socket) => void socket.resume().on('error', () => {}));
  await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve));
  const nobody = `http://127.0.0.1:${(silent.address() as AddressInfo).port}`;
  const toNobody = open(home, { endpoint: nobody, timeoutMs: 600 });
  await assert.rejects(toNobody.get(name), coded('UNAVAILABLE'));
  const closed = toNobody.get(name);
  await toNobody.close();
  await assert.rejects(closed, coded('UNAVAILABLE'));
  await new Promise((resolve) => silent.close(resolve));
  const away = open(home, { endpoint: nobody, timeoutMs: 600 });
  await assert.rejects(away.head(name), coded('UNAVAILABLE', /ECONNREFUSED/));
  await away.close();
});

test('a put is believed when the store shows that it kept the bytes; a damaged object is healed by the next put', async () => {
  const blobs = open(home);
  const bytes = randomBytes(3000);
  const name = nameOf(home, bytes);
  const match = (asked: string): boolean => asked === name;
  fault({ kind: 'not-kept', match, times: 1 });
  await blobs.put(name, bytes);
  assert.ok(bytes.equals(await blobs.get(name)));
  undo.splice(0).forEach((one) => one());
  fault({ kind: 'not-kept', match });
  await assert.rejects(blobs.put(name, bytes), coded('UNAVAILABLE', /did not keep/));
  assert.ok(!bytes.equals(await blobs.get(name)));
  undo.splice(0).forEach((one) => one());
  await blobs.put(name, bytes);
  assert.ok(bytes.equals(await blobs.get(name)));
  await blobs.close();
});

test('what is larger than any object of ours is not read', async () => {
  const blobs = open(home);
  const bytes = randomBytes(2000);
  await blobs.put(nameOf(home, bytes), bytes);
  const small = open(other, { maxObjectBytes: 1999 });
  await assert.rejects(small.get(nameOf(home, bytes)), coded('BLOB_TOO_LARGE'));
  await Promise.all([blobs.close(), small.close()]);
});

test('a folder inside the bucket', async () => {
  const blobs = open(home, { prefix: `${home.institution}/`, timeoutMs: 1000 });
  const bytes = randomBytes(20);
  await blobs.put(nameOf(home, bytes), bytes);
  assert.equal(store.requests.at(-1)?.name, `${home.institution}/${nameOf(home, bytes)}`);
  assert.ok(bytes.equals(await blobs.get(nameOf(home, bytes))));
  await blobs.close();
});

test('the store refuses every list, signed as it may be, and what is not signed', async () => {
  const raw = async (method: string, path: string, signed = true): Promise<[number, string]> => {
    const url = new URL(path, endpoint);
    const { accessKeyId, secretAccessKey } = home;
    const signer = new AwsV4Signer({
      method,
      url: url.href,
      accessKeyId,
      secretAccessKey,
      service: 's3',
      region,
      headers: { 'x-amz-content-sha256': hash('sha256', '') },
    });
    const { headers } = await signer.sign();
    return new Promise((resolve, reject) => {
      const request = http.request(url, { method, headers: signed ? Object.fromEntries(headers) : {} }, (message) => {
        let text = '';
        message.on('data', (chunk) => (text += chunk));
        message.on('end', () => resolve([message.statusCode ?? 0, text]));
      });
      request.on('error', reject).end();
    });
  };
  const paths = [
    '/',
    `/${bucket}`,
    `/${bucket}/`,
    `/${bucket}?list-type=2`,
    `/${bucket}/?prefix=${home.institution}/`,
    `/${bucket}/?versions`,
  ];
  for (const path of paths) {
    const [status, text] = await raw('GET', path);
    listsOnPurpose += 1;
    assert.equal(status, 403, path);
    assert.match(text, /<Code>AccessDenied<\/Code>/, path);
  }
  assert.equal((await raw('POST', `/${bucket}?delete`))[0], 403);
  assert.equal((await raw('GET', `/${bucket}/${nameOf(home, randomBytes(1))}`, false))[0], 403);
});

test('no run of ours has listed anything', () => {
  const requests = [...store.requests, ...telling.requests];
  assert.ok(requests.length > 100);
  assert.equal(requests.filter((one) => one.operation === 'list').length, listsOnPurpose);
  assert.ok(listsOnPurpose > 0, 'the proxy does not tell a list when it sees one');
});
