import { Refusal } from './contract/refusals.ts';
import type { Block, BlockTransaction } from './ledger.ts';
import { HostRuleBroken, Overlay, type StateReader, simulate } from './simulation.ts';

/** One VALID transaction, run again. */
export interface Replayed {
  n: number;
  transaction: BlockTransaction;
  /** Whether the contract, run here, writes exactly what the block says. */
  agrees: boolean;
  /** What the contract writes; empty where it does not agree, for then the effect is ignored. */
  writes: ReadonlyMap<string, string | null>;
  /** Every key that either side wrote. */
  keys: readonly string[];
}

/**
 * Runs every VALID transaction of a block again with the contract, signatures included, in order, against the state that this
 * reader holds (protocol section 4). The one code path of the projection and of `ledger verify`.
 */
export async function replayBlock(state: StateReader, block: Block): Promise<{ replayed: Replayed[]; overlay: Overlay }> {
  const overlay = new Overlay(state);
  const replayed: Replayed[] = [];
  for (const [n, transaction] of block.transactions.entries()) {
    if (transaction.validation !== 'VALID') continue;
    const writes = await rerun(overlay, transaction);
    // Without effect on either side, such as a query that somebody had ordered, for honest peers endorse it: nothing to agree about.
    if (writes === undefined && transaction.irregular === undefined && transaction.writes.size === 0) continue;
    const agrees = writes !== undefined && transaction.irregular === undefined && sameWrites(writes, transaction.writes);
    // What is no name cannot be kept under one: PostgreSQL takes no U+0000.
    const keys = [...new Set([...transaction.writes.keys(), ...(writes?.keys() ?? [])])].map((key) => key.replaceAll('\0', '\uFFFD'));
    if (agrees) overlay.apply(writes, [block.number, n]);
    replayed.push({ n, transaction, agrees, writes: agrees ? writes : new Map(), keys });
  }
  return { replayed, overlay };
}

async function rerun(state: StateReader, transaction: BlockTransaction): Promise<Map<string, string | null> | undefined> {
  const { name, args, caller, time } = transaction;
  try {
    return (await simulate(state, { name, args, caller, time })).writes;
  } catch (error) {
    // The contract refuses, or chokes on what it was given. Whatever the database throws is no verdict on the transaction.
    const verdict =
      error instanceof Refusal || error instanceof HostRuleBroken || error instanceof TypeError || error instanceof RangeError;
    if (!verdict) throw error;
    return undefined;
  }
}

function sameWrites(a: ReadonlyMap<string, string | null>, b: ReadonlyMap<string, string | null>): boolean {
  if (a.size !== b.size) return false;
  for (const [key, value] of a) if (b.get(key) !== value) return false;
  return true;
}
