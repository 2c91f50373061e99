import assert from 'node:assert/strict';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import * as fc from 'fast-check';
import { type Anchoring, createAnchoring } from '../../src/audit/anchoring.ts';
import { createAuditLog } from '../../src/audit/audit-log.ts';
import { merklePath, merkleRoot, rootOfPath } from '../../src/audit/merkle.ts';
import { verifyAudit, verifyAuditEvent } from '../../src/audit/verify.ts';
import { createEmbeddedLedger } from '../../src/ledger/embedded/embedded-ledger.ts';
import { foundLedger } from '../../src/ledger/embedded/first-start.ts';
import { createProjection, type Projection } from '../../src/ledger/projection.ts';
import type { Carrier } from '../../src/outbox/await-commit.ts';
import { createLedgerWriter } from '../../src/outbox/ledger-writer.ts';
import { createOutbox } from '../../src/outbox/postgres-outbox.ts';
import { createRelay } from '../../src/outbox/relay.ts';
import { createPostgresQueue } from '../../src/queue/postgres.ts';
import type { Database } from '../../src/store/database.ts';
import { sql } from '../../src/store/sql.ts';
import type { SealedRows } from '../../src/vault/sealed-rows.ts';
import { cast, HOME } from '../ledger/world.ts';
import { until } from '../queue/conformance.ts';
import { access, open } from './audit-world.ts';

const keys = cast();

interface House {
  database: Database;
  rows: SealedRows;
  carrier: Carrier;
  projection: Projection;
  /** The part that carries the outbox to the ledger, which can be away. */
  carry(): Promise<void>;
  anchoring(facts?: { everyMs?: number; maxWaitMs?: number }): Anchoring;
  record(count: number): Promise<void>;
  anchors(): Promise<{ number: number; root: string }[]>;
}

/** Log, embedded ledger, projection and outbox; nothing moves before `carry`. */
async function house(t: TestContext): Promise<House> {
  const { database, rows, url, folder } = await open(t);
  const parts: { close(): Promise<void> }[] = [];
  t.after(async () => {
    for (const part of parts.toReversed()) await part.close();
  });
  const ledger = await createEmbeddedLedger({
    database,
    tipFile: join(folder, 'tip'),
    institution: HOME,
    msp: `${HOME}-msp`,
    publicKey: keys.home.jwk,
    sign: keys.home.sign,
    blockDelayMs: 1,
  });
  parts.push(ledger);
  await foundLedger({
    ledger,
    institution: HOME,
    msp: `${HOME}-msp`,
    keys: { signing: keys.home.jwk, encryption: keys.category.jwk },
    signAsInstitution: async (typ, payload) => keys.home.jws(typ, payload),
  });
  const projection = createProjection({ database, ledger, institution: HOME });
  parts.push(projection);
  await projection.start();
  const queue = await createPostgresQueue({ url, attempts: 4, backoffMs: 10 });
  const outbox = createOutbox({ database, pollMs: 20 });
  parts.push(queue, outbox);
  const carrier: Carrier = { outbox, projected: (block, timeoutMs) => projection.waitFor(block, timeoutMs) };
  const log = createAuditLog({ database, rows });
  parts.push(log);
  return {
    database,
    rows,
    carrier,
    projection,
    async carry() {
      parts.push(await createLedgerWriter({ database, queue, ledger, unknownWaitMs: 2 }));
      parts.push(await createRelay({ database, queue, batchSize: 10, checkMs: 200, scanMs: 50, retryMs: 50, maxRetryMs: 200 }));
    },
    anchoring(facts = {}) {
      const one = createAnchoring({
        ...carrier,
        database,
        institution: HOME,
        everyMs: 60_000,
        ...facts,
        onError: (error) => console.error(error),
      });
      parts.push(one);
      return one;
    },
    async record(count) {
      await Promise.all(Array.from({ length: count }, (_, i) => log.record(access({ requestId: `req-${i}` }))));
    },
    anchors: () =>
      database.query(sql`select (value::jsonb->>'number')::int as number, value::jsonb->>'root' as root from projection.state
        where key = ${`anchor/${HOME}`} order by block, tx`),
  };
}

