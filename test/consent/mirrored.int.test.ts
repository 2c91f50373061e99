import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import type { Consent } from 'fhir/r4.js';
import type { Actor } from '../../src/auth/actor.ts';
import { provisionOf } from '../../src/consent/consent-mapping.ts';
import { consentChanges, recordedConsent } from '../../src/consent/recorded-consents.ts';
import { codeOf } from '../../src/errors.ts';
import { clause, erasePatientPayload, grantPayload, TYP } from '../../src/ledger/contract/payloads.ts';
import { sql } from '../../src/store/sql.ts';
import { jwkThumbprint } from '../../src/vault/thumbprint.ts';
import { hex64, nonce } from '../ledger/world.ts';
import { type ClaimedPatient, claimPatient } from '../vault/claimed-patient.ts';
import { createLedgerWorld, type LedgerWorld } from './ledger-world.ts';

let world: LedgerWorld;
let clinician: string;
let officer: Actor;
before(async () => {
  world = await createLedgerWorld();
  clinician = (await world.membership.registerMember({ name: 'Dr. Ana Ruiz', role: 'clinician' })).member;
  officer = world.member((await world.membership.registerMember({ name: 'Pia Officer', role: 'privacy-officer' })).member);
});
after(() => world.close());

const seen = async (actor: Actor, patient?: string) =>
  (await world.consents.searchConsents(actor, { now: new Date(), ...(patient === undefined ? {} : { patients: [patient] }) })).map(
    (one) => ({
      ...one,
      resource: JSON.parse(one.text) as Consent,
    }),
  );
const told = async (actor: Actor, patient: string) =>
  (await seen(actor, patient)).map(({ id, versionId, resource }) => [id, versionId, resource.status]);
const submit = async (name: string, args: readonly string[]): Promise<void> => {
  const { block } = await world.ledger.submit((await world.ledger.endorse({ name, args })).bytes);
  assert.ok(await world.projected(block, 10_000));
};
const fhirConsent = (patient: string): Consent =>
  ({
    resourceType: 'Consent',
    status: 'active',
    scope: { coding: [{ system: 'http://terminology.hl7.org/CodeSystem/consentscope', code: 'patient-privacy' }] },
    category: [{ coding: [{ system: 'http://loinc.org', code: '59284-0' }] }],
    patient: { reference: `Patient/${patient}` },
    sourceAttachment: { title: 'signed form' },
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
          class: [{ system: 'urn:oncobridge:category', code: 'laboratory' }],
          period: { start: '2026-01-01', end: '2099-12-31' },
        },
      ],
    },
  }) as Consent;

test('what a device has granted and revoked shows as a Consent to patient and offices, and to nobody else', async () => {
  const patient = await world.enrol();
  const device = await claimPatient(world, patient);
  const grantee = `member:${world.institution}:${clinician}`;
  assert.deepEqual(await seen(world.person(patient)), []);
  await device.grant({ grantee, category: 'laboratory', sequence: 1, periodEnd: '2099-01-01T00:00:00.000Z' });
  assert.deepEqual(await told(world.person(patient), patient), [['con-1', '1', 'active']]);
  assert.deepEqual(await told(officer, patient), [['con-1', '1', 'active']]);
  assert.deepEqual(await told(world.member(clinician), patient), []);
  assert.deepEqual(await seen(world.person(await world.enrol())), []);
  const [one] = await seen(officer, patient);
  assert.deepEqual(one?.resource.provision, {
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
        class: [{ system: 'urn:oncobridge:category', code: 'laboratory' }],
        period: { end: '2099-01-01T00:00:00.000Z' },
      },
    ],
  });
  assert.deepEqual(one?.resource.performer, [{ reference: `Patient/${patient}` }]);
  const read = await world.consents.readConsent(world.person(patient), 'con-1', new Date());
  assert.equal(read?.text, one?.text);

  await device.revoke({ grantee, category: 'laboratory' });
  assert.deepEqual(await told(officer, patient), [['con-1', '2', 'inactive']]);
  const [ended] = await seen(officer, patient);
  assert.deepEqual(ended?.resource.provision, one?.resource.provision, 'what it said stays');
  await device.grant({ grantee, category: 'laboratory', sequence: 3 });
  assert.deepEqual(await told(officer, patient), [['con-1', '3', 'active']]);
  // Made again from the ledger alone it is the same to the letter.
  const before = await seen(officer, patient);
  await world.database.query(sql`delete from consent_version where pat = ${patient}`);
  await world.database.query(sql`delete from consent_mirror`);
  assert.deepEqual(await seen(officer, patient), before);
  // Nothing new: nothing is written.
  const count = () => world.database.query(sql`select count(*) as n from consent_version`);
  const rows = await count();
  await device.publish('laboratory');
  await seen(officer, patient);
  assert.deepEqual(await count(), rows);
});

