import { createHash, randomBytes } from 'node:crypto';
import { CodedError } from '../../src/errors.ts';
import type { EndorsedTransaction, LedgerTransaction, Receipt } from '../../src/ledger/ledger.ts';

/** What a submit may come to, as the table of queue-and-reliability.md section 8 has it. */
export type Outcome = 'commit' | 'lost' | 'silent' | 'conflict' | 'unavailable' | 'invalid';

/**
 * A ledger whose failures can be caused at will: an outcome lost before or after ordering, a conflict, an outage. It stands
 * in only for these; what a contract says is tested on the real one.
 */
export function createScriptedLedger(script: {
  /** Asked for each submit of a transaction that is not settled yet. */
  outcome?: (transaction: LedgerTransaction) => Outcome;
  /** A refusal of the whole, by the contract's code. */
  refuse?: (transaction: LedgerTransaction) => string | undefined;
  result?: (transaction: LedgerTransaction) => string;
}) {
  const committed = new Map<string, { transaction: LedgerTransaction; receipt: Receipt }>();
  const invalid = new Map<string, 'LEDGER_CONFLICT' | 'LEDGER_INVALID'>();
  const counts = { endorse: 0, submit: 0, status: 0 };
  const submitted: { at: number; transaction: LedgerTransaction }[] = [];
  const bytesSeen = new Map<string, string>();

  return {
    /** Transactions that count, in order. */
    committed,
    counts,
    submitted,
    async endorse(transaction: LedgerTransaction): Promise<EndorsedTransaction> {
      counts.endorse++;
      const code = script.refuse?.(transaction);
      if (code !== undefined) throw new CodedError('LEDGER_REFUSED', { diagnostics: `${code} somewhere` });
      const txId = randomBytes(8).toString('hex');
      return { txId, bytes: Buffer.from(JSON.stringify({ txId, transaction })), result: script.result?.(transaction) ?? '{}' };
    },
    async submit(bytes: Uint8Array): Promise<Receipt> {
      counts.submit++;
      const { txId, transaction } = JSON.parse(Buffer.from(bytes).toString()) as { txId: string; transaction: LedgerTransaction };
      const hash = createHash('sha256').update(bytes).digest('hex');
      if ((bytesSeen.get(txId) ?? hash) !== hash) throw new Error('other bytes under the same transaction id');
      bytesSeen.set(txId, hash);
      submitted.push({ at: performance.now(), transaction });
      const before = committed.get(txId);
      if (before !== undefined) return before.receipt;
      const verdict = invalid.get(txId);
      if (verdict !== undefined) throw new CodedError(verdict);
      const outcome = script.outcome?.(transaction) ?? 'commit';
      if (outcome === 'unavailable') throw new CodedError('LEDGER_UNAVAILABLE');
      if (outcome === 'lost') throw new CodedError('LEDGER_UNKNOWN');
      if (outcome === 'conflict' || outcome === 'invalid') {
        const code = outcome === 'conflict' ? 'LEDGER_CONFLICT' : 'LEDGER_INVALID';
        invalid.set(txId, code);
        throw new CodedError(code);
      }
      const receipt = { txId, block: committed.size, result: script.result?.(transaction) ?? '{}' };
      committed.set(txId, { transaction, receipt });
      if (outcome === 'silent') throw new CodedError('LEDGER_UNKNOWN');
      return receipt;
    },
    async status(txId: string): Promise<Receipt | undefined> {
      counts.status++;
      return committed.get(txId)?.receipt;
    },
  };
}
