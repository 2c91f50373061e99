import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { createPublicKey, type JsonWebKey, verify } from 'node:crypto';
import { once } from 'node:events';
import { appendFile, copyFile, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { compactVerify } from 'jose';
import { codeOf } from '../../src/errors.ts';
import { createFileCustodian, type FileCustodian } from '../../src/vault/file-custodian.ts';
import { makePassphraseFile, requireStrongPassphrase } from '../../src/vault/passphrase.ts';
import { createSealedRows } from '../../src/vault/sealed-rows-store.ts';
import { jwkThumbprint } from '../../src/vault/thumbprint.ts';

const passphrase = 'Tallow-harbour 71 quince';
const institution = 'inst-alpha';
const patient = 'pat-aaaaaaaaaaaaaaaaaaaaaaaaaa';
const folders: string[] = [];
after(() => Promise.all(folders.map((folder) => rm(folder, { recursive: true, force: true }))));

async function folder(): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), 'oncobridge-vault-'));
  folders.push(path);
  return path;
}
const open = (directory: string, other: { passphrase?: string; institution?: string } = {}): Promise<FileCustodian> =>
  createFileCustodian({ directory, passphrase, institution, ...other });
const refusedWith = (code: string) => (error: unknown) => codeOf(error) === code;

test('keys survive a restart, and the same call gives the same key', async () => {
  const directory = await folder();
  const first = await open(directory);
  const keys = await first.enrollPatient(patient, ['laboratory', 'radiation-dose']);
  const again = await first.enrollPatient(patient, ['laboratory', 'radiation-dose']);
  assert.deepEqual(again, keys);
  const made = await Promise.all([
    first.rowKey(patient, 'core'),
    first.intakeKey('2026-11'),
    first.purposeKey('audit'),
    first.hmacKey('identifier:urn:oid:1.2.3/4'),
    first.institutionKeys(),
  ]);
  await first.close();
  const second = await open(directory);
  assert.deepEqual(await second.enrollPatient(patient, ['laboratory', 'radiation-dose']), keys);
  assert.deepEqual(await second.categoryKey(patient, 'laboratory'), keys.get('laboratory'));
  assert.equal(await second.categoryKey(patient, 'history-and-physical'), undefined);
  assert.equal((await second.enrollPatient(patient, ['history-and-physical'])).size, 1, 'a category that is added later gets its key');
  const [row, intake, audit, hmac, own] = made;
  assert.ok(row.equals(await second.rowKey(patient, 'core')));
  assert.ok(intake.equals(await second.intakeKey('2026-11')));
  assert.ok(audit.equals(await second.purposeKey('audit')));
  assert.ok(hmac.equals(await second.hmacKey('identifier:urn:oid:1.2.3/4')));
  assert.deepEqual(await second.institutionKeys(), own);
  await second.close();
});

test('many makers of one key get one, and thousands of keys share few fsyncs', async () => {
  const directory = await folder();
  const custodian = await open(directory);
  const same = await Promise.all(Array.from({ length: 200 }, () => custodian.rowKey(patient, 'laboratory')));
  assert.ok(same.every((key) => same[0]?.equals(key)));
  const started = performance.now();
  await Promise.all(Array.from({ length: 1000 }, (_, i) => custodian.enrollPatient(`pat-${i}`, ['laboratory', 'radiation-dose'])));
  const elapsedMs = performance.now() - started;
  assert.ok(elapsedMs < 10_000, `3,000 keys took ${elapsedMs} ms`);
  await custodian.close();
  const lines = (await readFile(join(directory, 'keys.log'), 'utf8')).trimEnd().split('\n');
  assert.equal(lines.length, 1 + 1 + 3000);
  assert.equal(new Set(lines).size, lines.length);
});

