import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { after, before, test } from 'node:test';
import type { Consent } from 'fhir/r4.js';
import type { Actor } from '../../src/auth/actor.ts';
import { canonicalJson } from '../../src/canonical-json.ts';
import { evidenceCommitment } from '../../src/consent/evidence.ts';
import { readableScope } from '../../src/consent/readable-scope.ts';
import { CodedError, codeOf } from '../../src/errors.ts';
import { clause, grantPayload, TYP } from '../../src/ledger/contract/payloads.ts';
import { sql } from '../../src/store/sql.ts';
import { until } from '../queue/conformance.ts';
import { createLedgerWorld, type LedgerWorld } from './ledger-world.ts';

let world: LedgerWorld;
before(async () => {
  world = await createLedgerWorld();
});
after(() => world.close());

const caller = (actor: Actor) => ({ actor, requestId: 'req-1', now: new Date() });
const purpose = { system: 'http://terminology.hl7.org/CodeSystem/v3-ActReason', code: 'TREAT' };
function provision(member: string, category: string, more: object = {}): object {
  return {
    type: 'permit',
    actor: [
      {
        role: { coding: [{ system: 'http://terminology.hl7.org/CodeSystem/v3-ParticipationType', code: 'IRCP' }] },
        reference: { reference: `Practitioner/${member}` },
      },
    ],
    action: [{ coding: [{ system: 'http://terminology.hl7.org/CodeSystem/consentaction', code: 'access' }] }],
    class: [{ system: 'urn:oncobridge:category', code: category }],
    purpose: [purpose],
    period: { start: '2020-01-01', end: '2099-12-31' },
    ...more,
  };
}
function consent(patient: string, provisions: readonly object[], more: object = {}): Consent {
  return {
    resourceType: 'Consent',
    status: 'active',
    scope: { coding: [{ system: 'http://terminology.hl7.org/CodeSystem/consentscope', code: 'patient-privacy' }] },
    category: [{ coding: [{ system: 'http://loinc.org', code: '59284-0' }] }],
    patient: { reference: `Patient/${patient}` },
    dateTime: '2026-11-23',
    provision: { type: 'deny', provision: provisions },
    ...more,
  } as Consent;
}
async function scopeOf(actor: Actor, patient: string): Promise<string[]> {
  const scope = readableScope({ actor, purpose: actor.purpose, right: 'read', now: new Date() });
  const found = await world.database.query<{ category: string }>(
    sql`select category from (${scope}) s where pat = ${patient} order by category`,
  );
  return found.map((row) => row.category);
}
const create = (actor: Actor, resource: Consent) => world.consents.createConsent(actor, resource, caller(actor));
const update = (actor: Actor, id: string, resource: Consent, ifMatch: string | undefined) =>
  world.consents.updateConsent(actor, id, resource, ifMatch, caller(actor));
const refusedWith = (code: string) => (error: unknown) => codeOf(error) === code;

