import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type { RawRecord } from '../../src/adapters/source.ts';
import { removeRows } from '../../src/erasure/erasing-rows.ts';
import type { IdentityAnswer } from '../../src/pipeline/identity.ts';
import { createSourceKeys } from '../../src/pipeline/source-keys.ts';
import { sql } from '../../src/store/sql.ts';
import { suppressionMarks } from '../../src/store/suppression.ts';
import { withTestDatabase } from '../store/test-database.ts';
import { noteRecord, patientRecord, reportRecord, resultRecord, type ScriptedSource, scriptedSource } from './scripted-source.ts';
import { createPipelineWorld, type PipelineWorld, settled } from './world.ts';

const SYSTEM = 'urn:oid:2.16.840.1.113883.19.5';

describe('patients merged at the source', () => {
  let world: PipelineWorld;
  let source: ScriptedSource;
  before(async () => {
    world = await createPipelineWorld({ databaseUrl: (await withTestDatabase()).url });
    source = scriptedSource(world.core);
  });
  after(() => world.close());

  /** A version of a Patient that is linked so; merged ones are no longer in use. */
  function linked(id: string, mrn: string, version: number, links: Record<string, string>, also: object = {}): RawRecord {
    const link = Object.entries(links).map(([other, type]) => ({ type, other: { reference: `Patient/${other}` } }));
    const active = !link.some(({ type }) => type === 'replaced-by');
    return patientRecord(id, mrn, { version, also: { active, ...(link.length > 0 ? { link } : {}), ...also } });
  }
  const note = (id: string, patient: string, version = 1): RawRecord => noteRecord(id, { patient: `Patient/${patient}`, version });
  const tell = (...records: RawRecord[]) => source.tell('notes', records);
  const keyOf = (ref: string): Promise<string> => createSourceKeys(world.core.rows).ref('ehr', ref);

  interface Row {
    rec: string;
    outcome: string;
    reason: string | null;
    pat: string | null;
  }
  async function recordOf(ref: string): Promise<Row> {
    const [row] = await world.core.database.query<Row>(
      sql`select rec, outcome, reason, pat from record where key = ${await keyOf(ref)} and current`,
    );
    assert.ok(row !== undefined, ref);
    return row;
  }
  const noteOf = (id: string): Promise<Row> => recordOf(`DocumentReference/${id}`);
  async function patientOf(id: string): Promise<string> {
    const [row] = await world.core.database.query<{ pat: string | null; reason: string | null }>(
      sql`select pat, reason from source_patient where key = ${await keyOf(`Patient/${id}`)}`,
    );
    assert.ok(row !== undefined && row.pat !== null, `${id}: ${row?.reason}`);
    return row.pat;
  }
  async function heldAs(id: string): Promise<string | null> {
    const { outcome, reason } = await noteOf(id);
    assert.equal(outcome, 'quarantine', id);
    return reason;
  }
  async function documentsOf(id: string): Promise<{ pat: string; withdrawn: string | null }[]> {
    const key = await keyOf(`DocumentReference/${id}`);
    return world.core.database.query(sql`
      select s.pat, s.withdrawn_reason as withdrawn from subject s where s.version > 0
        and (s.sub in (select sub from record where key = ${key}) or s.key like ${`${key}%`}) order by s.withdrawn_at nulls last`);
  }
  async function isFiledUnder(id: string, pat: string): Promise<void> {
    assert.deepEqual(await documentsOf(id), [{ pat, withdrawn: null }], id);
  }
  async function answer(record: string, given: Partial<IdentityAnswer>) {
    const { seen } = await world.core.identity.question(record, false);
    const resolved = await world.core.identity.resolve({ record, seen, reason: 'as the registrar said', by: 'ruiz', ...given });
    await world.core.assembler.drain();
    await settled(world.core);
    return resolved;
  }
  /** As the verified view holds it: what the patient said to a grantee about laboratory results and notes. */
  async function clause(
    pat: string,
    n: number,
    { effect = 'permit', grantee = 'role:clinician', purposes = null as string[] | null, end = null as string | null } = {},
  ): Promise<void> {
    const inst = world.core.institution;
    await world.core.database.query(sql`
      insert into projection.permission (inst, pat, grantor, grantee, category, seq, status, recorded_at, tx_id, block)
      values (${inst}, ${pat}, 'patient', ${grantee}, 'laboratory', 1, 'active', now(), ${`tx-${pat}`}, 1) on conflict do nothing`);
    await world.core.database.query(sql`
      insert into projection.clause (inst, pat, grantor, grantee, category, n, effect, rights, purposes, period_end, consent)
      values (${inst}, ${pat}, 'patient', ${grantee}, 'laboratory', ${n}, ${effect}, ${['read']}::text[], ${purposes}::text[], ${end}::timestamptz, ${`con-${n}`})`);
  }
  /** Two patients with a note each, known under pseudonyms of their own. */
  async function two(a: string, b: string, numbers: readonly [string, string]): Promise<[string, string]> {
    await tell(linked(a, numbers[0], 1, {}), linked(b, numbers[1], 1, {}), note(`${a}0`, a), note(`${b}0`, b));
    return [await patientOf(a), await patientOf(b)];
  }

  test('both known, nothing is granted: later records go to the survivor, what is filed stays, and the survivor’s own go on', async () => {
    const [old, survivor] = await two('a1', 'a2', ['2001', '2002']);
    assert.notEqual(old, survivor);
    const bothNumbers = { identifier: ['2002', '2001'].map((value) => ({ system: SYSTEM, value })) };
    await tell(
      linked('a1', '2001', 2, { a2: 'replaced-by' }),
      linked('a2', '', 2, { a1: 'replaces' }, bothNumbers),
      note('a11', 'a1'),
      note('a21', 'a2'),
    );
    await isFiledUnder('a11', survivor);
    await isFiledUnder('a21', survivor);
    await isFiledUnder('a10', old);
    await isFiledUnder('a20', survivor);
    // A later version of what had been filed goes along: it stands in one place.
    await tell(note('a10', 'a1', 2));
    assert.deepEqual(await documentsOf('a10'), [
      { pat: old, withdrawn: 'WRONG_PATIENT' },
      { pat: survivor, withdrawn: null },
    ]);
    // A number that was the old one's leads there as before, from whichever record.
    await tell(linked('a3', '2001', 1, {}), note('a30', 'a3'));
    await isFiledUnder('a30', old);
    // Nothing new of the merge: nothing changes.
    await tell(linked('a1', '2001', 3, { a2: 'replaced-by' }, { gender: 'male' }), note('a12', 'a1'));
    await isFiledUnder('a12', survivor);
    assert.deepEqual((await world.core.reconcile.reconcile()).differences, []);
  });

  test('a report whose results came before the merge', async () => {
    await source.tell('labs', [linked('b1', '2011', 1, {}), linked('b2', '2012', 1, {}), resultRecord('br1', { patient: 'Patient/b1' })]);
    const [old, survivor] = [await patientOf('b1'), await patientOf('b2')];
    await source.tell('labs', [
      linked('b1', '2011', 2, { b2: 'replaced-by' }),
      resultRecord('br2', { patient: 'Patient/b1' }),
      reportRecord('bd', ['br1', 'br2'], { patient: 'Patient/b1' }),
    ]);
    assert.equal((await recordOf('DiagnosticReport/bd')).pat, survivor);
    assert.equal((await recordOf('DiagnosticReport/bd')).outcome, 'own');
    assert.equal((await recordOf('Observation/br2')).outcome, 'own');
    // What was filed stays where it is: a document is one patient's.
    assert.deepEqual([(await recordOf('Observation/br1')).outcome, (await recordOf('Observation/br1')).pat], ['own', old]);
    assert.deepEqual((await world.core.reconcile.reconcile()).differences, []);
  });

  test('the merge comes first: it waits for the survivor, and goes on by itself', async () => {
    await tell(linked('c1', '2021', 1, { c2: 'replaced-by' }), note('c10', 'c1'));
    assert.equal(await heldAs('c10'), 'PATIENT_LINK');
    await tell(linked('c2', '2022', 1, {}));
    await isFiledUnder('c10', await patientOf('c2'));
    // The other way round: only the survivor says so, and before the other one was ever seen.
    await tell(linked('c4', '2024', 1, { c3: 'replaces' }));
    await tell(linked('c3', '2023', 1, {}), note('c30', 'c3'));
    await isFiledUnder('c30', await patientOf('c4'));
    // A known one whose survivor alone says so, later.
    const [, survivor] = await two('c5', 'c6', ['2025', '2026']);
    await tell(linked('c6', '2026', 2, { c5: 'replaces' }), note('c51', 'c5'));
    await isFiledUnder('c51', survivor);
  });

  test('a chain A, B, C: whoever went into B follows to C; in one page, in any order, too', async () => {
    await two('d1', 'd2', ['2031', '2032']);
    await tell(linked('d3', '2033', 1, {}), linked('d1', '2031', 2, { d2: 'replaced-by' }), note('d11', 'd1'));
    await isFiledUnder('d11', await patientOf('d2'));
    await tell(linked('d2', '2032', 2, { d3: 'replaced-by' }));
    const end = await patientOf('d3');
    await tell(note('d12', 'd1'), note('d21', 'd2'));
    await isFiledUnder('d12', end);
    await isFiledUnder('d21', end);
    await tell(
      linked('e1', '2034', 1, { e2: 'replaced-by' }),
      note('e10', 'e1'),
      linked('e2', '2035', 1, { e3: 'replaced-by' }),
      linked('e3', '2036', 1, {}),
    );
    await isFiledUnder('e10', await patientOf('e3'));
    const [{ n } = { n: 0 }] = await world.core.database.query<{ n: number }>(
      sql`select count(distinct pat) as n from source_patient where key = any(${await Promise.all(['e1', 'e2', 'e3'].map((id) => keyOf(`Patient/${id}`)))})`,
    );
    assert.equal(n, 1);
    // Already merged, and merged once more into somebody else: a person decides.
    await tell(linked('e4', '2037', 1, { e1: 'replaces' }), note('e11', 'e1'));
    assert.equal(await heldAs('e11'), 'PATIENT_LINK');
  });

  test('a circle is refused with a code, and named to whoever decides', async () => {
    await two('f1', 'f2', ['2041', '2042']);
    await tell(linked('f1', '2041', 2, { f2: 'replaced-by' }), linked('f2', '2042', 2, { f1: 'replaced-by' }), note('f11', 'f1'));
    assert.equal(await heldAs('f11'), 'PATIENT_LINK_CIRCULAR');
    await tell(linked('f3', '2043', 1, { f3: 'replaced-by' }), note('f30', 'f3'));
    assert.equal(await heldAs('f30'), 'PATIENT_LINK_CIRCULAR');
    assert.equal((await world.core.identity.question((await noteOf('f11')).rec, false)).reason, 'PATIENT_LINK_CIRCULAR');
    await tell(linked('f2', '2042', 3, {}));
    // One side was put right: the other follows; whose own merge was taken back waits for a person.
    assert.equal((await noteOf('f11')).reason, 'PATIENT_LINK');
  });

  test('an unmerge is flagged for a person, whichever side takes it back, and their answer holds', async () => {
    const [old, survivor] = await two('g1', 'g2', ['2051', '2052']);
    await tell(linked('g1', '2051', 2, { g2: 'replaced-by' }), note('g11', 'g1'));
    await isFiledUnder('g11', survivor);
    await tell(linked('g1', '2051', 3, {}), note('g12', 'g1'), note('g21', 'g2'));
    assert.equal(await heldAs('g12'), 'PATIENT_LINK');
    await isFiledUnder('g21', survivor);
    await answer((await noteOf('g12')).rec, { patient: old, move: true });
    await isFiledUnder('g12', old);
    // What was filed under the survivor meanwhile went along.
    assert.deepEqual(await documentsOf('g11'), [
      { pat: survivor, withdrawn: 'WRONG_PATIENT' },
      { pat: old, withdrawn: null },
    ]);
    await tell(linked('g1', '2051', 4, {}, { gender: 'female' }), note('g13', 'g1'));
    await isFiledUnder('g13', old);

    const [, other] = await two('h1', 'h2', ['2053', '2054']);
    await tell(linked('h2', '2054', 2, { h1: 'replaces' }), note('h11', 'h1'));
    await isFiledUnder('h11', other);
    await tell(linked('h2', '2054', 3, {}), note('h12', 'h1'));
    assert.equal(await heldAs('h12'), 'PATIENT_LINK');
  });

  test('consents that conflict: nothing is filed under the survivor until a person says so', async () => {
    // What is granted under the survivor, what under the former pseudonym, and whether it may go on by itself.
    const cases: [string, (old: string, survivor: string) => Promise<void>, boolean][] = [
      ['the survivor lets somebody in, the other nobody', (_old, survivor) => clause(survivor, 1), false],
      ['an end that has passed lets nobody in', (_old, survivor) => clause(survivor, 1, { end: '2020-01-01T00:00:00Z' }), true],
      ['only the former one lets somebody in', (old) => clause(old, 1), true],
      [
        'both alike',
        async (old, survivor) => {
          await clause(old, 1);
          await clause(survivor, 1);
        },
        true,
      ],
      [
        'the former one for one purpose',
        async (old, survivor) => {
          await clause(old, 1, { purposes: ['TREAT'] });
          await clause(survivor, 1);
        },
        false,
      ],
      [
        'the survivor for one purpose',
        async (old, survivor) => {
          await clause(old, 1);
          await clause(survivor, 1, { purposes: ['TREAT'] });
        },
        true,
      ],
      ['the former one denies', (old) => clause(old, 1, { effect: 'deny', grantee: 'role:insurer' }), false],
      [
        'the former one lasts shorter',
        async (old, survivor) => {
          await clause(old, 1, { end: '2090-01-01T00:00:00Z' });
          await clause(survivor, 1);
        },
        false,
      ],
      [
        'the former one’s was revoked a moment ago',
        async (old, survivor) => {
          await clause(old, 1);
          await clause(survivor, 1);
          await world.core.database.query(sql`
            insert into revocation (inst, pat, grantor, grantee, category, used_key, outbox)
            values (${world.core.institution}, ${old}, 'patient', 'role:clinician', 'laboratory', ${`used/${old}`}, 'ob-none')`);
        },
        false,
      ],
      [
        'the former one’s keys are the patient’s own',
        async (old) => {
          await world.core.database.query(sql`update projection.patient set custody = false where pat = ${old}`);
        },
        false,
      ],
    ];
    for (const [index, [name, grant, goesOn]] of cases.entries()) {
      const [a, b] = [`k${index}a`, `k${index}b`];
      const [old, survivor] = await two(a, b, [`21${index}1`, `21${index}2`]);
      await grant(old, survivor);
      await tell(linked(a, `21${index}1`, 2, { [b]: 'replaced-by' }), note(`${a}1`, a));
      if (goesOn) await isFiledUnder(`${a}1`, survivor);
      else {
        assert.equal(await heldAs(`${a}1`), 'PATIENT_LINK_STRICTER', name);
        assert.deepEqual(await documentsOf(`${a}1`), [], name);
      }
      await isFiledUnder(`${a}0`, old);
    }
    // Two answers, by a person: the survivor after all; or the former one, whose permissions go on to count.
    const [old, survivor] = [(await noteOf('k0a0')).pat ?? '', await patientOf('k0b')];
    const { rec } = await noteOf('k0a1');
    await assert.rejects(answer(rec, { patient: survivor }), { code: 'IDENTITY_CONTRADICTED' });
    await answer(rec, { patient: old });
    await isFiledUnder('k0a1', old);
    await tell(note('k0a2', 'k0a'));
    await isFiledUnder('k0a2', old);
    await answer(rec, { patient: survivor, force: true });
    await tell(note('k0a3', 'k0a'));
    await isFiledUnder('k0a3', survivor);
  });

  test('whoever went into one who is held follows when a person has said who that is', async () => {
    await tell(linked('l1', '2061', 1, {}));
    const known = await patientOf('l1');
    await tell(
      patientRecord('l2', '2061', { family: 'Othername' }),
      patientRecord('l3', '2063', {
        family: 'Othername',
        also: { active: false, link: [{ type: 'replaced-by', other: { reference: 'Patient/l2' } }] },
      }),
      note('l20', 'l2'),
      note('l30', 'l3'),
    );
    assert.deepEqual([await heldAs('l20'), await heldAs('l30')], ['PATIENT_MISMATCH', 'PATIENT_LINK']);
    await answer((await noteOf('l20')).rec, { patient: known, takeDemographics: true });
    await isFiledUnder('l20', known);
    await isFiledUnder('l30', known);
  });

  test('seealso and refer say nothing of who it is, nor does active alone', async () => {
    const [a, b] = await two('m1', 'm2', ['2071', '2072']);
    await tell(linked('m1', '2071', 2, { m2: 'seealso' }), linked('m2', '2072', 2, { m1: 'refer' }), note('m11', 'm1'), note('m21', 'm2'));
    await isFiledUnder('m11', a);
    await isFiledUnder('m21', b);
    await tell(linked('m1', '2071', 3, {}, { active: false }), note('m12', 'm1'));
    await isFiledUnder('m12', a);
  });

  test('whoever was held meanwhile is compared all the same: a former pseudonym is not forgotten', async () => {
    const [old, survivor] = await two('meanwhile1', 'meanwhile2', ['92301', '92302']);
    await world.core.database.query(sql`update projection.patient set custody = false where pat = ${old}`);
    // The survivor's own record is held, so that the merged one is nobody's for a while, and comes with another number then.
    await tell(linked('meanwhile2', '92302', 2, { meanwhile1: 'replaces' }, { birthDate: '1901-01-01' }));
    await tell(linked('meanwhile1', '92303', 2, {}));
    await tell(linked('meanwhile2', '92302', 3, { meanwhile1: 'replaces' }), note('meanwhile1n', 'meanwhile1'));
    assert.equal(await heldAs('meanwhile1n'), 'PATIENT_LINK_STRICTER');
    assert.equal(await patientOf('meanwhile2'), survivor);
  });

  const erase = (patient: string) =>
    world.core.database.transaction(async (tx) => {
      await tx.query(sql`insert into erasure (pat, block, begun_at, audit) values (${patient}, 1, now(), 'aud-x')`);
      return removeRows(tx, { institution: world.core.institution, patient, marks: suppressionMarks(world.core.rows) });
    });

  test('an erased survivor takes nothing of the pseudonym that was merged into them', async () => {
    const [old, survivor] = await two('erased1', 'erased2', ['92401', '92402']);
    await tell(note('erased1n', 'erased1'));
    await isFiledUnder('erased1n', old);
    await tell(linked('erased1', '92401', 2, { erased2: 'replaced-by' }), note('erased1later', 'erased1'));
    await isFiledUnder('erased1later', survivor);
    const records = await world.core.database.query(sql`select rec from record where pat = ${old}`);
    assert.deepEqual((await erase(survivor)).alsoKnownAs, [old]);
    assert.deepEqual(await world.core.database.query(sql`select rec from record where pat = ${old}`), records);
    assert.ok(records.length > 0);
    assert.deepEqual(await world.core.database.query(sql`select rec from record where pat = ${survivor}`), []);
    assert.equal((await noteOf('erased1n')).pat, old);
  });

  test('what was held of somebody before they were known as erased goes when they are', async () => {
    await tell(linked('unseen1', '92501', 1, {}));
    await tell(note('unseen2n', 'unseen2'));
    assert.equal(await heldAs('unseen2n'), 'PATIENT_UNKNOWN');
    await erase(await patientOf('unseen1'));
    await tell(linked('unseen2', '92501', 1, {}));
    const left = await world.core.database.query(
      sql`select 1 from record where key = ${await keyOf('DocumentReference/unseen2n')} or key = ${await keyOf('Patient/unseen2')}`,
    );
    assert.deepEqual(left, []);
  });
});
