import assert from 'node:assert/strict';
import { createPrivateKey, createSecretKey, generateKeyPairSync, hash, hkdfSync, type JsonWebKey, randomBytes } from 'node:crypto';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import * as fc from 'fast-check';
import { compactDecrypt } from 'jose';
import { canonicalJson } from '../../src/canonical-json.ts';
import { codeOf } from '../../src/errors.ts';
import { createFileCustodian } from '../../src/vault/file-custodian.ts';
import { openDirectJwe, sealToCategory } from '../../src/vault/key-wrap.ts';
import type { InnerHeader, OuterHeader, SealedObject, SealInput } from '../../src/vault/sealed-object.ts';
import { padded, readHeader, readParts, writeSealed } from '../../src/vault/sealed-object-format.ts';
import { createSealedRows } from '../../src/vault/sealed-rows-store.ts';
import { createSealer } from '../../src/vault/sealer.ts';
import { jwkThumbprint } from '../../src/vault/thumbprint.ts';

const institution = 'inst-alpha';
const patient = 'pat-one';
const category = 'laboratory';
const directory = await mkdtemp(join(tmpdir(), 'oncobridge-sealing-'));
const custodian = await createFileCustodian({ directory, passphrase: 'Tallow-harbour 71 quince', institution });
after(async () => {
  await custodian.close();
  await rm(directory, { recursive: true, force: true });
});
const sealer = createSealer({ custodian });
const rows = createSealedRows({ custodian });
const keys = await custodian.enrollPatient(patient, [category, 'radiation-dose']);
await custodian.enrollPatient('pat-two', [category]);
const categoryKey = keys.get(category);
assert.ok(categoryKey);
const seed = Number(process.env['FC_SEED'] ?? Date.now() % 2 ** 31);
const settings = { seed, numRuns: 40 };
const broken = (error: unknown): boolean => codeOf(error) === 'SEAL_BROKEN';

const inner: InnerHeader = { manifest: { own: [{ record: 'rec-1', version: 1 }] }, resourceIds: { 'ehr/Observation/1': 'res-1' } };
const input = (over: Partial<SealInput> = {}): SealInput => ({
  institution,
  document: 'doc-one',
  version: 1,
  patient,
  category,
  categoryKey,
  inner,
  pdf: Buffer.from('%PDF-1.7 one'),
  bundle: Buffer.from('{"resourceType":"Bundle"}'),
  ...over,
});
type Expect = Parameters<typeof sealer.open>[1];
const expecting = (object: SealedObject, of: SealInput = input()): Expect => ({
  document: of.document,
  version: of.version,
  patient: of.patient,
  category: of.category,
  ciphertextHash: object.ciphertextHash,
  commitment: object.commitment,
});

test(`what is sealed opens as it was (seed ${seed})`, async () => {
  const part = fc.uint8Array({ maxLength: 5000 });
  const facts = fc.record({
    manifest: fc.jsonValue(),
    resourceIds: fc.dictionary(fc.string(), fc.string()),
    clinicalTime: fc.constant('2026-01-02'),
    covers: fc.constantFrom(
      { start: '2025-01-01T00:00:00.000Z', end: '2026-01-02T23:59:59.999Z' },
      { start: '-infinity', end: 'infinity' },
    ),
  });
  await fc.assert(
    fc.asyncProperty(part, part, facts, async (pdf, bundle, given) => {
      const of = input({ pdf, bundle, inner: given });
      const object = await sealer.seal(of);
      const opened = await sealer.open(object.bytes, expecting(object, of));
      assert.deepEqual([Buffer.from(opened.pdf), Buffer.from(opened.bundle)], [Buffer.from(pdf), Buffer.from(bundle)]);
      const { salt, ...rest } = opened.inner;
      assert.equal(canonicalJson(rest), canonicalJson(given));
      assert.equal(Buffer.from(salt, 'base64url').length, 32);
      assert.equal(opened.commitment, object.commitment);
      assert.deepEqual(opened.outer.wrap, object.wrap);
      assert.equal(object.ciphertextHash, hash('sha256', object.bytes));
      for (const name of ['pdf', 'bundle'] as const) {
        assert.deepEqual(Buffer.from(await sealer.openPart(object.bytes, name, expecting(object, of))), Buffer.from(of[name]));
      }
      assert.equal(padded(object.bytes.length), object.bytes.length, 'padded to the next 1/16');
    }),
    settings,
  );
});