test('the store shows no key, is private to its user, and opens with its own passphrase and institution only', async () => {
  const directory = await folder();
  const custodian = await open(directory);
  const key = (await custodian.rowKey(patient, 'core')).export();
  await custodian.close();
  const bytes = await readFile(join(directory, 'keys.log'));
  for (const form of [key, Buffer.from(key.toString('base64url')), Buffer.from(key.toString('hex'))]) assert.equal(bytes.indexOf(form), -1);
  assert.equal((await stat(join(directory, 'keys.log'))).mode & 0o777, 0o600);
  assert.equal((await stat(directory)).mode & 0o777, 0o700);
  assert.match(bytes.toString('utf8').split('\n')[0] ?? '', /"memoryKib":65536,"name":"argon2id"/);
  await assert.rejects(open(directory, { passphrase: 'Tallow-harbour 72 quince' }), refusedWith('KEYS_LOCKED'));
  await assert.rejects(open(directory, { institution: 'inst-beta' }), refusedWith('KEYS_BROKEN'));
  await (await open(directory)).close();
});

test('weak passphrases are refused; a made one is a new file for its user alone', async () => {
  for (const weak of [
    '',
    'short',
    'aaaaaaaaaaaaaaaaaaaaaaaa',
    'abcabcabcabcabcabcabc',
    'ChangeMe-ChangeMe-123456',
    'correct-horse!!'.slice(0, 15),
    'Passphrase-2026-2026',
  ]) {
    assert.throws(() => requireStrongPassphrase(weak), refusedWith('SECRET_WEAK'), weak);
  }
  await assert.rejects(open(await folder(), { passphrase: 'password12345678' }), refusedWith('SECRET_WEAK'));
  const path = join(await folder(), 'passphrase');
  const made = await makePassphraseFile(path);
  requireStrongPassphrase(made);
  assert.equal((await readFile(path, 'utf8')).trim(), made);
  assert.equal((await stat(path)).mode & 0o777, 0o600);
  await assert.rejects(makePassphraseFile(path), { code: 'EEXIST' });
});

test('a record cut off by a crash is dropped; any other damage is refused', async () => {
  const directory = await folder();
  const path = join(directory, 'keys.log');
  const custodian = await open(directory);
  const kept = (await custodian.rowKey(patient, 'core')).export();
  await custodian.close();
  const whole = await readFile(path, 'utf8');

  for (const tail of ['{"k":"purpose/audit","w":"AAAA', '\0'.repeat(300), `{"k":"pu${'\0'.repeat(40)}\n`]) {
    await appendFile(path, tail);
    const reopened = await open(directory);
    assert.equal((await readFile(path, 'utf8')).length, whole.length, 'the torn record is cut off');
    assert.ok(kept.equals((await reopened.rowKey(patient, 'core')).export()));
    await reopened.close();
  }
  const record = whole.split('\n')[1] ?? '';
  const broken = [
    whole.replace(record, 'x'.repeat(20)),
    `${whole}${record.replace('"w":"', '"w":"A')}\n`,
    whole.replace(record, `\0\0\0\n${record}`),
    whole.slice(whole.indexOf('\n') + 1),
    '',
  ];
  for (const text of broken) {
    await writeFile(path, text);
    await assert.rejects(open(directory), refusedWith('KEYS_BROKEN'));
  }
  // A record moved to another name, or altered, opens under none.
  await writeFile(path, whole.replace('/row/core', '/row/laboratory'));
  const moved = await open(directory);
  await assert.rejects(moved.rowKey(patient, 'laboratory'), refusedWith('KEYS_BROKEN'));
  await moved.close();
});

test('a public half exchanged in the file is noticed before anything is sealed to it', async () => {
  const directory = await folder();
  const custodian = await open(directory);
  const mine = (await custodian.enrollPatient(patient, ['laboratory'])).get('laboratory');
  const other = (await custodian.enrollPatient('pat-other', ['laboratory'])).get('laboratory');
  await custodian.close();
  const path = join(directory, 'keys.log');
  const text = await readFile(path, 'utf8');
  assert.ok(mine && other);
  const swapped = text
    .split('\n')
    .map((line) => (line.includes(`${patient}/ck/`) ? line.replace(mine.publicJwk.x, other.publicJwk.x) : line));
  await writeFile(path, swapped.join('\n'));
  const reopened = await open(directory);
  await assert.rejects(reopened.categoryKey(patient, 'laboratory'), refusedWith('KEYS_BROKEN'));
  await reopened.close();
});

