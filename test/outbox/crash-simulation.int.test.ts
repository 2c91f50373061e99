import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CodedError } from '../../src/errors.ts';
import { createLedgerWriter } from '../../src/outbox/ledger-writer.ts';
import { createOutbox } from '../../src/outbox/postgres-outbox.ts';
import { createRelay } from '../../src/outbox/relay.ts';
import type { Job, JobQueue, JobState } from '../../src/queue/queue.ts';
import type { Database, Sql } from '../../src/store/database.ts';
import { sql } from '../../src/store/sql.ts';
import { seeded } from '../random.ts';
import { withTestDatabase } from '../store/test-database.ts';
import { createScriptedLedger } from './scripted-ledger.ts';

class Crash extends Error {}

/** One life of a process: every await may be its last, before or after the effect; afterwards nothing works any more. */
function createLife(random: () => number, crashChance: number) {
  const life = { dead: false, pending: 0 };
  async function point<T>(work: () => Promise<T>): Promise<T> {
    if (life.dead) throw new Crash();
    const when = random();
    if (when < crashChance / 2) {
      life.dead = true;
      throw new Crash();
    }
    life.pending++;
    try {
      const result = await work();
      // Died while waiting, or right after the effect: nobody hears of it.
      if (when < crashChance) life.dead = true;
      if (life.dead) throw new Crash();
      return result;
    } finally {
      life.pending--;
    }
  }
  return { life, point };
}
type Point = ReturnType<typeof createLife>['point'];

function mortalDatabase(database: Database, point: Point): Database {
  return {
    ...database,
    query: <Row extends object>(fragment: Parameters<Sql['query']>[0]) => point(() => database.query<Row>(fragment)),
    // A crash inside of a transaction rolls it back; one at its end may come after the commit.
    transaction: (work, isolation) =>
      point(() =>
        database.transaction(
          (tx) => work({ query: <Row extends object>(f: Parameters<Sql['query']>[0]) => point(() => tx.query<Row>(f)) }),
          isolation,
        ),
      ),
  };
}

/** Transport that outlives the process: jobs known by id, handed out at least once, sometimes twice. */
function createMemoryQueue(random: () => number) {
  const jobs = new Map<string, { job: Job; state: JobState }>();
  return {
    jobs,
    /** A process died: what it ran is handed out again. */
    reap() {
      for (const one of jobs.values()) if (one.state === 'active') one.state = 'waiting';
    },
    connect(point: Point, life: { dead: boolean }): JobQueue {
      return {
        add: (added) =>
          point(async () => {
            for (const job of added) if (!jobs.has(job.id)) jobs.set(job.id, { job, state: 'waiting' });
          }),
        state: (id) => point(async () => jobs.get(id)?.state ?? 'unknown'),
        retry: (id) =>
          point(async () => {
            const one = jobs.get(id);
            if (one?.state === 'failed' || one?.state === 'completed') one.state = 'waiting';
          }),
        async process(handler) {
          let closed = false;
          const runOne = async (one: { job: Job; state: JobState }): Promise<void> => {
            one.state = 'active';
            try {
              const runs = [handler(one.job)];
              if (random() < 0.1) runs.push(handler(one.job));
              await Promise.all(runs);
              if (!life.dead) one.state = 'completed';
            } catch {
              if (!life.dead) one.state = random() < 0.7 ? 'waiting' : 'failed';
            }
          };
          const loop = (async () => {
            while (!closed && !life.dead) {
              const waiting = [...jobs.values()].filter((one) => one.state === 'waiting').slice(0, 3);
              await Promise.all(waiting.map(runOne));
              await new Promise((done) => setTimeout(done, 1));
            }
          })();
          return {
            async close() {
              closed = true;
              await loop;
            },
          };
        },
        depth: async () => ({ waiting: 0, active: 0, delayed: 0, failed: 0 }),
        clean: async () => {},
        close: async () => {},
      };
    },
  };
}

const seeds = process.env['OUTBOX_SEED'] === undefined ? [1, 2, 3, 4] : [Number(process.env['OUTBOX_SEED'])];

