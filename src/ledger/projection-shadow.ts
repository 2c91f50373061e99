import type { Sql } from '../store/database.ts';
import { raw, sql } from '../store/sql.ts';
import { deniedBy, denyOwners, doubtfulKeys, NOBODY } from './projection-alarms.ts';
import { type Write, writeRows } from './projection-rows.ts';

/**
 * The projection's rows derived once more, by the same code, into temporary tables of the open transaction: whatever somebody
 * wrote into the real ones shows in the comparison. Memory stays small, for PostgreSQL keeps the tables and compares them.
 */
export interface Shadow {
  /** The writes of the next block, in their order. */
  apply(writes: readonly Write[]): Promise<void>;
  /** Names of rows that differ, table by table. Call it once, when the block below the projection's checkpoint is applied. */
  compareProjection(): Promise<Difference[]>;
  /** Keys of the embedded ledger's stored state that differ from the newest values applied. */
  compareState(): Promise<Difference[]>;
}
export interface Difference {
  table: string;
  /** Key columns, separated by '/'. */
  key: string;
  how: 'is not what the blocks wrote' | 'is written by no block' | 'is missing';
}

const SHADOW = raw('pg_temp');
/** Writes that go in one round of statements. */
const BATCH = 2000;
const MOST = 100;
/** Every table that follows from the blocks, with the columns of its key. */
const TABLES = {
  state: 'key, block, tx',
  institution: 'inst',
  member: 'inst, mem',
  patient: 'inst, pat',
  category_key: 'inst, pat, category, version',
  permission: 'inst, pat, grantor, grantee, category',
  clause: 'inst, pat, grantor, grantee, category, n',
  entry: 'inst, pat, recorder, doc, version, n, entry_hash',
  document: 'recorder, doc',
  emergency: 'inst, pat, id',
  anchor: 'inst',
} as const;

/** Needs the right to make temporary tables, and a transaction of one snapshot (REPEATABLE READ); they go with it. */
export async function createShadow(on: Sql): Promise<Shadow> {
  for (const table of Object.keys(TABLES))
    await on.query(raw(`create temporary table ${table} (like projection.${table} including defaults including indexes) on commit drop`));
  let pending: Write[] = [];
  /** Documents in `pending` -> their patient. */
  const documents = new Map<string, string>();

  async function flush(): Promise<void> {
    await writeRows(on, pending, NOBODY, SHADOW);
    pending = [];
    documents.clear();
  }

  /** Of one document under two patients the first stands, which is a matter of order between blocks: not in one batch. */
  function contradicts(writes: readonly Write[]): boolean {
    return writes.some(({ parts: [kind, inst, pat, recorder, doc] }) => {
      if (kind !== 'ent') return false;
      const known = documents.get(`${recorder}/${doc}`);
      return known !== undefined && known !== `${inst}/${pat}`;
    });
  }

  async function differences(left: string, right: string, key: string, table: string): Promise<Difference[]> {
    const rows = await on.query<{ key: string; there: boolean; derived: boolean }>(
      raw(`
      select key, bool_or(there) as there, bool_or(not there) as derived from (
        select concat_ws('/', ${key}) as key, true as there from (${left} except ${right}) l
        union all select concat_ws('/', ${key}), false from (${right} except ${left}) r) d
      group by key order by key limit ${MOST}`),
    );
    return rows.map((row) => ({
      table,
      key: row.key,
      how: !row.derived ? 'is written by no block' : row.there ? 'is not what the blocks wrote' : 'is missing',
    }));
  }

  /** Who is denied by an alarm is so here too. One that was cleared may still stand in the rows, until they are built anew. */
  async function deny(): Promise<void> {
    await denyOwners(on, await doubtfulKeys(on), SHADOW);
    const once = deniedBy(await doubtfulKeys(on, { cleared: true }));
    for (const [table, key, denied] of [
      ['institution', 'inst', (inst: string) => once.institution(inst)],
      ['member', 'mem', (inst: string, id: string) => once.member(inst, id)],
      ['patient', 'pat', (inst: string, id: string) => once.patient(inst, id)],
    ] as const) {
      const marked = await on.query<{ inst: string; id: string }>(
        raw(`select s.inst, s.${key} as id from projection.${table} s join pg_temp.${table} d using (inst${key === 'inst' ? '' : `, ${key}`})
          where s.status = 'alarmed' and d.status <> 'alarmed'`),
      );
      for (const { inst, id } of marked) {
        if (denied(inst, id))
          await on.query(sql`update ${SHADOW}.${raw(table)} set status = 'alarmed' where inst = ${inst} and ${raw(key)} = ${id}`);
      }
    }
  }

  return {
    async apply(writes) {
      if (contradicts(writes)) await flush();
      for (const write of writes) {
        const [kind, inst, pat, recorder, doc] = write.parts;
        if (kind === 'ent') documents.set(`${recorder}/${doc}`, `${inst}/${pat}`);
        pending.push(write);
      }
      if (pending.length >= BATCH) await flush();
    },
    async compareProjection() {
      await flush();
      await deny();
      const found: Difference[] = [];
      for (const [table, key] of Object.entries(TABLES))
        found.push(...(await differences(`table projection.${table}`, `table pg_temp.${table}`, key, `projection.${table}`)));
      return found;
    },
    async compareState() {
      await flush();
      const newest = `select * from (select distinct on (key) key, value, block, tx from pg_temp.state order by key, block desc, tx desc) n where value is not null`;
      return differences('select key, value, block, tx from embedded.state', newest, 'key', 'embedded.state');
    },
  };
}
