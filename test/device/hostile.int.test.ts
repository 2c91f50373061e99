import assert from 'node:assert/strict';
import { createHash, generateKeyPairSync } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { copyConfig } from '../../simulator/demo-config.ts';
import { createPatientDevice, type PatientDevice } from '../../simulator/patient-device.ts';
import { createSimulator, type Simulator } from '../../simulator/simulator.ts';
import { type App, createApp } from '../../src/app.ts';
import { readSettings } from '../../src/cli/settings.ts';
import { createKeptEnvelopes } from '../../src/device/kept-envelopes.ts';
import { codeOf } from '../../src/errors.ts';
import { newId } from '../../src/ids.ts';
import { canonicalize } from '../../src/ledger/contract/jcs.ts';
import * as build from '../../src/ledger/contract/payloads.ts';
import { TYP } from '../../src/ledger/contract/shapes.ts';
import { cosignFile, makeJoinFile, submitFile } from '../../src/membership/cosigned-file.ts';
import { sql } from '../../src/store/sql.ts';
import { sealEnvelope } from '../../src/vault/envelope.ts';
import { createFileCustodian, type FileCustodian } from '../../src/vault/file-custodian.ts';
import { jwkThumbprint } from '../../src/vault/thumbprint.ts';

const AWAY = newId('inst');
const dose = 'radiation-dose';
const QUOTAS = { maxBytesPerPatient: 1e6, maxBytesPerPatientADay: 1e6, maxBytesPerInstitution: 1e6, maxBytesPerInstitutionADay: 1e6 };

