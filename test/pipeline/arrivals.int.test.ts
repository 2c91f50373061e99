import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { createSourceKeys } from '../../src/pipeline/source-keys.ts';
import type { Manifest } from '../../src/records/model.ts';
import { raw, sql } from '../../src/store/sql.ts';
import { withTestDatabase } from '../store/test-database.ts';
import { gone, noteRecord, patientRecord, reportRecord, resultRecord, type ScriptedSource, scriptedSource } from './scripted-source.ts';
import { createPipelineWorld, type PipelineWorld, settled } from './world.ts';

/** Orders and repetitions in which records can come that no simulated department shows. */
describe('records as they may come', () => {
  let world: PipelineWorld;
  let source: ScriptedSource;
  before(async () => {
    world = await createPipelineWorld({ databaseUrl: (await withTestDatabase()).url });
    source = scriptedSource(world.core);
    await source.tell('notes', [patientRecord('p1', '1001')]);
  });
  after(() => world.close());

  /** Every document that was ever made of this record: version and end. */
  async function documentsOf(ref: string): Promise<{ document: string; version: number; withdrawn: string | null }[]> {
    const key = await createSourceKeys(world.core.rows).ref('ehr', ref);
    return world.core.database.query(sql`
      select distinct s.document, s.version, s.withdrawn_reason as withdrawn from record r join subject s on s.sub = r.sub
      where r.key = ${key} and s.version > 0 order by s.withdrawn_reason nulls last, s.document`);
  }
  async function manifestOf(document: string): Promise<Manifest> {
    const [row] = await world.core.database.query<{ pat: string; category: string; version: number; header: Buffer }>(
      sql`select pat, category, version, header from document_version where document = ${document} order by version desc limit 1`,
    );
    assert(row !== undefined);
    const header = await world.core.rows.open(row.pat, row.category, `header/${document}/${row.version}`, row.header);
    return (JSON.parse(header.toString()) as { manifest: Manifest }).manifest;
  }
  const held = async (): Promise<string[]> =>
    (
      await world.core.database.query<{ reason: string }>(
        sql`select reason from record where outcome = 'quarantine' and current order by seq`,
      )
    ).map((row) => row.reason);
  const reconciled = async (): Promise<void> => assert.deepEqual((await world.core.reconcile.reconcile()).differences, []);

  test('gone, back, and gone again: each is believed, though both tombstones say the same', async () => {
    await source.tell('notes', [noteRecord('n1')]);
    await source.tell('notes', [gone('DocumentReference', 'n1')]);
    assert.deepEqual(
      (await documentsOf('DocumentReference/n1')).map((one) => one.withdrawn),
      ['DELETED_AT_SOURCE'],
    );
    // The very version that was there before: the source had refused it for a while.
    await source.tell('notes', [noteRecord('n1')]);
    assert.deepEqual(
      (await documentsOf('DocumentReference/n1')).map((one) => one.withdrawn),
      ['DELETED_AT_SOURCE', null],
    );
    const again = await source.tell('notes', [noteRecord('n1')]);
    assert.equal(again.known, 1, 'the version that stands is known');
    await source.tell('notes', [gone('DocumentReference', 'n1')]);
    assert.deepEqual(
      (await documentsOf('DocumentReference/n1')).map((one) => one.withdrawn),
      ['DELETED_AT_SOURCE', 'DELETED_AT_SOURCE'],
    );
    const twice = await source.tell('notes', [gone('DocumentReference', 'n1')]);
    assert.equal(twice.known, 1, 'gone already');
    await reconciled();
  });

  test('two Patient records with one number in one page are one patient', async () => {
    await source.tell('notes', [
      patientRecord('p2', '1002'),
      patientRecord('p2-duplicate', '1002'),
      noteRecord('n2', { patient: 'Patient/p2' }),
      noteRecord('n2-duplicate', { patient: 'Patient/p2-duplicate' }),
    ]);
    const pseudonyms = await world.core.database.query(sql`
      select distinct pat from record where key = any(${await Promise.all(
        ['DocumentReference/n2', 'DocumentReference/n2-duplicate'].map((ref) => createSourceKeys(world.core.rows).ref('ehr', ref)),
      )})`);
    assert.equal(pseudonyms.length, 1);
    const orphans = await world.core.database.query(
      sql`select pat from patient p where not exists (select 1 from patient_identifier i where i.pat = p.pat)`,
    );
    assert.deepEqual(orphans, [], 'a pseudonym that no number leads to');
  });

  test('a known Patient record with a corrected number keeps its pseudonym; with another name too it waits for a person', async () => {
    await source.tell('notes', [patientRecord('p3', '1003'), noteRecord('n3', { patient: 'Patient/p3' })]);
    await source.tell('notes', [patientRecord('p3', '9003', { version: 2 }), noteRecord('n3-later', { patient: 'Patient/p3' })]);
    const [first] = await documentsOf('DocumentReference/n3');
    const [later] = await documentsOf('DocumentReference/n3-later');
    assert.equal((await manifestOf(later?.document ?? '')).patient, (await manifestOf(first?.document ?? '')).patient);
    const earlier = await held();
    await source.tell('notes', [
      patientRecord('p3', '9999', { version: 3, family: 'Somebody', birthDate: '1971-01-01' }),
      noteRecord('n3-last', { patient: 'Patient/p3' }),
    ]);
    assert.deepEqual((await held()).slice(earlier.length), ['PATIENT_MISMATCH']);
    assert.deepEqual(await documentsOf('DocumentReference/n3-last'), []);
  });

  test('a result that is gone leaves its report, which gets a new version', async () => {
    await source.tell('labs', [resultRecord('o1'), resultRecord('o2', { value: 5.9 }), reportRecord('r1', ['o1', 'o2'])]);
    const [first] = await documentsOf('DiagnosticReport/r1');
    assert.equal(first?.version, 1);
    await source.tell('labs', [gone('Observation', 'o2')]);
    const [second, ...others] = await documentsOf('DiagnosticReport/r1');
    assert.deepEqual([second?.document, second?.version, second?.withdrawn, others.length], [first?.document, 2, null, 0]);
    const manifest = await manifestOf(second?.document ?? '');
    assert.deepEqual(manifest.own.map(({ id }) => id).sort(), ['o1', 'r1']);
    await reconciled();
  });

  test('a result that an earlier report claims leaves the other report, which gets a new version', async () => {
    const issued = (time: string): object => ({ issued: time });
    await source.tell('labs', [
      resultRecord('o3'),
      resultRecord('o4'),
      reportRecord('r2', ['o3', 'o4'], { also: issued('2026-01-04T12:00:00Z') }),
    ]);
    await source.tell('labs', [reportRecord('r3', ['o4'], { also: issued('2026-01-04T11:00:00Z') })]);
    const [later] = await documentsOf('DiagnosticReport/r2');
    const [earlier] = await documentsOf('DiagnosticReport/r3');
    assert.deepEqual([later?.version, earlier?.version], [2, 1]);
    assert.deepEqual((await manifestOf(later?.document ?? '')).own.map(({ id }) => id).sort(), ['o3', 'r2']);
    assert.deepEqual((await manifestOf(earlier?.document ?? '')).own.map(({ id }) => id).sort(), ['o4', 'r3']);
    await reconciled();
  });

  test('two notes that turn out to be one chain become one document, whichever was filed first', async () => {
    for (const [older, newer] of [
      ['a1', 'b1'],
      ['b2', 'a2'],
    ] as const) {
      await source.tell('notes', [noteRecord(older)]);
      await source.tell('notes', [noteRecord(newer, { version: 2 })]);
      // Touched, so that its row is no longer the first that a search finds.
      await source.tell('notes', [noteRecord(older, { version: 3, also: { description: 'touched' } })]);
      await source.tell('notes', [
        noteRecord(newer, {
          version: 4,
          also: { relatesTo: [{ code: 'appends', target: { reference: `DocumentReference/${older}` } }] },
        }),
      ]);
      const all = [...(await documentsOf(`DocumentReference/${older}`)), ...(await documentsOf(`DocumentReference/${newer}`))];
      const standing = new Set(all.filter((one) => one.withdrawn === null).map((one) => one.document));
      assert.equal(standing.size, 1, JSON.stringify(all));
      assert.deepEqual((await manifestOf([...standing][0] ?? '')).own.map(({ id }) => id).sort(), [older, newer].sort());
    }
    assert.ok(!(await held()).includes('CONTENT_INVALID'));
    await reconciled();
  });

  test('a member of a note that has its name from its identifier is gone; so is the whole, when nothing is left of it', async () => {
    const also = { masterIdentifier: { system: 'urn:example:documents', value: '77' } };
    await source.tell('notes', [noteRecord('m1', { also }), noteRecord('m2', { version: 2, also })]);
    await source.tell('notes', [gone('DocumentReference', 'm1')]);
    const [left] = await documentsOf('DocumentReference/m2');
    assert.deepEqual([left?.version, left?.withdrawn], [2, null]);
    await source.tell('notes', [gone('DocumentReference', 'm2')]);
    assert.deepEqual(
      (await documentsOf('DocumentReference/m2')).map((one) => one.withdrawn),
      ['DELETED_AT_SOURCE'],
    );
    await reconciled();
  });

  test('a result that moves to another patient takes the report that held it from sight; what stays is a document of its own', async () => {
    await source.tell('labs', [resultRecord('o5'), resultRecord('o6'), reportRecord('r4', ['o5', 'o6'])]);
    const [first] = await documentsOf('DiagnosticReport/r4');
    await source.tell('labs', [resultRecord('o6', { version: 2, patient: 'Patient/p2' })]);
    const [wrong] = await world.core.database.query<{ reason: string }>(
      sql`select withdrawn_reason as reason from subject where document = ${first?.document ?? ''}`,
    );
    assert.equal(wrong?.reason, 'WRONG_PATIENT');
    const [right] = await documentsOf('DiagnosticReport/r4');
    assert.deepEqual([right?.version, right?.withdrawn], [1, null]);
    assert.deepEqual((await manifestOf(right?.document ?? '')).own.map(({ id }) => id).sort(), ['o5', 'r4']);
    await reconciled();
  });

  test('a pull that is stopped is no fault of its stream', async () => {
    const stop = new AbortController();
    const progress = await source.stopped('labs', stop);
    assert.match(progress.error ?? '', /^UNAVAILABLE/);
    const [stream] = await world.core.database.query(
      sql`select last_error, running_until, complete from stream where source = 'ehr' and stream = 'labs'`,
    );
    assert.deepEqual(stream, { last_error: null, running_until: null, complete: true });
  });

  test('a puller whose lease another has taken stores nothing more, and leaves the lease alone', async () => {
    const taken = sql`update stream set holder = 'another', running_until = now() + interval '1 minute' where source = 'ehr' and stream = 'notes'`;
    const stored = sql`select count(*) as n from record where stream = 'notes'`;
    const { database } = world.core;
    const [before] = await database.query<{ n: number }>(stored);
    // The source is asked for its next page while the one before is stored.
    const takeOver = async (): Promise<void> => {
      while ((await database.query<{ n: number }>(stored))[0]?.n === before?.n) await new Promise((done) => setTimeout(done, 5));
      await database.query(taken);
    };
    await assert.rejects(source.store('notes', [noteRecord('l1')], takeOver, [noteRecord('l2')]), { code: 'STREAM_BUSY' });
    const [stream] = await world.core.database.query<{ holder: string }>(
      sql`select holder from stream where source = 'ehr' and stream = 'notes'`,
    );
    assert.equal(stream?.holder, 'another');
    await world.core.database.query(sql`update stream set holder = null, running_until = null`);
    const progress = await source.tell('notes', [noteRecord('l1'), noteRecord('l2')]);
    assert.equal(progress.known, 1);
  });

  test('a withdrawal goes before what else waits', async () => {
    const { core } = world;
    await source.tell('notes', [noteRecord('w1')]);
    await source.store('notes', [...Array.from({ length: 30 }, (_, i) => noteRecord(`backlog${i}`)), gone('DocumentReference', 'w1')]);
    await core.assembler.drain();
    const [first] = await core.database.query<{ transaction: string }>(
      sql`select transaction from outbox where seq > (select max(seq) - 31 from outbox) order by seq limit 1`,
    );
    assert.equal(first?.transaction, 'withdrawDocument');
    await settled(core);
  });

  test('a withdrawal reaches the ledger after the enrolment of its patient', async () => {
    const { core } = world;
    core.relay.pause();
    await source.store('notes', [patientRecord('p4', '1004'), noteRecord('n4', { patient: 'Patient/p4' })]);
    await core.assembler.drain();
    await source.store('notes', [noteRecord('n4', { patient: 'Patient/p4', version: 2, status: 'entered-in-error' })]);
    await core.assembler.drain();
    assert.deepEqual(
      (await documentsOf('DocumentReference/n4')).map((one) => one.withdrawn),
      ['WITHDRAWN_AT_SOURCE'],
    );
    core.relay.resume();
    await settled(core);
    const refused = await core.database.query(sql`select transaction, error_code from outbox where state = 'rejected'`);
    assert.deepEqual(refused, []);
    await reconciled();
  });

  test('reconcile beside work: a receipt whose block is not projected yet is no difference; one that should be is', async () => {
    const { core } = world;
    core.relay.pause();
    await source.store('notes', [noteRecord('u1')]);
    await core.assembler.drain();
    const pending = sql`select id from outbox where state = 'pending'`;
    const claim = (block: number) =>
      core.database.query(sql`update outbox set state = 'committed', settled_at = now(), block = ${block} where id in (${pending})`);
    const height = await core.projection.height();
    await claim(height);
    const { underway, differences } = await core.reconcile.reconcile();
    assert.deepEqual([underway, differences], [1, []]);
    await core.database.query(sql`update outbox set block = ${height - 1} where block = ${height}`);
    const [difference, ...others] = (await core.reconcile.reconcile()).differences;
    assert.deepEqual([difference?.kind, others], ['missing-on-ledger', []]);
    await core.database.query(
      sql`update outbox set state = 'pending', settled_at = null, block = null where state = 'committed' and batch is null`,
    );
    core.relay.resume();
    await settled(core);
    await reconciled();
  });

  test('a refused transaction is a difference while something here waits for it, and none once it is answered or replaced', async () => {
    const { database, institution } = world.core;
    const refused = (transaction: string, id: string) =>
      database.query(sql`
        insert into outbox (id, transaction, args, priority, state, error_code, settled_at)
        values (${id}, ${transaction}, ${['{}']}::text[], 1, 'rejected', 'SEQUENCE_STALE', now())`);
    const stuck = async (): Promise<(string | undefined)[]> =>
      (await world.core.reconcile.reconcile()).differences.filter(({ kind }) => kind === 'outbox-stuck').map(({ detail }) => detail);
    // Two statements of one patient at once, by two devices: one is refused, and that was answered.
    for (const [n, one] of ['grantPermission', 'publishCategoryKey', 'claimPatient', 'revokePermission', 'anchorAudit'].entries())
      await refused(one, `obx-test-${n}`);
    assert.deepEqual(await stuck(), []);
    // A denial that stands here and not on the ledger; an enrolment on which documents wait.
    await database.query(sql`
      insert into revocation (inst, pat, grantor, grantee, category, used_key, outbox)
      values (${institution}, 'pat-test', 'patient', 'member:x:y', 'laboratory', 'used/test', 'obx-test-3')`);
    await refused('enrollPatient', 'obx-test-5');
    assert.deepEqual(await stuck(), [
      'obx-test-3 revokePermission rejected SEQUENCE_STALE',
      'obx-test-5 enrollPatient rejected SEQUENCE_STALE',
    ]);
    // One that a patient handed in is theirs to hand in again.
    await database.query(sql`
      insert into device_statement (statement, transaction, inst, pat, kid, outbox)
      values ('test', 'revokePermission', ${institution}, 'pat-test', 'kid', 'obx-test-3')`);
    assert.deepEqual(await stuck(), ['obx-test-5 enrollPatient rejected SEQUENCE_STALE']);
    for (const table of ['revocation', 'device_statement'])
      await database.query(sql`delete from ${raw(table)} where outbox = 'obx-test-3'`);
    await database.query(sql`delete from outbox where starts_with(id, 'obx-test-')`);
    await reconciled();
  });

  test('the sweep takes what nothing needs, and leaves what an entry names whose row was lost', async () => {
    const { core } = world;
    const { database } = core;
    assert.deepEqual(await database.query(sql`select name from puts`), [], 'announced for ever');
    const orphan = `${core.institution}/${'ab'.repeat(32)}`;
    await core.blobs.put(orphan, Buffer.from('left by a killed process'));
    const [lost] = await database.query<{ pointer: string }>(
      sql`select d.pointer from document_version d join subject s on s.document = d.document and s.withdrawn_at is null limit 1`,
    );
    const pointer = lost?.pointer ?? '';
    await database.query(sql`create table lost as select * from document_version where pointer = ${pointer}`);
    await database.query(sql`delete from document_version where pointer = ${pointer}`);
    for (const name of [orphan, pointer])
      await database.query(sql`insert into puts (name, at) values (${name}, now() - interval '2 hours')`);
    assert.equal(await core.reconcile.sweep(), 1);
    assert.equal(await core.blobs.head(orphan), undefined);
    assert.notEqual(await core.blobs.head(pointer), undefined);
    assert.ok((await core.reconcile.reconcile()).differences.some(({ kind }) => kind === 'missing-here'));
    await database.query(sql`insert into document_version select * from lost`);
    await database.query(sql`drop table lost`);
    await database.query(sql`delete from puts`);
    await reconciled();
  });
});

