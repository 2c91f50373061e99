import { CodedError } from '../../errors.ts';

/**
 * The outcomes of queue-and-reliability.md section 8, row by row, for tests. Off unless a hook is handed in; the hook is asked
 * once at each stage and answers what shall go wrong there.
 */
export type FaultStage = 'endorse' | 'submit' | 'status';
export type Fault =
  /** EndorseError 10 "chaincode response 500": the contract refused. */
  | 'refused'
  /** EndorseError 10 "ProposalResponsePayloads do not match". */
  | 'mismatch'
  /** EndorseError 10 or 9, or 4: a peer is down, no combination of peers, a peer hung. Nothing was sent. */
  | 'unavailable'
  /** SubmitError 14, 4 or 1 and the transaction was never ordered. */
  | 'lost'
  /** The same code, and the transaction commits all the same. */
  | 'committed-unknown'
  /** CommitError 11 and 12. */
  | 'read-conflict'
  | 'phantom-conflict'
  /** Any other invalid code. */
  | 'invalid'
  /** getStatus ran into its deadline. */
  | 'unknown';

export type FaultHook = (stage: FaultStage, transaction: { name: string; txId: string | undefined }) => Fault | undefined;

/** Throws what the fault looks like from outside; the faults of `submit` that need the block are handled where it is cut. */
export function raise(fault: Fault | undefined): void {
  if (fault === 'refused') throw new CodedError('LEDGER_REFUSED', { diagnostics: 'SCHEMA injected' });
  if (fault === 'mismatch') throw new CodedError('LEDGER_MISMATCH');
  if (fault === 'unavailable') throw new CodedError('LEDGER_UNAVAILABLE');
  if (fault === 'lost' || fault === 'unknown') throw new CodedError('LEDGER_UNKNOWN');
}
