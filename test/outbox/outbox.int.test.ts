import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { type TestContext, test } from 'node:test';
import { CodedError } from '../../src/errors.ts';
import { createLedgerWriter, type LedgerWriterOptions } from '../../src/outbox/ledger-writer.ts';
import type { OutboxItem } from '../../src/outbox/outbox.ts';
import { createOutbox } from '../../src/outbox/postgres-outbox.ts';
import { createRelay, type RelayOptions } from '../../src/outbox/relay.ts';
import { createPostgresQueue } from '../../src/queue/postgres.ts';
import type { Job, JobQueue } from '../../src/queue/queue.ts';
import { raw, sql } from '../../src/store/sql.ts';
import { until } from '../queue/conformance.ts';
import { withTestDatabase } from '../store/test-database.ts';
import { createScriptedLedger, type Outcome } from './scripted-ledger.ts';

type WriterLedger = LedgerWriterOptions['ledger'];

const entry = (pat: string, document: string, padding = ''): OutboxItem => ({
  transaction: 'recordDocuments',
  args: [JSON.stringify({ entries: [{ document, institution: 'inst-x', padding, patient: pat, version: 1 }] })],
  patient: `inst-x/${pat}`,
});
const documentsIn = (args: readonly string[]): string[] =>
  (JSON.parse(args[0] ?? '') as { entries: { document: string }[] }).entries.map((one) => one.document);
const patientsIn = (args: readonly string[]): string[] => [
  ...new Set((JSON.parse(args[0] ?? '') as { entries: { patient: string }[] }).entries.map((one) => one.patient)),
];

/** Outbox, relay and writer over a real database and a real queue. */
async function start(
  t: TestContext,
  script: Parameters<typeof createScriptedLedger>[0] = {},
  options: { relay?: Partial<RelayOptions>; writer?: Partial<LedgerWriterOptions>; attempts?: number; paused?: boolean } = {},
) {
  const { database, url } = await withTestDatabase();
  const schema = `q_${randomBytes(4).toString('hex')}`;
  const errors: Error[] = [];
  const onError = (error: Error): void => {
    errors.push(error);
  };
  const queue = await createPostgresQueue({ url, schema, attempts: options.attempts ?? 8, backoffMs: 20, onError });
  const ledger = createScriptedLedger(script);
  const outbox = createOutbox({ database, highWater: 20, lowWater: 5, onError });
  const enrol = async (...pats: string[]): Promise<void> => {
    for (const pat of pats)
      await database.query(
        sql`insert into projection.patient (inst, pat, custody, status, block) values ('inst-x', ${pat}, true, 'active', 1)`,
      );
  };
  const add = async (...items: OutboxItem[]): Promise<string[]> => {
    const ids = await database.transaction(async (tx) => {
      const made: string[] = [];
      for (const item of items) made.push(await outbox.add(tx, item));
      return made;
    });
    outbox.wake();
    return ids;
  };
  const states = async (): Promise<Record<string, number>> => (await outbox.stats()).states;
  const relay = await createRelay({ database, queue, onError, ...options.relay });
  if (options.paused === true) relay.pause();
  const writer = await createLedgerWriter({ database, queue, ledger, unknownWaitMs: 5, onError, ...options.writer });
  // Also where the test fails: what stays open would hold up the whole run.
  t.after(async () => {
    await relay.close();
    await writer.close();
    await queue.close();
    await outbox.close();
    // A statement of ours that PostgreSQL refuses (syntax, column, type) would only show as slowness.
    const refused = errors.filter((error) => /^(22|42601|42703|42804)/.test((error as { code?: string }).code ?? ''));
    assert.deepEqual(refused, []);
  });
  return {
    database,
    queue,
    schema,
    ledger,
    outbox,
    relay,
    enrol,
    add,
    states,
    errors,
  };
}