test('a patient grants, the clinician reads that and no more, the revocation ends it', async () => {
  const patient = await world.enrol();
  const other = await world.enrol();
  const { member } = await world.membership.registerMember({ name: 'Dr. Ana Ruiz', role: 'clinician' });
  const clinician = world.member(member);
  assert.deepEqual(await scopeOf(clinician, patient), []);
  assert.deepEqual(await scopeOf(world.person(patient), patient), ['core', 'history-and-physical', 'laboratory', 'radiation-dose']);

  const { resource, committed } = await create(world.person(patient), consent(patient, [provision(member, 'laboratory')]));
  assert.equal(committed, true);
  assert.equal(resource.versionId, '1');
  assert.deepEqual(await scopeOf(clinician, patient), ['core', 'laboratory']);
  assert.deepEqual(await scopeOf(world.member(member, 'HRESCH'), patient), []);
  assert.deepEqual(await scopeOf(clinician, other), []);
  assert.deepEqual(await scopeOf(world.system(), patient), []);
  const [grant] = await world.database.query<{ args: string[] }>(
    sql`select args from outbox where transaction = 'grantPermission' and patient = ${`${world.institution}/${patient}`}`,
  );

  // The patient's Consents show to the patient and the offices, to nobody else.
  assert.deepEqual(
    (await world.consents.searchConsents(world.person(patient), { now: new Date() })).map((one) => one.id),
    [resource.id],
  );
  assert.deepEqual(await world.consents.searchConsents(clinician, { now: new Date() }), []);
  assert.equal(await world.consents.readConsent(world.person(other), resource.id, new Date()), undefined);
  const { body } =
    (await world.database.query<{ body: Buffer }>(sql`select body from consent_version where consent = ${resource.id}`))[0] ?? {};
  assert.ok(body !== undefined && !body.includes('Practitioner'), 'the text lies sealed');

  // Nobody else may end it, and not without the version.
  const ended = { ...(JSON.parse(resource.text) as Consent), status: 'inactive' } as Consent;
  await assert.rejects(update(world.person(other), resource.id, ended, '1'), refusedWith('NOT_FOUND'));
  await assert.rejects(update(clinician, resource.id, ended, '1'), refusedWith('NOT_FOUND'));
  await assert.rejects(update(world.person(patient), resource.id, ended, undefined), refusedWith('PRECONDITION_FAILED'));
  await assert.rejects(update(world.person(patient), resource.id, ended, '2'), refusedWith('PRECONDITION_FAILED'));
  assert.deepEqual(await scopeOf(clinician, patient), ['core', 'laboratory']);

  const revoked = await update(world.person(patient), resource.id, ended, '1');
  assert.equal(revoked.committed, true);
  assert.equal(revoked.resource.versionId, '2');
  assert.deepEqual(await scopeOf(clinician, patient), []);
  const read = await world.consents.readConsent(world.person(patient), resource.id, new Date());
  assert.equal((JSON.parse(read?.text ?? '{}') as Consent).status, 'inactive');
  assert.deepEqual(await world.database.query(sql`select 1 from revocation`), [], 'the local denial is swept once the ledger has it');

  // The old grant again changes nothing.
  await assert.rejects(world.ledger.endorse({ name: 'grantPermission', args: grant?.args ?? [] }), /SEQUENCE_STALE/);
  assert.deepEqual(await scopeOf(clinician, patient), []);

  // The second message of the act: a new key version for what comes.
  await until('it happens', async () => (await world.database.query(sql`select 1 from key_rotation where pat = ${patient}`)).length === 0);
  const versions = await world.database.query<{ version: number }>(
    sql`select version from projection.category_key where pat = ${patient} and category = 'laboratory' order by version`,
  );
  assert.deepEqual(
    versions.map((row) => row.version),
    [1, 2],
  );
  assert.equal((await world.custodian.categoryKey(patient, 'laboratory'))?.version, 2);
  assert.equal((await world.custodian.categoryKey(patient, 'radiation-dose'))?.version, 1);
});

