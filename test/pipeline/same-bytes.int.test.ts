import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type { RawRecord } from '../../src/adapters/source.ts';
import { createSourceKeys } from '../../src/pipeline/source-keys.ts';
import { sql } from '../../src/store/sql.ts';
import { withTestDatabase } from '../store/test-database.ts';
import { noteRecord, patientRecord, reportRecord, type ScriptedSource, scriptedSource } from './scripted-source.ts';
import { createPipelineWorld, type PipelineWorld } from './world.ts';

const SCAN = Buffer.from('A scanned examination.').toString('base64');
const OTHER = Buffer.from('Another sheet.').toString('base64');
const form = (data: string) => ({ contentType: 'text/plain', data });

/** Aria-and-oncology.md, edge case 49. */
describe('the same scan under two ids', () => {
  let world: PipelineWorld;
  let source: ScriptedSource;
  before(async () => {
    world = await createPipelineWorld({ databaseUrl: (await withTestDatabase()).url });
    source = scriptedSource(world.core);
    await source.tell('notes', [patientRecord('p1', '1001'), patientRecord('p2', '1002')]);
  });
  after(() => world.close());

  const note = (id: string, data: string, also: object = {}): RawRecord =>
    noteRecord(id, { also: { content: [{ attachment: form(data) }], ...also } });
  /** Of no laboratory: no rule takes it. */
  const report = (id: string, data: readonly string[], patient = 'Patient/p1'): RawRecord =>
    reportRecord(id, [], { patient, also: { category: undefined, presentedForm: data.map(form) } });
  async function became(ref: string): Promise<{ rec: string; what: string }> {
    const [row] = await world.core.database.query<{ rec: string; what: string }>(
      sql`select rec, concat_ws(':', outcome, reason) as what from record where key = ${await createSourceKeys(world.core.rows).ref('ehr', ref)} and current`,
    );
    assert.ok(row !== undefined, ref);
    return row;
  }
  const sameBytes = async (rec: string): Promise<readonly string[]> => (await world.core.questions.explain(rec)).record?.sameBytes ?? [];

  test('as DiagnosticReport and as DocumentReference it is one record, whichever comes first', async () => {
    await source.tell('notes', [report('d1', [SCAN])]);
    assert.equal((await became('DiagnosticReport/d1')).what, 'quarantine:NO_RULE_MATCH');
    await source.tell('notes', [note('n1', SCAN)]);
    assert.equal((await became('DiagnosticReport/d1')).what, 'skip:SAME_SCAN');
    assert.equal((await became('DocumentReference/n1')).what, 'own');
    await source.tell('notes', [report('d2', [SCAN])]);
    const { rec, what } = await became('DiagnosticReport/d2');
    assert.equal(what, 'skip:SAME_SCAN');
    assert.ok((await sameBytes(rec)).includes((await became('DocumentReference/n1')).rec));
  });

  test('a report with a sheet more, of another patient, or without a file waits for a person', async () => {
    await source.tell('notes', [report('d3', [SCAN, OTHER]), report('d4', [SCAN], 'Patient/p2'), report('d5', [])]);
    for (const id of ['d3', 'd4', 'd5']) assert.equal((await became(`DiagnosticReport/${id}`)).what, 'quarantine:NO_RULE_MATCH', id);
  });

  test('the same bytes as two notes: both are filed, and each names the other', async () => {
    await source.tell('notes', [note('n2', OTHER), note('n3', OTHER)]);
    const [second, third] = [await became('DocumentReference/n2'), await became('DocumentReference/n3')];
    assert.deepEqual([second.what, third.what], ['own', 'own']);
    assert.ok((await sameBytes(second.rec)).includes(third.rec));
    assert.ok((await sameBytes(third.rec)).includes(second.rec));
    const [{ n } = { n: 0 }] = await world.core.database.query<{ n: number }>(
      sql`select count(distinct document) as n from record where rec = any(${[second.rec, third.rec]})`,
    );
    assert.equal(n, 2);
  });

  test('a note that is withdrawn, or a draft, takes no report along', async () => {
    await source.tell('notes', [
      noteRecord('n1', { version: 2, status: 'entered-in-error', also: { content: [{ attachment: form(SCAN) }] } }),
    ]);
    await source.tell('notes', [report('d7', [SCAN])]);
    assert.equal((await became('DiagnosticReport/d7')).what, 'quarantine:NO_RULE_MATCH');
    const sheet = Buffer.from('A draft.').toString('base64');
    await source.tell('notes', [note('n4', sheet, { docStatus: 'preliminary' }), report('d6', [sheet])]);
    assert.equal((await became('DiagnosticReport/d6')).what, 'quarantine:NO_RULE_MATCH');
    assert.deepEqual((await world.core.reconcile.reconcile()).differences, []);
  });
});