test('a path proves each leaf, and only it, at its place', () => {
  fc.assert(
    fc.property(fc.array(fc.uint8Array({ minLength: 32, maxLength: 32 }), { minLength: 1, maxLength: 40 }), fc.nat(), (leaves, pick) => {
      const index = pick % leaves.length;
      const leaf = leaves[index] ?? new Uint8Array();
      const root = merkleRoot(leaves);
      const path = merklePath(leaves, index);
      assert.deepEqual(rootOfPath(leaf, index, leaves.length, path), root);
      assert.notDeepEqual(rootOfPath(Buffer.alloc(32, 7), index, leaves.length, path), root);
      assert.equal(rootOfPath(leaf, index, leaves.length, [...path, Buffer.alloc(32)]), undefined);
      const other = [...leaves];
      other[index] = Buffer.alloc(32, 7);
      assert.notDeepEqual(merkleRoot(other), root);
      assert.notDeepEqual(merkleRoot([...leaves, Buffer.alloc(32)]), root);
    }),
    { seed: 20261123 },
  );
  // RFC 9162 section 2.1.3: three leaves are ((0 1) 2).
  const [a, b, c] = ['a', 'b', 'c'].map((name) => Buffer.alloc(32, name)) as [Buffer, Buffer, Buffer];
  assert.deepEqual(merkleRoot([merkleRoot([a, b]), c]), merkleRoot([a, b, c]));
});

test('anchors: at start, then by the clock; each event under exactly one, proven, and every change found', async (t) => {
  const { database, rows, anchoring, carry, record, anchors, projection } = await house(t);
  await carry();
  await record(5);
  // It waits for its first anchor however busy the machine is.
  const running = anchoring({ everyMs: 150, maxWaitMs: 15_000 });
  const begun = performance.now();
  await running.start();
  t.diagnostic(`first anchor projected after ${(performance.now() - begun).toFixed(0)} ms`);
  assert.equal((await projection.freshness(10_000)).fresh, true);
  assert.deepEqual(
    (await anchors()).slice(0, 2).map(({ number }) => number),
    [0, 1],
  );
  // A quiet house still beats.
  await until('two more, with nothing to say', async () => (await anchors()).length >= 4);
  await running.close();
  const quiet = await anchors();
  assert.equal(new Set(quiet.map(({ root }) => root)).size, quiet.length, 'salted: empty anchors do not look alike');

  const asked = anchoring();
  await record(7);
  const [one, same] = await Promise.all([asked.anchorNow(), asked.anchorNow()]);
  assert.deepEqual([one, same], [one, one], 'never two at once');
  assert.deepEqual([one.state, one.number], ['committed', quiet.length]);
  await record(2);

  const parts = { database, rows, institution: HOME };
  const clean = await verifyAudit(parts, { contents: true });
  assert.deepEqual(clean, { anchors: quiet.length, events: 12, findings: [], altered: [] });
  const events = await database.query<{ id: string; anchor: number | null }>(sql`select id, anchor from audit_event order by seq`);
  for (const { id, anchor } of events) {
    const proof = await verifyAuditEvent(parts, id);
    assert.equal(proof.state, anchor === null ? 'open' : 'anchored');
    if (proof.state !== 'anchored') continue;
    const path = proof.path.map((hash) => Buffer.from(hash, 'hex'));
    assert.equal(rootOfPath(Buffer.from(proof.leaf, 'hex'), proof.index, proof.count, path)?.toString('hex'), proof.root);
    assert.equal((await anchors()).find(({ number }) => number === proof.anchor)?.root, proof.root);
  }
  assert.deepEqual(events.filter(({ anchor }) => anchor === null).length, 2);

  const [first = '', second = '', third = ''] = events.slice(5).map(({ id }) => id);
  const last = one.number;
  const changed = async (change: Parameters<Database['query']>[0], check: () => Promise<void>): Promise<void> => {
    await database.query(sql`create table kept_event as select * from audit_event`);
    await database.query(sql`create table kept_anchor as select * from audit_anchor`);
    await database.query(change);
    await check();
    await database.query(sql`delete from audit_event`);
    await database.query(sql`delete from audit_anchor`);
    await database.query(sql`insert into audit_event overriding system value select * from kept_event`);
    await database.query(sql`insert into audit_anchor select * from kept_anchor`);
    await database.query(sql`drop table kept_event`);
    await database.query(sql`drop table kept_anchor`);
  };
  const unproven = async (problem: string): Promise<void> => {
    const proof = await verifyAuditEvent(parts, second);
    assert.equal(proof.state === 'unproven' ? proof.finding.problem : proof.state, problem);
    const { findings } = await verifyAudit(parts);
    assert.deepEqual(
      findings.map((finding) => [finding.anchor, finding.problem]),
      [[last, problem]],
    );
  };
  await changed(sql`delete from audit_event where id = ${first}`, async () => {
    assert.deepEqual(await verifyAuditEvent(parts, first), { state: 'missing' });
    await unproven('rows');
  });
  // Put off to a later anchor.
  await changed(sql`update audit_event set anchor = null where id = ${first}`, () => unproven('rows'));
  await changed(sql`update audit_event set leaf = sha256('x') where id = ${third}`, async () => {
    assert.deepEqual(await verifyAuditEvent(parts, third), { state: 'altered' });
    await unproven('altered');
  });
  // A deletion covered up in header and count does not meet the root on the ledger.
  await changed(
    sql`with gone as (delete from audit_event where id = ${first})
      update audit_anchor set header = replace(header, '"count":7', '"count":6') where number = ${last}`,
    () => unproven('altered'),
  );
  await changed(
    sql`update audit_anchor set root = repeat('0', 64), header = replace(header, '"count":7', '"count":07') where number = ${last}`,
    () => unproven('altered'),
  );
  await changed(sql`delete from audit_anchor where number = ${last}`, () => unproven('missing'));
  for (const column of ['recorded', 'pat', 'detail']) {
    const change =
      column === 'recorded'
        ? sql`update audit_event set recorded = recorded + interval '1 ms' where id = ${third}`
        : column === 'pat'
          ? sql`update audit_event set pat = 'pat-other' where id = ${third}`
          : sql`update audit_event a set detail = b.detail from audit_event b where a.id = ${third} and b.id = ${second}`;
    await changed(change, async () => {
      assert.deepEqual(await verifyAuditEvent(parts, third), { state: 'altered' }, column);
      assert.deepEqual((await verifyAudit(parts, { contents: true })).altered, [third], column);
    });
  }
  assert.deepEqual((await verifyAudit(parts, { contents: true })).findings, []);
});