test('who may write: the patient, or a registrar with evidence', async () => {
  const patient = await world.enrol();
  const { member } = await world.membership.registerMember({ name: 'Dr. Ben Okafor', role: 'clinician' });
  const { member: registrar } = await world.membership.registerMember({ name: 'Rita Meyer', role: 'registrar' });
  const wanted = consent(patient, [provision(member, 'laboratory')]);
  await assert.rejects(create(world.member(member), wanted), refusedWith('FORBIDDEN'));
  await assert.rejects(create(world.system(), wanted), refusedWith('FORBIDDEN'));
  await assert.rejects(create(world.person('pat-aaaaaaaaaaaaaaaaaaaaaaaaaa'), wanted), refusedWith('NOT_FOUND'));
  await assert.rejects(
    create(world.member(registrar), wanted),
    (error: unknown) => codeOf(error) === 'UNPROCESSABLE' && /source/.test(String((error as CodedError).detail.expression)),
  );
  const seen = consent(patient, [provision(member, 'laboratory')], { sourceAttachment: { title: 'Signed form', hash: 'c2hhMQ==' } });
  const { resource, committed } = await create(world.member(registrar), seen);
  assert.equal(committed, true);
  const [permission] = JSON.parse(await world.projection.evaluate('permissionsOf', [world.institution, patient])) as {
    onBehalf: string;
    evidence: string;
  }[];
  assert.equal(permission?.onBehalf, `member:${world.institution}:${registrar}`);
  // A commitment, not a hash: who knows or guesses the form finds nothing on the ledger, who is shown the salt can check it.
  const source = seen.sourceAttachment ?? {};
  const bare = createHash('sha256').update(canonicalJson(source)).digest('hex');
  assert.match(permission?.evidence ?? '', /^[0-9a-f]{64}$/);
  assert.notEqual(permission?.evidence, bare);
  const proof = await world.consents.proveEvidence(world.member(registrar), resource.id);
  assert.ok(proof !== undefined);
  assert.deepEqual(proof.source, source);
  assert.equal(proof.commitment, permission?.evidence);
  assert.ok(Buffer.from(proof.salt, 'base64url').length >= 16);
  assert.equal(evidenceCommitment(proof.source, proof.salt), permission?.evidence);
  assert.notEqual(evidenceCommitment({ ...proof.source, title: 'Another form' }, proof.salt), permission?.evidence);
  const [stands] = await world.database.query<{ value: string }>(sql`select value from projection.state where key = ${proof.stateKey}`);
  assert.equal((JSON.parse(stands?.value ?? '{}') as { evidence?: string }).evidence, proof.commitment);
  assert.equal(await world.consents.proveEvidence(world.member(member), resource.id), undefined);
  const [row] = await world.database.query<{ evidence: Buffer }>(sql`select evidence from consent_version where consent = ${resource.id}`);
  assert.ok(row !== undefined && !row.evidence.includes(Buffer.from(proof.salt, 'base64url')), 'the salt lies sealed');
  const same = await create(world.member(registrar), seen);
  const again = await world.consents.proveEvidence(world.member(registrar), same.resource.id);
  assert.ok(again !== undefined && again.commitment !== proof.commitment, 'the same form twice does not show');
  assert.equal((await world.consents.readConsent(world.member(registrar), resource.id, new Date()))?.id, resource.id);
  // A suspended registrar is none.
  await world.membership.suspend(registrar);
  await assert.rejects(create(world.member(registrar), seen), refusedWith('FORBIDDEN'));
  assert.equal(await world.consents.readConsent(world.member(registrar), resource.id, new Date()), undefined);
});

test('Consents on the same pair stand side by side; an update takes away what it says no more', async () => {
  const patient = await world.enrol();
  const me = world.person(patient);
  const { member } = await world.membership.registerMember({ name: 'Dr. Chloé Dubois', role: 'clinician' });
  const treatment = await create(me, consent(patient, [provision(member, 'laboratory'), provision(member, 'radiation-dose')]));
  const research = await create(me, consent(patient, [provision(member, 'laboratory', { purpose: [{ ...purpose, code: 'HRESCH' }] })]));
  assert.deepEqual(await scopeOf(world.member(member, 'HRESCH'), patient), ['core', 'laboratory']);
  const narrower = { ...consent(patient, [provision(member, 'radiation-dose')]), id: treatment.resource.id } as Consent;
  const updated = await update(me, treatment.resource.id, narrower, '1');
  assert.equal(updated.committed, true);
  await until('what was taken away has a new key', async () => (await world.custodian.categoryKey(patient, 'laboratory'))?.version === 2);
  assert.deepEqual(await scopeOf(world.member(member), patient), ['core', 'radiation-dose']);
  assert.deepEqual(await scopeOf(world.member(member, 'HRESCH'), patient), ['core', 'laboratory']);
  await update(
    me,
    research.resource.id,
    { ...(JSON.parse(research.resource.text) as Consent), status: 'entered-in-error' } as Consent,
    '1',
  );
  assert.deepEqual(await scopeOf(world.member(member, 'HRESCH'), patient), []);
  assert.deepEqual(await scopeOf(world.member(member), patient), ['core', 'radiation-dose']);
});

