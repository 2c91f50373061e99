import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { AuditEvent } from 'fhir/r4.js';
import { createAuditLog } from '../../src/audit/audit-log.ts';
import { createAuditSearch } from '../../src/audit/audit-search.ts';
import type { Actor } from '../../src/auth/actor.ts';
import { codeOf } from '../../src/errors.ts';
import type { ServedResource } from '../../src/fhir/ports.ts';
import { sql } from '../../src/store/sql.ts';
import { AWAY, HOME } from '../ledger/world.ts';
import { access, member, OTHER, open, PATIENT, patient } from './audit-world.ts';

const both = [
  { institution: HOME, patient: PATIENT },
  { institution: HOME, patient: OTHER },
];

test('the log: one row an event and patient, committed when it resolves, in clear only who it is about and when', async (t) => {
  const { database, rows } = await open(t);
  let statements = 0;
  const counting = {
    query: ((fragment) => {
      statements++;
      return database.query(fragment);
    }) satisfies typeof database.query,
  };
  const log = createAuditLog({ database: counting, rows });
  await log.record(
    access({ patients: both, query: 'GET /Observation?code=canary-query', requestId: 'req-canary', address: '198.51.100.77' }),
  );
  await log.record(access({ patients: [], outcome: 'denied', reason: 'NOT_FOUND', resource: { type: 'Observation', id: 'res-canary' } }));
  const found = await database.query<{ pat: string | null; text: string }>(
    sql`select pat, e::text as text from audit_event e order by seq`,
  );
  assert.deepEqual(
    found.map(({ pat }) => pat),
    [PATIENT, OTHER, null],
  );
  const dump = (await database.query<{ detail: Buffer; leaf: Buffer }>(sql`select detail, leaf from audit_event`))
    .map(({ detail, leaf }) => detail.toString('latin1') + leaf.toString('latin1'))
    .join('');
  for (const secret of ['canary', 'mem-reader', 'cli-reader', 'jti-reader', '198.51.100.77', 'NOT_FOUND', 'Observation', 'TREAT']) {
    assert.ok(!dump.includes(secret) && !found.some(({ text }) => text.includes(secret)), secret);
  }

  // Many at once share commits.
  statements = 0;
  await Promise.all(Array.from({ length: 300 }, (_, i) => log.record(access({ requestId: `req-${i}` }))));
  const [{ n } = { n: 0 }] = await database.query<{ n: number }>(sql`select count(*) as n from audit_event`);
  assert.equal(n, 303);
  assert.ok(statements <= 30, `${statements} statements`);

  await Promise.all([log.record(access()), log.close()]);
  assert.equal((await database.query(sql`select 1 from audit_event`)).length, 304, 'closing waits for what was begun');
  await assert.rejects(log.record(access()), (error) => codeOf(error) === 'UNAVAILABLE');
});

test('the log: where it cannot be committed it rejects, and goes on afterwards', async (t) => {
  const { database, rows } = await open(t);
  let broken = true;
  const errors: string[] = [];
  const failing = {
    query: (async (fragment) => {
      if (broken) throw new Error('connection lost');
      return await database.query(fragment);
    }) satisfies typeof database.query,
  };
  const log = createAuditLog({ database: failing, rows, onError: (error) => errors.push(error.message) });
  const all = await Promise.allSettled(Array.from({ length: 5 }, () => log.record(access())));
  assert.ok(all.every((one) => one.status === 'rejected' && codeOf(one.reason) === 'UNAVAILABLE'));
  assert.ok(errors.length > 0 && errors.every((message) => message === 'connection lost'));
  broken = false;
  await log.record(access());
  assert.equal((await database.query(sql`select 1 from audit_event`)).length, 1);
  await log.close();
});

test('a slow commit holds up the next for 5 ms, not for as long as it lasts', async (t) => {
  const { database, rows } = await open(t);
  const release = Promise.withResolvers<void>();
  let first = true;
  const slow = {
    query: (async (fragment) => {
      if (first) {
        first = false;
        await release.promise;
      }
      return await database.query(fragment);
    }) satisfies typeof database.query,
  };
  const log = createAuditLog({ database: slow, rows });
  const stuck = log.record(access());
  // Its commit is under way: an event that comes before that would go with it.
  while (first) await new Promise((done) => setTimeout(done, 1));
  await log.record(access());
  assert.equal((await database.query(sql`select 1 from audit_event`)).length, 1);
  release.resolve();
  await stuck;
  await log.close();
});

