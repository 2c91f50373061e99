import type { Database, Sql } from '../store/database.ts';
import { sql } from '../store/sql.ts';
import { institutionKey } from './contract/keys.ts';
import type { InstitutionState } from './contract/state.ts';
import { readBlocks } from './embedded/block-store.ts';
import { type DecodedBlock, decodeBlock, GENESIS } from './embedded/stored-block.ts';
import { readTip, type Tip } from './embedded/tip-file.ts';
import { validate } from './embedded/validation.ts';
import type { Receipt } from './ledger.ts';
import { MemoryState } from './memory-state.ts';
import { writesOf } from './projection-rows.ts';
import { createShadow, type Difference, type Shadow } from './projection-shadow.ts';
import { replayBlock } from './replay.ts';
import { Overlay } from './simulation.ts';

export interface VerifyReport {
  ok: boolean;
  ledger: string | null;
  /** Blocks and transactions found and run again. */
  blocks: number;
  transactions: number;
  stateKeys: number;
  tip: { height: number; hash: string } | null;
  problems: readonly Problem[];
}
export interface Problem {
  kind: 'block' | 'chain' | 'signer' | 'validation' | 'effect' | 'transaction' | 'state' | 'projection' | 'tip' | 'receipt';
  /** What is wrong; names keys and numbers, never a value. */
  what: string;
  block?: number;
  txId?: string;
}

/** A hundred problems say as much as a million. */
const MOST = 100;
const PAGE = 100;

/**
 * Runs the whole embedded ledger again and compares: every block's hashes, chain and signatures; its signer against the key that
 * the ledger itself held then; every validation code; every effect (one code path with the projection); the stored outcomes and
 * state; the projection's key space and every table derived from it, each derived once more by the projection's own code; the tip
 * file, and any receipts handed in, which find a missing tail. Changes nothing; needs the right to make temporary tables.
 */
export async function verifyLedger(options: {
  database: Database;
  tipFile: string;
  /** Receipts known elsewhere (the newest handed out): each must still stand. */
  receipts?: readonly Pick<Receipt, 'txId' | 'block'>[];
}): Promise<VerifyReport> {
  const problems: Problem[] = [];
  const report = (problem: Problem): void => {
    if (problems.length < MOST) problems.push(problem);
  };
  // The tip is read first: a block committed meanwhile only extends it.
  const tip = await readTip(options.tipFile).catch(() => null);
  if (tip === null) report({ kind: 'tip', what: 'the tip file is malformed' });
  if (tip === undefined) report({ kind: 'tip', what: 'the tip file is missing' });
  return options.database.transaction(async (tx) => {
    const run = new Run(report, await createShadow(tx), await readCheckpoint(tx));
    await run.blocks(tx);
    if (run.whole) {
      await run.compareTransactions(tx);
      await run.compareState(tx);
      await run.compareProjection();
    }
    run.compareTip(tip ?? undefined);
    run.compareReceipts(options.receipts ?? []);
    return {
      ok: problems.length === 0,
      ledger: run.ledger ?? tip?.ledger ?? null,
      blocks: run.hashes.length,
      transactions: run.outcomes.size,
      stateKeys: run.state.size,
      tip: tip ? { height: tip.height, hash: tip.hash } : null,
      problems,
    };
  }, 'repeatable read');
}

/** How far the projection has come, and the newest own transaction that it says has come back. */
export interface Checkpoint {
  height: number;
  tip: string;
  own_seen_at: Date | null;
}
export async function readCheckpoint(on: Sql): Promise<Checkpoint> {
  const [at] = await on.query<Checkpoint>(sql`select height, tip, own_seen_at from projection.checkpoint`);
  return at ?? { height: 0, tip: '', own_seen_at: null };
}
/** A row of the projection, or of what it follows from, as a problem. */
export function problemOf({ table, key, how }: Difference): Problem {
  return { kind: table === 'embedded.state' ? 'state' : 'projection', what: `${table} ${key} ${how}` };
}

class Run {
  readonly state = new MemoryState();
  readonly outcomes = new Map<string, { block: number; n: number; validation: string; result: string }>();
  readonly hashes: string[] = [];
  ledger: string | undefined;
  /** False once a block could not be run: then what follows from it cannot be compared. */
  whole = true;
  readonly #report: (problem: Problem) => void;
  readonly #shadow: Shadow;
  readonly #checkpoint: Checkpoint;
  /** Newest time of a transaction below the checkpoint: on one node every one is the own. */
  #seen = '';
  constructor(report: (problem: Problem) => void, shadow: Shadow, checkpoint: Checkpoint) {
    this.#report = report;
    this.#shadow = shadow;
    this.#checkpoint = checkpoint;
  }

  async blocks(on: Sql): Promise<void> {
    let previous = GENESIS;
    let number = 0;
    for (;;) {
      const rows = await readBlocks(on, number, PAGE);
      if (rows.length === 0) return;
      for (const row of rows) {
        if (row.number !== number) {
          this.#report({ kind: 'chain', block: number, what: `block ${number} is missing` });
          this.whole = false;
        } else if (row.previous_hash !== previous) {
          this.#report({ kind: 'chain', block: number, what: 'previous hash is not that of the block before' });
          this.whole = false;
        }
        this.hashes[row.number] = row.hash;
        previous = row.hash;
        number = row.number + 1;
        try {
          const decoded = await decodeBlock(row);
          if (this.whole) await this.#run(decoded);
        } catch (error) {
          this.#report({ kind: 'block', block: row.number, what: error instanceof SyntaxError ? 'malformed' : (error as Error).message });
          this.whole = false;
        }
      }
    }
  }

