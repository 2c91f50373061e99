import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { test } from 'node:test';
import { createPostgresQueue } from '../../src/queue/postgres.ts';
import { raw } from '../../src/store/sql.ts';
import { withTestDatabase } from '../store/test-database.ts';
import { conformance, until } from './conformance.ts';

const { url, database } = await withTestDatabase({ empty: true });

conformance('PostgreSQL', async () => {
  const schema = `q_${randomBytes(4).toString('hex')}`;
  return {
    create: (extra) => createPostgresQueue({ url, schema, ...extra }),
    async destroyAll() {
      // A deadlock with the work under way is the dropper's to try again.
      await until('dropped', () =>
        database.query(raw(`drop schema if exists ${schema} cascade`)).then(
          () => true,
          () => false,
        ),
      );
    },
    async dump() {
      const rows = await database.query<{ text: string }>(raw(`select j::text as text from ${schema}.job j`));
      return rows.map((row) => row.text).join('\n');
    },
  };
});

test('PostgreSQL: a worker survives the loss of all its connections, and its errors stay few', async () => {
  let errors = 0;
  const queue = await createPostgresQueue({ url, schema: 'q_lost', stuckAfterMs: 1000, onError: () => errors++ });
  const seen = new Set<string>();
  await queue.process(
    async ({ id }) => {
      seen.add(id);
    },
    { concurrency: 2 },
  );
  for (let round = 0; round < 3; round++) {
    await database.query(
      raw(
        "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() and application_name <> 'oncobridge'",
      ),
    );
    await until('added', () =>
      queue.add([{ id: `batch-r${round}`, data: {} }]).then(
        () => true,
        () => false,
      ),
    );
    await until(`round ${round}`, () => seen.has(`batch-r${round}`), 8000);
  }
  assert.ok(errors < 200, `${errors} errors: a loop that asks at once again`);
  await queue.close();
});
