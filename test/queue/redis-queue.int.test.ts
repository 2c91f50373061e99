import assert from 'node:assert/strict';
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { Redis } from 'ioredis';
import { codeOf } from '../../src/errors.ts';
import { createRedisQueue } from '../../src/queue/redis.ts';
import { conformance, until } from './conformance.ts';

const present = spawnSync('redis-server', ['--version']).status === 0;

if (!present) {
  test('Redis queue', {
    skip: 'SKIPPED: no redis-server on PATH; the Redis queue is NOT tested. REQUIRE_REDIS=1 makes this fail.',
  }, () => {});
  test('redis-server is present where it is required', () => assert.notEqual(process.env['REQUIRE_REDIS'], '1', 'no redis-server on PATH'));
} else {
  const folder = await mkdtemp(join(tmpdir(), 'oncobridge-redis-'));
  const socket = join(folder, 'redis.sock');
  let server = await startRedis(socket, folder);
  const admin = new Redis(socket);
  admin.on('error', () => {});
  after(async () => {
    admin.disconnect();
    server.kill('SIGKILL');
    await rm(folder, { recursive: true, force: true });
  });

  conformance('Redis', async () => {
    const prefix = `p${randomBytes(4).toString('hex')}`;
    return {
      create: (extra) => createRedisQueue({ url: socket, prefix, ...extra }),
      async destroyAll() {
        await admin.flushall();
      },
      async dump() {
        const keys = await admin.keys(`${prefix}*`);
        const texts = await Promise.all(
          keys.map(async (key) =>
            (await admin.type(key)) === 'hash' ? JSON.stringify(await admin.hgetall(key)) : JSON.stringify(await admin.dump(key)),
          ),
        );
        return texts.join('\n');
      },
    };
  });

  test('Redis: killed and started again, workers go on and nothing acknowledged is lost', async () => {
    const queue = await createRedisQueue({ url: socket, prefix: 'killed', stuckAfterMs: 2000 });
    const seen = new Set<string>();
    await queue.process(
      async ({ id }) => {
        seen.add(id);
      },
      { concurrency: 4 },
    );
    const acknowledged: string[] = [];
    for (let i = 0; i < 60; i++) {
      if (i === 30) {
        server.kill('SIGKILL');
        await new Promise((done) => server.once('exit', done));
        server = await startRedis(socket, folder);
      }
      const id = `batch-k${i}`;
      await queue.add([{ id, data: {} }]).then(
        () => acknowledged.push(id),
        (error: unknown) => assert.equal(codeOf(error), 'QUEUE_UNAVAILABLE'),
      );
    }
    await until('added again', () =>
      queue.add([{ id: 'batch-last', data: {} }]).then(
        () => true,
        () => false,
      ),
    );
    await until('all acknowledged ran', () => acknowledged.every((id) => seen.has(id)) && seen.has('batch-last'), 12_000);
    assert.ok(acknowledged.length >= 30);
    await queue.close();
  });

  test('Redis that evicts is refused', async () => {
    await admin.config('SET', 'maxmemory-policy', 'allkeys-lru');
    await assert.rejects(createRedisQueue({ url: socket }), (error) => codeOf(error) === 'QUEUE_EVICTS');
    await admin.config('SET', 'maxmemory-policy', 'noeviction');
    await assert.rejects(
      createRedisQueue({ url: join(folder, 'nobody.sock'), connectTimeoutMs: 200 }),
      (error) => codeOf(error) === 'QUEUE_UNAVAILABLE',
    );
  });
}

async function startRedis(socket: string, folder: string): Promise<ChildProcess> {
  const child = spawn(
    'redis-server',
    ['--port', '0', '--unixsocket', socket, '--dir', folder, '--save', '', '--appendonly', 'yes', '--appendfsync', 'always'],
    {
      stdio: 'ignore',
    },
  );
  const probe = new Redis(socket, { retryStrategy: () => 20 });
  probe.on('error', () => {});
  await until('redis answers', () =>
    probe.ping().then(
      () => true,
      () => false,
    ),
  );
  probe.disconnect();
  return child;
}