test('nothing opens with any one byte altered, even where the attacker names the new hash', async () => {
  const object = await sealer.seal(input());
  const expect = expecting(object);
  for (let at = 0; at < object.bytes.length; at++) {
    const altered = Buffer.from(object.bytes);
    altered[at] = (altered[at] ?? 0) ^ (1 << (at % 8));
    await assert.rejects(sealer.open(altered, expect), broken, `byte ${at}`);
    const renamed = { ...expect, ciphertextHash: hash('sha256', altered) };
    // An altered key version or institution in the header can also mean a key that is not here.
    const refused = (error: unknown): boolean => broken(error) || codeOf(error) === 'KEY_MISSING';
    await assert.rejects(sealer.open(altered, renamed), refused, `byte ${at} with its own hash`);
  }
});

test('nothing opens cut short, lengthened, or as another document', async () => {
  const object = await sealer.seal(input());
  const expect = expecting(object);
  for (const bytes of [
    Buffer.alloc(0),
    object.bytes.subarray(0, 11),
    object.bytes.subarray(0, object.bytes.length - 1),
    object.bytes.subarray(0, object.bytes.length - 16),
    Buffer.concat([object.bytes, Buffer.alloc(16)]),
    Buffer.concat([object.bytes, Buffer.alloc(1)]),
  ]) {
    await assert.rejects(sealer.open(bytes, { ...expect, ciphertextHash: hash('sha256', bytes) }), broken, `${bytes.length} bytes`);
  }
  for (const other of [
    { document: 'doc-two' },
    { version: 2 },
    { patient: 'pat-two' },
    { category: 'radiation-dose' },
    { commitment: '0'.repeat(64) },
  ]) {
    await assert.rejects(sealer.open(object.bytes, { ...expect, ...other }), broken, Object.keys(other).join());
    await assert.rejects(sealer.openPart(object.bytes, 'pdf', { ...expect, ...other }), broken, Object.keys(other).join());
  }
});

test('parts of two objects, and parts of one, cannot be exchanged', async () => {
  // Equal lengths throughout, so that every cut falls between parts.
  const pdf = randomBytes(4096);
  const bundle = randomBytes(4096);
  const [a, b] = [await sealer.seal(input({ pdf, bundle })), await sealer.seal(input({ pdf: bundle, bundle: pdf, version: 2 }))];
  const { header, aad } = readHeader(Buffer.from(a.bytes));
  const { aad: aadB } = readHeader(Buffer.from(b.bytes));
  assert.equal(aad.length, aadB.length);
  const cuts = [0, aad.length, aad.length + header.innerBytes, aad.length + header.innerBytes + 4096 + 16, a.bytes.length];
  const slices = (object: SealedObject): Buffer[] => cuts.slice(1).map((to, i) => Buffer.from(object.bytes.subarray(cuts[i], to)));
  const [ofA, ofB] = [slices(a), slices(b)];
  const tries: Buffer[][] = ofA.map((_, i) => ofA.map((slice, j) => (i === j ? (ofB[i] ?? slice) : slice)));
  const [head, first, second, third] = ofA;
  assert.ok(head && first && second && third);
  tries.push([head, first, third, second], [head, second, first, third]);
  for (const attempt of tries) {
    const bytes = Buffer.concat(attempt);
    for (const expect of [expecting(a), { ...expecting(b), version: 2 }]) {
      await assert.rejects(sealer.open(bytes, { ...expect, ciphertextHash: hash('sha256', bytes) }), broken);
    }
  }
});

