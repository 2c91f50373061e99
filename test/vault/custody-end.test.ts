import assert from 'node:assert/strict';
import { createPublicKey, generateKeyPairSync, type JsonWebKey, verify } from 'node:crypto';
import { copyFile, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { compactVerify, importJWK } from 'jose';
import { codeOf } from '../../src/errors.ts';
import type { PublicJwk } from '../../src/vault/custodian.ts';
import { openEnvelope } from '../../src/vault/envelope.ts';
import { createFileCustodian, type FileCustodian } from '../../src/vault/file-custodian.ts';
import { createSealer } from '../../src/vault/sealer.ts';
import { jwkThumbprint } from '../../src/vault/thumbprint.ts';

const passphrase = 'Tallow-harbour 71 quince';
const institution = 'inst-alpha';
const patient = 'pat-aaaaaaaaaaaaaaaaaaaaaaaaaa';
const folders: string[] = [];
after(() => Promise.all(folders.map((folder) => rm(folder, { recursive: true, force: true }))));
async function folder(): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), 'oncobridge-custody-'));
  folders.push(path);
  return path;
}
const open = (directory: string, name = institution): Promise<FileCustodian> =>
  createFileCustodian({ directory, passphrase, institution: name });
const refusedWith = (code: string) => (error: unknown) => codeOf(error) === code;

test('a claimed patient: the envelopes hold every version, release destroys these and nothing else, for good', async () => {
  const directory = await folder();
  let custodian = await open(directory);
  await custodian.enrollPatient(patient, ['laboratory', 'radiation-dose']);
  await custodian.enrollPatient('pat-other', ['laboratory']);
  await custodian.rotateCategoryKey(patient, 'laboratory');
  assert.deepEqual(await custodian.heldCategories(patient), ['laboratory', 'radiation-dose']);
  assert.deepEqual(await custodian.heldCategories('pat-none'), []);
  const categoryKey = await custodian.categoryKey(patient, 'laboratory');
  assert.ok(categoryKey);
  const sealer = createSealer({ custodian });
  const of = { document: 'doc-1', version: 1, patient, category: 'laboratory' };
  const sealed = await sealer.seal({
    ...of,
    institution,
    categoryKey,
    inner: { manifest: {}, resourceIds: {} },
    pdf: Buffer.from('pdf'),
    bundle: Buffer.from('{}'),
  });
  const row = await custodian.rowKey(patient, 'laboratory');

  const device = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const recipient = device.publicKey.export({ format: 'jwk' }) as PublicJwk;
  const envelope = await custodian.sealEnvelope(patient, 'laboratory', recipient, 'ob1.code');
  const content = await openEnvelope(
    envelope,
    { key: device.privateKey, kid: jwkThumbprint(recipient) },
    { patient: { institution, patient }, category: 'laboratory' },
  );
  assert.deepEqual(
    content.keys.map((key) => key.version),
    [1, 2],
  );
  assert.deepEqual([content.keys[1]?.jwk.x, content.link], [categoryKey.publicJwk.x, 'ob1.code']);
  const claim = JSON.stringify({ institution, patient, onBehalf: patient, type: 'claimPatient' });
  const sign = (): Promise<string> =>
    custodian.signForPatient({ patient, actor: { kind: 'patient', id: patient }, typ: 'claim+jws', payload: claim });
  assert.equal((await sign()).split('.').length, 3);

  await Promise.all([custodian.release(patient), custodian.release(patient)]);
  const ended = async (): Promise<void> => {
    assert.deepEqual(await custodian.heldCategories(patient), []);
    assert.equal(await custodian.categoryKey(patient, 'laboratory'), undefined);
    for (const refused of [
      () => custodian.enrollPatient(patient, ['laboratory']),
      () => custodian.rotateCategoryKey(patient, 'laboratory'),
      sign,
    ])
      await assert.rejects(refused, refusedWith('CUSTODY_REFUSED'));
    await assert.rejects(custodian.sealEnvelope(patient, 'laboratory', recipient), refusedWith('KEY_MISSING'));
    assert.ok(row.equals(await custodian.rowKey(patient, 'laboratory', 'open')), 'the institution keeps what it holds');
    const expect = { ...of, ciphertextHash: sealed.ciphertextHash, commitment: sealed.commitment };
    const opened = await createSealer({ custodian }).open(sealed.bytes, expect);
    assert.equal(Buffer.from(opened.pdf).toString(), 'pdf', 'what it produced stays readable to it');
    assert.ok(await custodian.categoryKey('pat-other', 'laboratory'));
  };
  await ended();
  await custodian.close();
  const text = await readFile(join(directory, 'keys.log'), 'utf8');
  assert.ok(!text.includes(`${patient}/ck/`) && !text.includes(`${patient}/key/`) && text.includes('pat/pat-other/ck/laboratory/1'));
  custodian = await open(directory);
  await ended();
  await custodian.release(patient);
  await ended();
  // Erasure afterwards takes the rest, the mark with it.
  await custodian.destroy(patient);
  await assert.rejects(custodian.rowKey(patient, 'laboratory', 'open'), refusedWith('KEY_MISSING'));
  await custodian.close();
  assert.ok(!(await readFile(join(directory, 'keys.log'), 'utf8')).includes(patient));
});

