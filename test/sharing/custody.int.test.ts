/**
 * A patient in custody of A, who lets a clinician of B read: A as a whole server, B's own database, view of the ledger and sharing.
 */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import type { Consent } from 'fhir/r4.js';
import { pino } from 'pino';
import { copyConfig } from '../../simulator/demo-config.ts';
import { createSimulator, type Simulator } from '../../simulator/simulator.ts';
import { type App, createApp } from '../../src/app.ts';
import { createAuditLog } from '../../src/audit/audit-log.ts';
import { readSettings } from '../../src/cli/settings.ts';
import { removeRows } from '../../src/erasure/erasing-rows.ts';
import { newId } from '../../src/ids.ts';
import { createProjection } from '../../src/ledger/projection.ts';
import { cosignFile, makeJoinFile, submitFile } from '../../src/membership/cosigned-file.ts';
import { parseLinkCode } from '../../src/sharing/link-code.ts';
import { createLinks } from '../../src/sharing/links.ts';
import { createSharing, type Sharing } from '../../src/sharing/sharing.ts';
import type { Database } from '../../src/store/database.ts';
import { sql } from '../../src/store/sql.ts';
import { suppressionMarks } from '../../src/store/suppression.ts';
import { createFileCustodian, type FileCustodian } from '../../src/vault/file-custodian.ts';
import { createSealedRows } from '../../src/vault/sealed-rows-store.ts';
import { createSealer } from '../../src/vault/sealer.ts';
import { withTestDatabase } from '../store/test-database.ts';

const B = newId('inst');
const laboratory = 'laboratory';

