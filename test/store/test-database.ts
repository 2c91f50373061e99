import { hash, randomBytes } from 'node:crypto';
import { mkdir, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';
import { after } from 'node:test';
import { Client } from 'pg';
import { createDatabase, type Database } from '../../src/store/database.ts';
import { createEmbeddedPostgres, type EmbeddedPostgres } from '../../src/store/embedded-postgres.ts';
import { lockFolder } from '../../src/store/folder-lock.ts';
import { migrate, readMigrations } from '../../src/store/migrate.ts';
import { isAlive } from '../../src/store/process-alive.ts';

export interface TestDatabase {
  url: string;
  database: Database;
  /** Closes the pool and drops the database. Called by itself at the end of the test process. */
  close(): Promise<void>;
}

/*
 * One scratch cluster per user of the machine, shared by all test processes that run at the moment: the first starts it,
 * the last stops it. Its data stays in the temporary folder, so that the next run starts in 0.1 s instead of 1 s.
 * Databases are clones of a migrated template and are dropped again.
 */
const directory = join(tmpdir(), `oncobridge-test-${userInfo().uid}`);
const users = join(directory, 'users');
let cluster: Promise<EmbeddedPostgres> | undefined;
const open = new Set<TestDatabase>();

after(async () => {
  for (const one of open) await one.close();
  await leaveCluster();
});

/** A fresh database with all migrations applied (or an empty one), a few dozen milliseconds each. */
export async function withTestDatabase(options: { empty?: boolean; maxConnections?: number } = {}): Promise<TestDatabase> {
  cluster ??= joinCluster();
  const { url: adminUrl } = await cluster;
  const name = `t_${process.pid}_${randomBytes(6).toString('hex')}`;
  if (options.empty === true) await admin(adminUrl, `create database ${name}`);
  else await clone(adminUrl, name);
  const url = databaseUrl(adminUrl, name);
  const database = createDatabase({ url, maxConnections: options.maxConnections ?? 8 });
  let closing: Promise<void> | undefined;
  const one: TestDatabase = {
    url,
    database,
    close() {
      closing ??= (async () => {
        open.delete(one);
        await database.close();
        await admin(adminUrl, `drop database if exists ${name} with (force)`);
      })();
      return closing;
    },
  };
  open.add(one);
  return one;
}

async function clone(adminUrl: string, name: string): Promise<void> {
  const migrations = await readMigrations();
  const template = `template_${hash('sha256', migrations.map((m) => m.checksum).join(' ')).slice(0, 32)}`;
  const create = `create database ${name} template ${template}`;
  try {
    await admin(adminUrl, create);
  } catch (error) {
    if ((error as { code?: string }).code !== '3D000') throw error;
    await exclusively(async () => {
      const half = `half_${process.pid}_${randomBytes(4).toString('hex')}`;
      await admin(adminUrl, `create database ${half}`);
      const database = createDatabase({ url: databaseUrl(adminUrl, half), maxConnections: 1 });
      try {
        await migrate(database, migrations);
        await database.close();
        // Another process may have been first while we waited for the lock.
        await admin(adminUrl, `alter database ${half} rename to ${template}`).catch((e: { code?: string }) => {
          if (e.code !== '42P04') throw e;
        });
      } finally {
        await database.close().catch(() => {});
        await admin(adminUrl, `drop database if exists ${half} with (force)`);
      }
    });
    await admin(adminUrl, create);
  }
}

async function joinCluster(): Promise<EmbeddedPostgres> {
  await mkdir(users, { recursive: true, mode: 0o700 });
  return await exclusively(async () => {
    const others = await otherUsers();
    const joined = await createEmbeddedPostgres({
      directory,
      // Nothing here needs to survive a power cut, and many test processes share it.
      settings: { fsync: 'off', synchronous_commit: 'off', full_page_writes: 'off', max_connections: '300', min_wal_size: '32MB' },
    });
    await writeFile(join(users, String(process.pid)), '');
    if (others.length === 0) await dropLeftovers(joined.url);
    return joined;
  });
}

async function leaveCluster(): Promise<void> {
  if (cluster === undefined) return;
  const joined = await cluster.catch(() => undefined);
  if (joined === undefined) return;
  await exclusively(async () => {
    await rm(join(users, String(process.pid)), { force: true });
    if ((await otherUsers()).length > 0) return await joined.leave();
    // The last one stops it; where its starter has gone already, by taking it over first.
    await (joined.owned ? joined : await createEmbeddedPostgres({ directory })).stop();
  });
}

/** Live test processes that use the cluster; marks of dead ones are removed. */
async function otherUsers(): Promise<string[]> {
  const live: string[] = [];
  for (const name of await readdir(users)) {
    if (name === String(process.pid)) continue;
    if (isAlive(Number(name))) live.push(name);
    else await rm(join(users, name), { force: true });
  }
  return live;
}

/** Databases of test processes that were killed, and templates of older migrations. */
async function dropLeftovers(adminUrl: string): Promise<void> {
  const rows = await admin(adminUrl, "select datname from pg_database where datname ~ '^(t|half|template)_'");
  for (const { datname } of rows) await admin(adminUrl, `drop database if exists ${datname} with (force)`);
}

async function exclusively<T>(work: () => Promise<T>): Promise<T> {
  for (;;) {
    const lock = await lockFolder(users, 'users');
    if (lock !== undefined) {
      try {
        return await work();
      } finally {
        await lock.release();
      }
    }
    await new Promise((done) => setTimeout(done, 20));
  }
}

async function admin(url: string, text: string): Promise<{ datname: string }[]> {
  const client = new Client({ connectionString: url });
  client.on('error', () => {});
  await client.connect();
  try {
    return (await client.query<{ datname: string }>(text)).rows;
  } finally {
    await client.end();
  }
}

function databaseUrl(adminUrl: string, name: string): string {
  const url = new URL(adminUrl);
  url.pathname = `/${name}`;
  return url.href;
}
