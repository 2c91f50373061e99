import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { test } from 'node:test';
import { codeOf } from '../../src/errors.ts';
import { createDatabase } from '../../src/store/database.ts';
import { type Migration, migrate, readMigrations } from '../../src/store/migrate.ts';
import { raw } from '../../src/store/sql.ts';
import { withTestDatabase } from './test-database.ts';

const migration = (number: number, text: string): Migration => ({
  number,
  name: `${String(number).padStart(4, '0')}-made.sql`,
  text,
  checksum: createHash('sha256').update(text).digest('hex'),
});
const one = migration(1, 'create table one (n integer); insert into one values (1);');
const two = migration(2, 'create table two (n integer)');
const three = migration(3, 'alter table one add column m integer; insert into nowhere values (1)');

test('forward, each once, also with five starters at a time; gaps in the numbers are fine', async () => {
  const { url, database } = await withTestDatabase({ empty: true });
  const starters = Array.from({ length: 5 }, () => createDatabase({ url, maxConnections: 1 }));
  const applied = await Promise.all(starters.map((starter) => migrate(starter, [one, two, migration(9, 'create table nine (n integer)')])));
  assert.deepEqual(applied.flat().sort(), ['0001-made.sql', '0002-made.sql', '0009-made.sql']);
  assert.equal((await database.query(raw('select * from one'))).length, 1);
  await Promise.all(starters.map((starter) => starter.close()));
});

test('one that fails leaves nothing behind; those before it stay', async () => {
  const { database } = await withTestDatabase({ empty: true });
  await assert.rejects(migrate(database, [one, three]), /nowhere/);
  assert.deepEqual(await database.query(raw('select number from migration')), [{ number: 1 }]);
  assert.deepEqual(await database.query(raw('select * from one')), [{ n: 1 }]);
  assert.deepEqual(await migrate(database, [one, two]), ['0002-made.sql']);
});

test('an edited migration and a newer database are refused, nothing is changed', async () => {
  const { database } = await withTestDatabase({ empty: true });
  await migrate(database, [one, two]);
  await assert.rejects(migrate(database, [one]), (error) => codeOf(error) === 'MIGRATION_NEWER');
  await assert.rejects(migrate(database, []), (error) => codeOf(error) === 'MIGRATION_NEWER');
  await assert.rejects(
    migrate(database, [one, migration(2, 'create table other (n integer)'), migration(4, 'create table four (n integer)')]),
    (error) => codeOf(error) === 'MIGRATION_EDITED',
  );
  assert.deepEqual(await database.query(raw("select 1 from pg_tables where tablename in ('other', 'four')")), []);
});

test('the files: numbered without a double, applied to an empty database, nothing to do the second time', async () => {
  const files = await readMigrations();
  assert.equal(new Set(files.map((file) => file.number)).size, files.length);
  const { database } = await withTestDatabase({ empty: true });
  assert.deepEqual(
    await migrate(database),
    files.map((file) => file.name),
  );
  assert.deepEqual(await migrate(database), []);
});