test('a patient of whom it fails holds up nobody else, and is tried again', async () => {
  const [broken, fine] = [await world.enrol(), await world.enrol()];
  const grantee = `member:${world.institution}:${clinician}`;
  const [one, two] = [await claimPatient(world, broken), await claimPatient(world, fine)];
  await one.grant({ grantee, category: 'laboratory', sequence: 1 });
  const [[id] = assert.fail()] = await told(officer, broken);
  const [kept] = await world.database.query<{ body: Buffer }>(sql`select body from consent_version where pat = ${broken}`);
  // What it said cannot be opened, and its end is to say it once more.
  await world.database.query(sql`update consent_version set body = ${Buffer.from('broken')} where pat = ${broken}`);
  await one.revoke({ grantee, category: 'laboratory' });
  await two.grant({ grantee, category: 'laboratory', sequence: 1 });
  const [[fineId] = assert.fail()] = await told(officer, fine);
  assert.deepEqual(await told(officer, fine), [[fineId, '1', 'active']]);
  const refused = (error: unknown): boolean => codeOf(error) === 'UNAVAILABLE';
  await assert.rejects(told(officer, broken), refused);
  await assert.rejects(told(world.person(broken), broken), refused);
  await assert.rejects(world.consents.readConsent(officer, id ?? '', new Date()), refused);
  await world.database.query(sql`update consent_version set body = ${kept?.body} where pat = ${broken}`);
  await two.revoke({ grantee, category: 'laboratory' });
  assert.deepEqual(await told(officer, broken), [[id, '2', 'inactive']]);
  // All who ask while one is under way share the next.
  assert.equal((await Promise.all(Array.from({ length: 20 }, () => told(officer, fine)))).length, 20);
});

