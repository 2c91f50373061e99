import type { Sql } from '../../store/database.ts';
import { sql } from '../../store/sql.ts';
import type { StateReader, Version } from '../simulation.ts';
import type { BlockRow } from './stored-block.ts';
import type { Validation } from './validation.ts';

/** The tables of schema `embedded`. */
export interface Outcome {
  txId: string;
  block: number;
  validation: Validation;
  result: string;
}

/** After every key that begins with the prefix, in the order of UTF-8 bytes. */
export const AFTER = '\u{10FFFF}';

/** Committed state through one connection; the caller gives it one snapshot. */
export function stateReader(on: Sql): StateReader {
  return {
    async get(key) {
      const [row] = await on.query<{ value: string; block: number; tx: number }>(
        sql`select value, block, tx from embedded.state where key = ${key}`,
      );
      return row === undefined ? undefined : { value: row.value, version: [row.block, row.tx] };
    },
    async scan(prefix) {
      const rows = await on.query<{ key: string; value: string; block: number; tx: number }>(
        sql`select key, value, block, tx from embedded.state where key >= ${prefix} and key < ${prefix + AFTER} order by key`,
      );
      return rows.map(({ key, value, block, tx }) => ({ key, value, version: [block, tx] as const }));
    },
  };
}

/** The same, with these keys fetched in one round trip: what a block's transactions say they read. */
export async function prefetched(on: Sql, keys: readonly string[]): Promise<StateReader> {
  const base = stateReader(on);
  const rows = await on.query<{ key: string; value: string; block: number; tx: number }>(
    sql`select key, value, block, tx from embedded.state where key = any(${keys}::text[])`,
  );
  const found = new Map(rows.map(({ key, value, block, tx }) => [key, { value, version: [block, tx] as const }]));
  const known = new Set(keys);
  return { scan: base.scan, get: async (key) => (known.has(key) ? found.get(key) : base.get(key)) };
}

export async function newestBlock(on: Sql): Promise<{ number: number; hash: string } | undefined> {
  const [row] = await on.query<{ number: number; hash: string }>(sql`select number, hash from embedded.block order by number desc limit 1`);
  return row;
}

export async function blockHash(on: Sql, number: number): Promise<string | undefined> {
  const [row] = await on.query<{ hash: string }>(sql`select hash from embedded.block where number = ${number}`);
  return row?.hash;
}

export async function readBlocks(on: Sql, from: number, limit: number): Promise<BlockRow[]> {
  return on.query<BlockRow>(
    sql`select number, previous_hash, hash, header, signature, body from embedded.block where number >= ${from} order by number limit ${limit}`,
  );
}

export async function outcomes(on: Sql, txIds: readonly string[]): Promise<Map<string, Outcome>> {
  const rows = await on.query<{ tx_id: string; block: number; validation: Validation; result: string }>(
    sql`select tx_id, block, validation, result from embedded.transaction where tx_id = any(${txIds}::text[])`,
  );
  return new Map(rows.map((row) => [row.tx_id, { txId: row.tx_id, block: row.block, validation: row.validation, result: row.result }]));
}

/** One block with its outcomes and what it changes in the state. */
export async function insertBlock(
  on: Sql,
  row: BlockRow,
  transactions: readonly { txId: string; n: number; validation: Validation; result: string }[],
  writes: ReadonlyMap<string, { value: string | null; version: Version }>,
): Promise<void> {
  await on.query(sql`insert into embedded.block (number, previous_hash, hash, header, signature, body)
    values (${row.number}, ${row.previous_hash}, ${row.hash}, ${row.header}, ${row.signature}, ${row.body})`);
  await on.query(sql`insert into embedded.transaction (tx_id, block, n, validation, result)
    select t.tx_id, ${row.number}::bigint, t.n, t.validation, t.result
    from unnest(${transactions.map((t) => t.txId)}::text[], ${transactions.map((t) => t.n)}::integer[],
      ${transactions.map((t) => t.validation)}::text[], ${transactions.map((t) => t.result)}::text[]) t (tx_id, n, validation, result)`);
  const deleted: string[] = [];
  const keys: string[] = [];
  const values: string[] = [];
  const numbers: number[] = [];
  for (const [key, { value, version }] of writes) {
    if (value === null) deleted.push(key);
    else {
      keys.push(key);
      values.push(value);
      numbers.push(version[1]);
    }
  }
  if (deleted.length > 0) await on.query(sql`delete from embedded.state where key = any(${deleted}::text[])`);
  if (keys.length > 0) {
    await on.query(sql`insert into embedded.state (key, value, block, tx)
      select w.key, w.value, ${row.number}::bigint, w.tx from unnest(${keys}::text[], ${values}::text[], ${numbers}::integer[]) w (key, value, tx)
      on conflict (key) do update set value = excluded.value, block = excluded.block, tx = excluded.tx`);
  }
  // Wakes the readers of blocks in other processes; delivered at commit.
  await on.query(sql`select pg_notify(${BLOCK_CHANNEL}, ${String(row.number)})`);
}

export const BLOCK_CHANNEL = 'embedded_block';