test('a record that moves to another patient is hidden at once, however long the right document waits', async () => {
  const { url, database } = await withTestDatabase();
  const world = await createPipelineWorld({ databaseUrl: url, server: 'pipeline: { wrongPatientDelay: 1h }' });
  try {
    const source = scriptedSource(world.core);
    await source.tell('notes', [patientRecord('p1', '1001'), patientRecord('p2', '1002', { family: 'Other' }), noteRecord('n1')]);
    await source.tell('notes', [noteRecord('n1', { version: 2, patient: 'Patient/p2' })]);
    assert.deepEqual(await database.query(sql`select version, withdrawn_reason as reason from subject`), [
      { version: 1, reason: 'WRONG_PATIENT' },
    ]);
    assert.deepEqual(await database.query(sql`select outcome from record where type = 'DocumentReference' and current`), [
      { outcome: 'pending' },
    ]);
    await database.query(sql`update record set not_before = now() where outcome = 'pending'`);
    await world.core.assembler.drain();
    const standing = await database.query(sql`select version from subject where withdrawn_at is null`);
    assert.deepEqual(standing, [{ version: 1 }]);
  } finally {
    await world.close();
  }
});

test('a stop while much waits: what is under way is finished, the rest is left for the next start', async () => {
  const { url, database } = await withTestDatabase();
  const world = await createPipelineWorld({ databaseUrl: url });
  try {
    const source = scriptedSource(world.core);
    await source.store('notes', [patientRecord('p1', '1001'), ...Array.from({ length: 300 }, (_, i) => noteRecord(`n${i}`))]);
    const draining = world.core.assembler.drain();
    await world.core.close();
    await draining;
    const [left] = await database.query<{ n: number }>(sql`select count(*) as n from record where outcome = 'pending'`);
    assert((left?.n ?? 0) > 200, `only ${left?.n} records were left waiting`);
  } finally {
    await world.close();
  }
});
