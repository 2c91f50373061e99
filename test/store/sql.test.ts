import assert from 'node:assert/strict';
import { test } from 'node:test';
import { compile, join, raw, sql } from '../../src/store/sql.ts';

test('fragments compile to numbered parameters, whatever was compiled before', () => {
  const condition = (n: number) => sql`a = ${n}`;
  const query = (conditions: number[], order: string) =>
    sql`select * from t where ${join(conditions.map(condition), ' and ', 'true')} order by ${raw(order)} limit ${9}`;
  for (let round = 0; round < 3; round++) {
    assert.deepEqual(compile(query([1, 2], 'x')), {
      text: 'select * from t where a = $1 and a = $2 order by x limit $3',
      values: [1, 2, 9],
    });
    assert.deepEqual(compile(query([5], 'y')), { text: 'select * from t where a = $1 order by y limit $2', values: [5, 9] });
    assert.deepEqual(compile(query([], 'y')), { text: 'select * from t where true order by y limit $1', values: [9] });
  }
});

test('a fragment and a value in the same hole are two shapes; so are the same strings in another order', () => {
  const hole = (x: unknown) => sql`f(${x})`;
  assert.equal(compile(hole(1)).text, 'f($1)');
  assert.equal(compile(hole(sql`now()`)).text, 'f(now())');
  assert.equal(compile(hole(hole(2))).text, 'f(f($1))');
  assert.equal(compile(hole(1)).text, 'f($1)');
  const pair = (x: unknown, y: unknown) => sql`${x}, ${y}`;
  assert.equal(compile(pair(sql`a`, 1)).text, 'a, $1');
  assert.equal(compile(pair(1, sql`a`)).text, '$1, a');
  const shared = sql`g(${3})`;
  assert.deepEqual(compile(pair(shared, shared)), { text: 'g($1), g($2)', values: [3, 3] });
  assert.deepEqual(compile(pair(undefined, null)).values, [undefined, null]);
});

test('arrays of strings as values are values', () => {
  assert.deepEqual(compile(sql`x = any(${['a', 'b']})`), { text: 'x = any($1)', values: [['a', 'b']] });
});
