import { CodedError, codeOf } from '../errors.ts';
import type { Database, Sql } from '../store/database.ts';
import { sql } from '../store/sql.ts';
import { type DefinitionRow, definitionRows } from './definition-guard.ts';
import type { Block, Ledger, Receipt } from './ledger.ts';
import { MemoryState } from './memory-state.ts';
import { writesOf } from './projection-rows.ts';
import { createShadow, type Shadow } from './projection-shadow.ts';
import { replayBlock } from './replay.ts';
import { type Checkpoint, type Problem, problemOf, readCheckpoint, type VerifyReport } from './verify.ts';

export interface VerifyChannelOptions {
  database: Database;
  /** Reads the own peers' blocks, and checks their hashes, chain and creators' signatures on the way. */
  ledger: Pick<Ledger, 'blocks' | 'height'>;
  institution: string;
  msp: string;
  /** Receipts known elsewhere, beside those that the outbox has on record: each must still stand. */
  receipts?: readonly Pick<Receipt, 'txId' | 'block'>[];
  /** False: what the blocks say is taken for right, and only the rows are held against it. For the running server. */
  rerun?: boolean;
  /** How long blocks are waited for that a receipt or the projection names and the peer does not have yet. */
  lagMs?: number;
  /** How long a block that the peer says it has is waited for: one that joined from a snapshot never had the old ones. */
  stallMs?: number;
  signal?: AbortSignal;
}

const MOST = 100;
const LAG_MS = 10_000;
const STALL_MS = 45_000;

/**
 * `ledger verify` where others order the blocks (Fabric): runs everything from block 0 of the own peers again, by one code path
 * with the projection, and compares the projection's key space and every table derived from it, what it noted of definitions, its
 * checkpoint, and every receipt that the outbox has handed out, the newest first of all: a peer whose tail was cut off shows.
 * Changes nothing; needs the right to make temporary tables. Throws LEDGER_UNAVAILABLE where no peer answers, or none hands out
 * a block that it must have.
 *
 * A transaction whose effect was ignored is a problem until its alarm is cleared.
 */
export async function verifyChannel(options: VerifyChannelOptions): Promise<VerifyReport> {
  const { database, ledger, signal } = options;
  return database.transaction(async (tx) => {
    const checkpoint = await readCheckpoint(tx);
    const receipts = [...(options.receipts ?? []), ...(await handedOut(tx))];
    const run = new Run(options, await createShadow(tx), checkpoint, await cleared(tx));
    // After the snapshot, so that nothing in it is newer.
    const height = await ledger.height();
    const upTo = Math.max(height, checkpoint.height, ...receipts.slice(0, 1).map(({ block }) => block + 1));
    await readUpTo(run, options, height, upTo);
    signal?.throwIfAborted();
    if (run.whole) {
      await run.compareProjection();
      await run.compareDefinitions(tx);
    }
    run.compareReceipts(receipts);
    return run.report();
  }, 'repeatable read');
}

async function readUpTo(
  run: Run,
  { ledger, signal, lagMs = LAG_MS, stallMs = STALL_MS }: VerifyChannelOptions,
  height: number,
  upTo: number,
): Promise<void> {
  const late = new AbortController();
  let timer: NodeJS.Timeout | undefined;
  let stall = setTimeout(() => late.abort(), stallMs);
  try {
    for await (const block of ledger.blocks(0, signal === undefined ? late.signal : AbortSignal.any([signal, late.signal]))) {
      signal?.throwIfAborted();
      await run.block(block);
      if (run.height >= upTo || !run.whole) return;
      clearTimeout(stall);
      if (run.height >= height) timer ??= setTimeout(() => late.abort(), lagMs);
      else stall = setTimeout(() => late.abort(), stallMs);
    }
    signal?.throwIfAborted();
    if (run.height < height) {
      throw new CodedError('LEDGER_UNAVAILABLE', {
        diagnostics: `No configured peer hands out block ${run.height} of ${height}. One that joined from a snapshot has no older blocks: name one that has them.`,
      });
    }
  } catch (error) {
    if (codeOf(error) !== 'LEDGER_CORRUPT') throw error;
    run.corrupt(error as Error);
  } finally {
    clearTimeout(timer);
    clearTimeout(stall);
  }
}

/** Newest first. */
async function handedOut(on: Sql): Promise<Pick<Receipt, 'txId' | 'block'>[]> {
  return on.query<{ txId: string; block: number }>(
    sql`select tx_id as "txId", block from outbox_batch where state = 'committed' and block is not null order by block desc`,
  );
}

/** Transactions whose alarm somebody has looked into. */
async function cleared(on: Sql): Promise<Set<string>> {
  const rows = await on.query<{ id: string }>(
    sql`select tx_id as id from ledger_alarm where kind = 'write-set' and cleared_at is not null and tx_id is not null`,
  );
  return new Set(rows.map(({ id }) => id));
}

class Run {
  height = 0;
  /** False once the blocks could not be read on: then what follows from them cannot be compared. */
  whole = true;
  readonly #options: VerifyChannelOptions;
  readonly #shadow: Shadow;
  readonly #checkpoint: Checkpoint;
  readonly #cleared: ReadonlySet<string>;
  readonly #state = new MemoryState();
  readonly #definitions: DefinitionRow[] = [];
  /** Transaction -> block in which it is valid. */
  readonly #valid = new Map<string, number>();
  readonly #problems: Problem[] = [];
  #transactions = 0;
  #tip = '';
  #tipAtCheckpoint = '';
  /** Newest time of an own transaction below the checkpoint. */
  #seen = '';
  #ledgerId: string | null = null;