for (const seed of seeds) {
  test(`crashes at every await, an erring ledger, a queue that is emptied: nothing lost, nothing doubled (OUTBOX_SEED=${seed})`, async () => {
    const random = seeded(seed);
    const { database, close } = await withTestDatabase();
    const ledger = createScriptedLedger({
      outcome() {
        const dice = random();
        if (dice < 0.06) return 'lost';
        if (dice < 0.12) return 'silent';
        if (dice < 0.18) return 'conflict';
        if (dice < 0.21) return 'unavailable';
        return dice < 0.22 ? 'invalid' : 'commit';
      },
    });
    const queue = createMemoryQueue(random);
    const outbox = createOutbox({ database });
    for (const pat of ['pat-a', 'pat-b', 'pat-c'])
      await database.query(
        sql`insert into projection.patient (inst, pat, custody, status, block) values ('inst-x', ${pat}, true, 'active', 1)`,
      );
    const ids: string[] = [];
    await database.transaction(async (tx) => {
      for (let i = 0; i < 120; i++) {
        const pat = ['pat-a', 'pat-b', 'pat-c'][Math.floor(random() * 3)] ?? 'pat-a';
        const entry = { institution: 'inst-x', patient: pat, document: `doc-${i}`, version: 1 };
        ids.push(
          await outbox.add(tx, { transaction: 'recordDocuments', args: [JSON.stringify({ entries: [entry] })], patient: `inst-x/${pat}` }),
        );
      }
      for (let i = 0; i < 12; i++)
        ids.push(
          await outbox.add(tx, {
            transaction: 'grantPermission',
            args: [`grant-${i}`],
            orderKey: `triple-${i % 3}`,
            patient: 'inst-x/pat-a',
          }),
        );
      ids.push(await outbox.add(tx, { transaction: 'revokePermission', args: ['revoke-0'], orderKey: 'triple-0', priority: 'urgent' }));
    });

    const deadline = Date.now() + 25_000;
    let lives = 0;
    const unexpected: unknown[] = [];
    const onError = (error: Error): void => {
      if (!(error instanceof Crash) && !(error instanceof CodedError)) unexpected.push(error);
    };
    for (;;) {
      const [left] = await database.query<{ n: number }>(sql`select count(*) as n from outbox where settled_at is null`);
      if (left?.n === 0) break;
      assert.ok(Date.now() < deadline, `seed ${seed}: ${left?.n} rows left after ${lives} lives`);
      lives++;
      // Later lives are longer, so that the end is reached.
      const { life, point } = createLife(random, lives < 60 ? 0.08 : 0.002);
      if (random() < 0.2) queue.jobs.clear();
      const mortal = { ...mortalDatabase(database, point), listen: async () => ({ close: async () => {} }) };
      const connected = queue.connect(point, life);
      const parts = await Promise.all([
        createRelay({
          database: mortal,
          queue: connected,
          batchSize: 7,
          window: 6,
          scanMs: 5,
          checkMs: 30,
          retryMs: 10,
          maxRetryMs: 40,
          onError,
        }),
        createLedgerWriter({
          database: mortal,
          queue: connected,
          ledger: {
            endorse: (t) => point(() => ledger.endorse(t)),
            submit: (b) => point(() => ledger.submit(b)),
            status: (t) => point(() => ledger.status(t)),
          },
          unknownWaitMs: 1,
          onError,
        }),
      ]);
      const restAt = Date.now() + 400;
      while (!life.dead && Date.now() < restAt) await new Promise((done) => setTimeout(done, 2));
      life.dead = true;
      await Promise.all(parts.map((part) => part.close()));
      while (life.pending > 0) await new Promise((done) => setTimeout(done, 1));
      queue.reap();
    }

    const rows = await database.query<{ id: string; state: string; tx_id: string; transaction: string; args: string[] }>(
      sql`select id, state, tx_id, transaction, args from outbox`,
    );
    assert.equal(rows.length, ids.length);
    const times = new Map<string, number>();
    const order: string[] = [];
    for (const { transaction } of ledger.committed.values()) {
      const items =
        transaction.name === 'recordDocuments'
          ? (JSON.parse(transaction.args[0] ?? '') as { entries: { document: string }[] }).entries.map((entry) => entry.document)
          : [...transaction.args];
      for (const item of items) times.set(item, (times.get(item) ?? 0) + 1);
      if (transaction.name === 'grantPermission') order.push(...transaction.args);
    }
    for (const row of rows) {
      assert.equal(row.state, 'committed', `seed ${seed}: ${row.id}`);
      assert.ok(ledger.committed.has(row.tx_id), `seed ${seed}: a receipt of a transaction that counts`);
      const item =
        row.transaction === 'recordDocuments'
          ? ((JSON.parse(row.args[0] ?? '') as { entries: { document: string }[] }).entries[0]?.document ?? '')
          : (row.args[0] ?? '');
      assert.equal(times.get(item), 1, `seed ${seed}: ${item} stands ${times.get(item) ?? 0} times on the ledger`);
    }
    assert.equal(times.size, ids.length);
    for (let triple = 0; triple < 3; triple++) {
      const mine = order.filter((grant) => Number(grant.slice(6)) % 3 === triple).map((grant) => Number(grant.slice(6)));
      assert.deepEqual(
        mine,
        [...mine].sort((a, b) => a - b),
        `seed ${seed}: order of triple ${triple}`,
      );
    }
    assert.deepEqual(unexpected, [], `seed ${seed}`);
    assert.ok(lives > 5, `only ${lives} lives: the simulation did not crash`);
    await outbox.close();
    await close();
  });
}