describe('the door against other institutions that mean ill, and devices that are lost', () => {
  let folder: string;
  let simulator: Simulator;
  let app: App;
  let away: FileCustodian;
  let origin: string;
  let home: string;
  let clinician: string;
  let patient: string;
  let other: string;
  let device: PatientDevice;

  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'oncobridge-hostile-'));
    simulator = await createSimulator();
    const config = copyConfig({ run: folder, sample: 'embedded.yaml', simulator });
    app = await createApp({ settings: await readSettings(config), serve: true, logLevel: 'silent', schedule: false });
    await app.operations.pull({}, () => {});
    await app.settled();
    home = app.core.institution;
    origin = new URL(app.facadeUrl).origin;
    clinician = (await app.operations.memberAdd({ name: 'Dr. Ana Ruiz', role: 'clinician' })).member;
    const found = await rows<{ pat: string }>(
      sql`select distinct pat from projection.document where category = ${dose} and not withdrawn order by pat limit 2`,
    );
    patient = found[0]?.pat ?? assert.fail('no patient with a dose');
    other = found[1]?.pat ?? assert.fail('no second patient');
    away = await createFileCustodian({ directory: join(folder, 'away'), passphrase: 'Tallow-harbour 71 quince', institution: AWAY });
    const joining = await makeJoinFile({ custodian: away, ledgerId: app.core.ledgerId, msp: `${AWAY}-msp` });
    const parts = { custodian: app.core.custodian, ledgerId: app.core.ledgerId };
    await submitFile({ ...parts, ledger: app.core.ledger }, await cosignFile(parts, joining, joining.thumbprint));
    await app.settled();
    device = deviceOf(patient);
    await device.claim();
  });
  after(async () => {
    await app?.close();
    await away?.close();
    await simulator?.close();
    rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
  });

  const rows = <T extends object>(fragment: Parameters<App['core']['database']['query']>[0]) => app.core.database.query<T>(fragment);
  const token = async (as: string): Promise<string> => (await app.operations.token({ as })).token;
  const deviceOf = (of: string, more: object = {}): PatientDevice =>
    createPatientDevice({ gateway: origin, token: () => token(of), institution: home, patient: of, ...more });
  async function post(path: string, body: unknown, headers: Record<string, string> = {}) {
    const answer = await fetch(`${origin}/device/${path}`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...headers },
      body: JSON.stringify(body),
    });
    const text = await answer.text();
    const json = (text === '' ? {} : JSON.parse(text)) as {
      block?: number;
      envelopes?: Record<string, string>;
      issue?: { diagnostics?: string; details?: { coding?: { code?: string }[] } }[];
    };
    return { status: answer.status, json, code: json.issue?.[0]?.details?.coding?.[0]?.code, why: json.issue?.[0]?.diagnostics };
  }
  const revokeOf = (grantee: string, consent: string | null = null): string =>
    build.revokePayload({
      ...device.facts(),
      consent,
      grantor: 'patient',
      onBehalf: null,
      permissions: [{ category: dose, grantee }],
    });
  const revokedBy = (jws: string) => post('statements', { transaction: 'revokePermission', args: [jws] });
  /** As if this many statements had come today, signed by the key that signed the last one of the patient's. */
  const fill = (n: number, like: string, transaction = 'revokePermission') =>
    rows(sql`
      insert into device_statement (statement, transaction, inst, pat, kid, outbox)
      select ${like} || g, ${transaction}, ${home}, ${patient}, ${like}, 'obx-none' from generate_series(1, ${n}::int) g`);

  test("whoever else signs uses up nothing of the patient's own number, and what takes something away is never refused for a number", async () => {
    const grantee = `member:${home}:${clinician}`;
    await device.grant({ grantee, categories: [dose], purposes: ['TREAT'] });
    // Another institution renounces what it never had, until its own number is used up.
    const renounce = async () => revokedBy(await away.signAsInstitution(TYP.revokePermission, revokeOf(`organization:${AWAY}`)));
    assert.equal((await renounce()).status, 200);
    const [{ kid } = assert.fail()] = await rows<{ kid: string }>(
      sql`select kid from device_statement where pat = ${patient} and transaction = 'revokePermission'`,
    );
    await fill(499, kid);
    assert.deepEqual([(await renounce()).status, (await renounce()).code], [429, 'THROTTLED']);
    assert.deepEqual(await rows(sql`select 1 from revocation`), []);

    // The patient's own number is whole; and used up too, it holds nothing back that takes something away.
    const own = await rows<{ kid: string }>(
      sql`select kid from device_statement where pat = ${patient} and transaction = 'grantPermission'`,
    );
    await fill(500, own[0]?.kid ?? assert.fail());
    assert.equal(
      (await revokedBy(device.signed('revokePermission', revokeOf('role:researcher')))).code,
      'THROTTLED',
      'it takes nothing away',
    );
    const revoked = await revokedBy(device.signed('revokePermission', revokeOf(grantee)));
    assert.equal(revoked.status, 200, revoked.why);
    const [head] = await rows<{ status: string }>(
      sql`select status from projection.permission where pat = ${patient} and grantee = ${grantee}`,
    );
    assert.equal(head?.status, 'revoked');
    await rows(sql`delete from device_statement where outbox = 'obx-none'`);
  });

  test('an envelope that the ledger names stays, also where our own carrying of the statement was refused', async () => {
    const kept = createKeptEnvelopes({ database: app.core.database, blobs: app.core.blobs, institution: home, quotas: QUOTAS });
    const grantee = `member:${home}:${clinician}`;
    await device.sync();
    await kept.sweep();
    await device.grant({ grantee, categories: [dose] });
    await device.rotateCategoryKey({ category: dose });
    const envelopes = () =>
      rows<{ name: string; outbox: string }>(sql`select name, outbox from device_envelope where pat = ${patient} order by 1`);
    const before = await envelopes();
    assert.equal(before.length, 2, "the permission's and the key version's");
    // Another gateway has brought the same statements first: ours came too late.
    await rows(sql`update outbox set state = 'rejected', error_code = 'SEQUENCE_STALE' where id = any(${before.map((row) => row.outbox)})`);
    const settle = (ago: string) =>
      rows(sql`update outbox set settled_at = now() - ${ago}::interval where id = any(${before.map((row) => row.outbox)})`);
    for (const ago of ['0 s', '1 day']) {
      await settle(ago);
      assert.equal(await kept.sweep(), 0);
      assert.deepEqual(await envelopes(), before);
    }
    // What it does not name goes, though the category has readers: a version that was refused, a permission's too. Not before our view has had time.
    const hash = 'e'.repeat(64);
    const [{ outbox } = assert.fail()] = before;
    for (const one of [
      { grantee, sequence: 99, keyVersion: null },
      { grantee: null, sequence: null, keyVersion: 99 },
      { grantee: null, sequence: null, keyVersion: device.toJSON().categories[dose]?.at(-1)?.version ?? 0 },
    ]) {
      const stored = [{ ...one, category: dose, hash, path: `${home}/envelopes/${hash}`, recipient: 'x', sizeBytes: 1 }];
      await kept.keep(app.core.database, { of: { institution: home, patient }, statement: hash, outbox, stored });
      await settle('0 s');
      assert.equal(await kept.sweep(), 0);
      await settle('1 day');
      assert.equal(await kept.sweep(), 1, JSON.stringify(one));
    }
    assert.deepEqual(await envelopes(), before);
    await device.revoke({ grantee, categories: [dose], rotate: false });
    assert.equal(await kept.sweep(), 2);
  });

  /** A grant to a clinician of ours that names this envelope. */
  const grantWith = (text: string, recipient: string) => {
    const hash = createHash('sha256').update(text).digest('hex');
    const grantee = `member:${home}:${clinician}`;
    const head = device.toJSON().heads.find((one) => one.grantee === grantee && one.category === dose);
    const payload = build.grantPayload({
      ...device.facts(),
      consent: 'con-test',
      evidence: null,
      grantor: 'patient',
      notAfter: new Date(Date.now() + 60_000).toISOString(),
      onBehalf: null,
      permissions: [
        {
          category: dose,
          clauses: [
            {
              consent: 'con-test',
              dataEnd: null,
              dataStart: null,
              effect: 'permit',
              emergency: false,
              periodEnd: '2099-01-01T00:00:00.000Z',
              periodStart: null,
              purposes: null,
              rights: ['read'],
            },
          ],
          envelope: { hash, path: `${home}/envelopes/${hash}`, recipient },
          grantee,
          sequence: (head?.sequence ?? 0) + 1,
        },
      ],
    });
    return post('statements', { transaction: 'grantPermission', args: [device.signed('grantPermission', payload)], envelopes: [text] });
  };

  test('the door is no store: what is no envelope, or longer than one can be, is not kept', async () => {
    await device.sync();
    const { encryption } = await app.core.custodian.institutionKeys();
    const recipient = jwkThumbprint(encryption);
    const kept = device.toJSON().categories[dose] ?? assert.fail();
    const of = { patient: { institution: home, patient }, category: dose };
    const good = await sealEnvelope({ ...of, keys: kept }, { ...encryption, kid: recipient });
    const [head = '', wrapped = '', iv = '', ciphertext = '', tag = ''] = good.split('.');
    const stored = async () =>
      (await rows<{ n: number }>(sql`select (select count(*) from puts) + (select count(*) from device_envelope) as n`))[0]?.n;
    const before = await stored();
    const header = JSON.parse(Buffer.from(head, 'base64url').toString()) as Record<string, unknown>;
    const withHeader = (more: object): string => Buffer.from(JSON.stringify({ ...header, ...more })).toString('base64url');
    const unfit = {
      iv: [head, wrapped, 'AA', ciphertext, tag],
      tag: [head, wrapped, iv, ciphertext, `${tag}AA`],
      'wrapped key': [head, `${wrapped}${'A'.repeat(4000)}`, iv, ciphertext, tag],
      'a ciphertext that fills no steps': [head, wrapped, iv, `${ciphertext}AAAA`, tag],
      'more in its header': [withHeader({ memo: 'x'.repeat(3000) }), wrapped, iv, ciphertext, tag],
      'another algorithm': [withHeader({ alg: 'ECDH-ES' }), wrapped, iv, ciphertext, tag],
      'versions out of order': [withHeader({ versions: [2, 1] }), wrapped, iv, ciphertext, tag],
    };
    for (const [what, parts] of Object.entries(unfit)) {
      const { status, code } = await grantWith(parts.join('.'), recipient);
      assert.deepEqual([status, code], [422, 'ENVELOPE_UNFIT'], what);
    }
    // Of the form to the last letter, and larger than all versions of this key are.
    const large = [head, wrapped, iv, Buffer.alloc(7 * 2048).toString('base64url'), tag].join('.');
    assert.ok(large.length > 16 * 1024);
    assert.deepEqual((await grantWith(large, recipient)).status, 413);
    assert.equal(await stored(), before);
    assert.equal((await grantWith(good, recipient)).status, 200);
  });

  test('what comes in envelopes is counted before it is stored, by patient and by other institution; no revocation is refused by it', async () => {
    await device.sync();
    const grantee = `member:${home}:${clinician}`;
    const { encryption } = await app.core.custodian.institutionKeys();
    const recipient = jwkThumbprint(encryption);
    const sealed = async (of: { institution: string; patient: string }) => {
      const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
      const keys = [{ version: 1, jwk: privateKey.export({ format: 'jwk' }) }];
      const text = await sealEnvelope({ patient: of, category: dose, keys }, { ...encryption, kid: recipient });
      const hash = createHash('sha256').update(text).digest('hex');
      const path = `${home}/envelopes/${hash}`;
      return { text, hash, named: [{ category: dose, hash, path, recipient, grantee, sequence: 1, keyVersion: null }] };
    };
    const keep = async (
      of: { institution: string; patient: string },
      quotas: Partial<typeof QUOTAS>,
      { keyVersion = null, isOwn = false }: { keyVersion?: number | null; isOwn?: boolean } = {},
    ) => {
      const kept = createKeptEnvelopes({ ...app.core, institution: home, quotas: { ...QUOTAS, ...quotas } });
      const { text, hash, named } = await sealed(of);
      try {
        await kept.put({ of, statement: hash, named: named.map((one) => ({ ...one, keyVersion })), given: [text], isOwn });
      } catch (error) {
        assert.equal(await app.core.blobs.head(`${home}/envelopes/${hash}`), undefined);
        return codeOf(error);
      }
      return 'stored';
    };
    const size = (await sealed({ institution: AWAY, patient: 'pat-1' })).text.length;
    const two = 2 * size + 100;
    // Of another institution: as many patients as it likes, one number.
    for (const quota of ['maxBytesPerInstitutionADay', 'maxBytesPerInstitution'] as const) {
      const came = [];
      for (const name of ['pat-1', 'pat-2', 'pat-3']) came.push(await keep({ institution: AWAY, patient: name }, { [quota]: two }));
      assert.deepEqual(came, ['stored', 'stored', 'ENVELOPE_QUOTA'], quota);
      await rows(sql`delete from device_envelope_intake`);
    }
    for (const quota of ['maxBytesPerPatientADay', 'maxBytesPerPatient'] as const) {
      const came = [];
      for (const name of ['pat-1', 'pat-1', 'pat-1', 'pat-2'])
        came.push(await keep({ institution: AWAY, patient: name }, { [quota]: two }));
      assert.deepEqual(came, ['stored', 'stored', 'ENVELOPE_QUOTA', 'stored'], quota);
      await rows(sql`delete from device_envelope_intake`);
    }
    // A new key version has as much again, and what our custodian makes is never refused.
    const perPatient = { maxBytesPerPatientADay: size + 100 };
    const came = [];
    for (const more of [{}, {}, { keyVersion: 2 }, { keyVersion: 2 }, { keyVersion: 2, isOwn: true }])
      came.push(await keep({ institution: AWAY, patient: 'pat-1' }, perPatient, more));
    assert.deepEqual(came, ['stored', 'ENVELOPE_QUOTA', 'stored', 'ENVELOPE_QUOTA', 'stored']);
    await rows(sql`delete from device_envelope_intake`);
    // Our own patients together have none: each has their own.
    for (const name of ['pat-1', 'pat-2', 'pat-3'])
      assert.equal(
        await keep({ institution: home, patient: name }, { maxBytesPerInstitutionADay: 1, maxBytesPerInstitution: 1 }),
        'stored',
      );
    await rows(sql`delete from device_envelope_intake`);
    // What has come to stand counts on, past the day.
    const [row] = await rows<{ n: number }>(sql`select count(*) as n from device_envelope where pat = ${patient} and inst = ${home}`);
    assert.ok((row?.n ?? 0) > 0, 'an envelope of the test before');
    assert.equal(await keep({ institution: home, patient }, { maxBytesPerPatient: size + 100 }), 'ENVELOPE_QUOTA');

    // At the door: 429, nothing stored, and a revocation goes through.
    await rows(sql`insert into device_envelope_intake (statement, inst, pat, size_bytes) values ('full', ${home}, ${patient}, 1000000000)`);
    const refused = await grantWith((await sealed({ institution: home, patient })).text, recipient);
    assert.deepEqual([refused.status, refused.code], [429, 'ENVELOPE_QUOTA']);
    const revoked = await revokedBy(device.signed('revokePermission', revokeOf(grantee)));
    assert.equal(revoked.status, 200, revoked.why);
    await rows(sql`delete from device_envelope_intake`);
  });

  test('a device lost between the claim and its envelopes: its keys recovered, the next one gets them; a token alone destroys nothing', async () => {
    const lost = deviceOf(other);
    const { categories, core } = (await lost.sync()) ?? assert.fail();
    const made = lost.toJSON();
    const held = await app.core.custodian.heldCategories(other);
    assert.ok(held.length > 0);
    const bearer = { authorization: `Bearer ${await token(other)}` };
    assert.equal((await post('claim/envelopes', {}, bearer)).status, 409, 'in custody yet');
    const claiming = build.claimPatientPayload({
      ...lost.facts(),
      encryption: build.plainJwk(made.encryption),
      keys: categories.map(({ category, version }) => ({
        category,
        envelopes: [],
        key: build.plainJwk(made.encryption),
        version: version + 1,
      })),
      onBehalf: other,
      recovery: jwkThumbprint(build.plainJwk(made.recovery)),
      signing: build.ecJwk(made.signing),
      version: core.version + 1,
    });
    assert.equal((await post('claim', { proof: lost.signed('claimPatient', claiming) }, bearer)).status, 200);

    const next = deviceOf(other);
    await next.sync();
    const keys = next.toJSON();
    const turning = build.rotatePatientKeyPayload({
      ...next.facts(),
      encryption: build.plainJwk(keys.encryption),
      recovery: jwkThumbprint(build.plainJwk(keys.recovery)),
      signing: build.ecJwk(keys.signing),
      version: core.version + 2,
    });
    const args = [
      next.signed('rotatePatientKey', turning),
      lost.signed('rotatePatientKey', turning, made.recovery),
      canonicalize(build.ecJwk(made.recovery)),
    ];
    const turned = await post('statements', { transaction: 'rotatePatientKey', args });
    assert.equal(turned.status, 200, turned.why);

    // What finishes is the current key's word for every version that the custodian keeps and the ledger names.
    const finish = async (proof?: unknown) => {
      const { status } = await post('claim/finish', proof === undefined ? {} : { proof }, bearer);
      return [status, (await app.core.custodian.heldCategories(other)).length === held.length];
    };
    const all = categories.flatMap((one) => one.keys.map(({ key }) => jwkThumbprint(key)));
    assert.deepEqual(await finish(), [400, true]);
    assert.deepEqual(await finish('a.b.c'), [400, true]);
    assert.deepEqual(await finish(lost.finishing(all)), [403, true], 'the lost key');
    assert.deepEqual(await finish(next.finishing(all.slice(1))), [409, true], 'one did not come');
    const [head, , tail] = next.finishing(all.slice(1)).split('.');
    assert.deepEqual(await finish([head, next.finishing(all).split('.')[1], tail].join('.')), [403, true], 'altered');
    const elsewhere = createPatientDevice({ gateway: origin, token: '', institution: home, patient, memory: { ...keys, patient } });
    assert.deepEqual(await finish(elsewhere.finishing(all)), [403, true], 'of another patient');
    assert.equal((await post('claim/envelopes', {}, { authorization: `Bearer ${await token(patient)}` })).status, 200);
    assert.deepEqual(
      (await post('claim/envelopes', {}, { authorization: `Bearer ${await token(patient)}` })).json.envelopes,
      {},
      'released',
    );

    await next.claim();
    assert.deepEqual(await app.core.custodian.heldCategories(other), []);
    const { claimed, categories: kept } = next.toJSON();
    assert.ok(claimed);
    for (const { category, keys: published } of categories)
      assert.deepEqual(
        kept[category]?.map((one) => one.version),
        published.map((one) => one.version),
      );
    // Again: nothing left, no harm.
    assert.equal((await post('claim/finish', { proof: next.finishing(all) }, bearer)).status, 204);
  });
});
