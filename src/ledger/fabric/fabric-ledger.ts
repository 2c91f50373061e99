import type { Gateway } from '@hyperledger/fabric-gateway';
import { common, peer as protos } from '@hyperledger/fabric-protos';
import { CodedError, codeOf } from '../../errors.ts';
import { Refusal } from '../contract/refusals.ts';
import { expectedReads } from '../expected-reads.ts';
import type { EndorsedTransaction, Ledger, LedgerTransaction, Receipt } from '../ledger.ts';
import { type StateReader, simulate } from '../simulation.ts';
import { type BlockReaderEvent, createBlockReader } from './block-reader.ts';
import { callerOf } from './caller.ts';
import { readChannelConfig } from './channel-config.ts';
import type { FabricConnection } from './connection.ts';
import { commitUnknown, endorseFailure, evaluateFailure, grpcFailure, invalidated, submitFailure, unavailable } from './failures.ts';
import { connectPeers, type OwnPeer, type PeerEvent } from './peers.ts';
import { atTime, commitRequest, readSubmission, resultOf } from './submission.ts';

export interface FabricLedgerOptions {
  connection: FabricConnection;
  /** The ledger's id, pinned by configuration: what `init` was given. */
  ledgerId: string;
  /** The projected state, for the local run before anybody is asked; without it there is none. */
  state?: StateReader;
  /** Time of what is proposed; the machine's where absent. */
  now?: () => Date;
  onEvent?: (event: FabricEvent) => void;
  /** Told of what was survived: a peer that failed, a stream that was lost. */
  onError?: (error: Error) => void;
}

export type FabricEvent =
  | PeerEvent
  | BlockReaderEvent
  /** Endorsers did not agree about this transaction; asked again, unless `given up`. */
  | { kind: 'endorsers-disagree'; transaction: string; givenUp: boolean }
  /** Refused by the contract on the projected state, but not by our own peer: the projection is behind, or wrong. */
  | { kind: 'projection-behind'; transaction: string; code: string };

/** A revocation goes out whatever our own view says: it only narrows, and may know more than we do. */
const ALWAYS_ASKED = 'revokePermission';
/** An endorser may be a block behind another; after so long it is taken at its word. */
const DISAGREEMENT_WAITS_MS = [50, 150, 400, 800];
const { VALID, DUPLICATE_TXID } = protos.TxValidationCode;

/**
 * The ledger port on Hyperledger Fabric: the gateway of a peer of our own organisation endorses, orders and answers; which
 * failure becomes which code says failures.ts. Throws CONFIG_INVALID where identity and key do not belong together; connects at
 * the first call, so that it can be made while the network is down.
 */
