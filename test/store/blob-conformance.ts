import assert from 'node:assert/strict';
import { hash, randomBytes } from 'node:crypto';
import { test } from 'node:test';
import { codeOf } from '../../src/errors.ts';
import type { BlobStore } from '../../src/store/blobs.ts';

/** What every blob store does. `open` gives the store at one place: a second call sees what the first has put. */
export function blobConformance(kind: string, open: () => Promise<BlobStore>): void {
  const institution = 'inst-aaaaaaaaaaaaaaaaaaaaaaaaaa';
  const named = (bytes: Uint8Array, prefix = institution): string => `${prefix}/${hash('sha256', bytes)}`;

  test(`${kind}: what was put is got, by another opening of the store too`, async () => {
    const store = await open();
    for (const size of [0, 1, 70_000, 3_000_000]) {
      const bytes = randomBytes(size);
      for (const name of [named(bytes), named(bytes, `${institution}/envelopes`)]) {
        assert.equal(await store.head(name), undefined);
        await store.put(name, bytes);
        assert.deepEqual(await store.head(name), { sizeBytes: size });
        assert.ok(bytes.equals(await store.get(name)));
        const other = await open();
        assert.ok(bytes.equals(await other.get(name)));
        await other.close();
      }
    }
    await store.close();
  });

  test(`${kind}: puts of one name at once and again are harmless`, async () => {
    const store = await open();
    const bytes = randomBytes(50_000);
    const name = named(bytes);
    await Promise.all(Array.from({ length: 8 }, () => store.put(name, bytes)));
    await store.put(name, bytes);
    assert.ok(bytes.equals(await store.get(name)));
    await store.close();
  });

  test(`${kind}: a missing object is BLOB_MISSING; deleting twice is harmless; a deleted one can be put again`, async () => {
    const store = await open();
    const bytes = randomBytes(100);
    const name = named(bytes);
    const missing = (error: unknown): boolean => codeOf(error) === 'BLOB_MISSING';
    await assert.rejects(store.get(name), missing);
    await store.delete(name);
    await store.put(name, bytes);
    await store.delete(name);
    await store.delete(name);
    await assert.rejects(store.get(name), missing);
    assert.equal(await store.head(name), undefined);
    await store.put(name, bytes);
    assert.ok(bytes.equals(await store.get(name)));
    await store.close();
  });

  test(`${kind}: names of another form are refused by every call`, async () => {
    const store = await open();
    const good = hash('sha256', 'x');
    const bad = [
      '',
      good,
      `/${good}`,
      `../${good}`,
      `${institution}/../${good}`,
      `${institution}/${good}/`,
      `${institution}/${good.slice(1)}`,
      `${institution}/${good}0`,
    ];
    bad.push(
      `${institution}/${good.toUpperCase()}`,
      `${institution}/other/${good}`,
      `${institution}//${good}`,
      `Inst/${good}`,
      `${institution}/${good}\n`,
      `.${institution}/${good}`,
    );
    const refused = (error: unknown): boolean => codeOf(error) === 'BLOB_NAME';
    for (const name of bad) {
      await assert.rejects(async () => store.put(name, Buffer.from('x')), refused, name);
      await assert.rejects(async () => store.get(name), refused, name);
      await assert.rejects(async () => store.head(name), refused, name);
      await assert.rejects(async () => store.delete(name), refused, name);
    }
    await store.close();
  });

  test(`${kind}: institutions and envelopes do not share names`, async () => {
    const store = await open();
    const bytes = randomBytes(64);
    await store.put(named(bytes), bytes);
    assert.equal(await store.head(named(bytes, `${institution}/envelopes`)), undefined);
    assert.equal(await store.head(named(bytes, 'inst-b')), undefined);
    await store.close();
  });
}
