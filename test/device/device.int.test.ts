import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import type { Bundle, Consent } from 'fhir/r4.js';
import { copyConfig } from '../../simulator/demo-config.ts';
import { createPatientDevice, DeviceRefused, type PatientDevice } from '../../simulator/patient-device.ts';
import { createSimulator, type Simulator } from '../../simulator/simulator.ts';
import { type App, createApp } from '../../src/app.ts';
import { readSettings } from '../../src/cli/settings.ts';
import { createKeptEnvelopes } from '../../src/device/kept-envelopes.ts';
import { newId } from '../../src/ids.ts';
import * as build from '../../src/ledger/contract/payloads.ts';
import { TYP } from '../../src/ledger/contract/shapes.ts';
import { cosignFile, makeJoinFile, submitFile } from '../../src/membership/cosigned-file.ts';
import { createDirectories } from '../../src/membership/directory.ts';
import { sql } from '../../src/store/sql.ts';
import { createFileCustodian, type FileCustodian } from '../../src/vault/file-custodian.ts';
import { jwkThumbprint } from '../../src/vault/thumbprint.ts';
import { newKey } from '../ledger/world.ts';

const AWAY = newId('inst');
const dose = 'radiation-dose';
const laboratory = 'laboratory';
const none = 'f'.repeat(64);
const QUOTAS = { maxBytesPerPatient: 1e6, maxBytesPerPatientADay: 1e6, maxBytesPerInstitution: 1e6, maxBytesPerInstitutionADay: 1e6 };

