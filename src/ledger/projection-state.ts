import type { Sql } from '../store/database.ts';
import { raw, sql } from '../store/sql.ts';
import type { Overlay, StateReader, Versioned } from './simulation.ts';

/** The schema of the projection. A check derives the rows once more in another (`pg_temp`) and compares. */
export const PROJECTION = raw('projection');

const AFTER = '\u{10FFFF}';

/** projection.state, the raw key space with its history, as it stood after `height` blocks (all of them: undefined). */
export function projectedState(on: Sql, height?: number): StateReader {
  const before = height ?? Number.MAX_SAFE_INTEGER;
  return {
    async get(key) {
      // Nothing lies under such a key, and PostgreSQL would refuse the question.
      if (key.includes('\0')) return undefined;
      const [row] = await on.query<{ value: string | null; block: number; tx: number }>(
        sql`select value, block, tx from projection.state where key = ${key} and block < ${before}::bigint order by block desc, tx desc limit 1`,
      );
      return row === undefined || row.value === null ? undefined : { value: row.value, version: [row.block, row.tx] };
    },
    async scan(prefix) {
      if (prefix.includes('\0')) return [];
      const rows = await on.query<{ key: string; value: string; block: number; tx: number }>(
        sql`select * from (select distinct on (key) key, value, block, tx from projection.state
          where key >= ${prefix} and key < ${prefix + AFTER} and block < ${before}::bigint order by key, block desc, tx desc) newest where value is not null`,
      );
      return rows.map(({ key, value, block, tx }) => ({ key, value, version: [block, tx] as const }));
    },
    async together(keys) {
      const known = await newestOf(on, keys, before);
      return { scan: this.scan, get: async (key) => (known.has(key) ? known.get(key) : this.get(key)) };
    },
  };
}

/** Values of these keys in one query; undefined where nothing lies there. */
async function newestOf(on: Sql, keys: readonly string[], before: number): Promise<Map<string, Versioned | undefined>> {
  // Index lookups by key, where `distinct on` over the whole list would sort.
  const rows = await on.query<{ key: string; value: string | null; block: number; tx: number }>(sql`
    select s.key, s.value, s.block, s.tx from unnest(${[...keys]}::text[]) k (key) cross join lateral (select key, value, block, tx
      from projection.state where key = k.key and block < ${before}::bigint order by block desc, tx desc limit 1) s`);
  const found = new Map<string, Versioned | undefined>(keys.map((key) => [key, undefined]));
  for (const { key, value, block, tx } of rows) if (value !== null) found.set(key, { value, version: [block, tx] });
  return found;
}

/**
 * Current values of the keys that transactions read again and again (institutions, patients, key heads), held between blocks.
 * Sound only while this process applies every block itself: `forget` whenever another one did.
 */
export class HeldValues {
  readonly #held = new Map<string, Versioned | undefined>();
  readonly #most = 50_000;

  over(base: StateReader): StateReader {
    return {
      scan: (prefix) => base.scan(prefix),
      get: async (key) => {
        if (this.#held.has(key)) return this.#held.get(key);
        const value = await base.get(key);
        this.#hold(key, value);
        return value;
      },
    };
  }
  /** Fetches in one query which of these keys are not held, for transactions that will read them. */
  async fetch(on: Sql, keys: readonly string[]): Promise<void> {
    // PostgreSQL would refuse a name with U+0000 in it; a forged one must not stop us.
    const wanted = [...new Set(keys)].filter((key) => !this.#held.has(key) && !key.includes('\0'));
    if (wanted.length === 0) return;
    for (const [key, value] of await newestOf(on, wanted, Number.MAX_SAFE_INTEGER)) this.#hold(key, value);
  }
  /** After the block's transaction has committed. */
  applied(overlay: Overlay): void {
    for (const [key, { value, version }] of overlay.writes) {
      // What is written of a patient is read with that patient's next document.
      if (key.startsWith('pat/') || this.#held.has(key)) this.#hold(key, value === null ? undefined : { value, version });
    }
  }
  forget(): void {
    this.#held.clear();
  }
  #hold(key: string, value: Versioned | undefined): void {
    if (this.#held.size >= this.#most) this.#held.clear();
    this.#held.set(key, value);
  }
}
