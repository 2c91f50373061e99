import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { test } from 'node:test';
import fc from 'fast-check';
import pg from 'pg';
import { misfiledScope } from '../../src/consent/misfiled-scope.ts';
import { readableScope, type ScopeQuestion } from '../../src/consent/readable-scope.ts';
import { decide } from '../../src/ledger/contract/decision.ts';
import { RIGHTS } from '../../src/ledger/contract/shapes.ts';
import type { Sql } from '../../src/store/database.ts';
import { createGatheredReads } from '../../src/store/gathered-reads.ts';
import { compile, sql } from '../../src/store/sql.ts';
import { withTestDatabase } from '../store/test-database.ts';
import {
  type Asked,
  actors,
  asked,
  at,
  CATEGORIES,
  decisionState,
  expectedScope,
  INST,
  OTHER,
  pat,
  questionOf,
  worlds,
  writeWorld,
} from './scope-world.ts';

const SEED = Number(process.env['SEED'] ?? 20261123);

/** Rows of the scope merged per patient and category, in the form of `expectedScope`. */
async function scopeOf(
  client: pg.Client,
  q: ScopeQuestion,
  mutate: (text: string) => string = (text) => text,
): Promise<Map<string, string>> {
  const { text, values } = compile(readableScope(q));
  const statement = `select inst, pat, category, lower(r) as data_start, upper(r) - interval '1 millisecond' as data_end from (
       select inst, pat, category, unnest(range_agg(tstzrange(data_start, data_end + interval '1 millisecond'))) as r from (${mutate(text)}) s group by inst, pat, category) u
     order by inst, pat, category, r`;
  const { rows } = await client.query<{ inst: string; pat: string; category: string; data_start: Date | null; data_end: Date | null }>({
    name: createHash('md5').update(statement).digest('hex'),
    text: statement,
    values,
  });
  const found = new Map<string, string>();
  for (const row of rows) {
    const key = `${row.inst}/${row.pat}/${row.category}`;
    const period = `${row.data_start?.toISOString() ?? null}..${row.data_end?.toISOString() ?? null}`;
    found.set(key, found.has(key) ? `${found.get(key)} ${period}` : period);
  }
  return found;
}
const sorted = (map: Map<string, string>): [string, string][] => [...map].sort(([a], [b]) => (a < b ? -1 : 1));

async function connect(url: string): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  // Planning takes longer than running here.
  await client.query('set plan_cache_mode = force_generic_plan');
  return client;
}

test('the scope holds what the decision permits, for random state, caller and moment', async (t) => {
  const { database, url } = await withTestDatabase();
  const client = await connect(url);
  t.after(() => client.end());
  let permitted = 0;
  await fc.assert(
    fc.asyncProperty(worlds(1, 15), fc.array(asked, { minLength: 8, maxLength: 8 }), async (world, questions) => {
      await writeWorld(database, world);
      const state = decisionState(world);
      for (const q of questions) {
        const expected = expectedScope(world, state, q);
        permitted += expected.size;
        assert.deepEqual(sorted(await scopeOf(client, q)), sorted(expected));
      }
    }),
    { numRuns: 40, seed: SEED },
  );
  assert.ok(permitted > 500, `only ${permitted} permits in all: the states are too dull to show anything`);
});

/**
 * Every conjunct of the SQL text: what follows `where`, `and`, `when`, up to the next of them at the same depth.
 */
function conjuncts(text: string): { from: number; to: number }[] {
  const found: { from: number; to: number }[] = [];
  const open: (number | undefined)[] = [undefined];
  const close = (to: number): void => {
    const from = open.at(-1);
    if (from !== undefined) found.push({ from, to });
    open[open.length - 1] = undefined;
  };
  const token = /'[^']*'|\(|\)|\b(where|and|or|when|then|group by|union all|order by|else|end)\b/g;
  for (let m = token.exec(text); m !== null; m = token.exec(text)) {
    const [word] = m;
    if (word === '(') open.push(undefined);
    else if (word === ')') {
      close(m.index);
      open.pop();
    } else if (!word.startsWith("'")) {
      close(m.index);
      if (word === 'where' || word === 'and' || word === 'or' || word === 'when') open[open.length - 1] = m.index + word.length;
    }
  }
  close(text.length);
  return found;
}

