import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type { IdentityAnswer, IdentityQuestion, IdentityResolved } from '../../src/pipeline/identity.ts';
import { createSourceKeys } from '../../src/pipeline/source-keys.ts';
import { sql } from '../../src/store/sql.ts';
import { withTestDatabase } from '../store/test-database.ts';
import { noteRecord, patientRecord, type ScriptedSource, scriptedSource } from './scripted-source.ts';
import { createPipelineWorld, type PipelineWorld, settled } from './world.ts';

describe('questions of identity, answered by a person', () => {
  let world: PipelineWorld;
  let source: ScriptedSource;
  before(async () => {
    world = await createPipelineWorld({ databaseUrl: (await withTestDatabase()).url });
    source = scriptedSource(world.core);
    await source.tell('notes', [patientRecord('p1', '1001')]);
  });
  after(() => world.close());

  const keyOf = (ref: string): Promise<string> => createSourceKeys(world.core.rows).ref('ehr', ref);
  async function recordOf(ref: string): Promise<{ rec: string; outcome: string; reason: string | null; pat: string | null }> {
    const [row] = await world.core.database.query<{ rec: string; outcome: string; reason: string | null; pat: string | null }>(
      sql`select rec, outcome, reason, pat from record where key = ${await keyOf(ref)} and current`,
    );
    assert.ok(row !== undefined, ref);
    return row;
  }
  async function patientOf(ref: string): Promise<string> {
    const { pat } = await recordOf(ref);
    assert.ok(pat !== null, ref);
    return pat;
  }
  /** Each document that was ever made of this note: under whom, and why it was withdrawn. */
  async function documentsOf(ref: string): Promise<{ pat: string; withdrawn: string | null }[]> {
    return world.core.database.query(sql`
      select s.pat, s.withdrawn_reason as withdrawn from subject s where s.version > 0
        and (s.sub in (select sub from record where key = ${await keyOf(ref)}) or s.key like ${`${await keyOf(ref)}%`}) order by s.withdrawn_at nulls last`);
  }
  const ask = (record: string): Promise<IdentityQuestion> => world.core.identity.question(record, false);
  async function answer(record: string, given: Partial<IdentityAnswer>): Promise<IdentityResolved> {
    const { seen } = await ask(record);
    const resolved = await world.core.identity.resolve({ record, seen, reason: 'as the registrar said', by: 'ruiz', ...given });
    await world.core.assembler.drain();
    await settled(world.core);
    return resolved;
  }
  const refused = (record: string, given: Partial<IdentityAnswer>, code: string): Promise<void> =>
    assert.rejects(answer(record, given), { code });

  test('PATIENT_MISMATCH: shown, linked, filed; the same answer again does nothing, and the source’s next version stays linked', async () => {
    const known = await patientOf('Patient/p1');
    const renamed = { family: 'Married', birthDate: '1950-04-01' };
    await source.tell('notes', [patientRecord('q1', '1001', renamed), noteRecord('m1', { patient: 'Patient/q1' })]);
    const { rec, reason } = await recordOf('DocumentReference/m1');
    assert.equal(reason, 'PATIENT_MISMATCH');
    const asked = await ask(rec);
    assert.deepEqual(
      [asked.reason, asked.waiting, asked.candidates.map(({ patient, identifiers, differsOn }) => [patient, identifiers, differsOn])],
      ['PATIENT_MISMATCH', 1, [[known, ['mrn'], ['name']]]],
    );
    assert.doesNotMatch(JSON.stringify(asked), /Married|Scripted|1001|1950/);
    const open = await world.core.identity.question(rec, true);
    assert.deepEqual([open.person?.name, open.candidates[0]?.person?.name], ['Sam Married', 'Sam Scripted']);

    for (const wrong of [{}, { patient: known, reject: true }, { patient: 'pat-x' }, { patient: known, reason: ' ' }])
      await refused(rec, wrong, 'BAD_REQUEST');
    await refused(rec, { patient: 'pat-aaaaaaaaaaaaaaaaaaaaaaaaaa', force: true }, 'NOT_FOUND');
    await refused(rec, { patient: known, seen: '00000000' }, 'CONFLICT');
    const given = { record: rec, seen: asked.seen, patient: known, reason: 'married in March', by: 'ruiz' };
    assert.deepEqual(await world.core.identity.resolve(given), { choice: 'patient', patient: known, already: false, withdrawn: 0 });
    // Not filed yet: a process that is killed here finds it in the rows.
    assert.equal((await recordOf('DocumentReference/m1')).outcome, 'quarantine');
    await world.core.assembler.drain();
    assert.deepEqual(await documentsOf('DocumentReference/m1'), [{ pat: known, withdrawn: null }]);
    assert.equal((await world.core.identity.resolve(given)).already, true);
    const [decisions] = await world.core.database.query<{ n: number; forced: boolean; detail: Buffer }>(
      sql`select count(*) over () as n, forced, detail from identity_decision`,
    );
    assert.deepEqual([decisions?.n, decisions?.forced], [1, false]);
    assert.ok(!decisions?.detail.toString('latin1').includes('married'), 'the words are sealed');

    // The name that stands is kept; a version that says nothing new of who it is needs no new answer.
    assert.equal((await world.core.identity.question(rec, true)).candidates[0]?.person?.name, 'Sam Scripted');
    const address = { address: [{ city: 'Springfield' }] };
    await source.tell('notes', [
      patientRecord('q1', '1001', { ...renamed, version: 2, also: address }),
      noteRecord('m2', { patient: 'Patient/q1' }),
    ]);
    assert.deepEqual(await documentsOf('DocumentReference/m2'), [{ pat: known, withdrawn: null }]);
    // Another birth date does.
    await source.tell('notes', [
      patientRecord('q1', '1001', { ...renamed, version: 3, birthDate: '1971-01-01' }),
      noteRecord('m3', { patient: 'Patient/q1' }),
    ]);
    assert.equal((await recordOf('DocumentReference/m3')).reason, 'PATIENT_MISMATCH');
    const again = (await recordOf('DocumentReference/m3')).rec;
    await answer(again, { patient: known, takeDemographics: true });
    assert.equal((await world.core.identity.question(again, true)).candidates[0]?.person?.name, 'Sam Married');
    assert.deepEqual(await documentsOf('DocumentReference/m3'), [{ pat: known, withdrawn: null }]);
    // What stood at first comes again from the other record: it differs now, and waits.
    await source.tell('notes', [patientRecord('p1', '1001', { version: 2 }), noteRecord('m4')]);
    assert.equal((await recordOf('DocumentReference/m4')).reason, 'PATIENT_MISMATCH');
    await answer((await recordOf('DocumentReference/m4')).rec, { patient: known, takeDemographics: true });
  });

  test('what an identifier contradicts is refused, and done with --force: a new patient under a number that is another’s, a link past it', async () => {
    const owner = await patientOf('Patient/p1');
    await source.tell('notes', [
      patientRecord('p2', '1002', { family: 'Second' }),
      patientRecord('q2', '1001', { family: 'Mistyped', birthDate: '1980-08-08' }),
      noteRecord('c1', { patient: 'Patient/q2' }),
    ]);
    const second = await patientOf('Patient/p2');
    const { rec } = await recordOf('DocumentReference/c1');
    await refused(rec, { create: true }, 'IDENTITY_CONTRADICTED');
    await refused(rec, { patient: second }, 'IDENTITY_CONTRADICTED');
    assert.deepEqual(await documentsOf('DocumentReference/c1'), []);
    const made = await answer(rec, { create: true, force: true });
    assert.ok(made.patient !== null && ![owner, second].includes(made.patient));
    assert.deepEqual(await documentsOf('DocumentReference/c1'), [{ pat: made.patient, withdrawn: null }]);
    assert.equal(
      (await world.core.identity.resolve({ record: rec, seen: '', create: true, reason: 'x', by: 'ruiz' })).patient,
      made.patient,
    );
    // The number stays its owner's.
    await source.tell('notes', [patientRecord('p1-again', '1001'), noteRecord('c2', { patient: 'Patient/p1-again' })]);
    assert.equal(await patientOf('DocumentReference/c2'), owner);
    const [{ n: patients } = { n: 0 }] = await world.core.database.query<{ n: number }>(sql`select count(*) as n from patient`);
    await source.tell('notes', [
      patientRecord('q2', '1001', { version: 2, family: 'Mistyped', birthDate: '1980-08-08', also: { gender: 'male' } }),
    ]);
    assert.equal(await patientOf('Patient/q2'), made.patient);
    const [{ n: later } = { n: 0 }] = await world.core.database.query<{ n: number }>(sql`select count(*) as n from patient`);
    assert.equal(later, patients, 'nobody is made twice');
  });

  test('an answer that was wrong is put right: what was filed is withdrawn there and filed here', async () => {
    const right = await patientOf('Patient/p2');
    const wrong = await patientOf('DocumentReference/c1');
    const { rec } = await recordOf('DocumentReference/c1');
    const kept = await answer(rec, { patient: right, force: true });
    assert.equal(kept.withdrawn, 0);
    assert.deepEqual(
      await documentsOf('DocumentReference/c1'),
      [{ pat: wrong, withdrawn: null }],
      'filed things stay where nobody asks for more',
    );
    const moved = await answer(rec, { patient: right, force: true, move: true });
    assert.equal(moved.withdrawn, 1);
    assert.deepEqual(await documentsOf('DocumentReference/c1'), [
      { pat: wrong, withdrawn: 'WRONG_PATIENT' },
      { pat: right, withdrawn: null },
    ]);
    assert.deepEqual((await world.core.reconcile.reconcile()).differences, []);
  });

  test('a rejected patient: nothing is taken, now and later, until it is taken back', async () => {
    await source.tell('notes', [patientRecord('q3', '1002', { family: 'Spam' }), noteRecord('r1', { patient: 'Patient/q3' })]);
    const { rec } = await recordOf('DocumentReference/r1');
    assert.equal((await answer(rec, { reject: true })).patient, null);
    await source.tell('notes', [noteRecord('r2', { patient: 'Patient/q3' })]);
    for (const ref of ['DocumentReference/r1', 'DocumentReference/r2']) {
      const { outcome, reason } = await recordOf(ref);
      assert.deepEqual([outcome, reason], ['skip', 'PATIENT_REJECTED']);
    }
    const second = await patientOf('Patient/p2');
    await answer(rec, { patient: second });
    for (const ref of ['DocumentReference/r1', 'DocumentReference/r2'])
      assert.deepEqual(await documentsOf(ref), [{ pat: second, withdrawn: null }], ref);
  });

  test('a merge that differs in the name, and PATIENT_AMBIGUOUS', async () => {
    const survivor = await patientOf('Patient/p2');
    const merged = { active: false, link: [{ type: 'replaced-by', other: { reference: 'Patient/p2' } }] };
    await source.tell('notes', [patientRecord('p5', '1005', { family: 'Fifth' }), noteRecord('l0', { patient: 'Patient/p5' })]);
    const fifth = await patientOf('Patient/p5');
    await source.tell('notes', [
      patientRecord('p5', '1005', { family: 'Fifth', version: 2, also: merged }),
      noteRecord('l1', { patient: 'Patient/p5' }),
    ]);
    const linked = await recordOf('DocumentReference/l1');
    // Another name: that two are one person is not taken from the link alone.
    assert.equal(linked.reason, 'PATIENT_MISMATCH');
    const { candidates } = await ask(linked.rec);
    assert.deepEqual(
      new Map(candidates.map((one) => [one.patient, [one.before, one.link, one.documents]])),
      new Map([
        [fifth, [true, null, 1]],
        [survivor, [false, 'replaced-by', 0]],
      ]),
    );
    // Its number is that of the merged record's own patient: a merge says so, and is said.
    await refused(linked.rec, { patient: survivor }, 'IDENTITY_CONTRADICTED');
    await answer(linked.rec, { patient: survivor, force: true, move: true });
    assert.deepEqual(await documentsOf('DocumentReference/l1'), [{ pat: survivor, withdrawn: null }]);
    assert.deepEqual(await documentsOf('DocumentReference/l0'), [
      { pat: fifth, withdrawn: 'WRONG_PATIENT' },
      { pat: survivor, withdrawn: null },
    ]);

    const two = { identifier: ['1001', '1002'].map((value) => ({ system: 'urn:oid:2.16.840.1.113883.19.5', value })) };
    await source.tell('notes', [patientRecord('p6', '', { also: two }), noteRecord('a1', { patient: 'Patient/p6' })]);
    const ambiguous = await recordOf('DocumentReference/a1');
    assert.equal(ambiguous.reason, 'PATIENT_AMBIGUOUS');
    const first = await patientOf('Patient/p1');
    await refused(ambiguous.rec, { patient: first }, 'IDENTITY_CONTRADICTED');
    await answer(ambiguous.rec, { patient: first, force: true });
    assert.deepEqual(await documentsOf('DocumentReference/a1'), [{ pat: first, withdrawn: null }]);
    assert.deepEqual((await world.core.reconcile.reconcile()).differences, []);
  });

  test('what is no question of identity', async () => {
    await assert.rejects(ask('rec-aaaaaaaaaaaaaaaaaaaaaaaaaa'), { code: 'NOT_FOUND' });
    await assert.rejects(ask('doc-1'), { code: 'BAD_REQUEST' });
    await source.tell('notes', [noteRecord('u1', { patient: 'Patient/never-seen' })]);
    await assert.rejects(ask((await recordOf('DocumentReference/u1')).rec), { code: 'CONFLICT' });
  });
});