test('an object sealed by a stranger to the same public key is not ours', async () => {
  const mine = await sealer.seal(input());
  const elsewhere = await mkdtemp(join(tmpdir(), 'oncobridge-stranger-'));
  const stranger = await createFileCustodian({ directory: elsewhere, passphrase: 'Another-harbour 71 quince', institution });
  const forged = await createSealer({ custodian: stranger }).seal(input({ pdf: Buffer.from('%PDF-1.7 forged') }));
  await stranger.close();
  await rm(elsewhere, { recursive: true, force: true });
  await assert.rejects(sealer.open(forged.bytes, expecting(mine)), broken);
  await assert.rejects(sealer.open(forged.bytes, { ...expecting(mine), ciphertextHash: forged.ciphertextHash }), broken);
});

test('the category key opens what the institution’s own key opens; a re-encryption keeps the commitment', async () => {
  const object = await sealer.seal(input());
  const own = await custodian.unwrapDocumentKey(object.wrap);
  const rotated = await custodian.rotateCategoryKey(patient, category);
  // A wrap of another institution leaves the category key, in an old version, as the only way.
  assert.ok(own.equals(await custodian.unwrapDocumentKey({ ...object.wrap, institution: 'inst-beta' })));
  const wrongVersion = { ...object.wrap, institution: 'inst-beta', categoryKeyVersion: rotated.version };
  await assert.rejects(custodian.unwrapDocumentKey(wrongVersion), broken);
  const opened = await sealer.open(object.bytes, expecting(object));
  const resealed = await sealer.seal(input({ categoryKey: rotated, inner: opened.inner, pdf: opened.pdf, bundle: opened.bundle }));
  assert.equal(resealed.commitment, object.commitment);
  assert.notEqual(resealed.ciphertextHash, object.ciphertextHash);
  const fresh = await sealer.seal(input());
  assert.notEqual(fresh.commitment, object.commitment, 'a salt of its own hides equal content');
  for (const changed of [{ pdf: Buffer.from('x') }, { bundle: Buffer.from('x') }, { inner: { ...opened.inner, manifest: {} } }]) {
    const other = await sealer.seal(input({ inner: opened.inner, pdf: opened.pdf, bundle: opened.bundle, ...changed }));
    assert.notEqual(other.commitment, object.commitment, Object.keys(changed).join());
  }
});

test('the wrap to a category key is what a library opens (RFC 7518, section 4.6)', async () => {
  for (const pair of [generateKeyPairSync('ec', { namedCurve: 'P-256' }), generateKeyPairSync('x25519')]) {
    const { kty = '', crv = '', x = '', y } = pair.publicKey.export({ format: 'jwk' });
    const recipient = { kty, crv, x, ...(y === undefined ? {} : { y }) };
    const key = randomBytes(32);
    const wrap = sealToCategory(key, recipient);
    const opened = await compactDecrypt(wrap, pair.privateKey, { keyManagementAlgorithms: ['ECDH-ES+A256KW'] });
    assert.deepEqual(Buffer.from(opened.plaintext), key);
    assert.deepEqual(Object.keys(opened.protectedHeader).sort(), ['alg', 'enc', 'epk', 'kid']);
    assert.equal(opened.protectedHeader.kid, jwkThumbprint(recipient));
    assert.notEqual(sealToCategory(key, recipient), wrap);
    await assert.rejects(
      compactDecrypt(
        wrap.replace(/.$/, (last) => (last === 'A' ? 'Q' : 'A')),
        pair.privateKey,
      ),
    );
  }
});

test('above 10 MB the parts are sealed in chunks that cannot be reordered, dropped or cut', async () => {
  const pdf = randomBytes(10 * 1024 * 1024 + 1);
  const of = input({ pdf, bundle: randomBytes(70_000) });
  const object = await sealer.seal(of);
  const { header, aad } = readHeader(Buffer.from(object.bytes));
  assert.equal(header.alg, 'A256GCM-STREAM-64K');
  const opened = await sealer.open(object.bytes, expecting(object, of));
  assert.ok(pdf.equals(opened.pdf) && Buffer.from(of.bundle).equals(opened.bundle));
  const start = aad.length + header.innerBytes;
  const step = 64 * 1024 + 16;
  const chunk = (n: number): Buffer => Buffer.from(object.bytes.subarray(start + n * step, start + (n + 1) * step));
  const swapped = Buffer.from(object.bytes);
  chunk(1).copy(swapped, start);
  chunk(0).copy(swapped, start + step);
  const dropped = Buffer.concat([object.bytes.subarray(0, start), object.bytes.subarray(start + step)]);
  const cut = object.bytes.subarray(0, object.bytes.length - step);
  const flipped = Buffer.from(object.bytes);
  flipped[flipped.length - 40] = (flipped.at(-40) ?? 0) ^ 1;
  for (const bytes of [swapped, dropped, cut, flipped]) {
    await assert.rejects(sealer.open(bytes, { ...expecting(object, of), ciphertextHash: hash('sha256', bytes) }), broken);
  }
});