test('two grants at once: both stand, one of them signed anew', async () => {
  const patient = await world.enrol();
  const me = world.person(patient);
  const { member } = await world.membership.registerMember({ name: 'Dr. Dana Levi', role: 'clinician' });
  const both = await Promise.all(
    ['TREAT', 'HRESCH', 'HOPERAT'].map((code) =>
      create(me, consent(patient, [provision(member, 'laboratory', { purpose: [{ ...purpose, code }] })])),
    ),
  );
  assert.ok(both.every((one) => one.committed));
  for (const code of ['TREAT', 'HRESCH', 'HOPERAT'])
    assert.deepEqual(await scopeOf(world.member(member, code), patient), ['core', 'laboratory'], code);
});

test('a revocation denies here at once, whatever the ledger does meanwhile', async () => {
  const patient = await world.enrol();
  const me = world.person(patient);
  const { member } = await world.membership.registerMember({ name: 'Dr. Emil Novák', role: 'clinician' });
  const { resource } = await create(me, consent(patient, [provision(member, 'laboratory')]));
  assert.deepEqual(await scopeOf(world.member(member), patient), ['core', 'laboratory']);
  world.relay.pause();
  const ended = { ...(JSON.parse(resource.text) as Consent), status: 'inactive' } as Consent;
  const slow = update(me, resource.id, ended, '1');
  await until('it happens', async () => (await world.database.query(sql`select 1 from revocation`)).length > 0);
  assert.deepEqual(await scopeOf(world.member(member), patient), []);
  // A grant on a higher sequence, straight to the ledger, slips nothing past it.
  const { jws } = await directGrant(patient, member, 2);
  const endorsed = await world.ledger.endorse({ name: 'grantPermission', args: [jws] });
  const { block } = await world.ledger.submit(endorsed.bytes);
  assert.ok(await world.projected(block, 5000));
  assert.deepEqual(await scopeOf(world.member(member), patient), []);
  assert.equal((JSON.parse((await world.consents.readConsent(me, resource.id, new Date()))?.text ?? '{}') as Consent).status, 'inactive');
  world.relay.resume();
  assert.equal((await slow).committed, true);
  // The revoke names its Consent: the other one's clauses stand again, now on the ledger.
  assert.deepEqual(await scopeOf(world.member(member), patient), ['core', 'laboratory']);
});

test('a narrower Consent denies here at once what it takes away whole; what stays and what others grant is read meanwhile', async () => {
  const patient = await world.enrol();
  const me = world.person(patient);
  const { member } = await world.membership.registerMember({ name: 'Dr. Hana Sato', role: 'clinician' });
  const wide = await create(
    me,
    consent(patient, [provision(member, 'laboratory'), provision(member, 'radiation-dose'), provision(member, 'history-and-physical')]),
  );
  await create(me, consent(patient, [provision(member, 'history-and-physical')]));
  world.relay.pause();
  const narrower = { ...consent(patient, [provision(member, 'radiation-dose')]), id: wide.resource.id } as Consent;
  const slow = update(me, wide.resource.id, narrower, '1');
  await until('it denies', async () => (await scopeOf(world.member(member), patient)).length === 3);
  // The other Consent still grants the history: there the whole triple is not taken away.
  assert.deepEqual(await scopeOf(world.member(member), patient), ['core', 'history-and-physical', 'radiation-dose']);
  world.relay.resume();
  assert.equal((await slow).committed, true);
  assert.deepEqual(await scopeOf(world.member(member), patient), ['core', 'history-and-physical', 'radiation-dose']);
  await world.consents.sweep();
  assert.deepEqual(await world.database.query(sql`select 1 from revocation`), []);
  // Given again it is readable again.
  const back = {
    ...consent(patient, [provision(member, 'radiation-dose'), provision(member, 'laboratory')]),
    id: wide.resource.id,
  } as Consent;
  await update(me, wide.resource.id, back, '2');
  assert.deepEqual(await scopeOf(world.member(member), patient), ['core', 'history-and-physical', 'laboratory', 'radiation-dose']);
});

