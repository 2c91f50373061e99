import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { createSharingOperations } from '../../src/app/sharing-operations.ts';
import { readableScope } from '../../src/consent/readable-scope.ts';
import { createOutbox } from '../../src/outbox/postgres-outbox.ts';
import { createOwnDecisions } from '../../src/sharing/own-decisions.ts';
import { createSharingReport } from '../../src/sharing/report.ts';
import { sql } from '../../src/store/sql.ts';
import { createWorld, type World } from './world.ts';

let w: World;
let outbox: ReturnType<typeof createOutbox>;
let operations: ReturnType<typeof createSharingOperations>;
const audited: string[] = [];
before(async () => {
  w = await createWorld();
  outbox = createOutbox({ database: w.database, highWater: 100, lowWater: 50 });
  const decisions = createOwnDecisions({
    database: w.database,
    rows: w.rows,
    custodian: w.b.custodian,
    ledgerId: w.ledgerId,
    msp: w.b.gateway.msp,
    activeRole: async (_institution, member) =>
      member === w.officer ? 'privacy-officer' : member === w.clinician ? 'clinician' : undefined,
    now: () => new Date(),
    waitMs: 1,
    onChanged: () => {},
    outbox,
    projected: (block, timeoutMs) => w.projection.waitFor(block, timeoutMs),
  });
  const report = createSharingReport({ database: w.database, institution: w.b.institution, now: () => new Date() });
  operations = createSharingOperations({
    institution: w.b.institution,
    shared: { decisions, report },
    async accounted(operation, work) {
      audited.push(operation);
      return work();
    },
  });
});
after(async () => {
  await outbox.close();
  await w.close();
});

const scopeOf = async (patient: string): Promise<number> => {
  const scope = readableScope({
    actor: {
      kind: 'member',
      institution: w.b.institution,
      member: w.clinician,
      role: 'clinician',
      client: 'c',
      scopes: [],
      purpose: 'TREAT',
      tokenId: 't',
    },
    purpose: 'TREAT',
    right: 'read',
    now: new Date(),
  });
  return (await w.database.query(sql`select 1 from (${scope}) s where s.pat = ${patient} and s.category = 'laboratory'`)).length;
};

test('renounced: denied here at once, deleted before the ledger has it, and there once it takes it', async () => {
  const { patient } = await w.granted();
  await w.pass();
  assert.equal(await scopeOf(patient), 1);
  const of = { institution: w.a.institution, patient, category: 'laboratory' };
  await assert.rejects(operations.sharingRenounce({ ...of, by: w.clinician }), { code: 'FORBIDDEN' });
  await assert.rejects(operations.sharingRenounce({ ...of, category: 'imaging', by: w.officer }), { code: 'NOT_FOUND' });
  assert.deepEqual(await operations.sharingRenounce({ ...of, by: w.officer }), { permissions: 1, left: 0, state: 'pending' });
  assert.equal(await scopeOf(patient), 0);
  await w.pass();
  assert.equal(await w.count('resource', patient), 0);
  const [end] = await w.database.query<{ cause: string }>(sql`select cause from sharing_end where pat = ${patient}`);
  assert.equal(end?.cause, 'renounced');
  const [row] = await w.database.query<{ args: string[]; priority: number }>(
    sql`select args, priority from outbox order by seq desc limit 1`,
  );
  assert.equal(row?.priority, 0);
  await w.chain.submit(w.b.gateway, 'revokePermission', row?.args ?? []);
  await w.caughtUp();
  assert.equal(await scopeOf(patient), 0);
  await w.pass();
  const [head] = await w.database.query<{ status: string }>(sql`select status from projection.permission where pat = ${patient}`);
  assert.equal(head?.status, 'revoked');
  assert.equal(await w.count('shared_category', patient), 0);
  assert.ok(audited.some((text) => text === `sharing renounce ${w.a.institution} ${patient} laboratory ${w.officer}`));
});

test('a hold: placed by the officer, its reason sealed; listed in the report; lifted, what it kept goes', async () => {
  const { patient, filed } = await w.granted();
  await w.pass();
  const of = { institution: w.a.institution, patient, category: 'laboratory' };
  await assert.rejects(operations.sharingHoldPlace({ ...of, by: w.clinician, reason: 'x' }), { code: 'FORBIDDEN' });
  await assert.rejects(operations.sharingHoldPlace({ ...of, by: w.officer, reason: ' ' }), { code: 'BAD_REQUEST' });
  await assert.rejects(operations.sharingHoldPlace({ ...of, category: 'imaging', by: w.officer, reason: 'x' }), { code: 'NOT_FOUND' });
  await operations.sharingHoldPlace({ ...of, by: w.officer, reason: 'case 12' });
  const [kept] = await w.database.query<{ reason: Buffer }>(sql`select reason from legal_hold where pat = ${patient}`);
  assert.equal(kept?.reason.includes('case 12'), false);
  await w.revoke(patient);
  await w.pass();
  const report = await operations.sharingReport({});
  assert.deepEqual(
    report.holds.map((hold) => [hold.reason, hold.objects, hold.lifted]),
    [['case 12', 1, null]],
  );
  assert.deepEqual(
    report.ended.filter((end) => end.patient === patient).map((end) => [end.cause, end.held, end.objects]),
    [['revoked', 1, 0]],
  );
  assert.deepEqual(await operations.sharingHoldLift({ ...of, by: w.officer }), { objects: 1 });
  await w.pass();
  assert.equal(await w.store.head(`${w.b.institution}/copies/${filed.ciphertextHash}`), undefined);
  await assert.rejects(operations.sharingHoldLift({ ...of, by: w.officer }), { code: 'NOT_FOUND' });
});

test('list and show: held on which permission until when, and what is missing', async () => {
  const own = await w.ownPatient();
  const patient = await w.enroll();
  await w.file(patient);
  const lost = await w.file(patient, { put: false });
  const periodEnd = '2098-01-01T00:00:00.000Z';
  await w.grant(patient, { link: await w.code(own), clause: { periodEnd } });
  await w.pass();
  const shown = await operations.sharingShow({ institution: w.a.institution, patient });
  assert.deepEqual(
    shown.categories.map((one) => [one.state, one.link, one.documents, one.wanted, one.permissions.map((p) => p.until)]),
    [['live', 'confirmed', 1, 1, [periodEnd]]],
  );
  assert.deepEqual(shown.documents.find((one) => one.document === lost.document)?.code, 'BLOB_MISSING');
  const listed = await operations.sharingList({});
  assert.ok(listed.some((one) => one.patient === patient));
  assert.equal(JSON.stringify([shown, listed]).includes(own), false);
  await assert.rejects(operations.sharingShow({ institution: 'x', patient }), { code: 'BAD_REQUEST' });
});
