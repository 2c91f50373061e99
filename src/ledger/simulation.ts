import { compareUtf8 } from './contract/bytes.ts';
import { runTransaction } from './contract/contract.ts';
import type { Caller, ContractHost, KeyValue, ReadHost } from './contract/host.ts';
import { hostCrypto } from './host-crypto.ts';

/** Where a value was written: block, and transaction within it. Fabric's key version. */
export type Version = readonly [block: number, tx: number];
export interface Versioned {
  readonly value: string;
  readonly version: Version;
}
/** Committed state, as a host reads it. */
export interface StateReader {
  get(key: string): Promise<Versioned | undefined>;
  /** In the order of UTF-8 bytes. */
  scan(prefix: string): Promise<readonly (KeyValue & { readonly version: Version })[]>;
  /** The same, with these keys fetched together, where that is cheaper than one by one. */
  together?(keys: readonly string[]): Promise<StateReader>;
}

/** State as of the last block, with what earlier valid transactions of this block wrote laid over it. */
export class Overlay implements StateReader {
  readonly #base: StateReader;
  readonly writes = new Map<string, { value: string | null; version: Version }>();
  constructor(base: StateReader) {
    this.#base = base;
  }
  async get(key: string) {
    const over = this.writes.get(key);
    if (over === undefined) return this.#base.get(key);
    return over.value === null ? undefined : { value: over.value, version: over.version };
  }
  async scan(prefix: string) {
    const rows = new Map((await this.#base.scan(prefix)).map((row) => [row.key, row]));
    let changed = false;
    for (const [key, { value, version }] of this.writes) {
      if (!key.startsWith(prefix)) continue;
      changed = true;
      if (value === null) rows.delete(key);
      else rows.set(key, { key, value, version });
    }
    return changed ? [...rows.values()].sort((a, b) => compareUtf8(a.key, b.key)) : [...rows.values()];
  }
  apply(writes: ReadonlyMap<string, string | null>, version: Version): void {
    for (const [key, value] of writes) this.writes.set(key, { value, version });
  }
}

/** The contract broke a rule of the host: a fault of the contract or of what it was given, never of the database. */
export class HostRuleBroken extends Error {}

export interface Proposal {
  name: string;
  args: readonly string[];
  caller: Caller;
  time: string;
}
export interface Simulated {
  result: string;
  /** What was read, and at which version; null: it was not there. */
  reads: Map<string, Version | null>;
  ranges: { prefix: string; rows: readonly (readonly [string, ...Version])[] }[];
  /** In the order of the first put of each key; null: deleted. */
  writes: Map<string, string | null>;
}

/**
 * Runs one transaction of the contract against committed state, as Fabric does: reads see the state before it, what is
 * written shows at commit, and everything read is recorded. Throws Refusal where the contract refuses.
 */
export async function simulate(state: StateReader, proposal: Proposal): Promise<Simulated> {
  const reads: Simulated['reads'] = new Map();
  const ranges: Simulated['ranges'] = [];
  const writes: Simulated['writes'] = new Map();
  const host: ContractHost = {
    ...hostCrypto,
    caller: proposal.caller,
    transactionTime: proposal.time,
    async get(key) {
      if (writes.has(key)) throw new HostRuleBroken(`contract reads ${key} after it wrote it`);
      const found = await state.get(key);
      reads.set(key, found?.version ?? null);
      return found?.value;
    },
    async scan(prefix) {
      for (const key of writes.keys())
        if (key.startsWith(prefix)) throw new HostRuleBroken(`contract scans ${prefix} after it wrote ${key}`);
      const rows = await state.scan(prefix);
      ranges.push({ prefix, rows: rows.map(({ key, version }) => [key, ...version] as const) });
      return rows;
    },
    async put(key, value) {
      // Fabric takes an empty value for a deletion.
      if (value === '') throw new HostRuleBroken(`contract puts an empty value under ${key}`);
      writes.set(key, value);
    },
    async delete(key) {
      writes.set(key, null);
    },
  };
  const result = await runTransaction(host, proposal.name, proposal.args);
  return { result, reads, ranges, writes };
}

/** A host for queries of the contract. */
export function readHost(state: StateReader): ReadHost {
  return { ...hostCrypto, get: async (key) => (await state.get(key))?.value, scan: (prefix) => state.scan(prefix) };
}
