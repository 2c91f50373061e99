import type { Database } from '../../src/store/database.ts';
import { raw, sql } from '../../src/store/sql.ts';

/** Every row of every table, as PostgreSQL writes it out: what `pg_dump` would hold, and the statistics, which hold samples of values. */
export async function dump(database: Database): Promise<{ table: string; text: string }[]> {
  const tables = await database.query<{ name: string }>(sql`
    select quote_ident(n.nspname) || '.' || quote_ident(c.relname) as name from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p', 'm', 'v') and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast') order by 1`);
  const found: { table: string; text: string }[] = [];
  for (const { name } of [...tables, { name: 'pg_catalog.pg_stats' }, { name: 'pg_catalog.pg_description' }]) {
    const rows = await database.query<{ text: string }>(raw(`select t::text as text from ${name} t`));
    found.push({ table: name, text: rows.map((row) => row.text).join('\n') });
  }
  return found;
}