test('one writer: a second is refused, a lock left by kill -9 is taken over', async () => {
  const directory = await folder();
  const custodian = await open(directory);
  await assert.rejects(open(directory), refusedWith('KEYS_BUSY'));
  await custodian.close();

  const source = new URL('../../src/vault/file-custodian.ts', import.meta.url).href;
  const program = `const { createFileCustodian } = await import(${JSON.stringify(source)});
    const c = await createFileCustodian(${JSON.stringify({ directory, passphrase, institution })});
    const key = await c.rowKey(${JSON.stringify(patient)}, 'core');
    console.log(key.export().toString('hex'));
    for (let i = 0; ; i++) await c.purposeKey('p' + i);`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', program], { stdio: ['ignore', 'pipe', 'inherit'] });
  const [line] = (await once(child.stdout, 'data')) as [Buffer];
  await assert.rejects(open(directory), refusedWith('KEYS_BUSY'));
  child.kill('SIGKILL');
  await once(child, 'exit');
  const contenders = await Promise.allSettled(Array.from({ length: 4 }, () => open(directory)));
  const winners = contenders.filter((one) => one.status === 'fulfilled').map((one) => one.value);
  assert.equal(winners.length, 1, 'exactly one takes the lock over');
  assert.equal(
    (await winners[0]?.rowKey(patient, 'core'))?.export().toString('hex'),
    line.toString().trim(),
    'what was handed out is kept',
  );
  await winners[0]?.close();
});

test('destroyed keys are gone from file and memory; others stay', async () => {
  const directory = await folder();
  const custodian = await open(directory);
  const rows = createSealedRows({ custodian });
  await custodian.enrollPatient(patient, ['laboratory', 'radiation-dose']);
  const kept = (await custodian.enrollPatient('pat-kept', ['laboratory'])).get('laboratory');
  const lab = await rows.seal(patient, 'laboratory', 'a', Buffer.from('x'));
  const dose = await rows.seal(patient, 'radiation-dose', 'a', Buffer.from('y'));
  const intake = await rows.sealIntake('b', Buffer.from('z'));
  await custodian.destroy(patient, 'laboratory');
  await assert.rejects(rows.open(patient, 'laboratory', 'a', lab), refusedWith('KEY_MISSING'));
  assert.equal((await rows.open(patient, 'radiation-dose', 'a', dose)).toString(), 'y');
  await Promise.all([
    custodian.destroy(patient),
    custodian.destroyIntakeKey(new Date().toISOString().slice(0, 7)),
    custodian.rowKey('pat-late', 'core'),
  ]);
  await custodian.destroy(patient);
  await assert.rejects(rows.open(patient, 'radiation-dose', 'a', dose), refusedWith('KEY_MISSING'));
  await assert.rejects(rows.openIntake('b', intake), refusedWith('KEY_MISSING'));
  await assert.rejects(custodian.rotateCategoryKey(patient, 'laboratory'), refusedWith('CUSTODY_REFUSED'));
  const late = await custodian.rowKey('pat-late', 'core');
  await custodian.close();
  const text = await readFile(join(directory, 'keys.log'), 'utf8');
  assert.ok(!text.includes(patient));
  const reopened = await open(directory);
  assert.equal(await reopened.categoryKey(patient, 'laboratory'), undefined);
  assert.deepEqual(await reopened.categoryKey('pat-kept', 'laboratory'), kept);
  assert.ok(late.equals(await reopened.rowKey('pat-late', 'core')), 'a key made while the store was compacted is kept once');
  await reopened.close();
});