test("a ledger that is away: the start goes on, one anchor waits, an earlier run's is awaited and followed by a new one", async (t) => {
  const { database, carrier, anchoring, carry, record, anchors } = await house(t);
  await record(3);
  const before = anchoring({ everyMs: 100, maxWaitMs: 60 });
  await before.start();
  assert.equal((await before.anchorNow()).state, 'pending');
  await new Promise((done) => setTimeout(done, 300));
  await before.close();
  const waiting = (): Promise<{ id: string }[]> => database.query(sql`select id from outbox where transaction = 'anchorAudit'`);
  assert.equal((await waiting()).length, 1, 'not doubled');
  await record(2);

  // Restarted beside a command that does the same, with the ledger back.
  await carry();
  const [after, beside] = [anchoring(), anchoring()];
  await Promise.all([after.start(), beside.start()]);
  const [, first, ...others] = await anchors();
  assert.equal(first?.number, 1);
  assert.ok(others.length >= 1, 'one signed before the restart proves nothing of now');
  assert.deepEqual(
    (await anchors()).map(({ number }) => number),
    (await anchors()).map((_, i) => i),
  );
  const open = await database.query(sql`select 1 from audit_event where anchor is null`);
  assert.equal(open.length, 0);

  // A refused one frees its events; they come under the next.
  await record(4);
  const { number } = (await anchors()).at(-1) ?? { number: 0 };
  const stuck = await database.transaction(async (tx) => {
    await tx.query(sql`update audit_event set anchor = ${number + 1} where anchor is null`);
    const id = await carrier.outbox.add(tx, { transaction: 'anchorAudit', args: ['{"number":999,"root":"'.concat('0'.repeat(64), '"}')] });
    await tx.query(sql`insert into audit_anchor (number, root, header, outbox) values (${number + 1}, 'x', '{"count":4}', ${id})`);
    return id;
  });
  const done = await after.anchorNow();
  assert.deepEqual(done, { state: 'committed', number: number + 1, events: 4 });
  assert.equal((await carrier.outbox.settled(stuck, 100))?.errorCode, 'ANCHOR_NUMBER');
});
