import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { chmod, mkdir, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { codeOf } from '../../src/errors.ts';
import { createDatabase, type Database } from '../../src/store/database.ts';
import { createEmbeddedPostgres, type EmbeddedPostgres, type EmbeddedPostgresEvent } from '../../src/store/embedded-postgres.ts';
import { servesFolder } from '../../src/store/postmaster.ts';
import { raw, sql } from '../../src/store/sql.ts';
import { until } from '../queue/conformance.ts';

const cleanups = new Map<string, (() => Promise<void>)[]>();

/** A folder below a 0700 one; at the end, also of a test that failed, whatever still runs there is stopped, newest first. */
async function folder(t: TestContext): Promise<string> {
  const parent = await mkdtemp(join(tmpdir(), 'oncobridge-pg-'));
  await chmod(parent, 0o700);
  const directory = join(parent, 'database');
  cleanups.set(directory, []);
  t.after(async () => {
    for (const cleanup of (cleanups.get(directory) ?? []).toReversed()) await cleanup();
    await (await createEmbeddedPostgres({ directory })).stop();
    await rm(parent, { recursive: true, force: true });
  });
  return directory;
}

async function start(directory: string, events: EmbeddedPostgresEvent[] = []): Promise<{ cluster: EmbeddedPostgres; database: Database }> {
  const cluster = await createEmbeddedPostgres({ directory, onEvent: (event) => events.push(event) });
  const pool = createDatabase({ url: cluster.url, maxConnections: 3 });
  let closing: Promise<void> | undefined;
  const close = (): Promise<void> => (closing ??= pool.close());
  cleanups.get(directory)?.push(async () => {
    await cluster.stop();
    await close();
  });
  return { cluster, database: { ...pool, close } };
}

/** Runs hold-cluster.ts until it has written some rows; tells the last one it knows to be committed. */
async function holder(directory: string, mode: string): Promise<{ child: ChildProcess; last(): number; postmaster(): number }> {
  const child = spawn(process.execPath, [fileURLToPath(new URL('./hold-cluster.ts', import.meta.url)), directory, mode], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  cleanups.get(directory)?.push(async () => {
    child.kill('SIGKILL');
  });
  let text = '';
  child.stdout?.on('data', (chunk: Buffer) => {
    text += chunk.toString();
  });
  const lines = (): string[] => text.split('\n').slice(0, -1);
  await until('the holder writes', () => lines().length > 20, 20_000);
  return { child, last: () => Number(lines().at(-1)?.split(' ')[0]), postmaster: () => Number(lines().at(-1)?.split(' ')[1]) };
}

test('a first start: private, silent about values, independent of the locale, the same URL next time; no account is made', async (t) => {
  const directory = await folder(t);
  const accounts = await readFile('/etc/passwd', 'utf8');
  const { cluster, database } = await start(directory);
  assert.equal(cluster.owned, true);
  const password = (await readFile(join(directory, 'password'), 'utf8')).trim();
  assert.equal((await stat(join(directory, 'password'))).mode & 0o777, 0o600);
  assert.equal((await stat(directory)).mode & 0o777, 0o700);
  assert.ok(password.length >= 32 && cluster.url.includes(password));
  const pid = await cluster.pid();
  assert.doesNotMatch(await readFile(`/proc/${pid}/cmdline`, 'utf8'), new RegExp(password));
  const wrong = createDatabase({ url: cluster.url.replace(password, 'password') });
  await assert.rejects(wrong.query(raw('select 1')), /password authentication failed/);
  await wrong.close();
  const [row] = await database.query<Record<string, string>>(
    raw(`
    select current_setting('fsync') as fsync, current_setting('listen_addresses') as tcp, current_setting('timezone') as zone,
      (select datlocprovider::text || ' ' || datlocale || ' ' || pg_encoding_to_char(encoding) from pg_database where datname = current_database()) as locale,
      upper('ß đ 김 é') as upper, to_char(1.5, '9D9') as number`),
  );
  assert.deepEqual(row, { fsync: 'on', tcp: '', zone: 'UTC', locale: 'b C.UTF-8 UTF8', upper: 'ß Đ 김 É', number: ' 1.5' });
  await database.query(raw('create table canary (name text primary key)'));
  await database.query(sql`insert into canary values (${'Canary Smith'})`);
  await assert.rejects(database.query(sql`insert into canary values (${'Canary Smith'})`));
  await assert.rejects(database.query(raw("select 'Canary Smith'::integer")));
  await database.close();
  await cluster.stop();
  await cluster.stop();
  assert.equal(await servesFolder(pid ?? 0, join(directory, 'data')), false);
  assert.doesNotMatch(await readFile(join(directory, 'postgres.log'), 'utf8'), /Canary Smith.*\)|insert into|STATEMENT|DETAIL/);
  // A stale pid file that names a live process of another kind, as after a reboot.
  await writeFile(join(directory, 'data', 'postmaster.pid'), `${process.pid}\n${join(directory, 'data')}\n1\n5432\n\n\n  1 1\nready   \n`);
  const again = await start(directory);
  assert.equal(again.cluster.url, cluster.url);
  assert.deepEqual(await again.database.query(raw('select name from canary')), [{ name: 'Canary Smith' }]);
  // Given up without stopping, it is found by the next.
  const left = await again.cluster.pid();
  await again.database.close();
  await again.cluster.leave();
  const third = await start(directory);
  assert.equal(third.cluster.owned, true);
  assert.equal(await third.cluster.pid(), left);
  await third.database.close();
  await third.cluster.stop();
  assert.equal(await readFile('/etc/passwd', 'utf8'), accounts);
});

test('the postmaster is killed while its backends are busy: it is back by itself, under the same URL, with everything committed', async (t) => {
  const directory = await folder(t);
  const events: EmbeddedPostgresEvent[] = [];
  const { cluster, database } = await start(directory, events);
  await database.query(raw('create table kept (n integer primary key)'));
  for (let round = 0; round < 2; round++) {
    await database.query(sql`insert into kept values (${round})`);
    database.query(raw('select count(*) from generate_series(1, 100000000000)')).catch(() => {});
    await until(
      'a busy backend',
      async () =>
        (
          await database.query(
            raw("select 1 from pg_stat_activity where query like '%generate_series%' and state = 'active' and pid <> pg_backend_pid()"),
          )
        ).length > 0,
    );
    const pid = await cluster.pid();
    const at = Date.now();
    process.kill(pid ?? 0, 'SIGKILL');
    await until(
      'back',
      () =>
        database.query(raw('select 1')).then(
          async () => (await cluster.pid()) !== pid,
          () => false,
        ),
      15_000,
    );
    await until('told so', () => events.filter((event) => event.kind === 'restarted').length === round + 1);
    console.log(`    back after ${Date.now() - at} ms`);
    assert.equal((await database.query(raw('select * from kept'))).length, round + 1);
  }
  const kinds = events.map((event) => event.kind);
  assert.equal(kinds.filter((kind) => kind === 'died').length, 2);
  assert.equal(kinds.filter((kind) => kind === 'restarted').length, 2);
  assert.ok(kinds.includes('orphans-ended'), 'busy backends outlive their postmaster');
  await database.close();
  await cluster.stop();
});

test('the process that holds the cluster is killed: the next start takes the server over; with the postmaster killed too, starts it anew', async (t) => {
  const directory = await folder(t);
  const first = await holder(directory, 'idle');
  const orphan = first.postmaster();
  first.child.kill('SIGKILL');
  await new Promise((done) => first.child.once('exit', done));
  const events: EmbeddedPostgresEvent[] = [];
  const adopted = await start(directory, events);
  assert.equal(adopted.cluster.owned, true);
  assert.equal(await adopted.cluster.pid(), orphan);
  assert.deepEqual(
    events.map((event) => event.kind),
    ['adopted'],
  );
  const committed = async (database: Database): Promise<number> =>
    (await database.query<{ n: number }>(raw('select max(n) as n from kept')))[0]?.n ?? -1;
  assert.ok((await committed(adopted.database)) >= first.last());
  // An adopted one is watched as well.
  process.kill(orphan, 'SIGKILL');
  await until('restarted', () => events.some((event) => event.kind === 'restarted'), 15_000);
  await adopted.database.close();
  await adopted.cluster.stop();
  assert.equal(await servesFolder((await adopted.cluster.pid()) ?? 0, join(directory, 'data')), false, 'whoever took it over stops it');

  const second = await holder(directory, 'busy');
  second.child.kill('SIGKILL');
  process.kill(second.postmaster(), 'SIGKILL');
  const at = Date.now();
  const anew = await start(directory, events);
  console.log(`    working again after ${Date.now() - at} ms`);
  assert.ok(Date.now() - at < 15_000);
  assert.ok((await committed(anew.database)) >= second.last());
  await anew.database.close();
  await anew.cluster.stop();
});

test('starters at the same time: one owns, the others attach and never stop it', async (t) => {
  const directory = await folder(t);
  const holders = await Promise.all([holder(directory, 'idle'), holder(directory, 'idle')]);
  const attached = await start(directory);
  assert.equal(attached.cluster.owned, false);
  await attached.cluster.stop();
  assert.deepEqual(await attached.database.query(raw('select 1 as up')), [{ up: 1 }], 'not ours to stop');
  assert.equal(holders[0]?.postmaster(), holders[1]?.postmaster());
  await attached.database.close();
  for (const { child } of holders) child.kill('SIGKILL');
  for (const { child } of holders)
    if (child.exitCode === null && child.signalCode === null) await new Promise((done) => child.once('exit', done));
});

test('root where namespaces are barred: an existing account where it can reach the folder, else a coded refusal', {
  skip: process.getuid?.() !== 0 && 'SKIPPED: only root has this problem.',
}, async () => {
  const parent = await mkdtemp(join(tmpdir(), 'oncobridge-pg-'));
  await mkdir(join(parent, 'closed'), { mode: 0o700 });
  await assert.rejects(
    createEmbeddedPostgres({ directory: join(parent, 'closed', 'database'), barNamespaces: true }),
    (error) => codeOf(error) === 'POSTGRES_ROOT',
  );
  await chmod(parent, 0o711);
  const directory = join(parent, 'open');
  if (!(await othersReach(fileURLToPath(import.meta.url)))) {
    // A clone below a folder of root's own: no other account can run the program, and that is what is said.
    await assert.rejects(createEmbeddedPostgres({ directory, barNamespaces: true }), (error) => codeOf(error) === 'POSTGRES_ROOT');
    await rm(parent, { recursive: true, force: true });
    return;
  }
  const one = await createEmbeddedPostgres({ directory, barNamespaces: true });
  assert.notEqual((await stat(`/proc/${await one.pid()}`)).uid, 0);
  await one.stop();
  // Back in a namespace the data become root's again.
  const two = await createEmbeddedPostgres({ directory });
  await two.stop();
  await rm(parent, { recursive: true, force: true });
});

/** Whether every folder above is open to accounts that are neither its owner nor of its group. */
async function othersReach(path: string): Promise<boolean> {
  for (let folder = dirname(path); folder !== dirname(folder); folder = dirname(folder))
    if (((await stat(folder)).mode & 0o001) === 0) return false;
  return true;
}
