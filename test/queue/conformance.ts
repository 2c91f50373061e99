import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { CodedError } from '../../src/errors.ts';
import type { Job, JobQueue } from '../../src/queue/queue.ts';

export interface QueueUnderTest {
  create(extra?: { attempts?: number; backoffMs?: number; stuckAfterMs?: number }): Promise<JobQueue>;
  /** Removes everything that the queue keeps, behind its back. */
  destroyAll(): Promise<void>;
  /** All text that the queue keeps, to look for what must not be there. */
  dump(): Promise<string>;
}

export async function until(what: string, check: () => boolean | Promise<boolean>, timeoutMs = 10_000): Promise<void> {
  const deadline = Date.now() + timeoutMs;
  while (!(await check())) {
    if (Date.now() > deadline) assert.fail(`not within ${timeoutMs} ms: ${what}`);
    await new Promise((done) => setTimeout(done, 10));
  }
}

const job = (id: string, priority?: number): Job => ({ id, data: { batch: id }, ...(priority === undefined ? {} : { priority }) });

/** Closed also where the test fails: an open queue would keep the run from ending. */
async function open(t: TestContext, under: QueueUnderTest, extra?: Parameters<QueueUnderTest['create']>[0]): Promise<JobQueue> {
  const queue = await under.create(extra);
  t.after(() => queue.close());
  return queue;
}

/** What both queues must do alike. `start` is called once a test; each queue has a name of its own. */
export function conformance(name: string, start: () => Promise<QueueUnderTest>): void {
  test(`${name}: jobs run once, with their data, and are known afterwards`, async (t) => {
    const queue = await open(t, await start());
    const seen: Job[] = [];
    const worker = await queue.process(
      async (one) => {
        seen.push(one);
      },
      { concurrency: 4 },
    );
    await queue.add([]);
    await queue.add(Array.from({ length: 40 }, (_, i) => job(`batch-a${i}`)));
    await until('40 jobs ran', () => seen.length >= 40);
    await queue.add([job('batch-a0'), job('batch-fresh')]);
    await until('the new one ran', () => seen.some((one) => one.id === 'batch-fresh'));
    await until('state settled', async () => (await queue.state('batch-fresh')) === 'completed');
    assert.equal(seen.filter((one) => one.id === 'batch-a0').length, 1, 'a known id is ignored');
    assert.deepEqual(seen.find((one) => one.id === 'batch-a7')?.data, { batch: 'batch-a7' });
    assert.equal(await queue.state('batch-never'), 'unknown');
    assert.deepEqual(await queue.depth(), { waiting: 0, active: 0, delayed: 0, failed: 0 });
    await queue.clean(0);
    assert.equal(await queue.state('batch-fresh'), 'unknown');
    await worker.close(1000);
  });

  test(`${name}: lower numbers run before higher ones`, async (t) => {
    const queue = await open(t, await start());
    await queue.add([job('batch-back', 2), job('batch-live', 1)]);
    await queue.add([job('batch-urgent')]);
    assert.equal((await queue.depth()).waiting, 3);
    const order: string[] = [];
    await queue.process(
      async ({ id }) => {
        order.push(id);
      },
      { concurrency: 1 },
    );
    await until('all ran', () => order.length === 3);
    assert.deepEqual(order, ['batch-urgent', 'batch-live', 'batch-back']);
  });

  test(`${name}: attempts with backoff, then failed; only retry revives it; no error text is kept`, async (t) => {
    const under = await start();
    const queue = await open(t, under, { attempts: 3, backoffMs: 20 });
    let runs = 0;
    let finalRuns = 0;
    let healthy = false;
    await queue.process(
      async ({ id }) => {
        if (id === 'batch-final') {
          finalRuns++;
          throw new CodedError('UNPROCESSABLE', { diagnostics: 'Canary Smith' });
        }
        runs++;
        if (!healthy) throw new Error('no route to Canary Smith');
      },
      { concurrency: 2 },
    );
    await queue.add([job('batch-bad'), job('batch-final')]);
    await until('failed', async () => (await queue.state('batch-bad')) === 'failed');
    await until('final failed', async () => (await queue.state('batch-final')) === 'failed');
    assert.equal(runs, 3);
    assert.equal(finalRuns, 1, 'a final error is not attempted again');
    assert.doesNotMatch(await under.dump(), /Canary/);
    await queue.add([job('batch-bad')]);
    await new Promise((done) => setTimeout(done, 100));
    assert.equal(await queue.state('batch-bad'), 'failed', 'adding again never heals');
    healthy = true;
    await queue.retry('batch-bad');
    await until('completed', async () => (await queue.state('batch-bad')) === 'completed');
    await queue.retry('batch-never');
    assert.equal(runs, 4);
    await queue.retry('batch-bad');
    await until('a completed one ran again', () => runs === 5);
  });

  test(`${name}: everything may be deleted at any moment; the queue goes on without a restart`, async (t) => {
    const under = await start();
    const queue = await open(t, under);
    const seen = new Set<string>();
    let release: () => void = () => {};
    const gate = new Promise<void>((done) => {
      release = done;
    });
    await queue.process(
      async ({ id }) => {
        if (id === 'batch-held') await gate;
        seen.add(id);
      },
      { concurrency: 2 },
    );
    await queue.add([job('batch-one')]);
    await until('first', () => seen.has('batch-one'));
    // While idle, and while a job is active.
    await under.destroyAll();
    assert.equal(await queue.state('batch-one'), 'unknown');
    await queue.add([job('batch-two')]);
    await until('after the first deletion', () => seen.has('batch-two'));
    await queue.add([job('batch-held')]);
    await until('active', async () => (await queue.state('batch-held')) === 'active');
    await under.destroyAll();
    release();
    await queue.add([job('batch-three')]);
    await until('after the second deletion', () => seen.has('batch-three'));
  });

  test(`${name}: close waits for a running job, but not for ever`, async (t) => {
    const queue = await open(t, await start());
    let finished = false;
    const worker = await queue.process(
      async () => {
        await new Promise((done) => setTimeout(done, 150));
        finished = true;
      },
      { concurrency: 1 },
    );
    await queue.add([job('batch-slow')]);
    await until('active', async () => (await queue.state('batch-slow')) === 'active');
    await worker.close(2000);
    assert.equal(finished, true);
    let let_go: () => void = () => {};
    const stuck = await queue.process(
      () =>
        new Promise<void>((done) => {
          let_go = done;
        }),
      { concurrency: 1 },
    );
    await queue.add([job('batch-stuck')]);
    await until('active', async () => (await queue.state('batch-stuck')) === 'active');
    const before = Date.now();
    await stuck.close(200);
    assert.ok(Date.now() - before < 4000, 'the deadline holds');
    let_go();
  });
}