test('a row reaches the ledger soon after its commit, and whoever waits hears of it with the receipt', async (t) => {
  const one = await start(t, { result: () => '{"seq":1}' });
  await one.add({ transaction: 'anchorAudit', args: ['warm'] });
  await until('warm', () => one.ledger.submitted.length === 1);
  const latencies: number[] = [];
  for (let i = 0; i < 15; i++) {
    const before = performance.now();
    const [id] = await one.add({ transaction: 'grantPermission', args: [`g${i}`] });
    const settlement = await one.outbox.settled(id ?? '', 5000);
    assert.equal(settlement?.state, 'committed');
    assert.equal(settlement.receipt?.result, '{"seq":1}');
    assert.ok(one.ledger.committed.has(settlement.receipt.txId));
    latencies.push((one.ledger.submitted.at(-1)?.at ?? 0) - before);
  }
  latencies.sort((a, b) => a - b);
  console.log(`    outbox row to submit: median ${latencies[7]?.toFixed(1)} ms, worst ${latencies[14]?.toFixed(1)} ms`);
  assert.ok((latencies[7] ?? 0) < 500, 'woken, not found by a re-scan');
  assert.equal(await one.outbox.settled('obx-never', 30), undefined);
});

test('entries go in batches, patient by patient, in turns; nothing goes before its patient is enrolled, a withdrawal neither; a revoke waits for nothing', async (t) => {
  const one = await start(t, {}, { paused: true, relay: { batchSize: 50, scanMs: 60_000 }, writer: { concurrency: 1 } });
  const many = Array.from({ length: 120 }, (_, i) => entry('pat-big', `doc-big-${i}`));
  await one.add(
    ...many,
    entry('pat-small', 'doc-small'),
    entry('pat-stranger', 'doc-stranger'),
    { transaction: 'enrollPatient', args: ['enrol'], patient: 'inst-x/pat-new' },
    entry('pat-new', 'doc-new'),
    { transaction: 'revokePermission', args: ['revoke'], patient: 'inst-x/pat-stranger', priority: 'urgent' },
    { transaction: 'withdrawDocument', args: ['withdraw'], patient: 'inst-x/pat-stranger', priority: 'urgent' },
  );
  await one.enrol('pat-big', 'pat-small');
  one.relay.resume();
  await until('all but two', () => one.ledger.committed.size >= 5);
  const sent = one.ledger.submitted.map(({ transaction }) => transaction);
  assert.equal(sent[0]?.name, 'revokePermission', 'the urgent one goes first');
  const batches = sent.filter((t) => t.name === 'recordDocuments').map((t) => t.args);
  assert.equal(batches.flatMap((args) => documentsIn(args)).length, 121);
  for (const args of batches) assert.ok(documentsIn(args).length <= 50);
  assert.ok(batches.filter((args) => patientsIn(args).length > 1).length <= 1, 'filled patient by patient');
  const small = batches.findIndex((args) => documentsIn(args).includes('doc-small'));
  assert.ok(small <= 1, `the small patient waits for one batch of the big one at most (${small})`);
  await one.add(entry('pat-big', 'doc-late'));
  await until('late', () => one.ledger.submitted.some((s) => s.transaction.args[0]?.includes('doc-late')));
  await until('only what is held back is left', async () => (await one.outbox.stats()).depth === 3);
  assert.deepEqual(
    (await one.database.query<{ patient: string }>(sql`select patient from outbox where settled_at is null order by seq`)).map(
      (row) => row.patient,
    ),
    ['inst-x/pat-stranger', 'inst-x/pat-new', 'inst-x/pat-stranger'],
  );
  // Nobody wakes the relay here and the scan is far off: what is held back is looked at again by itself.
  await one.enrol('pat-new');
  await until('the new patient', () => one.ledger.submitted.some((s) => s.transaction.args[0]?.includes('doc-new')));
});

