import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import type { Consent } from 'fhir/r4.js';
import { createKeyRotation } from '../../src/consent/key-rotation.ts';
import { rotationDue } from '../../src/consent/rotation-due.ts';
import { codeOf } from '../../src/errors.ts';
import { sql } from '../../src/store/sql.ts';
import { claimPatient } from '../vault/claimed-patient.ts';
import { createLedgerWorld, type LedgerWorld } from './ledger-world.ts';

let world: LedgerWorld;
before(async () => {
  world = await createLedgerWorld();
});
after(() => world.close());

test('of a patient who holds their own keys custody rotates nothing; an end that nobody signed leaves it due until the device publishes', async () => {
  const { database, institution } = world;
  const patient = await world.enrol();
  const [first, second] = await Promise.all(
    ['Dr. Ana Ruiz', 'Dr. Lena Vogt'].map((name) => world.membership.registerMember({ name, role: 'clinician' })),
  );
  assert.ok(first && second);
  const due = (now = new Date()): Promise<string[]> => rotationDue(database, { institution, patient }, now);
  const grantee = `member:${institution}:${first.member}`;
  // A rotation that was due in custody when the patient claimed: the claim has re-keyed everything.
  await database.query(
    sql`insert into key_rotation (pat, category, actor_kind, actor_id) values (${patient}, 'laboratory', 'patient', ${patient})`,
  );
  const device = await claimPatient(world, patient);
  const rotation = createKeyRotation({
    database,
    custodian: world.custodian,
    envelopes: world.envelopes,
    ledgerId: world.ledgerId,
    outbox: world.outbox,
    projected: world.projected,
  });
  assert.equal(await rotation.pass(), 0);
  assert.deepEqual(await database.query(sql`select 1 from key_rotation`), []);
  await rotation.close();

  const resource = {
    resourceType: 'Consent',
    status: 'active',
    patient: { reference: `Patient/${patient}` },
  } as Consent;
  const actor = world.person(patient);
  await assert.rejects(
    world.consents.createConsent(actor, resource, { actor, requestId: 'req-1', now: new Date() }),
    (error) => codeOf(error) === 'CUSTODY_REFUSED',
  );

  // Revoked.
  assert.deepEqual(await due(), []);
  await device.grant({ grantee, category: 'laboratory', sequence: 1 });
  assert.deepEqual(await due(), []);
  await device.revoke({ grantee, category: 'laboratory' });
  assert.deepEqual(await due(), ['laboratory']);
  await device.publish('laboratory');
  assert.deepEqual(await due(), []);
  // Run out; what had run out when the version was published is not due again.
  const soon = new Date(Date.now() + 60_000);
  await device.grant({ grantee, category: 'radiation-dose', sequence: 1, periodEnd: soon.toISOString() });
  assert.deepEqual(await due(), []);
  assert.deepEqual(await due(new Date(soon.getTime() + 1000)), ['radiation-dose']);
  // Replaced by another that reads on: nobody has lost anything.
  await device.grant({ grantee, category: 'radiation-dose', sequence: 2 });
  assert.deepEqual(await due(new Date(soon.getTime() + 1000)), []);
  // A member suspended, another of the same category reads on.
  await device.grant({ grantee: `member:${institution}:${second.member}`, category: 'history-and-physical', sequence: 1 });
  await world.membership.suspend(second.member);
  assert.deepEqual(await due(), ['history-and-physical']);
  await device.publish('history-and-physical');
  assert.deepEqual(await due(), []);
  // A patient in custody has none: the custodian does it.
  assert.deepEqual(await rotationDue(database, { institution, patient: await world.enrol() }, new Date()), []);
});