test('who sees what: patients themselves, a privacy officer by the ledger all, nobody else any', async (t) => {
  const { database, rows } = await open(t);
  let at = Date.parse('2026-11-23T10:00:00Z');
  const log = createAuditLog({ database, rows, now: () => new Date((at += 1000)) });
  const search = createAuditSearch({ database, rows, institution: HOME, baseUrl: 'https://fhir.test/fhir' });
  const now = new Date('2026-11-23T12:00:00Z');
  await database.query(sql`insert into projection.institution (inst, msp, status, signing_jwk, encryption_jwk, block)
    select i, i, 'active', '{}', '{}', 0 from unnest(${[HOME, AWAY]}::text[]) i`);
  await database.query(sql`insert into projection.patient (inst, pat, custody, status, block)
    select ${HOME}, p, true, 'active', 0 from unnest(${[PATIENT, OTHER]}::text[]) p`);
  const enrol = (mem: string, role: string, status = 'active', until = '2027-01-01', inst = HOME): Promise<unknown> =>
    database.query(sql`insert into projection.member (inst, mem, role, status, valid_until, block)
      values (${inst}, ${mem}, ${role}, ${status}, ${until}::timestamptz, 0)`);
  await enrol('mem-officer', 'privacy-officer');
  await enrol('mem-suspended', 'privacy-officer', 'suspended');
  await enrol('mem-expired', 'privacy-officer', 'active', '2026-11-23');
  await enrol('mem-reader', 'clinician');
  await enrol('mem-away', 'privacy-officer', 'active', '2027-01-01', AWAY);
  await database.query(sql`insert into member (mem, name, role) values ('mem-reader', 'Dr Reader', 'clinician')`);

  await log.record(access({ requestId: 'req-0' }));
  await log.record(access({ requestId: 'req-1', patients: [{ institution: HOME, patient: OTHER }] }));
  // A read of something hidden names nobody.
  await log.record(access({ requestId: 'req-2', patients: [], outcome: 'denied', reason: 'NOT_FOUND' }));
  // One search over two patients.
  const query = `GET /Observation?patient=${PATIENT},${OTHER}&name=Doe`;
  await log.record(access({ requestId: 'req-3', interaction: 'search-type', resource: { type: 'Observation' }, patients: both, query }));
  // The same pseudonym at another institution is somebody else.
  await log.record(access({ requestId: 'req-4', patients: [{ institution: AWAY, patient: PATIENT }] }));

  const parse = (resource: ServedResource): AuditEvent => JSON.parse(resource.text) as AuditEvent;
  const requests = async (actor: Actor, more: object = {}): Promise<(string | undefined)[]> => {
    const { resources } = await search.searchAuditEvents(actor, { count: 50, now, ...more });
    return resources.map((one) => parse(one).entity?.find((entity) => entity.type?.code === 'XrequestId')?.what?.identifier?.value);
  };
  const officer = member('officer', { role: 'privacy-officer' });
  assert.deepEqual(await requests(officer), ['req-4', 'req-3', 'req-3', 'req-2', 'req-1', 'req-0']);
  assert.deepEqual(await requests(patient(PATIENT)), ['req-3', 'req-0']);
  assert.deepEqual(await requests(patient(OTHER)), ['req-3', 'req-1']);
  // The token's word for the role counts nothing, here or elsewhere.
  const nobody: Actor[] = [
    member('reader', { role: 'privacy-officer' }),
    member('suspended', { role: 'privacy-officer' }),
    member('expired', { role: 'privacy-officer' }),
    member('away', { role: 'privacy-officer', institution: AWAY }),
    member('unknown', { role: 'privacy-officer' }),
    patient(PATIENT, AWAY),
    patient('pat-cccccccccccccccccccccccccc'),
    { kind: 'system', institution: HOME, client: 'cli-x', scopes: ['system/*.rs'], purpose: 'TREAT', tokenId: 'jti-x' },
  ];
  const all = (await search.searchAuditEvents(officer, { count: 50, now })).resources;
  for (const actor of nobody) {
    assert.deepEqual(await requests(actor), []);
    for (const { id } of all) assert.equal(await search.readAuditEvent(actor, id, now), undefined);
  }
  // Reading one by its id shows what searching shows, to the byte.
  for (const actor of [officer, patient(PATIENT), patient(OTHER)]) {
    const { resources } = await search.searchAuditEvents(actor, { count: 50, now });
    const seen = new Map(resources.map((one) => [one.id, one]));
    for (const { id } of all) assert.deepEqual(await search.readAuditEvent(actor, id, now), seen.get(id));
  }
  assert.equal(await search.readAuditEvent(officer, 'aud-nothing', now), undefined);

  // The patient learns who it was, and nothing of the other patient in the same search.
  const mine = (await search.searchAuditEvents(patient(PATIENT), { count: 50, now })).resources;
  assert.ok(mine.every(({ text }) => text.includes('Dr Reader') && !text.includes(OTHER)));
  const raw = Buffer.from(parse(mine[0] as ServedResource).entity?.[0]?.query ?? '', 'base64').toString();
  assert.equal(raw, 'GET /Observation?patient=…&name=…');
  assert.equal(Buffer.from(parse(all[1] as ServedResource).entity?.[0]?.query ?? '', 'base64').toString(), query);
  assert.deepEqual(mine[0]?.patients, [{ institution: HOME, patient: PATIENT }]);

  // By patient and time, both ends in; page by page, each row once.
  assert.deepEqual(await requests(officer, { patients: [OTHER] }), ['req-3', 'req-1']);
  assert.deepEqual(await requests(officer, { patients: [] }), []);
  assert.deepEqual(await requests(patient(PATIENT), { patients: [OTHER] }), []);
  const range = { from: new Date('2026-11-23T10:00:02Z'), until: new Date('2026-11-23T10:00:03Z') };
  assert.deepEqual(await requests(officer, range), ['req-2', 'req-1']);
  const paged: string[] = [];
  for (let after: string | undefined, pages = 0; pages < 10; pages++) {
    const page = await search.searchAuditEvents(officer, { count: 2, now, ...(after !== undefined ? { after } : {}) });
    paged.push(...page.resources.map(({ id }) => id));
    after = page.after;
    if (after === undefined) break;
  }
  assert.deepEqual(
    paged,
    all.map(({ id }) => id),
  );
  await assert.rejects(search.searchAuditEvents(officer, { count: 2, now, after: 'x/y' }), (error) => codeOf(error) === 'BAD_REQUEST');

  // An altered row is not shown as if it were whole.
  await database.query(sql`update audit_event set pat = ${PATIENT} where pat = ${OTHER}`);
  await assert.rejects(search.searchAuditEvents(patient(PATIENT), { count: 50, now }), (error) => codeOf(error) === 'SEAL_BROKEN');
  await database.query(sql`update projection.patient set status = 'erased' where pat = ${PATIENT}`);
  assert.deepEqual(await requests(patient(PATIENT)), []);
  await log.close();
});