test('an entry refused by the contract is rejected with its code, the others stand; a refusal of the whole rejects only the guilty', async (t) => {
  const one = await start(t, {
    refuse: (t) => (t.args[0]?.includes('doc-poison') === true ? 'SCHEMA' : undefined),
    result: (t) =>
      t.name === 'recordDocuments'
        ? JSON.stringify({
            refused: documentsIn(t.args).flatMap((doc, index) => (doc === 'doc-stale' ? [{ code: 'KEY_VERSION_STALE', index }] : [])),
          })
        : '{}',
  });
  await one.enrol('pat-a');
  const ids = await one.add(...['doc-1', 'doc-stale', 'doc-2', 'doc-poison', 'doc-3', 'doc-4'].map((doc) => entry('pat-a', doc)));
  const settled = await Promise.all(ids.map((id) => one.outbox.settled(id, 10_000)));
  assert.deepEqual(
    settled.map((s) => [s?.state, s?.errorCode]),
    [
      ['committed', undefined],
      ['rejected', 'KEY_VERSION_STALE'],
      ['committed', undefined],
      ['rejected', 'SCHEMA'],
      ['committed', undefined],
      ['committed', undefined],
    ],
  );
  assert.equal((await one.states())['rejected'], 2);
});

test('at the second conflict a batch is split by patient; an order key lets one row go at a time', async (t) => {
  let conflicts = 0;
  const one = await start(
    t,
    { outcome: (t): Outcome => (t.name === 'recordDocuments' && patientsIn(t.args).length > 1 && ++conflicts > 0 ? 'conflict' : 'commit') },
    { paused: true },
  );
  await one.enrol('pat-a', 'pat-b');
  await one.add(
    entry('pat-a', 'doc-a1'),
    entry('pat-b', 'doc-b1'),
    entry('pat-a', 'doc-a2'),
    { transaction: 'grantPermission', args: ['first'], orderKey: 'k' },
    { transaction: 'grantPermission', args: ['second'], orderKey: 'k' },
    { transaction: 'grantPermission', args: ['third'], orderKey: 'k' },
  );
  one.relay.resume();
  await until('all settled', async () => (await one.outbox.stats()).depth === 0);
  assert.equal(conflicts, 2);
  const committed = [...one.ledger.committed.values()].map(({ transaction }) => transaction);
  assert.deepEqual(
    committed
      .filter((t) => t.name === 'recordDocuments')
      .map((t) => documentsIn(t.args).join())
      .toSorted((a, b) => a.localeCompare(b)),
    ['doc-a1,doc-a2', 'doc-b1'],
  );
  assert.deepEqual(
    committed.filter((t) => t.name === 'grantPermission').map((t) => t.args[0]),
    ['first', 'second', 'third'],
  );
});

/**
 * Two runs of one job, as a queue hands it out twice: the slow run comes to its verdict and waits before it writes it down; the
 * quick one then finds nothing journaled, journals bytes of its own and has them committed, but has not settled; only now the
 * slow run writes its verdict, and the quick one settles after it.
 */
