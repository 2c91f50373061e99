import { status as grpc } from '@grpc/grpc-js';
import { peer } from '@hyperledger/fabric-protos';
import { CodedError } from '../../errors.ts';

/**
 * What the gateway's errors mean (fabric.md sections 6 and 7, as a table):
 *
 * | call | what comes back | code |
 * |---|---|---|
 * | endorse, evaluate | our own peer's chaincode answers `REFUSED x` | LEDGER_REFUSED x |
 * | endorse | other peers refuse what ours took, or the effects differ | LEDGER_MISMATCH, after it was tried again: one may be behind |
 * | endorse, evaluate | our own peer's chaincode answers `FAILED x` | INTERNAL |
 * | endorse, evaluate | anything else: peers missing, hung, no endorsers enough | LEDGER_UNAVAILABLE |
 * | submit, commit | 14, 4, 1, or an orderer that is busy | LEDGER_UNKNOWN |
 * | submit | an orderer that refuses the bytes | LEDGER_INVALID |
 * | commit | 11 MVCC_READ_CONFLICT, 12 PHANTOM_READ_CONFLICT | LEDGER_CONFLICT |
 * | commit | any other validation code | LEDGER_INVALID with its name |
 */
export interface GrpcFailure {
  code: number;
  message: string;
  details: readonly { address: string; mspId: string; message: string }[];
}

/** What the gateway client throws, as far as it is a gRPC failure. Its classes are not all importable, so by form. */
export function grpcFailure(error: unknown): GrpcFailure | undefined {
  if (!(error instanceof Error) || !('code' in error) || typeof error.code !== 'number') return undefined;
  const details = 'details' in error && Array.isArray(error.details) ? (error.details as GrpcFailure['details']) : [];
  return { code: error.code, message: error.message, details };
}

const UNAVAILABLE: number = grpc.UNAVAILABLE;
const UNANSWERED: readonly number[] = [grpc.UNAVAILABLE, grpc.DEADLINE_EXCEEDED, grpc.CANCELLED];

/**
 * The peer itself does not answer: it is down, hung or cut off. A deadline of a wait for others (a commit) is not its fault.
 */
export function peerIsSilent(error: unknown, deadlineIsFault: boolean): boolean {
  const failure = grpcFailure(error);
  if (failure === undefined || failure.details.length > 0 || /orderer/i.test(failure.message)) return false;
  return failure.code === UNAVAILABLE || (deadlineIsFault && UNANSWERED.includes(failure.code));
}

/** It answers, but cannot run the chaincode: another peer of ours may. */
export function peerIsUnable(error: unknown): boolean {
  const failure = grpcFailure(error);
  if (failure === undefined || UNANSWERED.includes(failure.code)) return false;
  const text = textOf(failure);
  return /could not launch chaincode|error starting container|chaincode stream terminated|is not installed|make sure the chaincode/i.test(
    text,
  );
}

const REFUSED = /chaincode response \d+, REFUSED ([A-Z][A-Z0-9_]*(?: [\w.[\]-]+)?)/;
const FAILED = /chaincode response \d+, (FAILED \w+)/;

/** Endorsers do not agree with one another: worth asking again, for one may be a block behind. */
function endorsersDisagree(failure: GrpcFailure): boolean {
  // In the message where one peer dissents, in the details where every plan of the gateway failed.
  return /do not match/.test(textOf(failure)) || failure.details.some(({ message }) => REFUSED.test(message));
}

export function evaluateFailure(error: unknown): CodedError {
  const failure = grpcFailure(error);
  if (failure !== undefined) {
    const refused = REFUSED.exec(textOf(failure))?.[1];
    if (refused !== undefined) return new CodedError('LEDGER_REFUSED', { diagnostics: refused });
    const failed = FAILED.exec(textOf(failure))?.[1];
    if (failed !== undefined) return new CodedError('INTERNAL', { diagnostics: `Chaincode ${failed}.`, cause: error });
  }
  return unavailable(error);
}

export function endorseFailure(error: unknown, ownMsp: string): CodedError {
  const failure = grpcFailure(error);
  if (failure !== undefined) {
    const refused = ownAnswer(failure, ownMsp, REFUSED);
    if (refused !== undefined) return new CodedError('LEDGER_REFUSED', { diagnostics: refused });
    const failed = ownAnswer(failure, ownMsp, FAILED);
    if (failed !== undefined) return new CodedError('INTERNAL', { diagnostics: `Chaincode ${failed}.`, cause: error });
    if (endorsersDisagree(failure)) return new CodedError('LEDGER_MISMATCH', { diagnostics: said(failure), cause: error });
  }
  return unavailable(error);
}

/** Of a submit, before the commit is waited for. */
export function submitFailure(error: unknown): CodedError {
  const failure = grpcFailure(error);
  const refused = failure === undefined ? undefined : /status=(BAD_REQUEST|FORBIDDEN|REQUEST_ENTITY_TOO_LARGE)/.exec(textOf(failure))?.[1];
  if (refused !== undefined) return new CodedError('LEDGER_INVALID', { diagnostics: refused, cause: error });
  return commitUnknown(error);
}

/** Sent, and nobody knows what became of it. */
export function commitUnknown(error: unknown): CodedError {
  const failure = grpcFailure(error);
  return new CodedError('LEDGER_UNKNOWN', { ...(failure === undefined ? {} : { diagnostics: said(failure) }), cause: error });
}

export function unavailable(cause: unknown): CodedError {
  if (cause instanceof CodedError) return cause;
  const failure = grpcFailure(cause);
  return new CodedError('LEDGER_UNAVAILABLE', { ...(failure === undefined ? {} : { diagnostics: said(failure) }), cause });
}

const NAMES = new Map<number, string>(Object.entries(peer.TxValidationCode).map(([name, code]) => [code, name]));
const CONFLICTS: readonly number[] = [peer.TxValidationCode.MVCC_READ_CONFLICT, peer.TxValidationCode.PHANTOM_READ_CONFLICT];

/** What a transaction that was committed as invalid comes to. */
export function invalidated(code: number): CodedError {
  return new CodedError(CONFLICTS.includes(code) ? 'LEDGER_CONFLICT' : 'LEDGER_INVALID', {
    diagnostics: NAMES.get(code) ?? `CODE_${code}`,
  });
}

/** An answer of a peer of our own organisation. Where the gateway names nobody (older peers), the answer is its own. */
function ownAnswer(failure: GrpcFailure, ownMsp: string, pattern: RegExp): string | undefined {
  const own =
    failure.details.length === 0 ? [failure.message] : failure.details.filter((one) => one.mspId === ownMsp).map((one) => one.message);
  for (const text of own) {
    const found = pattern.exec(text)?.[1];
    if (found !== undefined) return found;
  }
  return undefined;
}

function textOf(failure: GrpcFailure): string {
  return [failure.message, ...failure.details.map((one) => one.message)].join('\n');
}

const STATUS_NAMES = new Map<unknown, string>(Object.entries(grpc).map(([name, code]) => [code, name]));
/** For an operator: status and what the nodes said. They know no arguments, and chaincode says codes only. */
function said(failure: GrpcFailure): string {
  const nodes = failure.details.map(({ mspId, message }) => `${mspId}: ${message}`);
  return `${STATUS_NAMES.get(failure.code) ?? failure.code}: ${[failure.message.replace(/^\d+ [A-Z_]+: /, ''), ...nodes].join('; ').slice(0, 400)}`;
}