describe('a patient in custody lets a clinician of another institution read', () => {
  let folder: string;
  let simulator: Simulator;
  let a: App;
  let custodian: FileCustodian;
  let database: Database;
  let sharing: Sharing;
  let links: ReturnType<typeof createLinks>;
  let projection: ReturnType<typeof createProjection>;
  let audit: ReturnType<typeof createAuditLog>;
  let closeDatabase: () => Promise<void>;
  const clinician = newId('mem');
  let patient: string;
  let own: string;

  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'oncobridge-custody-'));
    simulator = await createSimulator();
    const config = copyConfig({ run: folder, sample: 'embedded.yaml', simulator });
    a = await createApp({ settings: await readSettings(config), serve: true, logLevel: 'silent', schedule: false });
    await a.operations.pull({}, () => {});
    await a.settled();
    const [found] = await a.core.database.query<{ pat: string }>(sql`
      select d.pat from projection.document d where category = ${laboratory} and not withdrawn group by d.pat order by count(*) desc, d.pat limit 1`);
    patient = found?.pat ?? assert.fail();

    custodian = await createFileCustodian({ directory: join(folder, 'b'), passphrase: 'Tallow-harbour 71 quince', institution: B });
    const joining = await makeJoinFile({ custodian, ledgerId: a.core.ledgerId, msp: `${B}-msp` });
    const parts = { custodian: a.core.custodian, ledgerId: a.core.ledgerId };
    await submitFile({ ...parts, ledger: a.core.ledger }, await cosignFile(parts, joining, joining.thumbprint));
    await a.settled();
    ({ database, close: closeDatabase } = await withTestDatabase());
    projection = createProjection({ database, ledger: a.core.ledger, institution: B, msp: `${B}-msp` });
    await projection.start();
    const rows = createSealedRows({ custodian });
    audit = createAuditLog({ database, rows });
    links = createLinks({
      database,
      rows,
      custodian,
      activeRole: async (_institution, member) => (member === clinician ? 'clinician' : undefined),
      onAlarm: () => {},
      now: () => new Date(),
    });
    sharing = createSharing({
      database,
      rows,
      custodian,
      sealer: createSealer({ custodian }),
      blobs: a.core.blobs,
      links,
      audit,
      facility: 'B',
      quotas: { maxPatients: 10, maxDocumentsPerPatient: 1000, maxBytesPerPatient: 1e9, maxObjectBytes: 1e8, maxPendingPerInstitution: 10 },
      retry: { firstMs: 10, mostMs: 100, maxAttempts: 3, slowMs: 60_000 },
      now: () => new Date(),
      onAlarm: () => {},
      log: pino({ level: 'silent' }),
    });
    // The same person at B, by name and birth date.
    const [theirs] = await a.core.database.query<{ demographics: Buffer }>(sql`select demographics from patient where pat = ${patient}`);
    const person = await a.core.rows.open(patient, 'core', `demographics/${patient}`, theirs?.demographics ?? assert.fail());
    own = newId('pat');
    const sealed = await rows.seal(own, 'core', `demographics/${own}`, person);
    await database.query(sql`insert into patient (pat, demographics) values (${own}, ${sealed})`);
  });
  after(async () => {
    await sharing?.close();
    await audit?.close();
    await projection?.close();
    await closeDatabase?.();
    await a?.close();
    await custodian?.close();
    await simulator?.close();
    rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
  });

  const consentOf = (more: { grantees?: object[]; codes?: string[]; categories?: string[] } = {}): object => ({
    resourceType: 'Consent',
    status: 'active',
    scope: { coding: [{ system: 'http://terminology.hl7.org/CodeSystem/consentscope', code: 'patient-privacy' }] },
    category: [{ coding: [{ system: 'http://loinc.org', code: '59284-0' }] }],
    patient: { reference: `Patient/${patient}` },
    dateTime: '2026-11-23T09:30:00Z',
    extension: [
      { url: 'urn:example:note', valueString: 'kept' },
      ...(more.codes ?? []).map((valueString) => ({ url: 'urn:oncobridge:linking-code', valueString })),
    ],
    provision: {
      type: 'deny',
      provision: [
        {
          type: 'permit',
          actor: (more.grantees ?? [{ identifier: { system: 'urn:oncobridge:member', value: `${B}/${clinician}` } }]).map((reference) => ({
            role: { coding: [{ system: 'http://terminology.hl7.org/CodeSystem/v3-ParticipationType', code: 'IRCP' }] },
            reference,
          })),
          action: [{ coding: [{ system: 'http://terminology.hl7.org/CodeSystem/consentaction', code: 'access' }] }],
          class: (more.categories ?? [laboratory]).map((code) => ({ system: 'urn:oncobridge:category', code })),
          period: { start: '2026-01-01', end: '2099-12-31' },
        },
      ],
    },
  });
  async function fhir(path: string, body?: object, more: { method?: string; version?: string } = {}) {
    const { token } = await a.operations.token({ as: patient });
    const answer = await fetch(`${a.facadeUrl}/${path}`, {
      method: more.method ?? (body === undefined ? 'GET' : 'POST'),
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      headers: {
        authorization: `Bearer ${token}`,
        'content-type': 'application/fhir+json',
        ...(more.version === undefined ? {} : { 'if-match': `W/"${more.version}"` }),
      },
    });
    const text = await answer.text();
    return { status: answer.status, text, consent: JSON.parse(text) as Consent };
  }
  const pass = async (): Promise<void> => {
    await a.settled();
    await projection.waitFor((await a.core.ledger.height()) - 1, 10_000);
    await sharing.pass();
  };
  const shared = async () =>
    database.query<{ category: string; state: string; n: number }>(sql`
      select c.category, c.state, (select count(*) from shared_version v where v.inst = c.inst and v.pat = c.pat and v.category = c.category) as n
      from shared_category c where c.pat = ${patient} order by c.category`);
  const filed = async (category: string): Promise<number> =>
    (
      await a.core.database.query<{ n: number }>(
        sql`select count(*) as n from projection.document where pat = ${patient} and category = ${category} and not withdrawn`,
      )
    )[0]?.n ?? 0;
  let consent: Consent;

  test('by a Consent with a linking code: the custodian makes the envelope, B opens it, links and holds what was granted', async () => {
    const { text: code } = await links.makeCode({ patient: own, clinician, by: clinician });
    const organization = [{ reference: `Organization/${B}` }];

    // Refused: a code for somebody else, a damaged one, one of another key; nothing of a code is said or kept.
    const other = await fhir(
      'Consent',
      consentOf({ grantees: [{ identifier: { system: 'urn:oncobridge:role', value: 'clinician' } }], codes: [code] }),
    );
    assert.equal(other.status, 422);
    const damaged = await fhir('Consent', consentOf({ grantees: organization, codes: [`${code}x`] }));
    assert.equal(damaged.status, 422);
    assert.equal((await fhir('Consent', consentOf({ grantees: [{ reference: 'Organization/inst-nobody' }] }))).status, 422);
    for (const { text } of [other, damaged]) assert.ok(!text.includes('ob1.') && !text.includes(parseLinkCode(code).secret));

    const sent = consentOf({ grantees: organization }) as { provision: object };
    const deeper = { ...sent, provision: { ...sent.provision, extension: [{ url: 'urn:oncobridge:linking-code', valueString: code }] } };
    const nested = await fhir('Consent', deeper);
    assert.deepEqual([nested.status, nested.text.includes(parseLinkCode(code).secret)], [422, false]);
    const made = await fhir('Consent', consentOf({ grantees: organization, codes: [code] }));
    assert.equal(made.status, 201, made.text);
    consent = made.consent;
    assert.deepEqual(consent.extension, [{ url: 'urn:example:note', valueString: 'kept' }]);
    assert.ok(!(await fhir(`Consent/${consent.id}`)).text.includes('ob1.'));
    const { secret } = parseLinkCode(code);
    const outbox = await a.core.database.query(sql`select args from outbox`);
    assert.ok(!JSON.stringify(outbox).includes(secret));
    // On the ledger it says on whose behalf it was signed, and names the envelope.
    const [head] = await a.core.database.query<{ value: string }>(
      sql`select value from projection.state where key like ${`perm/%/${patient}/patient/organization:${B}/${laboratory}/v/%`}`,
    );
    const state = JSON.parse(head?.value ?? '{}') as { onBehalf: string; envelope: { path: string } };
    assert.equal(state.onBehalf, patient);
    assert.deepEqual(
      await a.core.database.query(sql`select name from device_envelope where pat = ${patient}`),
      [{ name: state.envelope.path }],
      'kept for as long as the permission lives',
    );
    await pass();
    assert.deepEqual(await shared(), [{ category: laboratory, state: 'live', n: await filed(laboratory) }]);
    assert.ok((await filed(laboratory)) > 0);
    assert.deepEqual(await database.query(sql`select state from patient_link where pat = ${patient}`), [{ state: 'confirmed' }]);
  });

  test('what is added later needs no code, a version that the ledger does not name goes into no envelope', async () => {
    // A version that was made and never published: B would take an envelope with it for a forged one.
    await a.core.custodian.rotateCategoryKey(patient, 'radiation-dose');
    const wider = consentOf({ grantees: [{ reference: `Organization/${B}` }], categories: [laboratory, 'radiation-dose'] });
    const put = await fhir(
      `Consent/${consent.id}`,
      { ...wider, id: consent.id },
      { method: 'PUT', version: consent.meta?.versionId ?? '' },
    );
    assert.equal(put.status, 200, put.text);
    consent = put.consent;
    await pass();
    assert.deepEqual(
      (await shared()).map(({ category, state }) => [category, state]),
      [
        [laboratory, 'live'],
        ['radiation-dose', 'live'],
      ],
    );
  });

  test('a key version after somebody else has lost the category goes to B with it; the end of the Consent ends it at B', async () => {
    const home = a.core.institution;
    const member = (await a.operations.memberAdd({ name: 'Dr. Ana Ruiz', role: 'clinician' })).member;
    const second = await fhir('Consent', consentOf({ grantees: [{ reference: `Practitioner/${member}` }] }));
    assert.equal(second.status, 201, second.text);
    const versions = async (from: Database): Promise<number[]> =>
      (
        await from.query<{ version: number }>(
          sql`select version from projection.category_key where pat = ${patient} and category = ${laboratory} order by version`,
        )
      ).map((row) => row.version);
    const before = await versions(a.core.database);
    const ended = { ...second.consent, status: 'inactive' };
    assert.equal((await fhir(`Consent/${second.consent.id}`, ended, { method: 'PUT', version: '1' })).status, 200);
    for (const until = Date.now() + 20_000; Date.now() < until && (await versions(a.core.database)).length === before.length; )
      await new Promise((done) => setTimeout(done, 50));
    await pass();
    const after = await versions(a.core.database);
    assert.deepEqual(after, [...before, (before.at(-1) ?? 0) + 1]);
    const [key] = await a.core.database.query<{ value: string }>(
      sql`select value from projection.state where key = ${`pat/${home}/${patient}/ck/${laboratory}/v/${String(after.at(-1)).padStart(10, '0')}`}`,
    );
    assert.equal((JSON.parse(key?.value ?? '{}') as { envelopes: unknown[] }).envelopes.length, 1);
    const held = await database.query<{ version: number }>(
      sql`select version from shared_key where pat = ${patient} and category = ${laboratory} order by version`,
    );
    assert.deepEqual(
      held.map((row) => row.version),
      after,
    );
    const last = { ...consent, status: 'inactive' };
    assert.equal((await fhir(`Consent/${consent.id}`, last, { method: 'PUT', version: consent.meta?.versionId ?? '' })).status, 200);
    await pass();
    await sharing.pass();
    assert.deepEqual(await shared(), []);
    assert.deepEqual(await database.query(sql`select 1 from shared_key`), []);
  });

  test('B erases the person whom the link is to: what A shared of them ends there, the link with it', async () => {
    const again = await fhir('Consent', consentOf({ grantees: [{ reference: `Organization/${B}` }] }));
    assert.equal(again.status, 201, again.text);
    await pass();
    assert.deepEqual(
      (await shared()).map(({ category, state }) => [category, state]),
      [[laboratory, 'live']],
      'by the link that stands, without a code',
    );
    await database.transaction((tx) =>
      removeRows(tx, { institution: B, patient: own, marks: suppressionMarks(createSealedRows({ custodian })) }),
    );
    await pass();
    await sharing.pass();
    assert.deepEqual(await shared(), [{ category: laboratory, state: 'refused', n: 0 }], 'it waits for a new code, and holds nothing');
    assert.deepEqual(await database.query(sql`select 1 from shared_key`), []);
    assert.deepEqual(await database.query(sql`select 1 from resource`), []);
    assert.deepEqual(await database.query(sql`select state, accepted from patient_link`), [{ state: 'rejected', accepted: [] }]);
  });
});
