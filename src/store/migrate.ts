import { createHash } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { CodedError } from '../errors.ts';
import type { Database, Sql } from './database.ts';
import { raw, sql } from './sql.ts';

/** A numbered file of migrations/, e.g. `0002-outbox.sql`. */
export interface Migration {
  number: number;
  name: string;
  text: string;
  /** SHA-256 of the text, hex. */
  checksum: string;
}

const FILE = /^(\d{4})-[a-z0-9-]+\.sql$/;
/** `onco` in ASCII; held for the length of one transaction, so a killed starter leaves nothing behind. */
const LOCK = 0x6f_6e_63_6f;

/** The migrations of a folder in order. */
export async function readMigrations(folder = fileURLToPath(new URL('./migrations/', import.meta.url))): Promise<Migration[]> {
  const migrations: Migration[] = [];
  for (const name of (await readdir(folder)).sort()) {
    const match = FILE.exec(name);
    if (match === null) continue;
    const text = await readFile(`${folder}/${name}`, 'utf8');
    migrations.push({ number: Number(match[1]), name, text, checksum: createHash('sha256').update(text).digest('hex') });
  }
  return migrations;
}

/**
 * Brings the database to the newest migration: forward only, each in a transaction of its own with the row that records
 * it. Of several starters one works, the others wait and find it done. Returns the names applied now. Throws
 * MIGRATION_NEWER where the database has a migration that this code does not know, MIGRATION_EDITED where a recorded one
 * reads differently now.
 */
export async function migrate(database: Database, migrations?: readonly Migration[]): Promise<string[]> {
  const known = migrations ?? (await readMigrations());
  await database.transaction(async (tx) => {
    await tx.query(sql`select pg_advisory_xact_lock(${LOCK})`);
    await tx.query(
      raw(
        'create table if not exists migration (number integer primary key, name text not null, checksum text not null, applied_at timestamptz not null default now())',
      ),
    );
  });
  const applied: string[] = [];
  for (const migration of known) {
    const done = await database.transaction(async (tx) => {
      await tx.query(sql`select pg_advisory_xact_lock(${LOCK})`);
      const recorded = await check(tx, known);
      if (recorded.has(migration.number)) return false;
      await tx.query(raw(migration.text));
      await tx.query(
        sql`insert into migration (number, name, checksum) values (${migration.number}, ${migration.name}, ${migration.checksum})`,
      );
      return true;
    });
    if (done) applied.push(migration.name);
  }
  if (known.length === 0) await database.transaction((tx) => check(tx, known));
  return applied;
}

/** The numbers that the database has; refuses what this code does not know or knows differently. */
async function check(tx: Sql, known: readonly Migration[]): Promise<Set<number>> {
  const rows = await tx.query<{ number: number; name: string; checksum: string }>(
    sql`select number, name, checksum from migration order by number`,
  );
  const byNumber = new Map(known.map((m) => [m.number, m]));
  for (const row of rows) {
    const ours = byNumber.get(row.number);
    if (ours === undefined) throw new CodedError('MIGRATION_NEWER', { diagnostics: `It has ${row.name}.` });
    if (ours.checksum !== row.checksum) throw new CodedError('MIGRATION_EDITED', { diagnostics: row.name });
  }
  return new Set(rows.map((row) => row.number));
}
