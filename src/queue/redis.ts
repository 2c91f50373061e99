import { Queue, Worker } from 'bullmq';
import { Redis } from 'ioredis';
import { CodedError } from '../errors.ts';
import { type BullQueueOptions, bullOptions, createBullQueue, WORKER_SETTINGS } from './bullmq-queue.ts';
import type { JobQueue } from './queue.ts';

export interface RedisQueueOptions extends Partial<BullQueueOptions> {
  /** `redis://` or `rediss://`; a Unix socket as `unix:///path` (or a bare path). */
  url: string;
  /** Queue name and key prefix; defaults `ledger`, `oncobridge`. */
  name?: string;
  prefix?: string;
  connectTimeoutMs?: number;
}

/**
 * The queue on Redis (or Valkey), for production. Throws QUEUE_UNAVAILABLE where it does not answer and QUEUE_EVICTS where
 * its policy may drop keys: BullMQ only warns, and a dropped key would be a lost job.
 */
export async function createRedisQueue(options: RedisQueueOptions): Promise<JobQueue> {
  const settings = bullOptions(options);
  const { onError } = settings;
  const name = options.name ?? 'ledger';
  const prefix = options.prefix ?? 'oncobridge';
  const url = options.url.startsWith('unix://') ? options.url.slice('unix://'.length) : options.url;
  const connect = (extra: { maxRetriesPerRequest: number | null; enableOfflineQueue?: boolean }): Redis => {
    const redis = new Redis(url, { ...extra, retryStrategy: (times: number) => Math.min(50 * 2 ** Math.min(times, 6), 2000) });
    redis.on('error', onError);
    return redis;
  };

  // A producer fails fast: the outbox keeps the row, so waiting inside the client would only hide the outage.
  const producer = connect({ maxRetriesPerRequest: 1, enableOfflineQueue: false });
  try {
    await ready(producer, options.connectTimeoutMs ?? 5000);
    const policy = await evictionPolicy(producer);
    if (policy !== undefined && policy !== 'noeviction') throw new CodedError('QUEUE_EVICTS', { diagnostics: `It is \`${policy}\`.` });
  } catch (error) {
    producer.disconnect();
    throw error;
  }
  const queue = new Queue(name, { connection: producer, prefix, skipVersionCheck: false });
  queue.on('error', onError);

  return createBullQueue(
    {
      queue,
      async startWorker(processor, concurrency) {
        const connection = connect({ maxRetriesPerRequest: null });
        const worker = new Worker(name, processor, { connection, prefix, concurrency, ...WORKER_SETTINGS });
        worker.on('error', onError);
        return {
          worker,
          async dispose() {
            connection.disconnect();
          },
        };
      },
      // Keys come into being with the next add; there is no schema to lose.
      heal: async () => false,
      async close() {
        producer.disconnect();
      },
    },
    settings,
  );
}

async function ready(redis: Redis, timeoutMs: number): Promise<void> {
  if (redis.status === 'ready') return;
  const outcome = Promise.withResolvers<void>();
  const timer = setTimeout(() => outcome.reject(new CodedError('QUEUE_UNAVAILABLE')), timeoutMs);
  redis.once('ready', outcome.resolve);
  try {
    await outcome.promise;
  } finally {
    clearTimeout(timer);
  }
}

/** From CONFIG, or from INFO where an ACL bars CONFIG; undefined where neither says it. */
async function evictionPolicy(redis: Redis): Promise<string | undefined> {
  const fromConfig = await redis.config('GET', 'maxmemory-policy').catch(() => undefined);
  if (Array.isArray(fromConfig) && typeof fromConfig[1] === 'string') return fromConfig[1];
  const info = await redis.info('memory').catch(() => '');
  return /^maxmemory_policy:(\S+)/m.exec(info)?.[1];
}