test('the institution signs for a patient in custody only, for that patient or a registrar', async () => {
  const directory = await folder();
  const custodian = await open(directory);
  await custodian.enrollPatient(patient, ['laboratory']);
  const statement = (onBehalf: unknown, about = patient, at = institution): string =>
    JSON.stringify({ institution: at, ledger: 'ledger-1', nonce: 'n', onBehalf, patient: about });
  const sign = (actor: { kind: 'patient' | 'registrar'; id: string }, payload: string, who = patient): Promise<string> =>
    custodian.signForPatient({ patient: who, actor, typ: 'grant+jws', payload });

  const { signing } = await custodian.institutionKeys();
  const key = createPublicKey({ key: signing as JsonWebKey, format: 'jwk' });
  for (const [actor, onBehalf] of [
    [{ kind: 'patient', id: patient }, patient],
    [{ kind: 'registrar', id: 'mem-r' }, 'mem-r'],
    [{ kind: 'registrar', id: 'mem-r' }, `member:${institution}:mem-r`],
  ] as const) {
    const payload = statement(onBehalf);
    const verified = await compactVerify(await sign(actor, payload), key);
    assert.deepEqual(verified.protectedHeader, { alg: 'ES256', kid: jwkThumbprint(signing), typ: 'grant+jws' });
    assert.equal(Buffer.from(verified.payload).toString(), payload);
  }
  const own = { kind: 'patient', id: patient } as const;
  const registrar = { kind: 'registrar', id: 'mem-r' } as const;
  for (const refused of [
    () => sign({ kind: 'patient', id: 'pat-other' }, statement('pat-other')),
    () => sign({ kind: 'clinician' as 'registrar', id: 'mem-r' }, statement('mem-r')),
    () => sign(own, statement('mem-r')),
    () => sign(own, statement(null)),
    () => sign(registrar, statement('mem-s')),
    () => sign(registrar, statement('member:inst-beta:mem-r')),
    () => sign(own, statement(patient, 'pat-other')),
    () => sign(own, statement(patient, patient, 'inst-beta')),
    () => sign({ kind: 'patient', id: 'pat-none' }, statement('pat-none', 'pat-none'), 'pat-none'),
    () => sign(own, '[]'),
    () => custodian.signForPatient({ patient, actor: own, typ: 'JWT', payload: statement(patient) }),
    () => custodian.signAsInstitution('grant+jws', statement(patient)),
  ]) {
    await assert.rejects(refused(), refusedWith('CUSTODY_REFUSED'));
  }
  const plain = await custodian.signAsInstitution('init+jws', JSON.stringify({ institution }));
  assert.equal((await compactVerify(plain, key)).protectedHeader.typ, 'init+jws');
  const bytes = Buffer.from('block');
  assert.ok(verify('sha256', bytes, { key, dsaEncoding: 'ieee-p1363' }, await custodian.signBytes(bytes)));
  await custodian.close();
});

test('an envelope opens for its recipient only, as what it is', async () => {
  const [a, b] = [await folder(), await folder()];
  const alpha = await open(a);
  const beta = await open(b, { institution: 'inst-beta' });
  await alpha.enrollPatient(patient, ['laboratory']);
  const newest = await alpha.rotateCategoryKey(patient, 'laboratory');
  assert.equal(newest.version, 2);
  const { encryption } = await beta.institutionKeys();
  const envelope = await alpha.sealEnvelope(patient, 'laboratory', encryption);
  const expect = { institution, patient, category: 'laboratory' };
  const opened = await beta.openEnvelope(envelope, expect);
  assert.deepEqual(
    opened.keys.map((key) => [key.version, typeof key.jwk.d]),
    [
      [1, 'string'],
      [2, 'string'],
    ],
  );
  assert.equal(opened.keys[1]?.jwk.x, newest.publicJwk.x);
  const header = JSON.parse(Buffer.from(envelope.split('.')[0] ?? '', 'base64url').toString()) as Record<string, unknown>;
  assert.deepEqual(
    [header['patient'], header['category'], header['versions'], header['kid']],
    [[institution, patient], 'laboratory', [1, 2], jwkThumbprint(encryption)],
  );
  await assert.rejects(alpha.openEnvelope(envelope, expect), refusedWith('SEAL_BROKEN'));
  for (const other of [
    { ...expect, patient: 'pat-other' },
    { ...expect, category: 'radiation-dose' },
    { ...expect, institution: 'inst-beta' },
  ]) {
    await assert.rejects(beta.openEnvelope(envelope, other), refusedWith('SEAL_BROKEN'));
  }
  for (let at = 0; at < envelope.length; at += 7) {
    const altered = envelope.slice(0, at) + (envelope[at] === 'A' ? 'B' : 'A') + envelope.slice(at + 1);
    await assert.rejects(beta.openEnvelope(altered, expect), refusedWith('SEAL_BROKEN'), `character ${at}`);
  }
  await alpha.close();
  await beta.close();
  await copyFile(join(a, 'keys.log'), join(b, 'keys.log'));
  await assert.rejects(open(b, { institution: 'inst-beta' }), refusedWith('KEYS_BROKEN'));
});
