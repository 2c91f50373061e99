import assert from 'node:assert/strict';
import { generateKeyPairSync } from 'node:crypto';
import { test } from 'node:test';
import type { PublicJwk } from '../../src/vault/custodian.ts';
import { isEnvelopeTo, longestEnvelope, openEnvelope, sealEnvelope } from '../../src/vault/envelope.ts';
import { jwkThumbprint } from '../../src/vault/thumbprint.ts';

const institution = 'inst-alpha';
const patient = 'pat-aaaaaaaaaaaaaaaaaaaaaaaaaa';

test('an envelope carries a code inside, and neither that nor another version shows in its size', async () => {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const jwk = publicKey.export({ format: 'jwk' }) as PublicJwk;
  const kid = jwkThumbprint(jwk);
  const secret = generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey.export({ format: 'jwk' });
  const of = { patient: { institution, patient }, category: 'laboratory' };
  const key = (version: number) => ({ version, jwk: secret });
  const link = `ob1.${'c'.repeat(400)}`;
  const plain = await sealEnvelope({ ...of, keys: [key(1)] }, { ...jwk, kid });
  const linked = await sealEnvelope({ ...of, keys: [key(1)], link }, { ...jwk, kid });
  const two = await sealEnvelope({ ...of, keys: [key(1), key(2)], link }, { ...jwk, kid });
  const sizeOf = (envelope: string): number => envelope.split('.').slice(1).join().length;
  assert.deepEqual([sizeOf(linked), sizeOf(two)], [sizeOf(plain), sizeOf(plain)]);
  assert.ok(!Buffer.from(linked.split('.')[0] ?? '', 'base64url').includes('ob1.'));
  assert.equal((await openEnvelope(linked, { key: privateKey, kid }, of)).link, link);
  assert.equal('link' in (await openEnvelope(plain, { key: privateKey, kid }, of)), false);
  // What anybody can read of it.
  assert.ok(isEnvelopeTo(linked, { ...of, recipient: kid }));
  assert.ok(!isEnvelopeTo(linked, { ...of, recipient: jwkThumbprint({ kty: 'EC', crv: 'P-256', x: 'x', y: 'y' }) }));
  assert.ok(!isEnvelopeTo(linked, { ...of, category: 'radiation-dose', recipient: kid }));
  assert.ok(!isEnvelopeTo(linked, { ...of, patient: { institution, patient: 'pat-other' }, recipient: kid }));
  assert.ok(!isEnvelopeTo(`${linked}.x`, { ...of, recipient: kid }) && !isEnvelopeTo('no envelope', { ...of, recipient: kid }));
});

test('no envelope is longer than its number of versions says', async () => {
  const { publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const jwk = publicKey.export({ format: 'jwk' }) as PublicJwk;
  const secret = generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey.export({ format: 'jwk' });
  const name = 'x'.repeat(64);
  for (const versions of [1, 9, 40, 400]) {
    // As a browser's own export writes a key, with the longest code and the longest names.
    const keys = Array.from({ length: versions }, (_, i) => ({ version: i + 1, jwk: { ...secret, key_ops: ['deriveBits'], ext: true } }));
    const content = { patient: { institution: name, patient: name }, category: name, keys, link: 'c'.repeat(1024) };
    const { length } = await sealEnvelope(content, { ...jwk, kid: jwkThumbprint(jwk) });
    assert.ok(length <= longestEnvelope(versions), `${versions}: ${length}`);
    assert.ok(longestEnvelope(versions) < 1.6 * length, `${versions}: ${longestEnvelope(versions)} of ${length}`);
  }
});