describe('the door for what patients sign on their own device, on a whole server of the embedded default', () => {
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
    folder = mkdtempSync(join(tmpdir(), 'oncobridge-device-'));
    simulator = await createSimulator();
    const config = copyConfig({ run: folder, sample: 'embedded.yaml', simulator });
    app = await createApp({ settings: await readSettings(config), serve: true, logLevel: 'silent', schedule: false });
    await app.operations.pull({}, () => {});
    await app.settled();
    home = app.core.institution;
    origin = new URL(app.facadeUrl).origin;
    clinician = (await app.operations.memberAdd({ name: 'Dr. Ana Ruiz', role: 'clinician' })).member;
    const found = await app.core.database.query<{ pat: string }>(sql`
      select d.pat from projection.document d where category = ${dose} and not withdrawn
        and exists (select 1 from projection.document l where l.pat = d.pat and l.category = ${laboratory}) group by d.pat order by d.pat limit 2`);
    patient = found[0]?.pat ?? assert.fail('no patient with dose and laboratory');
    other = found[1]?.pat ?? assert.fail('no second patient');
    // Another institution on the same ledger, without a server: keys, and a place on the ledger.
    away = await createFileCustodian({ directory: join(folder, 'away'), passphrase: 'Tallow-harbour 71 quince', institution: AWAY });
    const joining = await makeJoinFile({ custodian: away, ledgerId: app.core.ledgerId, msp: `${AWAY}-msp` });
    const parts = { custodian: app.core.custodian, ledgerId: app.core.ledgerId };
    await submitFile({ ...parts, ledger: app.core.ledger }, await cosignFile(parts, joining, joining.thumbprint));
    await app.settled();
    device = deviceOf(patient);
  });
  after(async () => {
    await app?.close();
    await away?.close();
    await simulator?.close();
    rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
  });

  const token = async (as: string, scopes?: string[]): Promise<string> =>
    (await app.operations.token({ as, ...(scopes === undefined ? {} : { scopes }) })).token;
  const deviceOf = (of: string, more: object = {}): PatientDevice =>
    createPatientDevice({ gateway: origin, token: () => token(of), institution: home, patient: of, ...more });
  async function post(path: string, body: unknown, headers: Record<string, string> = {}) {
    const answer = await fetch(`${origin}/device/${path}`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...headers },
      body: typeof body === 'string' ? body : JSON.stringify(body),
    });
    const text = await answer.text();
    const json = (text === '' ? {} : JSON.parse(text)) as {
      block?: number;
      id?: string;
      issue?: { diagnostics?: string; details?: { coding?: { code?: string }[] } }[];
    };
    return { status: answer.status, json, code: json.issue?.[0]?.details?.coding?.[0]?.code, why: json.issue?.[0]?.diagnostics };
  }
  async function count(as: string, category: string): Promise<number> {
    const answer = await fetch(`${app.facadeUrl}/DocumentReference?patient=${patient}`, {
      headers: { authorization: `Bearer ${await token(as)}` },
    });
    const bundle = (await answer.json()) as Bundle;
    assert.equal(answer.status, 200, JSON.stringify(bundle));
    const loinc = category === dose ? '85253-9' : '11502-2';
    return (bundle.entry ?? []).filter((one) => JSON.stringify(one.resource).includes(loinc)).length;
  }
  /** Our own gateway behind one that says of every statement that it is on its way. */
  async function slowGateway(): Promise<{ origin: string; close(): void }> {
    const server = createServer((request, response) => {
      void (async () => {
        const chunks: Buffer[] = [];
        for await (const chunk of request) chunks.push(chunk as Buffer);
        const { method = 'GET', url = '' } = request;
        const body = method === 'GET' ? {} : { body: Buffer.concat(chunks), headers: { 'content-type': 'application/json' } };
        const answer = await fetch(`${origin}${url}`, { method, ...body });
        const text = await answer.text();
        response.writeHead(method === 'GET' ? answer.status : 202, { 'content-type': 'application/json' });
        response.end(method === 'GET' ? text : '{}');
      })();
    });
    await new Promise<void>((listening) => server.listen(0, '127.0.0.1', listening));
    return { origin: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, close: () => void server.close() };
  }
  const rows = <T extends object>(fragment: Parameters<App['core']['database']['query']>[0]) => app.core.database.query<T>(fragment);
  const grantOf = (
    facts: Partial<Parameters<typeof build.grantPayload>[0]> & Pick<Parameters<typeof build.grantPayload>[0], 'permissions'>,
  ) =>
    build.grantPayload({
      ...device.facts(),
      consent: 'con-test',
      evidence: null,
      grantor: 'patient',
      notAfter: new Date(Date.now() + 60_000).toISOString(),
      onBehalf: null,
      ...facts,
    });

  test('what anybody may ask: whose gateway this is, keys of institutions, signed directories', async () => {
    const get = async (path: string) => {
      const answer = await fetch(`${origin}/device/${path}`);
      return { status: answer.status, json: (await answer.json()) as Record<string, unknown> };
    };
    assert.deepEqual((await get('')).json, { ...(await get('')).json, institution: home, ledger: app.core.ledgerId, fresh: true });
    const { encryption } = await away.institutionKeys();
    const found = await get(`institutions/${AWAY}`);
    assert.deepEqual(
      [found.json['status'], found.json['version'], found.json['encryptionThumbprint']],
      ['active', 1, jwkThumbprint(encryption)],
    );
    assert.equal((await get('institutions/inst-nobody')).status, 404);
    assert.equal((await get('institutions/..%2f')).status, 404);
    assert.equal((await get(`directory/${home}`)).status, 200);
    assert.equal((await get(`directory/${AWAY}`)).status, 404);
    assert.equal((await get('state')).status, 401);
    const asMember = await fetch(`${origin}/device/state`, { headers: { authorization: `Bearer ${await token(clinician)}` } });
    assert.equal(asMember.status, 403);
  });

  test('in custody nothing that a device signs counts', async () => {
    const claimant = newKey();
    const text = build.revokePayload({
      ...device.facts(),
      ledger: app.core.ledgerId,
      consent: null,
      grantor: 'patient',
      onBehalf: null,
      permissions: [{ category: dose, grantee: `member:${home}:${clinician}` }],
    });
    const { status, code, why } = await post('statements', {
      transaction: 'revokePermission',
      args: [claimant.jws(TYP.revokePermission, text)],
    });
    assert.deepEqual([status, code, why], [422, 'LEDGER_REFUSED', 'ON_BEHALF_MISSING']);
    const named = text.replace('"onBehalf":null', `"onBehalf":"${patient}"`);
    assert.equal(
      (await post('statements', { transaction: 'revokePermission', args: [claimant.jws(TYP.revokePermission, named)] })).why,
      'JWS_KEY',
    );
    assert.deepEqual(await rows(sql`select 1 from revocation`), []);
  });

  test('a claim: by the patient alone, once, repeatable, and then the custodian has nothing left', async () => {
    await device.sync();
    const { categories, core } = (await device.sync()) ?? assert.fail();
    const stranger = newKey();
    const claimOf = (facts: object): string =>
      build.claimPatientPayload({
        ...device.facts(),
        encryption: stranger.jwk,
        keys: categories.map(({ category, version }) => ({ category, envelopes: [], key: stranger.jwk, version: version + 1 })),
        onBehalf: patient,
        recovery: stranger.thumbprint,
        signing: stranger.jwk,
        version: core.version + 1,
        ...facts,
      });
    const proof = stranger.jws(TYP.claimPatient, claimOf({}));
    const as = async (whom: string, scopes?: string[]) => ({ authorization: `Bearer ${await token(whom, scopes)}` });
    assert.equal((await post('claim', { proof })).status, 401);
    assert.equal((await post('claim', { proof }, await as(other))).status, 403, "another patient's token");
    assert.equal((await post('claim', { proof }, await as(clinician))).status, 403);
    assert.equal((await post('claim', { proof }, await as(patient, ['patient/*.rs']))).status, 403, 'a token that only reads');
    assert.equal((await post('claim', { proof: 'a.b.c' }, await as(patient))).why, 'JWS_MALFORMED');
    assert.equal((await post('claim', { proof, more: 1 }, await as(patient))).status, 400);
    assert.equal((await post('claim', { proof: newKey().jws(TYP.claimPatient, claimOf({})) }, await as(patient))).why, 'JWS_KEY');
    assert.equal(
      (
        await post(
          'claim',
          {
            proof: stranger.jws(
              TYP.claimPatient,
              claimOf({
                keys: categories
                  .slice(1)
                  .map(({ category, version }) => ({ category, envelopes: [], key: stranger.jwk, version: version + 1 })),
              }),
            ),
          },
          await as(patient),
        )
      ).why,
      'CATEGORIES_INCOMPLETE',
    );
    assert.equal((await post('claim/finish', { proof }, await as(patient))).status, 409);

    const { block } = await device.claim();
    assert.ok(block > 0);
    const state = (await device.sync()) ?? assert.fail();
    assert.deepEqual([state.core.custody, state.core.version], [false, core.version + 1]);
    const memory = device.toJSON();
    for (const { category, keys } of state.categories)
      assert.deepEqual(
        memory.categories[category]?.map((one) => one.version),
        keys.map((one) => one.version),
        'every version that ever was',
      );
    assert.deepEqual(await app.core.custodian.heldCategories(patient), []);
    assert.equal(await app.core.custodian.categoryKey(patient, dose), undefined);
    // Somebody else's keys come too late.
    assert.equal((await post('claim', { proof }, await as(patient))).why, 'PATIENT_CLAIMED');
    // The institution reads on what it produced.
    assert.ok((await count(patient, dose)) > 0);
    // The same again: the same answer, with nothing left to hand over.
    const again = deviceOf(patient, { memory: device.toJSON() });
    await again.sync();
    assert.equal((await rows(sql`select 1 from device_statement where transaction = 'claimPatient' and block = ${block}`)).length, 1);
  });

  test('a grant to a clinician of the own institution, a revocation that denies at once, and both again', async () => {
    assert.equal(await count(clinician, dose), 0);
    const granted = await device.grant({ grantee: `member:${home}:${clinician}`, categories: [dose], purposes: ['TREAT'] });
    assert.deepEqual(granted.shown, { institution: 'Example Cancer Centre', name: 'Dr. Ana Ruiz', role: 'clinician' });
    assert.ok((await count(clinician, dose)) > 0);
    assert.equal(await count(clinician, laboratory), 0);
    const [envelope] = await rows<{ name: string }>(sql`select name from device_envelope where pat = ${patient}`);
    assert.ok(envelope !== undefined && (await app.core.blobs.head(envelope.name)) !== undefined);
    assert.deepEqual(await rows(sql`select 1 from puts where name = ${envelope.name}`), [], 'no sweep takes it');

    // An answer that was lost: the same statement, the same answer, and nothing more on the ledger.
    const { args } =
      (await rows<{ args: string[] }>(sql`select args from outbox where transaction = 'grantPermission' order by seq desc limit 1`))[0] ??
      assert.fail();
    const height = await app.core.ledger.height();
    const repeated = await post('statements', { transaction: 'grantPermission', args });
    assert.deepEqual([repeated.status, repeated.json.block], [200, granted.block]);
    // As at a gateway that did not carry it: the ledger itself knows it.
    await app.core.database.query(sql`delete from device_statement where transaction = 'grantPermission'`);
    assert.deepEqual((await post('statements', { transaction: 'grantPermission', args })).json, { txId: null, block: granted.block });
    assert.equal(await app.core.ledger.height(), height);

    const text = build.revokePayload({
      ...device.facts(),
      consent: null,
      grantor: 'patient',
      onBehalf: null,
      permissions: [{ category: dose, grantee: `member:${home}:${clinician}` }],
    });
    const revoke = { transaction: 'revokePermission', args: [device.signed('revokePermission', text)] };
    app.core.relay.pause();
    const pending = post('statements', revoke);
    let denied = false;
    while (!denied) denied = (await count(clinician, dose)) === 0;
    const local = await rows(sql`select 1 from revocation where pat = ${patient}`);
    assert.equal(local.length, 1, 'denied here while the ledger does not have it');
    app.core.relay.resume();
    const { status, json } = await pending;
    assert.equal(status, 200);
    assert.deepEqual((await post('statements', revoke)).json, json);
    // Over FHIR it is a Consent like any other, and has ended.
    const search = await fetch(`${app.facadeUrl}/Consent?patient=${patient}`, {
      headers: { authorization: `Bearer ${await token(patient)}` },
    });
    const consents = ((await search.json()) as Bundle<Consent>).entry?.map(({ resource }) => [resource?.id, resource?.status]);
    const { consent } = JSON.parse(Buffer.from(args[0]?.split('.')[1] ?? '', 'base64url').toString()) as { consent: string };
    assert.deepEqual(consents, [[consent, 'inactive']]);
    // Another signature over the same payload is the same statement.
    assert.deepEqual((await post('statements', { ...revoke, args: [device.signed('revokePermission', text)] })).json, json);
    await app.core.database.query(sql`delete from device_statement where transaction = 'revokePermission'`);
    assert.deepEqual((await post('statements', revoke)).json, { txId: null, block: json.block });
    assert.equal(await count(clinician, dose), 0);
  });

  test('forged, altered, misdirected: refused, and nothing is stored', async () => {
    const before = await rows(
      sql`select (select count(*) from outbox) o, (select count(*) from puts) p, (select count(*) from device_statement) s, (select count(*) from device_envelope) e, (select count(*) from revocation) r`,
    );
    const forger = newKey();
    const permissions = [{ category: dose, grantee: `member:${home}:${clinician}` }];
    const text = build.revokePayload({ ...device.facts(), consent: null, grantor: 'patient', onBehalf: null, permissions });
    const good = device.signed('revokePermission', text);
    const [head = '', body = ''] = good.split('.');
    const send = (transaction: string, ...args: string[]) => post('statements', { transaction, args });
    assert.equal((await send('revokePermission', forger.jws(TYP.revokePermission, text))).why, 'JWS_KEY');
    const another = device.signed('revokePermission', text.replace(clinician, newId('mem'))).split('.')[2];
    assert.equal((await send('revokePermission', `${head}.${body}.${another}`)).why, 'JWS_SIGNATURE');
    assert.equal((await send('grantPermission', good)).why, 'JWS_TYPE');
    assert.equal((await send('revokePermission', `${head}.${body}`)).why, 'JWS_MALFORMED');
    assert.equal(
      (await send('revokePermission', device.signed('revokePermission', text.replace(app.core.ledgerId, 'ledger-another')))).why,
      'LEDGER_OTHER',
    );
    assert.equal(
      (await send('revokePermission', device.signed('revokePermission', text.replace(patient, newId('pat'))))).why,
      'PATIENT_UNKNOWN',
    );
    assert.equal(
      (await send('revokePermission', device.signed('revokePermission', text.replace(patient, other)))).status,
      422,
      'of a patient in custody',
    );
    assert.equal((await send('recordDocuments', good)).status, 400);
    assert.equal((await send('registerInstitution', good)).status, 400);
    for (const bad of [
      [],
      'x',
      { transaction: 'revokePermission' },
      { transaction: 'revokePermission', args: [good], envelopes: 'x' },
      { transaction: 'revokePermission', args: [good], token: 1 },
      { transaction: 'revokePermission', args: [1] },
    ])
      assert.equal((await post('statements', bad)).status, 400, JSON.stringify(bad).slice(0, 60));
    assert.equal((await post('statements', '{"transaction":')).status, 400);
    assert.equal((await post('statements', 'x', { 'content-type': 'text/plain' })).status, 415);
    assert.equal(
      (await post('statements', { transaction: 'revokePermission', args: [good], envelopes: ['x'.repeat(1024 * 1024)] })).status,
      413,
    );
    assert.equal((await fetch(`${origin}/device/statements`)).status, 404);
    assert.deepEqual(
      await rows(
        sql`select (select count(*) from outbox) o, (select count(*) from puts) p, (select count(*) from device_statement) s, (select count(*) from device_envelope) e, (select count(*) from revocation) r`,
      ),
      before,
    );
  });

  test('another institution: no grant without a directory or code, and envelopes that are what the payload says', async () => {
    const grantee = `organization:${AWAY}`;
    await assert.rejects(device.grant({ grantee, categories: [dose] }), /neither a code nor a directory/);
    const directories = createDirectories({
      database: app.core.database,
      custodian: away,
      ledgerId: app.core.ledgerId,
      name: 'Away Hospital',
    });
    const ours = createDirectories({ database: app.core.database, custodian: app.core.custodian, ledgerId: app.core.ledgerId, name: 'x' });
    await ours.import(await directories.own());
    const granted = await device.grant({ grantee, categories: [dose, laboratory], consent: 'con-away' });
    assert.equal(granted.shown?.name, 'Away Hospital');
    const named = await rows<{ name: string; category: string; sequence: number }>(
      sql`select name, category, sequence from device_envelope where grantee = ${grantee} order by category`,
    );
    assert.deepEqual(
      named.map((one) => [one.category, one.sequence]),
      [
        [laboratory, 1],
        [dose, 1],
      ],
    );
    for (const { name, category } of named) {
      const text = Buffer.from(await app.core.blobs.get(name)).toString();
      const { keys } = await away.openEnvelope(text, { institution: home, patient, category });
      assert.deepEqual(
        keys.map((key) => key.version),
        device.toJSON().categories[category]?.map((key) => key.version),
      );
    }

    // The same wish by hand, each time with one thing wrong.
    const { encryption } = await away.institutionKeys();
    const recipient = jwkThumbprint(encryption);
    const text = Buffer.from(await app.core.blobs.get(named[1]?.name ?? '')).toString();
    const hash = (named[1]?.name ?? '').split('/')[2] ?? '';
    const wrong = async (envelope: object, envelopes: string[], category = dose) => {
      const permissions = [
        {
          category,
          clauses: [build.clause({ consent: 'con-x', rights: ['read'] })],
          envelope: { hash, path: `${home}/envelopes/${hash}`, recipient, ...envelope },
          grantee,
          sequence: 2,
        },
      ];
      const answer = await post('statements', {
        transaction: 'grantPermission',
        args: [device.signed('grantPermission', grantOf({ permissions }))],
        envelopes,
      });
      return [answer.status, answer.code ?? answer.json.block];
    };
    assert.deepEqual(
      await wrong({ hash: none, path: `${home}/envelopes/${none}` }, [text]),
      [422, 'ENVELOPE_UNFIT'],
      'not the one that is named',
    );
    assert.deepEqual(await wrong({ hash: none, path: `${home}/envelopes/${none}` }, []), [422, 'ENVELOPE_UNFIT'], 'nowhere to be found');
    assert.deepEqual(await wrong({ path: `${home}/envelopes/${none}` }, []), [422, 'ENVELOPE_UNFIT'], 'hash and path differ');
    assert.deepEqual(await wrong({}, [text, text.replace('.', 'x.')]), [422, 'ENVELOPE_UNFIT'], 'one too many');
    assert.deepEqual(await wrong({ path: `${AWAY}/envelopes/${hash}` }, [text]), [422, 'ENVELOPE_UNFIT'], "under another's prefix");
    assert.deepEqual(await wrong({}, ['x'.repeat(300 * 1024)]), [413, 'TOO_LARGE']);
    assert.deepEqual(await wrong({ recipient: newKey().thumbprint }, []), [422, 'LEDGER_REFUSED'], 'to nobody at the grantee');
    // An envelope of dose as one of laboratory.
    assert.deepEqual(await wrong({}, [text], laboratory), [422, 'ENVELOPE_UNFIT']);
    assert.deepEqual(await rows(sql`select 1 from puts where name like ${`${home}/envelopes/%`}`), []);
    // It lies there already: named again without being sent again, which two statements then keep.
    assert.equal((await wrong({}, []))[0], 200);
    assert.equal((await rows(sql`select 1 from device_envelope where name = ${named[1]?.name}`)).length, 2);
  });

  test('the end of what names an envelope is its end, an hour later', async () => {
    await device.sync();
    const grantee = `organization:${AWAY}`;
    await device.revoke({ grantee, categories: [dose, laboratory] });
    const state = (await device.sync()) ?? assert.fail();
    // In the same act both keys got a new version, of which nobody is left to have an envelope.
    const versions = state.categories.filter((one) => one.category === dose || one.category === laboratory);
    for (const { keys, version } of versions) assert.deepEqual([keys.at(-1)?.version, keys.at(-1)?.envelopes], [version, []]);
    assert.equal(device.toJSON().categories[dose]?.at(-1)?.version, versions.find((one) => one.category === dose)?.version);
    const names = (await rows<{ name: string }>(sql`select name from device_envelope where grantee = ${grantee}`)).map((row) => row.name);
    assert.ok(names.length > 0);
    const kept = createKeptEnvelopes({ database: app.core.database, blobs: app.core.blobs, institution: home, quotas: QUOTAS });
    const of = { institution: home, patient };
    await device.grant({ grantee: `member:${home}:${clinician}`, categories: [dose] });
    const [live] = await rows<{ name: string }>(
      sql`select name from device_envelope where grantee like 'member:%' order by put_at desc limit 1`,
    );
    assert.equal(
      await kept.sweep(),
      new Set(names).size + 1,
      'those of the institution, and that of the clinician whose permission was revoked before',
    );
    assert.deepEqual(await rows(sql`select name from device_envelope`), [live]);
    await app.operations.reconcile({}, () => {});
    for (const name of names) assert.notEqual(await app.core.blobs.head(name), undefined, 'not before its time');
    await app.core.database.query(sql`update puts set at = now() - interval '2 hours'`);
    await app.operations.reconcile({}, () => {});
    for (const name of names) assert.equal(await app.core.blobs.head(name), undefined);
    assert.notEqual(await app.core.blobs.head(live?.name ?? ''), undefined);
    // One that the ledger refuses late is nobody's from then on.
    await kept.keep(app.core.database, {
      of,
      statement: none,
      outbox: 'obx-none',
      stored: [
        {
          category: dose,
          hash: none,
          path: `${home}/envelopes/${none}`,
          recipient: 'x',
          grantee,
          sequence: 99,
          keyVersion: null,
          sizeBytes: 1,
        },
      ],
    });
    assert.equal(await kept.sweep(), 1);
    assert.equal(await kept.sweep(), 0);
    await device.revoke({ grantee: `member:${home}:${clinician}`, categories: [dose] });
  });

  test('a device that loses its answers, its memory put away and taken out again', async () => {
    const former = device.toJSON();
    const revived = deviceOf(patient, { memory: JSON.parse(JSON.stringify(former)) as typeof former });
    const grantee = `member:${home}:${clinician}`;
    const granted = await revived.grant({ grantee, categories: [laboratory], period: { end: '2099-01-01T00:00:00.000Z' } });
    assert.ok(granted.block > 0 && (await count(clinician, laboratory)) > 0);
    // A gateway that does not answer leaves the statement to be handed in elsewhere.
    await assert.rejects(revived.revoke({ grantee, categories: [laboratory], via: 'http://127.0.0.1:1', rotate: false }));
    assert.equal(revived.toJSON().unsent.length, 1);
    const [sent] = await revived.resend();
    assert.ok(sent !== undefined && sent.block > granted.block);
    assert.equal(revived.toJSON().unsent.length, 0);
    assert.equal(await count(clinician, laboratory), 0);
    // Another device with the same keys was first: this one keeps no version that nobody knows.
    const twin = deviceOf(patient, { memory: revived.toJSON() });
    await twin.rotateCategoryKey({ category: dose });
    const before = revived.toJSON().categories[dose]?.length;
    await assert.rejects(revived.rotateCategoryKey({ category: dose }), /VERSION_STALE/);
    assert.equal(revived.toJSON().categories[dose]?.length, before);
    await assert.rejects(deviceOf(other).grant({ grantee, categories: [dose] }), /no key of|ON_BEHALF/);
    await assert.rejects(async () => deviceOf(other, { memory: former }), /another device/);
    // "On its way" for longer than it waits: what may stand yet is lost by nobody, and goes first when something new is signed.
    const slow = await slowGateway();
    try {
      const hasty = deviceOf(patient, { memory: twin.toJSON(), patienceMs: 0 });
      await assert.rejects(hasty.rotateCategoryKey({ category: dose, via: slow.origin }), /^DeviceRefused: 202/);
      await assert.rejects(hasty.grant({ grantee, categories: [laboratory], via: slow.origin }), /^DeviceRefused: 202/);
      const left = hasty.toJSON();
      assert.deepEqual(
        left.unsent.map(({ body }) => body.transaction),
        ['publishCategoryKey'],
      );
      const patiently = deviceOf(patient, { memory: left });
      await patiently.grant({ grantee, categories: [laboratory] });
      assert.deepEqual(patiently.toJSON().unsent, []);
      const newest = ((await patiently.sync()) ?? assert.fail()).categories.find(({ category }) => category === dose)?.keys.at(-1);
      const mine = patiently.toJSON().categories[dose]?.at(-1);
      assert.deepEqual(
        [mine?.version, jwkThumbprint(build.plainJwk(mine?.jwk ?? {}))],
        [newest?.version, jwkThumbprint(newest?.key ?? assert.fail())],
      );
      await patiently.revoke({ grantee, categories: [laboratory] });
      device = patiently;
    } finally {
      slow.close();
    }
  });

  test('the same statement at once from several sides is one; one that the ledger refuses late denies nobody any more', async () => {
    const grantee = `member:${home}:${clinician}`;
    await device.grant({ grantee, categories: [dose] });
    const revoke = () => {
      const text = build.revokePayload({
        ...device.facts(),
        consent: null,
        grantor: 'patient',
        onBehalf: null,
        permissions: [{ category: dose, grantee }],
      });
      return { transaction: 'revokePermission', args: [device.signed('revokePermission', text)] };
    };
    const late = revoke();
    app.core.relay.pause();
    const answer = post('statements', late);
    while ((await count(clinician, dose)) > 0);
    const [row] = await rows<{ id: string }>(
      sql`update outbox set state = 'rejected', error_code = 'NOT_GRANTOR', settled_at = now() where state = 'pending' and transaction = 'revokePermission' returning id`,
    );
    await app.core.database.query(sql`select pg_notify('outbox_settled', ${row?.id})`);
    assert.equal((await answer).why, 'NOT_GRANTOR');
    app.core.relay.resume();
    assert.ok((await count(clinician, dose)) > 0, 'the denial went with it');
    // Refused once is not refused for ever: the same statement is looked at anew. Five times at once: one transaction.
    const answers = await Promise.all(Array.from({ length: 5 }, () => post('statements', late)));
    assert.deepEqual(new Set(answers.map(({ status, json }) => `${status} ${json.block}`)).size, 1, JSON.stringify(answers));
    assert.equal(answers[0]?.status, 200);
    assert.equal((await rows(sql`select 1 from outbox where args = ${late.args}::text[]`)).length, 2);
    assert.equal(await count(clinician, dose), 0);
    assert.deepEqual(await rows(sql`select 1 from revocation`), []);
  });

  test('while the view of the ledger is too old: a revocation is taken, a grant is not', async () => {
    const seen = (await rows<{ own_seen_at: Date }>(sql`select own_seen_at from projection.checkpoint`))[0]?.own_seen_at;
    await app.core.database.query(sql`update projection.checkpoint set own_seen_at = now() - interval '1 hour'`);
    await new Promise((resolve) => setTimeout(resolve, 50));
    const grantee = `member:${home}:${clinician}`;
    const state = (await device.sync()) ?? assert.fail();
    assert.equal(state.fresh, false);
    await assert.rejects(
      device.grant({ grantee, categories: [dose] }),
      (error) => error instanceof DeviceRefused && error.code === 'STALE',
    );
    assert.equal(device.toJSON().unsent.length, 1, 'it may be handed in again');
    // The relay is paused, so that no own transaction comes back and makes it fresh.
    app.core.relay.pause();
    const text = build.revokePayload({
      ...device.facts(),
      consent: null,
      grantor: 'patient',
      onBehalf: null,
      permissions: [{ category: dose, grantee }],
    });
    const revoking = post('statements', { transaction: 'revokePermission', args: [device.signed('revokePermission', text)] });
    while ((await rows(sql`select 1 from revocation where pat = ${patient}`)).length === 0);
    app.core.relay.resume();
    assert.equal((await revoking).status, 200);
    await app.core.database.query(sql`update projection.checkpoint set own_seen_at = ${seen}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
    // The revocation moved the head on: the grant that waited is dead.
    await assert.rejects(device.resend(), (error) => error instanceof DeviceRefused && /SEQUENCE_STALE/.test(error.message));
    assert.equal(device.toJSON().unsent.length, 0);
  });

  test('keys of the patient: turned, by the recovery key too; a delegate; the end of all', async () => {
    const second = deviceOf(other);
    await second.claim();
    const { signing, recovery } = second.toJSON();
    const next = newKey();
    const spare = newKey();
    const core = async () => ((await second.sync()) ?? assert.fail()).core;
    const send = (transaction: string, ...args: string[]) => post('statements', { transaction, args });
    const turn = async (encryption = next.jwk) =>
      build.rotatePatientKeyPayload({
        ...second.facts(),
        encryption,
        recovery: spare.thumbprint,
        signing: next.jwk,
        version: (await core()).version + 1,
      });
    const lost = await turn();
    assert.equal(
      (await send('rotatePatientKey', next.jws(TYP.rotatePatientKey, lost), newKey().jws(TYP.rotatePatientKey, lost))).why,
      'JWS_KEY',
    );
    assert.equal(
      (await send('rotatePatientKey', next.jws(TYP.rotatePatientKey, lost), second.signed('rotatePatientKey', lost, recovery))).why,
      'KEY_MISSING',
    );
    const recoveryText = JSON.stringify(build.ecJwk(recovery));
    const turned = await send(
      'rotatePatientKey',
      next.jws(TYP.rotatePatientKey, lost),
      second.signed('rotatePatientKey', lost, recovery),
      recoveryText,
    );
    assert.equal(turned.status, 200, turned.why);
    assert.equal((await core()).signing?.x, next.jwk.x);
    // What was stolen signs nothing any more.
    const permissions = [{ category: dose, grantee: `member:${home}:${clinician}` }];
    const revoke = (onBehalf: string | null = null) =>
      build.revokePayload({ ...second.facts(), consent: null, grantor: 'patient', onBehalf, permissions });
    assert.equal((await send('revokePermission', second.signed('revokePermission', revoke(), signing))).why, 'JWS_KEY');

    const helper = newKey();
    const until = new Date(Date.now() + 3_600_000).toISOString();
    const delegates = build.delegatePayload({
      ...second.facts(),
      delegates: [{ categories: [dose], key: helper.thumbprint, until }],
      version: (await core()).version + 1,
    });
    assert.equal((await send('delegate', next.jws(TYP.delegate, delegates))).status, 200);
    assert.equal((await send('revokePermission', helper.jws(TYP.revokePermission, revoke()))).why, 'KEY_MISSING');
    assert.equal((await send('revokePermission', helper.jws(TYP.revokePermission, revoke()), helper.text)).status, 200);

    const info = build.setPrivateInfoPayload({ ...second.facts(), commitment: none, onBehalf: null, version: (await core()).version + 1 });
    assert.equal((await send('setPrivateInfo', next.jws(TYP.setPrivateInfo, info))).status, 200);
    const erase = (by = next) =>
      send('erasePatient', by.jws(TYP.erasePatient, build.erasePatientPayload({ ...second.facts(), onBehalf: null })));
    const erased = await erase();
    assert.equal(erased.status, 200);
    const height = await app.core.ledger.height();
    // Only who could have erased is told that it is done.
    assert.equal((await erase()).json.block, erased.json.block);
    assert.equal((await erase(helper)).why, 'JWS_KEY');
    assert.equal(await app.core.ledger.height(), height);
  });

  test('every statement and claim stands in the audit trail of its patient; refusals name nobody', async () => {
    const events = await fetch(`${app.facadeUrl}/AuditEvent?patient=${patient}&_count=200`, {
      headers: { authorization: `Bearer ${await token(patient)}` },
    });
    const bundle = (await events.json()) as Bundle;
    assert.equal(events.status, 200, JSON.stringify(bundle));
    const text = JSON.stringify(bundle);
    const statements = ['grantPermission', 'revokePermission', 'publishCategoryKey'].map((one) => `POST /device/statements#${one}`);
    for (const operation of [...statements, 'POST /device/claim', 'POST /device/claim/finish', 'GET /device/state'])
      assert.ok(text.includes(`"description":"${operation}"`), operation);
    const [unnamed] = await rows<{ n: number }>(sql`select count(*) as n from audit_event where pat is null`);
    assert.ok((unnamed?.n ?? 0) > 10);
  });

  test('limits: statements of one address', async () => {
    const statuses = new Set<number>();
    for (let i = 0; i < 130 && !statuses.has(429); i++) statuses.add((await post('statements', {})).status);
    assert.ok(statuses.has(429));
  });
});
