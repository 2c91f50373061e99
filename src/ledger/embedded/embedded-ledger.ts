import { randomBytes } from 'node:crypto';
import { CodedError } from '../../errors.ts';
import type { Database, Sql } from '../../store/database.ts';
import { sql } from '../../store/sql.ts';
import { runQuery } from '../contract/contract.ts';
import type { EcJwk } from '../contract/host.ts';
import { institutionKey } from '../contract/keys.ts';
import { ecJwk } from '../contract/payloads.ts';
import { Refusal } from '../contract/refusals.ts';
import { expectedReads } from '../expected-reads.ts';
import type { Block, Ledger, Receipt } from '../ledger.ts';
import { Overlay, type Proposal, readHost, type Simulated, simulate } from '../simulation.ts';
import {
  BLOCK_CHANNEL,
  blockHash,
  insertBlock,
  newestBlock,
  type Outcome,
  outcomes,
  prefetched,
  readBlocks,
  stateReader,
} from './block-store.ts';
import { decodeEnvelope, type Envelope, encodeEnvelope, isSigned } from './envelope.ts';
import { type FaultHook, raise } from './faults.ts';
import { createOwnTail, isSame, signerAfter, signingKeyOf } from './own-tail.ts';
import { decodeBlock, encodeBlock, GENESIS } from './stored-block.ts';
import { appendTip, openTip, readTip } from './tip-file.ts';
import { type Validation, validate } from './validation.ts';

export interface EmbeddedLedgerOptions {
  database: Database;
  /** Path of the tip file, outside the database's folder. */
  tipFile: string;
  /** This deployment's id and MSP on the ledger. */
  institution: string;
  msp: string;
  /** The institution's signing key, which founds the ledger; from then on the signer of blocks and transactions is the key that the ledger names. */
  publicKey: { crv?: string; x?: string; y?: string };
  /** Signs (raw ES256) by the institution's signing key with this public half. */
  sign(bytes: Uint8Array, publicKey: EcJwk): Promise<Uint8Array>;
  now?: () => Date;
  /** How long a block waits for company. */
  blockDelayMs?: number;
  maxBlockTransactions?: number;
  /** Produces failures for tests. */
  faults?: FaultHook;
  onError?: (error: Error) => void;
}

/** Of one process at a time, in every database: cutting a block and telling the tip file. `embl` in ASCII. */
const LOCK = 0x65_6d_62_6c;
/** Where no notification arrives, a reader of blocks looks by itself. */
const POLL_MS = 1000;
const PAGE = 50;

interface Waiting {
  envelope: Envelope;
  signedBy: EcJwk;
  fault: 'committed-unknown' | 'read-conflict' | 'phantom-conflict' | 'invalid' | undefined;
  resolve(receipt: Receipt): void;
  reject(error: unknown): void;
}

interface Asked extends PromiseWithResolvers<Simulated> {
  proposal: Proposal;
}

/**
 * The ledger port on one node: the contract over PostgreSQL in signed, hash-chained blocks. It has no consensus and `info`
 * says so. Any number of processes may submit to one database; kill them anywhere and start again.
 * Throws LEDGER_CORRUPT where the database lacks what the tip file says was handed out, or has blocks and the file is missing.
 */