/** Conjuncts that only save work: each repeats what holds anyway. */
const WITHOUT_EFFECT = [
  // What is denied is cut from it at once.
  /^c\.effect = 'permit'$/,
  // Patients with no permission for the actor have no periods either; this leads the planner to the others.
  /^\(?(exists \(select 1 from projection\.permission )?h?\b.*\bh\.(inst|pat|grantee) = /,
  // Every version of a key names its category once more.
  /^k\.version = 1$/,
];

test('without any one of its conjuncts the scope is another', async (t) => {
  const { database, url } = await withTestDatabase();
  const client = await connect(url);
  t.after(() => client.end());
  const survivors = new Map<string, string>();
  const killed = new Set<string>();
  // Worlds until all are told apart, and no more than ten.
  for (const world of fc.sample(worlds(60, 60), { numRuns: 10, seed: SEED })) {
    if (killed.size > 0 && survivors.size === 0) break;
    await writeWorld(database, world);
    const state = decisionState(world);
    const everybody: Asked[] = actors.map((actor) => ({ actor, purpose: 'BTG', right: 'read', now: at(3) }));
    for (const q of [...fc.sample(asked, { numRuns: 12, seed: SEED + killed.size }), ...everybody]) {
      const expected = JSON.stringify(sorted(expectedScope(world, state, q)));
      const { text } = compile(readableScope(q));
      for (const { from, to } of conjuncts(text)) {
        const name = text.slice(from, to).replaceAll(/\s+/g, ' ').replaceAll(/\$\d+/g, '$').trim();
        if (killed.has(name) || WITHOUT_EFFECT.some((pattern) => pattern.test(name))) continue;
        // The parameters inside stay where they are, so that the statement still has all of them.
        const mutant = await scopeOf(
          client,
          q,
          (whole) => `${whole.slice(0, from)} (true or (${whole.slice(from, to)})) ${whole.slice(to)}`,
        ).catch((error: Error & { code?: string }) => {
          // A parent that is looked for without its whole name is more than one.
          assert.equal(error.code, '21000', error.message);
          return new Map([['more than one', '']]);
        });
        if (JSON.stringify(sorted(mutant)) !== expected) killed.add(name);
        else survivors.set(name, text.slice(Math.max(0, from - 60), to));
      }
      for (const name of killed) survivors.delete(name);
    }
  }
  assert.deepEqual([...survivors], []);
  assert.ok(killed.size > 40, `only ${killed.size} conjuncts were found`);
});

test('what was filed to the wrong person opens to whom the decision names, and without any one of its conjuncts to others', async (t) => {
  const { database, url } = await withTestDatabase();
  const client = await connect(url);
  t.after(() => client.end());
  const producers = [INST, OTHER];
  const producersOf = async (q: Asked, mutate = (text: string): string => text): Promise<string[]> => {
    const scope = misfiledScope(q);
    if (scope === undefined) return [];
    const { text, values } = compile(scope);
    const { rows } = await client.query<{ producer: string }>(mutate(text), [...values]);
    return [...new Set(rows.map((row) => row.producer))].sort();
  };
  let permitted = 0;
  const survivors = new Set<string>();
  const killed = new Set<string>();
  for (const drawn of fc.sample(worlds(1, 2), { numRuns: 20, seed: SEED + 2 })) {
    // Every other one is an officer: roles are drawn too seldom for a question that only one of them may ask.
    const world = { ...drawn, members: drawn.members.map((m, i) => (i % 2 === 0 ? { ...m, role: 'privacy-officer' as const } : m)) };
    await writeWorld(database, world);
    const state = decisionState(world);
    const everybody = actors.flatMap((actor): Asked[] =>
      RIGHTS.flatMap((right) => [0, 3, 6].map((moment) => ({ actor, purpose: 'HOPERAT', right, now: at(moment) }))),
    );
    for (const q of everybody) {
      const expected = producers.filter((producer) => {
        const question = {
          ...questionOf(q, { inst: producer, pat: pat(0) }, 'laboratory'),
          document: { withdrawn: true, misfiled: { producer } },
        };
        return decide(state, question).decision === 'permit';
      });
      assert.deepEqual(await producersOf(q), expected);
      permitted += expected.length;
      const scope = misfiledScope(q);
      for (const { from, to } of scope === undefined ? [] : conjuncts(compile(scope).text)) {
        const name = compile(scope ?? sql``)
          .text.slice(from, to)
          .trim();
        const mutant = await producersOf(q, (whole) => `${whole.slice(0, from)} (true or (${whole.slice(from, to)})) ${whole.slice(to)}`);
        if (JSON.stringify(mutant) !== JSON.stringify(expected)) killed.add(name);
        else survivors.add(name);
      }
    }
  }
  for (const name of killed) survivors.delete(name);
  assert.deepEqual([...survivors], []);
  assert.ok(permitted > 20 && killed.size === 5, `${permitted} permits, ${killed.size} conjuncts`);
});

/** Of the rows of a scope, merged periods within merged periods: whether nothing is in `part` that is not in `whole`. */
function within(part: Map<string, string>, whole: Map<string, string>): boolean {
  const bounds = (text: string): [number, number][] =>
    text.split(' ').map((period) => {
      const [start = '', end = ''] = period.split('..');
      return [start === 'null' ? -Infinity : Date.parse(start), end === 'null' ? Infinity : Date.parse(end)];
    });
  return [...part].every(([key, text]) =>
    bounds(text).every(([start, end]) => bounds(whole.get(key) ?? 'null..null').some(([a, b]) => a <= start && end <= b) && whole.has(key)),
  );
}

const direct = (q: Asked): ScopeQuestion => ({ ...q, extent: 'direct' });

test('what is granted directly is within what the decision permits, and most of it; without any one of its conjuncts it is not', async (t) => {
  const { database, url } = await withTestDatabase();
  const client = await connect(url);
  t.after(() => client.end());
  let found = 0;
  let permitted = 0;
  const survivors = new Map<string, string>();
  const killed = new Set<string>();
  for (const [round, world] of fc.sample(worlds(60, 60), { numRuns: 12, seed: SEED + 1 }).entries()) {
    if (round > 2 && killed.size > 0 && survivors.size === 0) break;
    await writeWorld(database, world);
    const state = decisionState(world);
    const late: Asked[] = actors.map((actor) => ({ actor, purpose: 'TREAT', right: 'read', now: at(6) }));
    for (const q of [...fc.sample(asked, { numRuns: 12, seed: SEED + round }), ...late]) {
      const expected = expectedScope(world, state, q);
      const part = await scopeOf(client, direct(q));
      assert.ok(within(part, expected), `seed ${SEED}: more than is permitted`);
      found += part.size;
      permitted += expected.size;
      if (q.actor.kind === 'patient') continue;
      const { text } = compile(readableScope(direct(q)));
      for (const { from, to } of conjuncts(text)) {
        const name = text.slice(from, to).replaceAll(/\s+/g, ' ').replaceAll(/\$\d+/g, '$').trim();
        if (killed.has(name) || WITHOUT_EFFECT.some((pattern) => pattern.test(name))) continue;
        const mutant = await scopeOf(
          client,
          direct(q),
          (whole) => `${whole.slice(0, from)} (true or (${whole.slice(from, to)})) ${whole.slice(to)}`,
        );
        // A conjunct of what is cut out lets through less where it is missing, any other lets through what is not permitted.
        if (!within(mutant, expected) || !within(part, mutant)) killed.add(name);
        else survivors.set(name, text.slice(Math.max(0, from - 60), to));
      }
      for (const name of killed) survivors.delete(name);
    }
  }
  assert.ok(found > permitted / 4, `only ${found} of ${permitted} are granted directly`);
  assert.deepEqual([...survivors], []);
  assert.ok(killed.size > 20, `only ${killed.size} conjuncts were found`);
});

test('who asks together with others finds what they would find alone', async (t) => {
  const { database, url } = await withTestDatabase();
  const reads = createGatheredReads({ url });
  t.after(() => reads.close());
  const rowsOf = async (on: Sql, q: Asked): Promise<string[]> => {
    // As a read by id asks: the scope as a CTE, for one row.
    const of = (category: string): Promise<object[]> =>
      on.query(sql`with scope as not materialized (${readableScope(direct(q))}) select s.* from scope s where s.category = ${category}`);
    const found = await Promise.all(CATEGORIES.map(of));
    return found.map((rows) => JSON.stringify(rows.map((row) => JSON.stringify(row)).sort()));
  };
  let rows = 0;
  await fc.assert(
    fc.asyncProperty(worlds(5, 25), fc.array(asked, { minLength: 12, maxLength: 12 }), async (world, questions) => {
      await writeWorld(database, world);
      const together = await Promise.all(questions.map((q) => rowsOf(reads, q)));
      for (const [i, q] of questions.entries()) assert.deepEqual(together[i], await rowsOf(database, q));
      rows += together.flat().filter((found) => found !== '[]').length;
    }),
    { numRuns: 15, seed: SEED },
  );
  assert.ok(rows > 50, `only ${rows} found anything`);
});

test('what an emergency alone opens is what the decision permits for that reason, and nothing that a permission opens', async (t) => {
  const { database, url } = await withTestDatabase();
  const client = await connect(url);
  t.after(() => client.end());
  let opened = 0;
  for (const [round, world] of fc.sample(worlds(20, 40), { numRuns: 8, seed: SEED + 3 }).entries()) {
    await writeWorld(database, world);
    const state = decisionState(world);
    const emergencies = actors.flatMap((actor) =>
      ['BTG', 'TREAT'].flatMap((purpose) => [0, 3, 6].map((moment): Asked => ({ actor, purpose, right: 'read', now: at(moment) }))),
    );
    for (const q of [...fc.sample(asked, { numRuns: 12, seed: SEED + round }), ...emergencies]) {
      const because = (p: { inst: string; pat: string }) =>
        CATEGORIES.some((of) => {
          const { decision, reason } = decide(state, questionOf(q, p, of));
          return decision === 'permit' && reason === 'EMERGENCY';
        });
      const patients = new Set(world.patients.filter(because).map((p) => `${p.inst}/${p.pat}`));
      const expected = [...expectedScope(world, state, q)].filter(([key]) => patients.has(key.split('/').slice(0, 2).join('/')));
      const found = await scopeOf(client, { ...q, extent: 'emergency' });
      assert.deepEqual(sorted(found), sorted(new Map(expected)), `seed ${SEED}`);
      opened += found.size;
    }
  }
  assert.ok(opened > 50, `only ${opened} were opened`);
});