test('every size around the chunk boundaries is padded and opens', () => {
  const key = createSecretKey(randomBytes(32));
  const wrap = { patient, category, categoryKeyVersion: 1, toCategory: 'x', toInstitution: 'y', institution };
  const facts: OuterHeader = { format: 'oncobridge-sealed/1', institution, document: 'd', version: 1, patient, category, wrap };
  const pdf = Buffer.alloc(10 * 1024 * 1024, 1);
  const salt = randomBytes(32).toString('base64url');
  for (const extra of [1, 15, 16, 17, 65_535, 65_536, 65_537, 655_360 - 16]) {
    const bundle = Buffer.alloc(extra, 2);
    const { bytes, commitment } = writeSealed(facts, key, salt, inner, pdf, bundle);
    const { header, aad } = readHeader(bytes);
    const opened = readParts(bytes, header, aad, key, ['bundle']);
    assert.ok(bundle.equals(opened.bundle ?? Buffer.alloc(0)), `${extra} bytes`);
    assert.equal(opened.commitment, commitment);
  }
});

test('the test vectors of docs/sealed-object.md', async () => {
  const text = await readFile(new URL('../fixtures/vault/sealed-object-vectors.json', import.meta.url), 'utf8');
  const v = JSON.parse(text) as {
    documentKey: string;
    rowKey: string;
    categoryPrivateJwk: JsonWebKey;
    salt: string;
    outer: OuterHeader;
    inner: InnerHeader;
    single: { pdf: string; bundle: string; sealed: string; ciphertextHash: string; commitment: string };
    chunked: { pdfBytes: number; bundle: string; sealedBytes: number; ciphertextHash: string; commitment: string };
  };
  const bytes = (hex: string): Buffer => Buffer.from(hex, 'hex');
  const key = createSecretKey(bytes(v.documentKey));
  const single = writeSealed(v.outer, key, v.salt, v.inner, bytes(v.single.pdf), bytes(v.single.bundle));
  assert.equal(single.bytes.toString('hex'), v.single.sealed);
  assert.deepEqual([single.ciphertextHash, single.commitment], [v.single.ciphertextHash, v.single.commitment]);
  const pdf = Buffer.alloc(v.chunked.pdfBytes);
  for (let i = 0; i < pdf.length; i++) pdf[i] = i % 251;
  const chunked = writeSealed(v.outer, key, v.salt, v.inner, pdf, bytes(v.chunked.bundle));
  const found = [chunked.bytes.length, chunked.ciphertextHash, chunked.commitment];
  assert.deepEqual(found, [v.chunked.sealedBytes, v.chunked.ciphertextHash, v.chunked.commitment]);

  const { wrap } = v.outer;
  const privateKey = createPrivateKey({ key: v.categoryPrivateJwk, format: 'jwk' });
  assert.equal(Buffer.from((await compactDecrypt(wrap.toCategory, privateKey)).plaintext).toString('hex'), v.documentKey);
  const own = createSecretKey(Buffer.from(hkdfSync('sha256', createSecretKey(bytes(v.rowKey)), '', 'oncobridge-keys/1 document keys', 32)));
  assert.equal(openDirectJwe(own, wrap.toInstitution, `${wrap.patient}/${wrap.category}`)?.toString('hex'), v.documentKey);
  const doc = await readFile(new URL('../../docs/sealed-object.md', import.meta.url), 'utf8');
  for (const figure of [v.single.ciphertextHash, v.single.commitment, v.chunked.ciphertextHash])
    assert.ok(doc.includes(figure), 'docs/sealed-object.md is current');
});