export async function createEmbeddedLedger(options: EmbeddedLedgerOptions): Promise<Ledger> {
  const { database, institution, msp } = options;
  const now = options.now ?? (() => new Date());
  const onError = options.onError ?? (() => {});
  const blockDelayMs = options.blockDelayMs ?? 3;
  const maxBlock = options.maxBlockTransactions ?? 200;

  // Blocks first: the file is made before the first block, so that a first start of two processes is no loss.
  const blocksThere = (await newestBlock(database)) !== undefined;
  const unreadable = (cause: unknown): never => {
    throw new CodedError('LEDGER_CORRUPT', { diagnostics: 'The tip file cannot be read.', cause });
  };
  if (blocksThere && (await readTip(options.tipFile).catch(unreadable)) === undefined) {
    throw new CodedError('LEDGER_CORRUPT', {
      diagnostics:
        'The tip file is missing, and the ledger has blocks: without it nobody can tell whether its tail was cut. Put the newest copy back from the backup. Nothing was written.',
    });
  }
  const tip = await openTip(options.tipFile).catch(unreadable);
  if (tip.height > 0 && (await blockHash(database, tip.height - 1)) !== tip.hash) {
    throw new CodedError('LEDGER_CORRUPT', { diagnostics: `Block ${tip.height - 1} of the tip file is missing or another one.` });
  }
  if (tip.height === 0 && (await newestBlock(database)) !== undefined) {
    const [first] = await readBlocks(database, 0, 1);
    const ledger = first === undefined ? undefined : await decodeBlock(first).catch(() => undefined);
    if (ledger?.ledger !== tip.ledger)
      throw new CodedError('LEDGER_CORRUPT', { diagnostics: 'The tip file is of another ledger than the database.' });
  }

  const tail = createOwnTail(tip, institution, await signerAtTip());
  const waiting: Waiting[] = [];
  let asked: Asked[] = [];
  /** Blocks that the tip file names, as far as this process knows. */
  let told = tip.height;
  const readers = new Set<() => void>();
  const closing = new AbortController();
  let cutting: Promise<void> | undefined;
  let listener: Promise<{ close(): Promise<void> }> | undefined;

  /** Who signs the block after those that the tip file names: its hash binds the last of them, and that one names its signer. */
  async function signerAtTip(): Promise<EcJwk> {
    const [last] = tip.height === 0 ? [] : await readBlocks(database, tip.height - 1, 1);
    if (last === undefined) return ecJwk(options.publicKey);
    const decoded = await decodeBlock(last, { signatures: false }).catch((cause: unknown) => {
      throw new CodedError('LEDGER_CORRUPT', { diagnostics: `Block ${last.number}.`, cause });
    });
    return signerAfter(decoded.block, institution) ?? decoded.signer;
  }

  function cutSoon(): void {
    cutting ??= (async () => {
      await new Promise((resolve) => setTimeout(resolve, blockDelayMs));
      while (waiting.length > 0) {
        const batch = waiting.splice(0, maxBlock);
        try {
          await cut(batch);
        } catch (error) {
          // The commit itself may have failed in the answer only: nobody knows but the database.
          onError(error as Error);
          for (const one of batch) one.reject(new CodedError('LEDGER_UNKNOWN', { cause: error }));
        }
      }
    })().finally(() => {
      cutting = undefined;
      if (waiting.length > 0) cutSoon();
    });
  }

  /**
   * The lock is held by a transaction of its own around commit and tip file, so that lines of two processes cannot overtake
   * each other; it goes with its connection if we die.
   */
  async function cut(batch: readonly Waiting[]): Promise<void> {
    const known = await database.transaction(async (guard) => {
      await guard.query(sql`select pg_advisory_xact_lock(${LOCK})`);
      const committed = await database.transaction((tx) => commit(tx, batch));
      if (committed.block === undefined) {
        const blocks = Array.from(committed.outcomes.values(), (one) => one.block);
        if (blocks.length > 0) await coverTip(guard, Math.max(...blocks));
      } else {
        tail.committed(committed.block);
        await appendTip(options.tipFile, committed.block.number + 1, committed.block.hash);
        told = committed.block.number + 1;
      }
      return committed.outcomes;
    });
    for (const wake of readers) wake();
    for (const { envelope, signedBy, fault, resolve, reject } of batch) {
      const outcome = known.get(envelope.txId);
      // The institution's key has changed since it was endorsed: as after any other conflict it is endorsed anew.
      if (outcome === undefined && !isSame(signedBy, tail.signer())) {
        reject(new CodedError('LEDGER_CONFLICT', { diagnostics: 'SIGNER_CHANGED' }));
        continue;
      }
      if (outcome === undefined || fault === 'committed-unknown') reject(new CodedError('LEDGER_UNKNOWN'));
      else {
        try {
          resolve(receiptOf(outcome));
        } catch (error) {
          reject(error);
        }
      }
    }
  }

  /** A receipt of a block whose commit we did not outlive is handed out only once the tip file names it. The lock is held. */
  async function coverTip(guard: Sql, block: number): Promise<void> {
    if (block < told) return;
    told = (await readTip(options.tipFile))?.height ?? 0;
    if (block < told) return;
    const newest = await tail.newest(guard);
    if (newest === undefined) return;
    await appendTip(options.tipFile, newest.number + 1, newest.hash);
    told = newest.number + 1;
  }

  async function commit(
    tx: Sql,
    batch: readonly Waiting[],
  ): Promise<{ block: { number: number; hash: string; signerAfter: EcJwk } | undefined; outcomes: Map<string, Outcome> }> {
    const known = await outcomes(
      tx,
      batch.map((one) => one.envelope.txId),
    );
    // Bytes that have an outcome already are answered from it, as the gateway's status look-up does.
    const unknown = batch.filter((one) => !known.has(one.envelope.txId));
    if (unknown.length === 0) return { block: undefined, outcomes: known };
    const newest = await tail.newest(tx);
    const signer = tail.signer();
    const fresh = unknown.filter((one) => isSame(one.signedBy, signer));
    if (fresh.length === 0) return { block: undefined, outcomes: known };
    const number = (newest?.number ?? -1) + 1;
    const overlay = new Overlay(await prefetched(tx, [...new Set(fresh.flatMap((one) => [...one.envelope.reads.keys()]))]));
    const transactions: { envelope: Envelope; validation: Validation; txId: string; n: number; result: string }[] = [];
    const recorded: typeof transactions = [];
    for (const [n, { envelope, fault }] of fresh.entries()) {
      const duplicate = known.has(envelope.txId);
      const validation = duplicate ? 'DUPLICATE_TXID' : (injected(fault) ?? (await validate(envelope, overlay)));
      const one = { envelope, validation, txId: envelope.txId, n, result: envelope.result };
      transactions.push(one);
      if (duplicate) continue;
      recorded.push(one);
      known.set(envelope.txId, { txId: envelope.txId, block: number, validation, result: envelope.result });
      if (validation === 'VALID') overlay.apply(envelope.writes, [number, n]);
    }
    const facts = { ledger: tip.ledger, number, previous: newest?.hash ?? GENESIS, time: now().toISOString(), signer };
    const row = await encodeBlock(facts, transactions, (bytes) => options.sign(bytes, signer));
    await insertBlock(tx, row, recorded, overlay.writes);
    const renamed = overlay.writes.get(institutionKey(institution))?.value;
    return { block: { number, hash: row.hash, signerAfter: signingKeyOf(renamed) ?? signer }, outcomes: known };
  }

  /** What is asked in one turn of the event loop is simulated on one snapshot: the state as of the last block. */
  function simulateSoon(proposal: Proposal): Promise<Simulated> {
    const one: Asked = { proposal, ...Promise.withResolvers<Simulated>() };
    if (asked.push(one) === 1) {
      setImmediate(() => {
        const together = asked;
        asked = [];
        void simulateAll(together);
      });
    }
    return one.promise;
  }

  async function simulateAll(together: readonly Asked[]): Promise<void> {
    try {
      await database.transaction(async (tx) => {
        const state = await prefetched(tx, [...new Set(together.flatMap(({ proposal }) => expectedReads(proposal)))]);
        for (const { proposal, resolve, reject } of together)
          await simulate(state, proposal).then(resolve, (error) => reject(refused(error)));
      }, 'repeatable read');
    } catch (error) {
      const [only, ...others] = together;
      // What the database would not answer for one is no error of the others; who has an answer keeps it.
      if (others.length === 0) only?.reject(error);
      else for (const one of together) await simulateAll([one]);
    }
  }

  /** Resolves with the next block, the next look or the end of the reader; `cancel` resolves it at once. */
  function nextBlock(signal: AbortSignal): { arrived: Promise<void>; cancel(): void } {
    listener ??= database.listen(BLOCK_CHANNEL, () => {
      for (const wake of readers) wake();
    });
    listener.catch(onError);
    let cancel = (): void => {};
    const arrived = new Promise<void>((resolve) => {
      cancel = (): void => {
        clearTimeout(timer);
        readers.delete(cancel);
        signal.removeEventListener('abort', cancel);
        resolve();
      };
      const timer = setTimeout(cancel, POLL_MS);
      readers.add(cancel);
      signal.addEventListener('abort', cancel);
      if (signal.aborted) cancel();
    });
    return { arrived, cancel };
  }

  async function* blocks(from: number, signal?: AbortSignal): AsyncIterable<Block> {
    const either = signal === undefined ? closing.signal : AbortSignal.any([signal, closing.signal]);
    let next = from;
    let previous = from === 0 ? GENESIS : await blockHash(database, from - 1);
    while (!either.aborted) {
      // Registered before the look, so that a block between look and wait is not slept through.
      const { arrived, cancel } = nextBlock(either);
      const rows = await readBlocks(database, next, PAGE).catch((error: unknown) => {
        cancel();
        throw error;
      });
      if (rows.length > 0) cancel();
      await arrived;
      for (const row of rows) {
        if (either.aborted) return;
        const decoded = await decodeBlock(row).catch((cause: unknown) => {
          throw new CodedError('LEDGER_CORRUPT', { diagnostics: `Block ${row.number}.`, cause });
        });
        const chained = row.number === next && (previous === undefined || row.previous_hash === previous);
        if (!chained || !(await tail.isOwn(database, decoded)))
          throw new CodedError('LEDGER_CORRUPT', { diagnostics: `Block ${next} does not follow, or is not ours.` });
        previous = row.hash;
        next = row.number + 1;
        yield decoded.block;
      }
    }
  }

  return {
    kind: 'embedded',
    async endorse({ name, args }) {
      raise(options.faults?.('endorse', { name, txId: undefined }));
      const proposal = { name, args, caller: { msp, institution }, time: now().toISOString() };
      const simulated = await simulateSoon(proposal);
      const nonce = randomBytes(16).toString('hex');
      const signer = tail.signer();
      const sign = (bytes: Uint8Array): Promise<Uint8Array> => options.sign(bytes, signer);
      const envelope = await encodeEnvelope({ ...proposal, ledger: tip.ledger, nonce }, simulated, sign);
      return { txId: envelope.txId, bytes: Buffer.from(envelope.text), result: envelope.result };
    },

    async submit(bytes) {
      let envelope: Envelope;
      try {
        envelope = decodeEnvelope(Buffer.from(bytes).toString());
      } catch (cause) {
        throw new CodedError('LEDGER_INVALID', { diagnostics: 'BAD_PAYLOAD', cause });
      }
      const signedBy = envelope.ledger === tip.ledger ? await tail.signerOf((key) => isSigned(envelope, key), database) : undefined;
      if (signedBy === undefined) throw new CodedError('LEDGER_INVALID', { diagnostics: 'BAD_CREATOR_SIGNATURE' });
      const fault = options.faults?.('submit', { name: envelope.proposal.name, txId: envelope.txId });
      raise(fault);
      if (closing.signal.aborted) throw new CodedError('LEDGER_UNAVAILABLE');
      return new Promise<Receipt>((resolve, reject) => {
        waiting.push({ envelope, signedBy, fault: fault as Waiting['fault'], resolve, reject });
        cutSoon();
      });
    },

    async status(txId) {
      raise(options.faults?.('status', { name: '', txId }));
      const outcome = (await outcomes(database, [txId])).get(txId);
      if (outcome === undefined) return undefined;
      if (outcome.block >= told) {
        await database.transaction(async (guard) => {
          await guard.query(sql`select pg_advisory_xact_lock(${LOCK})`);
          await coverTip(guard, outcome.block);
        });
      }
      return receiptOf(outcome);
    },

    async evaluate(query, args) {
      try {
        return await database.transaction((tx) => runQuery(readHost(stateReader(tx)), query, args), 'repeatable read');
      } catch (error) {
        throw refused(error);
      }
    },

    blocks,
    async height() {
      return ((await newestBlock(database))?.number ?? -1) + 1;
    },
    async info() {
      const newest = await newestBlock(database);
      return {
        kind: 'embedded',
        ledgerId: tip.ledger,
        height: (newest?.number ?? -1) + 1,
        tip: newest?.hash ?? GENESIS,
        consensus: 'none: one node orders and signs every block alone',
        nodes: 1,
      };
    },
    async close() {
      closing.abort();
      await cutting;
      await (await listener?.catch(() => undefined))?.close();
    },
  };
}

/** The receipt of a valid transaction; of an invalid one the error that says what to do. */
function receiptOf(outcome: Outcome): Receipt {
  if (outcome.validation === 'VALID') return { txId: outcome.txId, block: outcome.block, result: outcome.result };
  const conflict = outcome.validation === 'MVCC_READ_CONFLICT' || outcome.validation === 'PHANTOM_READ_CONFLICT';
  throw new CodedError(conflict ? 'LEDGER_CONFLICT' : 'LEDGER_INVALID', { diagnostics: outcome.validation });
}

function injected(fault: Waiting['fault']): Validation | undefined {
  if (fault === 'read-conflict') return 'MVCC_READ_CONFLICT';
  if (fault === 'phantom-conflict') return 'PHANTOM_READ_CONFLICT';
  return fault === 'invalid' ? 'ENDORSEMENT_POLICY_FAILURE' : undefined;
}

function refused(error: unknown): unknown {
  return error instanceof Refusal ? new CodedError('LEDGER_REFUSED', { diagnostics: error.message }) : error;
}