async function raceForBatch(
  t: TestContext,
  ledger: ReturnType<typeof createScriptedLedger>,
  items: readonly OutboxItem[],
  slowLedger: (quickCommitted: () => Promise<void>) => WriterLedger,
) {
  const { database } = await withTestDatabase();
  const errors: Error[] = [];
  const onError = (error: Error): void => {
    errors.push(error);
  };
  const jobs: Job[] = [];
  const handlers: ((job: Job) => Promise<void>)[] = [];
  const queue: JobQueue = {
    add: async (added) => {
      jobs.push(...added.filter((job) => !jobs.some((known) => known.id === job.id)));
    },
    state: async (id) => (jobs.some((job) => job.id === id) ? 'active' : 'unknown'),
    retry: async () => {},
    process: async (handler) => {
      handlers.push(handler);
      return { close: async () => {} };
    },
    depth: async () => ({ waiting: 0, active: 0, delayed: 0, failed: 0 }),
    clean: async () => {},
    close: async () => {},
  };
  const slowEnded = Promise.withResolvers<void>();
  const quickCommitted = Promise.withResolvers<void>();
  let quickRun: Promise<void> | undefined;
  const runQuick = (): Promise<void> => {
    const [job] = jobs;
    assert.ok(job !== undefined);
    quickRun ??= handlers[1]?.(job);
    return quickCommitted.promise;
  };
  const outbox = createOutbox({ database, onError });
  const relay = await createRelay({ database: { ...database, listen: async () => ({ close: async () => {} }) }, queue, scanMs: 600_000 });
  t.after(async () => {
    await relay.close();
    await outbox.close();
  });
  // The slow run, then the quick one.
  await createLedgerWriter({
    queue,
    ledger: slowLedger(runQuick),
    onError,
    database: {
      ...database,
      transaction: async (work, isolation) => {
        await runQuick();
        return await database.transaction(work, isolation);
      },
    },
  });
  await createLedgerWriter({
    database,
    queue,
    onError,
    ledger: {
      ...ledger,
      submit: async (bytes) => {
        const receipt = await ledger.submit(bytes);
        quickCommitted.resolve();
        await slowEnded.promise;
        return receipt;
      },
    },
  });
  const patients = new Set(items.map((item) => item.patient?.split('/')[1] ?? ''));
  for (const pat of patients)
    await database.query(
      sql`insert into projection.patient (inst, pat, custody, status, block) values ('inst-x', ${pat}, true, 'active', 1)`,
    );
  await database.transaction(async (tx) => {
    for (const item of items) await outbox.add(tx, item);
  });
  // The relay looks once by itself at its start.
  await until('a job', async () => jobs.length > 0 || (await relay.pass()) > 0);
  const [job, ...others] = jobs;
  assert.ok(job !== undefined && others.length === 0, 'one batch, one job');
  await handlers[0]?.(job);
  slowEnded.resolve();
  await quickRun;
  // Whatever batches the slow run has made are brought to the ledger too.
  for (let passes = 0; passes < 3; passes++) {
    await relay.pass();
    for (const made of jobs.splice(1)) await handlers[1]?.(made);
  }
  assert.deepEqual(errors, []);
  return await database.query<{ state: string; tx_id: string | null }>(sql`select state, tx_id from outbox order by seq`);
}

test('two runs of one job, the slow one parts the batch after its conflicts: what the quick one has journaled is neither parted nor entered twice', async (t) => {
  let submits = 0;
  const ledger = createScriptedLedger({ outcome: () => (++submits <= 2 ? 'conflict' : 'commit') });
  const rows = await raceForBatch(t, ledger, [entry('pat-a', 'doc-a'), entry('pat-b', 'doc-b')], () => ledger);
  const documents = [...ledger.committed.values()].flatMap(({ transaction }) => documentsIn(transaction.args));
  assert.deepEqual(documents, ['doc-a', 'doc-b'], 'each entry once on the ledger');
  assert.deepEqual(
    rows.map((row) => [row.state, ledger.committed.has(row.tx_id ?? '')]),
    [
      ['committed', true],
      ['committed', true],
    ],
  );
});

for (const count of [1, 2])
  test(`two runs of one job, the slow one is refused by a ledger that is behind (${count} rows): what the quick one has journaled stands, with its receipt`, async (t) => {
    const ledger = createScriptedLedger({});
    const items = ['doc-a', 'doc-b'].slice(0, count).map((document) => entry('pat-a', document));
    const rows = await raceForBatch(t, ledger, items, (quickCommitted) => ({
      ...ledger,
      endorse: async () => {
        await quickCommitted();
        throw new CodedError('LEDGER_REFUSED', { diagnostics: 'PATIENT_UNKNOWN' });
      },
    }));
    assert.equal([...ledger.committed.values()].flatMap(({ transaction }) => documentsIn(transaction.args)).length, count);
    assert.ok(
      rows.every((row) => row.state === 'committed' && ledger.committed.has(row.tx_id ?? '')),
      JSON.stringify(rows),
    );
  });

test('an argument stays within 64 KiB', async (t) => {
  const one = await start(t, {}, { paused: true });
  await one.enrol('pat-a');
  await one.add(...Array.from({ length: 30 }, (_, i) => entry('pat-a', `doc-${i}`, 'x'.repeat(5000))));
  one.relay.resume();
  await until('all settled', async () => (await one.outbox.stats()).depth === 0);
  const sizes = [...one.ledger.committed.values()].map(({ transaction }) => Buffer.byteLength(transaction.args[0] ?? ''));
  assert.ok(Math.max(...sizes) <= 65_536 && Math.max(...sizes) > 50_000, String(sizes));
});

