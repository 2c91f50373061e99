import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { createGatheredReads, type GatheredReads } from '../../src/store/gathered-reads.ts';
import { sql } from '../../src/store/sql.ts';
import { withTestDatabase } from './test-database.ts';

const SEED = Number(process.env['SEED'] ?? 20261124);

async function reads(t: {
  after(end: () => Promise<void>): void;
}): Promise<{ on: GatheredReads } & Awaited<ReturnType<typeof withTestDatabase>>> {
  const found = await withTestDatabase();
  const on = createGatheredReads({ url: found.url });
  t.after(() => on.close());
  return { ...found, on };
}

test('questions at the same time are few statements, and each is answered by its own values', async (t) => {
  const { on } = await reads(t);
  const at = new Date('2026-03-01T12:00:00.123Z');
  const ask = (n: number): Promise<{ n: number; text: string; at: Date; big: number; begun: string; made: number }[]> =>
    on.query(sql`select ${n} as n, ${`no ${n}`} as text, ${at} as at, 5000000000::bigint as big, pg_backend_pid() || ' ' || now() as begun, s.made
      from generate_series(1, ${n % 4}) as s(made)`);
  const answers = await Promise.all(Array.from({ length: 100 }, (_, n) => ask(n)));
  for (const [n, rows] of answers.entries()) {
    assert.deepEqual(
      rows.map(({ begun: _begun, ...row }) => row).sort((a, b) => a.made - b.made),
      Array.from({ length: n % 4 }, (_, i) => ({ n, text: `no ${n}`, at, big: 5_000_000_000, made: i + 1 })),
    );
  }
  const statements = new Set(answers.flat().map((row) => row.begun));
  assert.ok(statements.size <= 4, `${statements.size} statements`);
  assert.equal((await ask(3)).length, 3);
});

test('any text comes back as it was asked, together and alone', async (t) => {
  const { on } = await reads(t);
  const text = fc.oneof(
    fc.string({ unit: 'grapheme' }).map((s) => s.replaceAll('\0', '')),
    fc.constantFrom('', 'NULL', '{}', '{"a","b"}', '\\', '"', "'", ',', ' ', '$1', 'asked.v1'),
  );
  await fc.assert(
    fc.asyncProperty(fc.array(text, { minLength: 1, maxLength: 20 }), async (texts) => {
      const rows = await Promise.all(texts.map((one) => on.query<{ one: string }>(sql`select ${one}::text as one`)));
      assert.deepEqual(
        rows.map(([row]) => row?.one),
        texts,
      );
    }),
    { numRuns: 60, seed: SEED },
  );
});

test('values that no list can be made of go alone', async (t) => {
  const { on } = await reads(t);
  const ask = (value: unknown): Promise<{ found: unknown }[]> => on.query(sql`select to_jsonb(${value}::text) as found`);
  const values = ['a', null, 'b', undefined, 'c'];
  assert.deepEqual(
    (await Promise.all(values.map(ask))).map(([row]) => row?.found),
    ['a', null, 'b', null, 'c'],
  );
  assert.deepEqual(await on.query(sql`select cardinality(${['x', 'y']}::text[]) as n`), [{ n: 2 }]);
  assert.deepEqual(await Promise.all([1, 2.5, 2 ** 40].map((n) => on.query(sql`select ${n}::float8 as n`))), [
    [{ n: 1 }],
    [{ n: 2.5 }],
    [{ n: 2 ** 40 }],
  ]);
  assert.deepEqual(await on.query(sql`select 1 as n`), [{ n: 1 }]);
});

test('the error of one is not the error of those beside it', async (t) => {
  const { on } = await reads(t);
  const settled = await Promise.allSettled(Array.from({ length: 20 }, (_, n) => on.query(sql`select 60 / (${n}::int - 7) as n`)));
  for (const [n, one] of settled.entries()) {
    if (n === 7) assert.equal(one.status === 'rejected' && (one.reason as { code: string }).code, '22012');
    else assert.deepEqual(one.status === 'fulfilled' && one.value, [{ n: Math.trunc(60 / (n - 7)) }]);
  }
  const texts = await Promise.allSettled(['a', 'b\0', 'c'].map((text) => on.query(sql`select ${text}::text as one`)));
  assert.deepEqual(
    texts.map((one) => one.status),
    ['fulfilled', 'rejected', 'fulfilled'],
  );
});

test('what was committed before one asks is seen, whoever is being answered meanwhile', async (t) => {
  const { on, database } = await reads(t);
  await database.query(sql`create table counted (id text primary key, n integer not null)`);
  await database.query(sql`insert into counted values ('a', 0)`);
  const seen = async (): Promise<number> => (await on.query<{ n: number }>(sql`select n from counted where id = ${'a'}`))[0]?.n ?? -1;
  let done = false;
  const others = Promise.all(
    Array.from({ length: 10 }, async () => {
      while (!done) await seen();
    }),
  );
  for (let n = 1; n <= 100; n += 1) {
    await database.query(sql`update counted set n = ${n}`);
    assert.equal(await seen(), n);
  }
  done = true;
  await others;
});

test('a lost connection fails nobody for good', async (t) => {
  const { on, database } = await reads(t);
  const ask = (n: number): Promise<{ n: number }[]> => on.query(sql`select ${n} as n`);
  await Promise.all([1, 2, 3].map(ask));
  const cut = await database.query(
    sql`select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'oncobridge-reads' and datname = current_database()`,
  );
  assert.ok(cut.length > 0);
  for (let tries = 0; tries < 20; tries += 1) {
    const answered = await Promise.allSettled([4, 5].map(ask));
    if (answered.every((one) => one.status === 'fulfilled')) return;
  }
  assert.fail('never answered again');
});