test(`sealed rows open at their place only, and no byte of them may change (seed ${seed})`, async () => {
  const kinds = [
    {
      seal: (place: string, text: Uint8Array) => rows.seal(patient, 'core', place, text),
      open: (place: string, row: Uint8Array) => rows.open(patient, 'core', place, row),
    },
    { seal: rows.sealIntake, open: rows.openIntake },
    {
      seal: (place: string, text: Uint8Array) => rows.sealPurpose('marks', place, text),
      open: (place: string, row: Uint8Array) => rows.openPurpose('marks', place, row),
    },
  ];
  for (const kind of kinds) {
    await fc.assert(
      fc.asyncProperty(fc.string(), fc.uint8Array({ maxLength: 200 }), fc.nat(), async (place, plain, at) => {
        const row = await kind.seal(place, plain);
        assert.deepEqual(await kind.open(place, row), Buffer.from(plain));
        await assert.rejects(kind.open(`${place}x`, row), broken);
        row[at % row.length] = (row[at % row.length] ?? 0) ^ 4;
        await assert.rejects(kind.open(place, row), (error) => broken(error) || codeOf(error) === 'KEY_MISSING');
      }),
      settings,
    );
  }
  const row = await rows.seal(patient, 'core', 'a', Buffer.from('x'));
  await rows.seal(patient, category, 'a', Buffer.from('x'));
  await rows.seal('pat-two', 'core', 'a', Buffer.from('x'));
  await assert.rejects(rows.open(patient, category, 'a', row), broken);
  await assert.rejects(rows.open('pat-two', 'core', 'a', row), broken);
  await assert.rejects(rows.open('pat-none', 'core', 'a', row), (error) => codeOf(error) === 'KEY_MISSING');
  const purpose = await rows.sealPurpose('marks', 'a', Buffer.from('x'));
  await assert.rejects(rows.openPurpose('audit', 'a', purpose), broken);
  assert.equal(await rows.blind('source-ids', 'a'), await rows.blind('source-ids', 'a'));
  assert.notEqual(await rows.blind('source-ids', 'a'), await rows.blind('content', 'a'));
  assert.match(await rows.blind('source-ids', 'a'), /^[0-9a-f]{64}$/);
});

test('canonical JSON is RFC 8785', () => {
  assert.equal(
    canonicalJson({
      '\u20ac': 'Euro Sign',
      '\r': 'Carriage Return',
      '\ufb33': 'Dalet',
      1: 'One',
      '\ud83d\ude00': 'Smiley',
      '\u0080': 'Control',
      '\u00f6': 'o',
    }),
    '{"\\r":"Carriage Return","1":"One","\u0080":"Control","\u00f6":"o","\u20ac":"Euro Sign","\ud83d\ude00":"Smiley","\ufb33":"Dalet"}',
  );
  assert.equal(canonicalJson([1e21, 1e-7, -0, 4.5, null, true, [], {}]), '[1e+21,1e-7,0,4.5,null,true,[],{}]');
  // In order or not, the same text; sparse arrays and members that are undefined too.
  const reversed = (value: unknown): unknown => {
    if (Array.isArray(value)) return value.map(reversed);
    if (typeof value !== 'object' || value === null) return value;
    const turned: Record<string, unknown> = Object.create(null) as Record<string, unknown>;
    for (const [name, member] of Object.entries(value).toReversed()) turned[name] = reversed(member);
    return turned;
  };
  fc.assert(
    fc.property(fc.jsonValue(), (value) => {
      const text = canonicalJson(value);
      assert.equal(canonicalJson(reversed(value)), text);
      assert.deepEqual(JSON.parse(text), JSON.parse(JSON.stringify(value)));
    }),
    { ...settings, numRuns: 300 },
  );
  assert.equal(canonicalJson({ a: undefined, b: 1 }), '{"b":1}');
  const sparse: unknown[] = [1];
  sparse[2] = 2;
  assert.throws(() => canonicalJson(sparse), TypeError);
  for (const impossible of [Number.NaN, '\ud800', [undefined], () => 1, 1n]) assert.throws(() => canonicalJson(impossible), TypeError);
});
