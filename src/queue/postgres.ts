import { createPostgresBackend, type PostgresQueueBackend, Queue, runMigrations, Worker } from 'bullmq';
import { Client } from 'pg';
import { CodedError } from '../errors.ts';
import { type BullQueueOptions, bullOptions, createBullQueue, WORKER_SETTINGS } from './bullmq-queue.ts';
import type { JobQueue } from './queue.ts';

export interface PostgresQueueOptions extends Partial<BullQueueOptions> {
  url: string;
  /** Queue name and schema of the queue's own tables; defaults `ledger`, `bullmq`. */
  name?: string;
  schema?: string;
}

/** SQLSTATE of a schema, table, function or type that is gone. */
const GONE = new Set(['3F000', '42P01', '42883', '42704']);

/**
 * The queue on PostgreSQL, in a schema of its own that is made here and made again whenever it is dropped: the queue is
 * transport, its whole content may be deleted at any time. For one process: with several, bullmq#4814 is not known to be
 * closed. Throws QUEUE_UNAVAILABLE.
 */
export async function createPostgresQueue(options: PostgresQueueOptions): Promise<JobQueue> {
  const settings = bullOptions(options);
  const { onError } = settings;
  const name = options.name ?? 'ledger';
  const schema = options.schema ?? 'bullmq';
  // BullMQ owns its pools; `schema` is read only from this form.
  const connection = { connectionString: options.url, schema, max: 4, application_name: 'oncobridge-queue' };

  let migrating: Promise<void> | undefined;
  /** One at a time, however many callers found the schema gone. */
  function makeSchema(): Promise<void> {
    migrating ??= (async () => {
      const client = new Client({ connectionString: options.url, application_name: 'oncobridge-queue-schema' });
      client.on('error', onError);
      await client.connect();
      try {
        await runMigrations(client, schema);
      } finally {
        await client.end();
      }
    })().finally(() => {
      migrating = undefined;
    });
    return migrating;
  }
  async function heal(error: unknown): Promise<boolean> {
    if (!GONE.has((error as { code?: string } | undefined)?.code ?? '')) return false;
    await makeSchema();
    return true;
  }

  await makeSchema().catch((cause: unknown) => {
    throw new CodedError('QUEUE_UNAVAILABLE', { cause });
  });
  const queue = new Queue(name, { connection }, createPostgresBackend);
  queue.on('error', onError);
  // So that `name` in the metadata is written once the schema is known to be there; errors reach the handler above.
  await queue.waitUntilReady().catch(onError);

  const backendFactory: typeof createPostgresBackend = (queueName, opts, extra) =>
    restrained(createPostgresBackend(queueName, opts, extra), heal);

  return createBullQueue(
    {
      queue,
      async startWorker(processor, concurrency) {
        const worker = new Worker(
          name,
          processor,
          { connection: { ...connection, max: Math.min(4, concurrency + 2) }, concurrency, ...WORKER_SETTINGS },
          backendFactory,
        );
        worker.on('error', onError);
        await worker.waitUntilReady().catch(onError);
        return { worker, dispose: async () => {} };
      },
      heal,
      close: async () => {},
    },
    settings,
  );
}

/**
 * BullMQ pauses only after a refused TCP connection; after any other error (a stopping server, a socket that is gone, a
 * dropped schema) its loop asks again at once, thousands of times a second. Here each failure rebuilds what is gone and
 * waits a little, longer each time.
 */
function restrained(backend: PostgresQueueBackend, heal: (error: unknown) => Promise<boolean>): PostgresQueueBackend {
  let failures = 0;
  const guard = <Args extends unknown[], Result>(work: (...args: Args) => Promise<Result>): ((...args: Args) => Promise<Result>) => {
    return async (...args) => {
      try {
        const result = await work(...args);
        failures = 0;
        return result;
      } catch (error) {
        failures = Math.min(failures + 1, 7);
        if (!(await heal(error).catch(() => false))) await new Promise((done) => setTimeout(done, 10 * 2 ** failures));
        throw error;
      }
    };
  };
  backend.moveToActive = guard(backend.moveToActive.bind(backend));
  backend.waitForJob = guard(backend.waitForJob.bind(backend));
  return backend;
}