test('a narrower Consent that the ledger refuses leaves no denial behind', async () => {
  const patient = await world.enrol();
  const me = world.person(patient);
  const { member } = await world.membership.registerMember({ name: 'Dr. Ivo Brandt', role: 'clinician' });
  const wide = await create(me, consent(patient, [provision(member, 'laboratory'), provision(member, 'radiation-dose')]));
  world.relay.pause();
  const narrower = { ...consent(patient, [provision(member, 'radiation-dose')]), id: wide.resource.id } as Consent;
  const slow = update(me, wide.resource.id, narrower, '1');
  await until('it denies', async () => (await scopeOf(world.member(member), patient)).length === 2);
  const [row] = await world.database.query<{ outbox: string }>(sql`select outbox from revocation`);
  // Refused by the ledger for good, as a grant is that came too late; and the process that waited for it is gone.
  await world.database.query(
    sql`update outbox set state = 'rejected', error_code = 'GRANT_EXPIRED', settled_at = now() where id = ${row?.outbox}`,
  );
  await world.database.query(
    sql`insert into revocation select inst, pat, grantor, grantee, category, used_key || '9', 'obx-gone', now() from revocation`,
  );
  world.relay.resume();
  await assert.rejects(slow);
  await world.consents.sweep();
  assert.deepEqual(await world.database.query(sql`select 1 from revocation`), []);
  assert.deepEqual(await scopeOf(world.member(member), patient), ['core', 'laboratory', 'radiation-dose']);
});

async function directGrant(patient: string, member: string, sequence: number): Promise<{ jws: string }> {
  const payload = grantPayload({
    institution: world.institution,
    patient,
    consent: 'con-other',
    evidence: null,
    grantor: 'patient',
    ledger: world.ledgerId,
    nonce: 'n'.repeat(22),
    notAfter: new Date(Date.now() + 60_000).toISOString(),
    onBehalf: patient,
    permissions: [
      {
        category: 'laboratory',
        clauses: [clause({ consent: 'con-other', rights: ['read'] })],
        envelope: null,
        grantee: `member:${world.institution}:${member}`,
        sequence,
      },
    ],
  });
  return {
    jws: await world.custodian.signForPatient({ patient, actor: { kind: 'patient', id: patient }, typ: TYP.grantPermission, payload }),
  };
}

test('what the contract refuses is refused before anything is written', async () => {
  const patient = await world.enrol();
  const me = world.person(patient);
  const before = await world.database.query(sql`select 1 from consent_version`);
  await assert.rejects(
    create(me, consent(patient, [provision('mem-aaaaaaaaaaaaaaaaaaaaaaaaaa', 'laboratory')])),
    refusedWith('UNPROCESSABLE'),
  );
  const { member } = await world.membership.registerMember({ name: 'Dr. Fay Wong', role: 'clinician' });
  for (const status of ['draft', 'proposed', 'inactive'] as const) {
    await assert.rejects(create(me, { ...consent(patient, [provision(member, 'laboratory')]), status }), refusedWith('UNPROCESSABLE'));
  }
  assert.equal((await world.database.query(sql`select 1 from consent_version`)).length, before.length);
  assert.deepEqual(
    await world.database.query(
      sql`select 1 from outbox where patient = ${`${world.institution}/${patient}`} and transaction = 'grantPermission'`,
    ),
    [],
  );
});

test('the example of docs/consent.md can be posted', async () => {
  const text = await readFile(new URL('../../docs/consent.md', import.meta.url), 'utf8');
  const example = /```json\n([\s\S]+?)\n```/.exec(text)?.[1] ?? '';
  const patient = await world.enrol();
  const { member } = await world.membership.registerMember({ name: 'Dr. Gil Ortega', role: 'clinician' });
  const filled = example.replaceAll('pat-ktzr2m5m6pzq2lq3y4cdn5w7ea', patient).replaceAll('mem-b4q7h2mxk3nzv6rj5tdwy2ocua', member);
  assert.ok(filled.includes(patient) && filled.includes(member));
  const { committed } = await create(world.person(patient), JSON.parse(filled) as Consent);
  assert.equal(committed, true);
  assert.ok((await scopeOf(world.member(member), patient)).includes('laboratory'));
});