  async #run({ block, envelopes, signer, ledger }: DecodedBlock): Promise<void> {
    this.ledger ??= ledger;
    if (ledger !== this.ledger) this.#report({ kind: 'block', block: block.number, what: 'block of another ledger' });
    const overlay = new Overlay(this.state);
    for (const [n, envelope] of envelopes.entries()) {
      const claimed = block.transactions[n]?.validation;
      const duplicate = this.outcomes.has(envelope.txId);
      const expected = duplicate ? 'DUPLICATE_TXID' : await validate(envelope, overlay);
      // What endorsers held against a transaction cannot be computed again; it has no effect.
      if (claimed !== expected && claimed !== 'ENDORSEMENT_POLICY_FAILURE')
        this.#report({ kind: 'validation', block: block.number, txId: envelope.txId, what: `recorded as ${claimed}, is ${expected}` });
      if (!duplicate) this.outcomes.set(envelope.txId, { block: block.number, n, validation: claimed ?? '', result: envelope.result });
      if (claimed === 'VALID') overlay.apply(envelope.writes, [block.number, n]);
    }
    const again = await replayBlock(this.state, block);
    for (const { agrees, transaction } of again.replayed) {
      if (!agrees)
        this.#report({ kind: 'effect', block: block.number, txId: transaction.txId, what: 'the contract writes something else' });
    }
    const caller = block.transactions[0]?.caller.institution ?? '';
    await this.#checkSigner(block.number, signer, caller, again.overlay);
    if (block.number < this.#checkpoint.height) {
      await this.#shadow.apply(writesOf(block.number, again.replayed));
      for (const { time } of block.transactions) if (time > this.#seen) this.#seen = time;
    }
    // The stored state follows what the block says, which is reported above where it is not what the contract says.
    this.state.apply(overlay);
  }

  /** The signer is the institution whose key the ledger held before this block; for block 0, the founder that it registers. */
  async #checkSigner(number: number, signer: { x: string; y: string }, institution: string, after: Overlay): Promise<void> {
    const found = await (number === 0 ? after : this.state).get(institutionKey(institution));
    const key = found === undefined ? undefined : (JSON.parse(found.value) as InstitutionState).signing;
    // A block that rotates the key may be signed by the new one already.
    const next = await after.get(institutionKey(institution));
    const nextKey = next === undefined ? undefined : (JSON.parse(next.value) as InstitutionState).signing;
    const same = [key, nextKey].some((one) => one !== undefined && one.x === signer.x && one.y === signer.y);
    if (!same) this.#report({ kind: 'signer', block: number, what: 'signed by a key that the ledger does not hold' });
  }

  async compareTransactions(on: Sql): Promise<void> {
    const rows = await on.query<{ tx_id: string; block: number; n: number; validation: string; result: string }>(
      sql`select tx_id, block, n, validation, result from embedded.transaction`,
    );
    for (const row of rows) {
      const is = this.outcomes.get(row.tx_id);
      if (is === undefined || is.block !== row.block || is.n !== row.n || is.validation !== row.validation || is.result !== row.result)
        this.#report({ kind: 'transaction', block: row.block, txId: row.tx_id, what: 'stored outcome is not that of the blocks' });
    }
    if (rows.length < this.outcomes.size)
      this.#report({ kind: 'transaction', what: `${this.outcomes.size - rows.length} outcomes are missing` });
  }

  async compareState(on: Sql): Promise<void> {
    const rows = await on.query<{ key: string; value: string; block: number; tx: number }>(
      sql`select key, value, block, tx from embedded.state`,
    );
    const stored = new Set<string>();
    for (const { key, value, block, tx } of rows) {
      stored.add(key);
      const is = await this.state.get(key);
      if (is === undefined) this.#report({ kind: 'state', what: `${key} is not written by any block` });
      else if (is.value !== value || is.version[0] !== block || is.version[1] !== tx)
        this.#report({ kind: 'state', block: is.version[0], what: `${key} is not what the blocks wrote` });
    }
    for (const [key, { version }] of this.state) {
      if (!stored.has(key)) this.#report({ kind: 'state', block: version[0], what: `${key} is missing` });
    }
  }

  /** The projection, as far as it has come. */
  async compareProjection(): Promise<void> {
    const { height, tip, own_seen_at: seen } = this.#checkpoint;
    if (height > 0 && this.hashes[height - 1] !== tip) {
      this.#report({ kind: 'projection', block: height - 1, what: 'the projection is ahead of the ledger, or beside it' });
      return;
    }
    for (const difference of await this.#shadow.compareProjection()) this.#report(problemOf(difference));
    if (seen !== null && seen.toISOString() > this.#seen)
      this.#report({ kind: 'projection', what: 'projection.checkpoint claims an own transaction that no block holds' });
  }

  /** Every block whose receipt was handed out is there: the database may be ahead of the file, never behind or beside it. */
  compareTip(tip: Tip | undefined): void {
    if (tip === undefined) return;
    if (this.ledger !== undefined && tip.ledger !== this.ledger) this.#report({ kind: 'tip', what: 'the tip file is of another ledger' });
    for (const { height, hash } of tip.lines) {
      const stored = this.hashes[height - 1];
      if (stored === hash) continue;
      const what =
        stored === undefined ? `block ${height - 1} was handed out and is missing` : `block ${height - 1} is not the one handed out`;
      this.#report({ kind: 'tip', block: height - 1, what });
    }
  }

  compareReceipts(receipts: readonly Pick<Receipt, 'txId' | 'block'>[]): void {
    for (const { txId, block } of receipts) {
      const is = this.outcomes.get(txId);
      if (is === undefined ? this.whole || this.hashes[block] === undefined : is.block !== block || is.validation !== 'VALID')
        this.#report({ kind: 'receipt', block, txId, what: 'a receipt was handed out that the ledger does not bear out' });
    }
  }
}
