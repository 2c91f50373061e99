import assert from 'node:assert/strict';
import { execFile, spawn, spawnSync } from 'node:child_process';
import { appendFileSync, cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { Redis } from 'ioredis';
import { createSimulator } from '../../simulator/simulator.ts';
import { newId } from '../../src/ids.ts';
import { onEmbeddedLedger } from '../config/production-sample.ts';
import { simulatorEnvironment } from '../simulator/environment.ts';
import { withTestDatabase } from '../store/test-database.ts';

const root = fileURLToPath(new URL('../../', import.meta.url));
const present = spawnSync('redis-server', ['--version']).status === 0;

test('redis-server is present where it is required', () => {
  assert.ok(present || process.env['REQUIRE_REDIS'] !== '1', 'no redis-server on PATH');
});

test(
  'config/production.yaml on the embedded ledger: PostgreSQL by URL and Redis carry the whole pull, and a Redis that evicts is refused',
  present ? {} : { skip: 'SKIPPED: no redis-server on PATH; the production configuration is NOT tested. REQUIRE_REDIS=1 makes this fail.' },
  async () => {
    const folder = mkdtempSync(join(tmpdir(), 'oncobridge-production-'));
    const socket = join(folder, 'redis.sock');
    const redis = spawn('redis-server', ['--port', '0', '--unixsocket', socket, '--dir', folder, '--save', '', '--appendonly', 'yes'], {
      stdio: 'ignore',
    });
    const admin = new Redis(socket, { retryStrategy: () => 20 });
    admin.on('error', () => {});
    const simulator = await createSimulator();
    try {
      const { url } = await withTestDatabase({ empty: true });
      cpSync(join(root, 'config'), join(folder, 'config'), { recursive: true });
      for (const name of readdirSync(join(folder, 'config/sources')))
        appendFileSync(join(folder, 'config/sources', name), '\nlimits: { requestsPerSecond: 10000 }\n');
      const config = join(folder, 'config/production.yaml');
      writeFileSync(config, onEmbeddedLedger(readFileSync(config, 'utf8')));
      const env = {
        ...process.env,
        ONCOBRIDGE_INSTITUTION_ID: newId('inst'),
        ONCOBRIDGE_DATA: join(folder, 'data'),
        ONCOBRIDGE_INSTITUTION: 'Hospital of the test',
        ONCOBRIDGE_URL: 'https://fhir.example.org',
        CUSTODIAN_PASSPHRASE: 'a passphrase that nobody guesses 84512',
        DATABASE_URL: url,
        REDIS_URL: `unix://${socket}`,
        ...simulatorEnvironment(simulator),
      };
      const cli = (...args: string[]): Promise<{ code: number; out: string; err: string }> =>
        new Promise((resolve) => {
          execFile(join(root, 'bin/oncobridge'), ['--config', config, ...args], { env, maxBuffer: 1 << 24 }, (error, out, err) =>
            resolve({ code: error === null ? 0 : Number(error.code), out, err }),
          );
        });
      await admin.ping();

      await admin.config('SET', 'maxmemory-policy', 'allkeys-lru');
      const evicting = await cli('status');
      assert.deepEqual([evicting.code, /^QUEUE_EVICTS/m.test(evicting.err)], [1, true], evicting.err);
      await admin.config('SET', 'maxmemory-policy', 'noeviction');

      const pulled = await cli('pull', '--json');
      assert.equal(pulled.code, 0, pulled.err);
      assert.ok((JSON.parse(pulled.out) as { filed: number }).filed > 20);
      // Deleted whole: the outbox makes the queue again, and nothing is left on its way.
      await admin.flushall();
      let report: { differences: unknown[]; underway: number; entries: number };
      const until = Date.now() + 30_000;
      do report = JSON.parse((await cli('reconcile', '--json')).out) as typeof report;
      while (report.underway > 0 && Date.now() < until);
      assert.deepEqual([report.differences, report.underway], [[], 0]);
      assert.ok(report.entries > 20);
      assert.equal((await cli('ledger', 'verify')).code, 0);
    } finally {
      await simulator.close();
      admin.disconnect();
      redis.kill('SIGKILL');
      rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
    }
  },
);