test('a release that was killed between its mark and its end is finished at the next opening', async () => {
  const directory = await folder();
  const custodian = await open(directory);
  await custodian.enrollPatient(patient, ['laboratory']);
  await custodian.close();
  const log = join(directory, 'keys.log');
  await copyFile(log, `${log}.before`);
  const again = await open(directory);
  await again.release(patient);
  await again.close();
  const mark = (await readFile(log, 'utf8')).split('\n').find((line) => line.includes('/released/'));
  assert.ok(mark);
  await writeFile(log, `${await readFile(`${log}.before`, 'utf8')}${mark}\n`, { mode: 0o600 });
  const opened = await open(directory);
  assert.equal(await opened.categoryKey(patient, 'laboratory'), undefined);
  await opened.close();
  assert.ok(!(await readFile(log, 'utf8')).includes('/ck/'));
});

test('institution keys: the next ones wait, durable, until they are taken into use; envelopes to older ones still open', async () => {
  const [a, b] = [await folder(), await folder()];
  const theirs = await open(b, 'inst-beta');
  await theirs.enrollPatient(patient, ['laboratory']);
  const theirKeys = await theirs.institutionKeys();
  let ours = await open(a);
  const first = await ours.institutionKeys();
  assert.equal(first.version, 1);
  await assert.rejects(ours.useInstitutionKeys(2), refusedWith('KEY_MISSING'));
  await assert.rejects(ours.signAsInstitution('init+jws', '{}', 2), refusedWith('KEY_MISSING'));
  const next = await ours.nextInstitutionKeys();
  assert.deepEqual([next.version, await ours.nextInstitutionKeys()], [2, next]);
  assert.deepEqual(await ours.institutionKeys(), first, 'made is not used');
  const kidOf = async (version?: number): Promise<string> => {
    const jws = await ours.signAsInstitution('rotate-institution-key+jws', '{"a":1}', version);
    const kid = JSON.parse(Buffer.from(jws.split('.')[0] ?? '', 'base64url').toString()).kid as string;
    const key = (await ours.keptInstitutionKeys()).find(({ signing }) => jwkThumbprint(signing) === kid);
    assert.ok(key);
    await compactVerify(jws, await importJWK(key.signing, 'ES256'));
    return kid;
  };
  assert.deepEqual([await kidOf(), await kidOf(2)], [jwkThumbprint(first.signing), jwkThumbprint(next.signing)]);
  const expect = { institution: 'inst-beta', patient, category: 'laboratory' };
  const toOld = await theirs.sealEnvelope(patient, 'laboratory', first.encryption);
  await ours.close();

  ours = await open(a);
  assert.deepEqual(await ours.institutionKeys(), first);
  assert.deepEqual(await ours.nextInstitutionKeys(), next);
  await ours.useInstitutionKeys(2);
  await ours.useInstitutionKeys(2);
  assert.deepEqual(await ours.institutionKeys(), next);
  await assert.rejects(ours.useInstitutionKeys(1), refusedWith('KEYS_BROKEN'));
  await ours.close();

  ours = await open(a);
  assert.deepEqual(await ours.institutionKeys(), next);
  assert.equal(await kidOf(), jwkThumbprint(next.signing));
  const bytes = Buffer.from('block');
  for (const [by, named] of [
    [next, undefined],
    [next, next.signing],
    [first, first.signing],
  ] as const) {
    const key = createPublicKey({ key: by.signing as JsonWebKey, format: 'jwk' });
    assert.ok(verify('sha256', bytes, { key, dsaEncoding: 'ieee-p1363' }, await ours.signBytes(bytes, named)));
  }
  await assert.rejects(ours.signBytes(bytes, theirKeys.signing), refusedWith('KEY_MISSING'));
  const toNew = await theirs.sealEnvelope(patient, 'laboratory', next.encryption);
  for (const envelope of [toOld, toNew]) assert.equal((await ours.openEnvelope(envelope, expect)).keys.length, 1);
  const toNobody = await theirs.sealEnvelope(patient, 'laboratory', theirKeys.encryption);
  await assert.rejects(ours.openEnvelope(toNobody, expect), refusedWith('SEAL_BROKEN'));
  await assert.rejects(ours.openEnvelope('no envelope', expect), refusedWith('SEAL_BROKEN'));
  assert.equal((await ours.nextInstitutionKeys()).version, 3);
  assert.equal((await ours.keptInstitutionKeys()).length, 3);
  await Promise.all([ours.close(), theirs.close()]);
});