test('a ledger that is away: rows fail, are written down with their code, and all go once it is back; the same bytes throughout', async (t) => {
  let away = true;
  const one = await start(
    t,
    { outcome: () => (away ? 'unavailable' : 'commit') },
    { attempts: 2, relay: { window: 4, retryMs: 1500, maxRetryMs: 60_000, checkMs: 200, scanMs: 50 } },
  );
  await one.enrol('pat-a');
  const ids = await one.add(
    { transaction: 'anchorAudit', args: ['a'] },
    { transaction: 'anchorAudit', args: ['b'] },
    entry('pat-a', 'doc-1'),
  );
  await until('failed', async () => (await one.states())['failed'] === 3);
  const codes = await one.database.query<{ error_code: string }>(sql`select distinct error_code from outbox_batch`);
  assert.deepEqual(codes, [{ error_code: 'LEDGER_UNAVAILABLE' }]);
  const endorsed = one.ledger.counts.endorse;
  // Rows that come meanwhile: no more batches than the window holds.
  await one.add(...Array.from({ length: 12 }, (_, i) => ({ transaction: 'anchorAudit', args: [`late-${i}`] })));
  await new Promise((done) => setTimeout(done, 300));
  const [batches] = await one.database.query<{ n: number }>(sql`select count(*) as n from outbox_batch`);
  assert.ok((batches?.n ?? 99) <= 4, `${batches?.n} batches under way`);
  away = false;
  await until('drained', async () => (await one.outbox.stats()).depth === 0, 12_000);
  assert.equal(one.ledger.committed.size, 15);
  assert.ok(one.ledger.counts.endorse <= endorsed + 13, 'what had been journaled was not endorsed anew');
  for (const id of ids) assert.equal((await one.outbox.settled(id, 100))?.state, 'committed');
});

test('the queue may be dropped at any moment, in the middle of the work', async (t) => {
  const one = await start(t, {}, { paused: true, relay: { checkMs: 300, scanMs: 50 } });
  await one.enrol('pat-a');
  await one.add(...Array.from({ length: 400 }, (_, i) => entry('pat-a', `doc-${i}`)));
  one.relay.resume();
  for (let i = 0; i < 4; i++) {
    await until('some', () => one.ledger.committed.size > i);
    // A deadlock with the work under way is the dropper's to try again.
    await until('dropped', () =>
      one.database.query(raw(`drop schema if exists ${one.schema} cascade`)).then(
        () => true,
        () => false,
      ),
    );
  }
  await until('all settled', async () => (await one.outbox.stats()).depth === 0, 15_000);
  const documents = [...one.ledger.committed.values()].flatMap(({ transaction }) => documentsIn(transaction.args));
  assert.equal(documents.length, 400);
  assert.equal(new Set(documents).size, 400);
});

test('throughput, and pulls that wait for room', async (t) => {
  const one = await start(t, {}, { paused: true });
  const pats = Array.from({ length: 10 }, (_, i) => `pat-${i}`);
  await one.enrol(...pats);
  await one.outbox.room(AbortSignal.timeout(1000));
  await one.add(...Array.from({ length: 1000 }, (_, i) => entry(pats[i % 10] ?? '', `doc-${i}`)));
  let room = false;
  const waiting = one.outbox.room(AbortSignal.timeout(20_000)).then(() => {
    room = true;
  });
  await new Promise((done) => setTimeout(done, 50));
  assert.equal(room, false);
  const at = performance.now();
  one.relay.resume();
  await until('all settled', async () => (await one.outbox.stats()).depth === 0, 15_000);
  console.log(`    1000 entries in ${(performance.now() - at).toFixed(0)} ms`);
  await waiting;
  assert.equal(room, true);
});