export async function createFabricLedger(options: FabricLedgerOptions): Promise<Ledger> {
  const { connection, ledgerId, state, now } = options;
  const { msp, channel, chaincode, certificatePem } = connection;
  const onEvent = (event: FabricEvent): void => {
    options.onEvent?.(event);
    if (event.kind === 'peer-failed' || event.kind === 'lost') options.onError?.(event.error);
  };
  const peers = connectPeers(connection, onEvent);
  const caller = callerOf(msp, certificatePem);
  const sources = peers.all.map(({ name, network }) => ({ name, open: (startBlock: bigint) => network.getBlockEvents({ startBlock }) }));
  const reader = createBlockReader({ sources, chaincode, onEvent });
  let closed = false;
  /** Blocks that we know to exist, whichever peer showed them. */
  let known = 0;

  function noted(receipt: Receipt): Receipt {
    known = Math.max(known, receipt.block + 1);
    return receipt;
  }

  /**
   * A refusal that the state could change counts only where our peer gives it while it knows all that we have seen: after a
   * failover one may be catching up, and what is refused is never sent again. Returns where our peer does not refuse, for then
   * another one was behind; throws the refusal, or LEDGER_UNAVAILABLE.
   */
  async function confirm({ name, args }: LedgerTransaction): Promise<void> {
    try {
      await peers.run(async (peer) => {
        const { height } = await chainInfoOf(peer);
        if (height < known) throw new CodedError('LEDGER_UNAVAILABLE', { diagnostics: `${peer.name} has ${height} blocks of ${known}.` });
        await peer.ask(chaincode, name, args, now?.());
      });
    } catch (error) {
      throw evaluateFailure(error);
    }
  }

  function open(): void {
    if (closed) throw new CodedError('LEDGER_UNAVAILABLE', { diagnostics: 'The connection was closed.' });
  }

  async function evaluate(name: string, args: readonly string[]): Promise<string> {
    open();
    try {
      return Buffer.from(await peers.query(chaincode, name, args)).toString();
    } catch (error) {
      throw evaluateFailure(error);
    }
  }

  /** What Fabric itself knows; undefined where it answers that it knows nothing of it. */
  async function system(systemChaincode: string, name: string, ...args: string[]): Promise<Uint8Array> {
    open();
    return peers.query(systemChaincode, name, [channel, ...args]);
  }

  /**
   * The contract run here first, so that what it refuses never leaves this process. Our view may lie behind the ledger: before a
   * refusal counts, our own peer is asked, and nobody else.
   */
  async function runLocally(view: StateReader, { name, args }: LedgerTransaction): Promise<void> {
    const time = (now?.() ?? new Date()).toISOString();
    try {
      const proposal = { name, args, caller, time };
      await simulate((await view.together?.(expectedReads(proposal))) ?? view, proposal);
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      if (name === ALWAYS_ASKED && !ofForm(error)) return;
      // Not even our own peer needs to see what could never be right.
      if (ofForm(error)) throw new CodedError('LEDGER_REFUSED', { diagnostics: error.message });
      await confirm({ name, args });
      onEvent({ kind: 'projection-behind', transaction: name, code: error.code });
    }
  }

  /** Endorsed and signed: what the caller journals is all that an ordering needs. */
  async function endorseAt(gateway: Gateway, { name, args }: LedgerTransaction): Promise<EndorsedTransaction> {
    let proposal = gateway
      .getNetwork(channel)
      .getContract(chaincode)
      .newProposal(name, { arguments: [...args] });
    if (now !== undefined) proposal = gateway.newProposal(atTime(proposal.getBytes(), now()));
    const transaction = await proposal.endorse();
    const signature = await peers.sign(transaction.getDigest());
    const bytes = gateway.newSignedTransaction(transaction.getBytes(), signature).getBytes();
    return { txId: transaction.getTransactionId(), bytes, result: Buffer.from(transaction.getResult()).toString() };
  }

  async function endorse(transaction: LedgerTransaction): Promise<EndorsedTransaction> {
    open();
    if (state !== undefined) await runLocally(state, transaction);
    for (const waitMs of [...DISAGREEMENT_WAITS_MS, undefined]) {
      try {
        return await peers.run(({ gateway }) => endorseAt(gateway, transaction));
      } catch (error) {
        const failure = endorseFailure(error, msp);
        if (failure.code === 'LEDGER_REFUSED') await confirm(transaction);
        const disagree = failure.code === 'LEDGER_REFUSED' || failure.code === 'LEDGER_MISMATCH';
        if (disagree) onEvent({ kind: 'endorsers-disagree', transaction: transaction.name, givenUp: waitMs === undefined });
        if (!disagree) throw failure;
        if (waitMs === undefined) throw new CodedError('LEDGER_MISMATCH', failure.detail);
        await new Promise((resolve) => setTimeout(resolve, waitMs));
      }
    }
    throw new Error('unreachable');
  }

  async function submit(bytes: Uint8Array): Promise<Receipt> {
    const submission = readSubmission(bytes);
    if (submission === undefined || submission.channel !== channel) throw new CodedError('LEDGER_INVALID', { diagnostics: 'BAD_PAYLOAD' });
    if (!submission.signed) throw new CodedError('LEDGER_INVALID', { diagnostics: 'BAD_CREATOR_SIGNATURE' });
    open();
    try {
      await peers.run(({ gateway }) => gateway.newTransaction(bytes).submit());
    } catch (error) {
      const failure = submitFailure(error);
      // Refused now, and perhaps committed before: only then does nobody order it anew.
      const earlier = codeOf(failure) === 'LEDGER_INVALID' ? await status(submission.txId) : undefined;
      if (earlier !== undefined) return earlier;
      throw failure;
    }
    const outcome = await committed(submission.txId);
    if (outcome.code === VALID) return noted({ txId: submission.txId, block: outcome.block, result: submission.result });
    // A copy: what counts is what became of the first.
    const first = outcome.code === DUPLICATE_TXID ? await status(submission.txId) : undefined;
    if (first !== undefined) return first;
    throw invalidated(outcome.code);
  }

  /** Waits until the transaction stands in a block, for as long as the deadline lets it. */
  async function committed(txId: string, deadlineMs = peers.deadlines.commitMs): Promise<{ code: number; block: number }> {
    try {
      const request = commitRequest(channel, txId, msp, certificatePem);
      const { code, blockNumber } = await peers.run(
        ({ gateway }) => gateway.newCommit(request).getStatus({ deadline: Date.now() + deadlineMs }),
        false,
      );
      return { code, block: Number(blockNumber) };
    } catch (error) {
      throw commitUnknown(error);
    }
  }

  /** The commit status of an id that is in no block would be waited for, so the block store is asked first. */
  async function status(txId: string): Promise<Receipt | undefined> {
    let found: protos.ProcessedTransaction;
    try {
      found = protos.ProcessedTransaction.deserializeBinary(await system('qscc', 'GetTransactionByID', txId));
    } catch (error) {
      if (saysUnknown(error)) return undefined;
      throw unavailable(error);
    }
    const { code, block } = await committed(txId, peers.deadlines.evaluateMs);
    if (found.getValidationcode() !== VALID) throw invalidated(found.getValidationcode());
    const envelope = found.getTransactionenvelope();
    if (code !== VALID || envelope === undefined)
      throw new CodedError('LEDGER_UNKNOWN', { diagnostics: 'Two answers about one transaction.' });
    return noted({ txId, block, result: resultOf(envelope) });
  }

  async function chainInfoOf(peer: OwnPeer): Promise<{ height: number; tip: string }> {
    const info = common.BlockchainInfo.deserializeBinary(await peer.ask('qscc', 'GetChainInfo', [channel]));
    return { height: info.getHeight(), tip: Buffer.from(info.getCurrentblockhash_asU8()).toString('hex') };
  }
  async function chainInfo(): Promise<{ height: number; tip: string }> {
    open();
    try {
      return await peers.run(chainInfoOf);
    } catch (error) {
      throw unavailable(error);
    }
  }

  return {
    kind: 'fabric',
    endorse,
    submit,
    status,
    evaluate,
    blocks: (from, signal) => reader.blocks(from, signal),
    height: async () => (await chainInfo()).height,
    async info() {
      const { height, tip } = await chainInfo();
      const config = await system('cscc', 'GetChannelConfig').catch((error: unknown) => {
        throw unavailable(error);
      });
      const { ordering } = readChannelConfig(config);
      const nodes = ordering.consenters ?? 1;
      const consensus = `${ordering.type === 'etcdraft' ? 'Raft' : ordering.type}, ${nodes} ${nodes === 1 ? 'orderer' : 'orderers'}`;
      return { kind: 'fabric', ledgerId, height, tip, consensus, nodes };
    },
    async close() {
      closed = true;
      reader.close();
      peers.close();
    },
  };
}

const FORM: ReadonlySet<string> = new Set([
  'TRANSACTION_UNKNOWN',
  'ARGUMENTS_WRONG',
  'ARGUMENT_TOO_LARGE',
  'PAYLOAD_TOO_LARGE',
  'NOT_CANONICAL',
  'SCHEMA',
  'JWS_MALFORMED',
  'JWS_HEADER',
  'JWS_ALGORITHM',
  'JWS_TYPE',
  'TYPE_OTHER',
]);
/** A refusal that no state could change. */
function ofForm(refusal: Refusal): boolean {
  return FORM.has(refusal.code);
}

function saysUnknown(error: unknown): boolean {
  const failure = grpcFailure(error);
  if (failure === undefined) return false;
  return [failure.message, ...failure.details.map((one) => one.message)].some((text) => /no such transaction ID|not found/i.test(text));
}