  constructor(options: VerifyChannelOptions, shadow: Shadow, checkpoint: Checkpoint, clearedAlarms: ReadonlySet<string>) {
    this.#options = options;
    this.#shadow = shadow;
    this.#checkpoint = checkpoint;
    this.#cleared = clearedAlarms;
  }

  #problem(problem: Problem): void {
    if (this.#problems.length < MOST) this.#problems.push(problem);
  }

  async block(block: Block): Promise<void> {
    const { number } = block;
    if (number !== this.height || (number > 0 && block.previousHash !== this.#tip)) {
      this.#problem({ kind: 'chain', block: this.height, what: 'does not follow on the one before' });
      this.whole = false;
      return;
    }
    this.height = number + 1;
    this.#tip = block.hash;
    if (this.height === this.#checkpoint.height) this.#tipAtCheckpoint = block.hash;
    this.#transactions += block.transactions.length;
    const applied = await this.#apply(block);
    if (number >= this.#checkpoint.height) return;
    await this.#shadow.apply(writesOf(number, applied));
    this.#definitions.push(...definitionRows(block, this.#options.msp));
    const { institution, msp } = this.#options;
    for (const { transaction } of applied) {
      const { caller, time } = transaction;
      if (caller.institution === institution && caller.msp === msp && time > this.#seen) this.#seen = time;
    }
  }

  /** What takes effect of a block. */
  async #apply(block: Block): Promise<Parameters<typeof writesOf>[1]> {
    for (const { txId, validation, name, args } of block.transactions) {
      if (validation !== 'VALID') continue;
      if (this.#valid.has(txId)) this.#problem({ kind: 'validation', block: block.number, txId, what: 'valid for the second time' });
      this.#valid.set(txId, block.number);
      if (name === 'init') this.#ledgerId ??= args[0] ?? null;
    }
    if (this.#options.rerun === false)
      return block.transactions.flatMap((transaction, n) =>
        transaction.validation === 'VALID' && transaction.irregular === undefined ? [{ n, transaction, writes: transaction.writes }] : [],
      );
    const { replayed, overlay } = await replayBlock(this.#state, block);
    this.#state.apply(overlay);
    for (const { agrees, transaction } of replayed) {
      if (agrees || this.#cleared.has(transaction.txId)) continue;
      const what = transaction.irregular ?? 'the contract writes something else';
      this.#problem({ kind: 'effect', block: block.number, txId: transaction.txId, what });
    }
    return replayed.filter(({ agrees }) => agrees);
  }

  corrupt(error: Error & { detail?: { diagnostics?: string } }): void {
    this.#problem({ kind: 'block', block: this.height, what: error.detail?.diagnostics ?? error.message });
    this.whole = false;
  }

  async compareProjection(): Promise<void> {
    const { height, tip, own_seen_at: seen } = this.#checkpoint;
    if (height > this.height || (height > 0 && this.#tipAtCheckpoint !== tip)) {
      this.#problem({ kind: 'projection', block: height - 1, what: 'the projection is ahead of the ledger, or beside it' });
      return;
    }
    for (const difference of await this.#shadow.compareProjection()) this.#problem(problemOf(difference));
    if (seen !== null && seen.toISOString() > this.#seen)
      this.#problem({ kind: 'projection', what: 'projection.checkpoint claims an own transaction that no block holds' });
  }

  async compareDefinitions(on: Sql): Promise<void> {
    const stored = await on.query<DefinitionRow>(sql`select block, n, kind, name, hash, sequence from projection.definition`);
    const text = ({ block, n, kind, name, hash, sequence }: DefinitionRow): string =>
      JSON.stringify([block, n, kind, name, hash, sequence]);
    const there = new Set(stored.map(text));
    const derived = new Set(this.#definitions.map(text));
    const name = ({ block, n }: DefinitionRow): string => `projection.definition ${block}/${n}`;
    for (const row of stored)
      if (!derived.has(text(row))) this.#problem({ kind: 'projection', what: `${name(row)} is not what the blocks say` });
    for (const row of this.#definitions) if (!there.has(text(row))) this.#problem({ kind: 'projection', what: `${name(row)} is missing` });
  }

  compareReceipts(receipts: readonly Pick<Receipt, 'txId' | 'block'>[]): void {
    for (const { txId, block } of receipts) {
      // Beyond what could be read nothing is known, which is said already.
      if (!this.whole && block >= this.height) continue;
      if (this.#valid.get(txId) !== block)
        this.#problem({ kind: 'receipt', block, txId, what: 'a receipt was handed out that the ledger does not bear out' });
    }
  }

  report(): VerifyReport {
    return {
      ok: this.#problems.length === 0,
      ledger: this.#ledgerId,
      blocks: this.height,
      transactions: this.#transactions,
      stateKeys: this.#state.size,
      tip: this.height === 0 ? null : { height: this.height, hash: this.#tip },
      problems: this.#problems,
    };
  }
}