test('a Consent that was written here and that a device has ended: its text with the end; a name that is another patient’s', async () => {
  const patient = await world.enrol();
  const other = await world.enrol();
  const actor = world.person(patient);
  const { resource } = await world.consents.createConsent(actor, fhirConsent(patient), { actor, requestId: 'req-1', now: new Date() });
  assert.deepEqual(await told(actor, patient), [[resource.id, '1', 'active']]);
  const device = await claimPatient(world, patient);
  const grantee = `member:${world.institution}:${clinician}`;
  const [first] = await seen(actor);
  await device.revoke({ grantee, category: 'laboratory' });
  assert.deepEqual(await told(actor, patient), [[resource.id, '2', 'inactive']]);
  const [ended] = await seen(actor);
  const { meta: _was, status: _active, ...text } = first?.resource ?? assert.fail();
  const { meta: _is, status: _inactive, ...same } = ended?.resource ?? assert.fail();
  assert.deepEqual(same, text);

  // Names are the signers' choice: another patient's device uses this one, and reaches nothing of the first's.
  const thief = await claimPatient(world, other);
  const grantAs = async (from: ClaimedPatient, consent: string, clauses: ReturnType<typeof clause>[], to = grantee, sequence = 1) => {
    const recipient = (await world.custodian.institutionKeys()).encryption;
    const hash = hex64(await from.envelope('laboratory', recipient));
    const payload = grantPayload({
      institution: world.institution,
      patient: from.patient,
      ledger: world.ledgerId,
      nonce: nonce(),
      consent,
      evidence: null,
      grantor: 'patient',
      notAfter: new Date(Date.now() + 600_000).toISOString(),
      onBehalf: null,
      permissions: [
        {
          category: 'laboratory',
          clauses,
          envelope: { hash, path: `${world.institution}/envelopes/${hash}`, recipient: jwkThumbprint(recipient) },
          grantee: to,
          sequence,
        },
      ],
    });
    await submit('grantPermission', [from.signing.jws(TYP.grantPermission, payload)]);
  };
  await grantAs(thief, resource.id, [clause({ consent: resource.id, rights: ['read'] })]);
  const [[id, version, status] = assert.fail()] = await told(world.person(other), other);
  assert.deepEqual([id !== resource.id, /^con-[0-9a-f]{40}$/.test(id ?? ''), version, status], [true, true, '1', 'active']);
  assert.deepEqual(await told(actor, patient), [[resource.id, '2', 'inactive']]);

  // What a Consent cannot say all of is said as near as it comes, and hides nothing: here two Consents in one list, and a denial alone.
  const odd = [
    clause({ consent: 'con-odd', rights: ['read', 'share'], purposes: ['X-LOCAL'] }),
    clause({ consent: 'con-odd', effect: 'deny', emergency: true, rights: ['read'] }),
    clause({ consent: 'con-more', rights: ['read'], dataStart: '2026-01-01T00:00:00.000Z' }),
  ];
  await grantAs(thief, 'con-odd', odd, `organization:${world.institution}`);
  const shown = new Map((await seen(officer, other)).map((one) => [one.id, one.resource]));
  assert.deepEqual(new Set(shown.keys()), new Set([id, 'con-more', 'con-odd']));
  const [permit, denial] = shown.get('con-odd')?.provision?.provision ?? [];
  assert.deepEqual([permit?.purpose?.[0]?.code, permit?.action?.length], ['X-LOCAL', 2]);
  assert.ok(denial?.type === 'deny' && denial.purpose?.some((purpose) => purpose.code === 'BTG'));
  assert.ok(!JSON.stringify(shown.get('con-more')).includes('X-LOCAL'));

  // Nothing of an erased patient.
  const erasing = erasePatientPayload({
    institution: world.institution,
    patient: other,
    ledger: world.ledgerId,
    nonce: nonce(),
    onBehalf: null,
  });
  await submit('erasePatient', [thief.signing.jws(TYP.erasePatient, erasing)]);
  await world.database.query(sql`delete from consent_version where pat = ${other}`);
  await world.database.query(sql`delete from consent_mirror`);
  assert.deepEqual(await seen(officer, other), []);
  assert.deepEqual(await world.database.query(sql`select 1 from consent_version where pat = ${other}`), []);
});

test('a member of another institution is named with it, there and back', () => {
  const of = { institution: 'inst-a', patient: 'pat-1' };
  const said = {
    grantee: 'member:inst-b:mem-1',
    category: 'laboratory',
    clauses: [clause({ consent: 'con-1', rights: ['read'], periodEnd: '2099-01-01T00:00:00.000Z' })],
  };
  const provision = provisionOf([said], { institution: 'inst-a', consent: 'con-1', categories: ['laboratory'] });
  assert.deepEqual(provision.provision?.[0]?.actor?.[0]?.reference, {
    type: 'Practitioner',
    identifier: { system: 'urn:oncobridge:member', value: 'inst-b/mem-1' },
  });
  const state = { at: '2026-11-23T00:00:00.000Z', clauses: said.clauses, envelope: null, evidence: null, onBehalf: 'member:inst-a:mem-9' };
  const value = JSON.stringify({ ...state, parentGrantee: null, parentGrantor: null, statement: 's', status: 'active' });
  const key = 'perm/inst-a/pat-1/patient/member:inst-b:mem-1/laboratory/v/0000000001';
  const [change = assert.fail(), ...none] = consentChanges(of, [
    { key: key.replace('/v/0000000001', '/head'), value: '{"sequence":1}', version: [3, 0] },
    { key, value, version: [3, 0] },
    { key: key.replace('patient/member', 'member:inst-b:mem-2/member'), value, version: [4, 0] },
  ]);
  assert.deepEqual([none, change.after], [[], [said]]);
  assert.deepEqual(recordedConsent(of, change).provision, provision);
  assert.deepEqual(recordedConsent(of, change).performer, [{ reference: 'Practitioner/mem-9' }]);
});
