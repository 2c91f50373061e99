import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Bundle } from 'fhir/r4.js';
import { copyConfig } from '../../simulator/demo-config.ts';
import { createPatientDevice } from '../../simulator/patient-device.ts';
import { createSimulator, type Simulator } from '../../simulator/simulator.ts';
import { type App, createApp } from '../../src/app.ts';
import { readSettings } from '../../src/cli/settings.ts';
import { createKeptEnvelopes } from '../../src/device/kept-envelopes.ts';
import { createErasure, type Erasure } from '../../src/erasure/erasure.ts';
import { CodedError, codeOf } from '../../src/errors.ts';
import { erasePatientPayload } from '../../src/ledger/contract/payloads.ts';
import { raw, sql } from '../../src/store/sql.ts';

const TABLES = [
  'record',
  'record_analyte',
  'document_version',
  'subject',
  'patient_identifier',
  'source_patient',
  'consent_version',
  'device_envelope',
  'key_rotation',
  'identity_decision',
];

describe('erasure of a patient, on a whole server of the embedded default', () => {
  let folder: string;
  let simulator: Simulator;
  let app: App;
  let registrar: string;
  let clinician: string;
  let patients: string[];
  let home: string;

  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'oncobridge-erasure-'));
    simulator = await createSimulator();
    const config = copyConfig({ run: folder, sample: 'embedded.yaml', simulator });
    app = await createApp({ settings: await readSettings(config), serve: true, logLevel: 'silent', schedule: false });
    await app.operations.pull({}, () => {});
    await app.settled();
    home = app.core.institution;
    registrar = (await app.operations.memberAdd({ name: 'Ida Registrar', role: 'registrar' })).member;
    clinician = (await app.operations.memberAdd({ name: 'Dr. Ana Ruiz', role: 'clinician' })).member;
    const found = await rows<{ pat: string }>(sql`
      select d.pat from projection.document d where not withdrawn group by d.pat
      having count(distinct category) > 1 order by d.pat limit 3`);
    patients = found.map((row) => row.pat);
    assert.equal(patients.length, 3);
  });
  after(async () => {
    await app?.close();
    await simulator?.close();
    rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
  });

  const rows = <T extends object>(fragment: Parameters<App['core']['database']['query']>[0]) => app.core.database.query<T>(fragment);
  const token = async (as: string): Promise<string> => (await app.operations.token({ as })).token;
  async function fhir(as: string, path: string, body?: object) {
    const answer = await fetch(`${app.facadeUrl}/${path}`, {
      ...(body === undefined ? {} : { method: 'POST', body: JSON.stringify(body) }),
      headers: { authorization: `Bearer ${await token(as)}`, 'content-type': 'application/fhir+json' },
    });
    return { status: answer.status, json: (await answer.json()) as Bundle };
  }
  const consentOf = (patient: string) => ({
    resourceType: 'Consent',
    status: 'active',
    scope: { coding: [{ system: 'http://terminology.hl7.org/CodeSystem/consentscope', code: 'patient-privacy' }] },
    category: [{ coding: [{ system: 'http://loinc.org', code: '59284-0' }] }],
    patient: { reference: `Patient/${patient}` },
    dateTime: '2026-11-23T09:30:00Z',
    provision: {
      type: 'deny',
      provision: [
        {
          type: 'permit',
          actor: [
            {
              role: { coding: [{ system: 'http://terminology.hl7.org/CodeSystem/v3-ParticipationType', code: 'IRCP' }] },
              reference: { reference: `Practitioner/${clinician}` },
            },
          ],
          action: [{ coding: [{ system: 'http://terminology.hl7.org/CodeSystem/consentaction', code: 'access' }] }],
          class: ['laboratory', 'radiation-dose'].map((code) => ({ system: 'urn:oncobridge:category', code })),
          period: { start: '2026-01-01', end: '2099-12-31' },
        },
      ],
    },
  });
  /** What is left of a patient, by table. */
  async function left(patient: string): Promise<Record<string, number>> {
    const counts: Record<string, number> = {};
    for (const table of TABLES) {
      const [row] = await rows<{ n: number }>(sql`select count(*) as n from ${raw(table)} where pat = ${patient}`);
      if (row !== undefined && row.n > 0) counts[table] = row.n;
    }
    const [resource] = await rows<{ n: number; dates: number }>(sql`
      select count(*) as n, (select count(*) from resource_date d where not exists (select 1 from resource r where r.id = d.id and r.version = d.version)) as dates
      from resource where pat = ${patient}`);
    if ((resource?.n ?? 0) + (resource?.dates ?? 0) > 0) counts['resource'] = (resource?.n ?? 0) + (resource?.dates ?? 0);
    const [person] = await rows<{ n: number }>(sql`select count(*) as n from patient where pat = ${patient} and demographics is not null`);
    if ((person?.n ?? 0) > 0) counts['patient'] = 1;
    return counts;
  }
  const objectsOf = async (patient: string): Promise<string[]> =>
    (
      await rows<{ name: string }>(sql`
        select pointer as name from document_version where pat = ${patient} union select name from device_envelope where pat = ${patient}`)
    ).map((row) => row.name);
  async function keysOf(patient: string): Promise<string[]> {
    const held = [...(await app.core.custodian.heldCategories(patient))];
    for (const category of ['core', 'laboratory', 'radiation-dose', 'history-and-physical'])
      await app.core.custodian.rowKey(patient, category, 'open').then(
        () => held.push(category),
        (error: unknown) => assert.equal(codeOf(error), 'KEY_MISSING'),
      );
    return held;
  }

  test('a patient in custody: by a registrar, and then nothing of them opens, is found or comes back; the audit trail stays', async () => {
    const [patient = assert.fail()] = patients;
    const created = await fhir(patient, 'Consent', consentOf(patient));
    assert.equal(created.status, 201, JSON.stringify(created.json));
    const count = async () => (await fhir(clinician, `DocumentReference?patient=${patient}`)).json.total ?? 0;
    assert.ok((await count()) > 0);
    const objects = await objectsOf(patient);
    assert.ok(objects.length > 0 && Object.keys(await left(patient)).length > 6);
    assert.ok((await keysOf(patient)).length > 4);
    const events = async () => (await rows<{ n: number }>(sql`select count(*) as n from audit_event where pat = ${patient}`))[0]?.n ?? 0;
    const before = await events();
    const heldRecords = async () =>
      (await rows<{ n: number }>(sql`select count(*) as n from record where outcome = 'quarantine' and current`))[0]?.n;
    const population = (await rows<{ n: number }>(sql`select count(*) as n from patient`))[0]?.n;

    await assert.rejects(app.operations.patientErase({ patient, by: clinician }), (error) => codeOf(error) === 'FORBIDDEN');
    await assert.rejects(app.operations.patientErase({ patient: 'pat-nobody', by: registrar }), (error) => codeOf(error) === 'NOT_FOUND');
    await assert.rejects(app.operations.patientErasure({ patient }), (error) => codeOf(error) === 'NOT_FOUND');
    const certificate = await app.operations.patientErase({ patient, by: registrar });
    // What was held of theirs went with them, whoever of the simulator's people this is.
    const held = await heldRecords();

    assert.deepEqual(await left(patient), {});
    assert.deepEqual(await keysOf(patient), []);
    for (const name of objects) assert.equal(await app.core.blobs.head(name), undefined);
    assert.equal(await count(), 0);
    assert.equal((await fhir(registrar, `Consent?patient=${patient}`)).json.total ?? 0, 0);
    assert.ok((await events()) > before, 'and one more');
    const { erased, keyBackupsGone, removed, stays } = certificate;
    assert.equal(Date.parse(keyBackupsGone ?? '') - Date.parse(erased ?? ''), 30 * 24 * 3_600_000);
    assert.ok(
      removed.objects >= objects.length && removed.records > 0 && removed.rows > 0 && removed.documents > 0,
      JSON.stringify(removed),
    );
    assert.ok(stays.entries > 0 && stays.permissions === 2 && stays.categoryKeys > 0, JSON.stringify(stays));
    // Again: the same certificate, and nothing is done twice.
    const again = await app.operations.patientErase({ patient, by: registrar });
    assert.deepEqual({ ...again, stays: null }, { ...certificate, stays: null });

    // Objects that are gone are no difference between ledger and store; and a pull from the beginning takes nothing of them.
    const { differences } = await app.operations.reconcile({}, () => {});
    assert.deepEqual(differences, []);
    await rows(sql`update stream set mark = null, complete = false`);
    const pulled = await app.operations.pull({}, () => {});
    await app.settled();
    const skipped = pulled.streams.reduce((sum, stream) => sum + (stream.outcomes['skip:ERASED'] ?? 0), 0);
    assert.ok(skipped > removed.records / 2, `${skipped} of ${removed.records}`);
    assert.deepEqual(await left(patient), {});
    assert.equal((await rows<{ n: number }>(sql`select count(*) as n from patient`))[0]?.n, population, 'nobody is enrolled anew');
    assert.equal(await heldRecords(), held, 'nor held for a person');
    assert.deepEqual(await rows(sql`select 1 from record where reason = 'ERASED'`), []);
  });

  test('a patient who holds their own keys: by their device alone, envelopes too', async () => {
    const [, patient = assert.fail()] = patients;
    const device = createPatientDevice({ gateway: new URL(app.facadeUrl).origin, token: () => token(patient), institution: home, patient });
    await device.claim();
    await device.grant({ grantee: `member:${home}:${clinician}`, categories: ['laboratory'] });
    const objects = await objectsOf(patient);
    assert.ok(objects.some((name) => name.includes('/envelopes/')) && objects.some((name) => !name.includes('/envelopes/')));
    await assert.rejects(app.operations.patientErase({ patient, by: registrar }), (error) => codeOf(error) === 'CUSTODY_REFUSED');
    const envelopes = await rows<{ name: string }>(sql`select * from device_envelope where pat = ${patient}`);
    const { ledger, nonce } = device.facts();
    const payload = erasePatientPayload({ institution: home, patient, ledger, nonce, onBehalf: null });
    const answer = await fetch(`${new URL(app.facadeUrl).origin}/device/statements`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ transaction: 'erasePatient', args: [device.signed('erasePatient', payload)] }),
    });
    assert.equal(answer.status, 200, await answer.text());
    for (const until = Date.now() + 10_000; Date.now() < until; await sleep(20))
      if ((await app.operations.patientErasure({ patient })).erased !== null) break;
    assert.notEqual((await app.operations.patientErasure({ patient })).erased, null);
    assert.deepEqual([await left(patient), await keysOf(patient)], [{}, []]);
    for (const name of objects) assert.equal(await app.core.blobs.head(name), undefined);
    // A gateway that carried the grant for another institution's patient has the envelope only: its permission stands on the ledger still.
    await rows(sql`
      insert into device_envelope select r.* from jsonb_populate_recordset(null::device_envelope, ${JSON.stringify(envelopes)}::jsonb) r`);
    const most = Number.MAX_SAFE_INTEGER;
    const quotas = {
      maxBytesPerPatient: most,
      maxBytesPerPatientADay: most,
      maxBytesPerInstitution: most,
      maxBytesPerInstitutionADay: most,
    };
    assert.equal(await createKeptEnvelopes({ ...app.core, quotas }).sweep(), envelopes.length);
  });

  test('killed in the middle, or restored from before: it is taken up again, and done', async () => {
    const [patient = assert.fail()] = patients;
    const bytes = randomBytes(64);
    const name = `${home}/${createHash('sha256').update(bytes).digest('hex')}`;
    const restore = async () => {
      await app.core.blobs.put(name, bytes);
      await rows(sql`insert into erasure_object (name, pat) values (${name}, ${patient})`);
      await rows(sql`insert into patient_identifier (authority, blind, pat) values ('mrn', 'b1', ${patient})`);
      await rows(sql`update erasure set erased_at = null where pat = ${patient}`);
      await app.core.custodian.rowKey(patient, 'laboratory');
    };
    const erasureWith = (more: Partial<Parameters<typeof createErasure>[0]>): Erasure =>
      createErasure({
        ...app.core,
        projected: (block, timeoutMs) => app.core.projection.waitFor(block, timeoutMs),
        audit: { record: async () => {} },
        activeRole: async () => undefined,
        onErased: () => {},
        now: () => new Date(),
        ...more,
      });
    const away = () => Promise.reject(new CodedError('UNAVAILABLE'));
    await restore();
    const stuck = erasureWith({ blobs: { delete: away } });
    await stuck.pass();
    assert.equal((await stuck.certificate(patient)).erased, null);
    assert.deepEqual([await left(patient), await keysOf(patient)], [{}, []], 'nothing opens, whatever the store does');
    assert.notEqual(await app.core.blobs.head(name), undefined);
    // The audit cannot be written: it is not said to be done before it is accounted for.
    const unaudited = erasureWith({ audit: { record: away } });
    await unaudited.pass();
    assert.equal((await unaudited.certificate(patient)).erased, null);
    assert.equal(await app.core.blobs.head(name), undefined);
    const whole = erasureWith({});
    await whole.pass();
    assert.notEqual((await whole.certificate(patient)).erased, null);
    // Something of an erased patient is there again, rows or a key: it goes again.
    await rows(sql`insert into patient_identifier (authority, blind, pat) values ('mrn', 'b2', ${patient})`);
    await app.core.custodian.rowKey(patient, 'core');
    await whole.pass();
    assert.deepEqual([await left(patient), await keysOf(patient)], [{}, []]);
    await app.core.custodian.rowKey(patient, 'core');
    await whole.pass();
    assert.deepEqual(await keysOf(patient), []);
    // Of others nothing was taken.
    const [, , third = assert.fail()] = patients;
    assert.ok(Object.keys(await left(third)).length > 5 && (await keysOf(third)).length > 4);
    for (const one of [stuck, unaudited, whole]) await one.close();
  });
});
