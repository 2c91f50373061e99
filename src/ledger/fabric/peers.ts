import { createHash, createPublicKey, X509Certificate } from 'node:crypto';
import { type CallOptions, Client, credentials, status } from '@grpc/grpc-js';
import { connect, type Gateway, hash, type Network } from '@hyperledger/fabric-gateway';
import { gateway as messages, peer as protos } from '@hyperledger/fabric-protos';
import { BrokenCircuitError, ConsecutiveBreaker, circuitBreaker, handleWhen } from 'cockatiel';
import { CodedError, codeOf } from '../../errors.ts';
import { callerOf } from './caller.ts';
import type { FabricConnection, FabricDeadlines, FabricPeer } from './connection.ts';
import { peerIsSilent, peerIsUnable } from './failures.ts';
import { createSigner } from './signer.ts';
import { atTime } from './submission.ts';

export type PeerEvent =
  /** This peer did not answer, or could not; the next was asked where there is one. */
  | { kind: 'peer-failed'; peer: string; error: Error }
  /** Its breaker: open while it is not asked. */
  | { kind: 'breaker'; peer: string; state: 'open' | 'closed' };

export interface OwnPeer {
  readonly name: string;
  readonly gateway: Gateway;
  readonly network: Network;
  /**
   * A query of a chaincode, Fabric's own included, answered by this very peer: the gateway could hand it on to another one, which
   * may not have seen yet what this one has. `time`: of the proposal, where not now. Rejects with PeerAnswer where it answers an error.
   */
  ask(chaincode: string, name: string, args: readonly (string | Uint8Array)[], time?: Date): Promise<Uint8Array>;
}

/** An error that a peer answered with, in the form of the gateway's errors. */
export class PeerAnswer extends Error {
  readonly code = status.UNKNOWN;
  readonly details: readonly { address: string; mspId: string; message: string }[];
  constructor(address: string, mspId: string, response: protos.Response | undefined) {
    const message = `chaincode response ${response?.getStatus() ?? 0}, ${response?.getMessage() ?? ''}`;
    super(message);
    this.name = 'PeerAnswer';
    this.details = [{ address, mspId, message }];
  }
}

/** The peers of our own organisation, each with a connection and a breaker of its own. */
export interface OwnPeers {
  readonly all: readonly OwnPeer[];
  readonly deadlines: FabricDeadlines;
  /**
   * Does the work at the first peer that answers, beginning with the one that answered last. `deadlineIsFault`: whether a peer that lets the deadline pass is taken for one
   * that hangs, and the next asked. Work that rejects with LEDGER_UNAVAILABLE passes over the peer too. Rejects with the last peer's error.
   */
  run<T>(work: (peer: OwnPeer) => Promise<T>, deadlineIsFault?: boolean): Promise<T>;
  /** The same at the first peer that answers; no other institution's peer is asked. */
  query(chaincode: string, name: string, args: readonly string[]): Promise<Uint8Array>;
  sign(message: Uint8Array): Promise<Uint8Array>;
  close(): void;
}

const DEADLINES: FabricDeadlines = { evaluateMs: 5000, endorseMs: 15_000, submitMs: 15_000, commitMs: 30_000 };
const FAILURES = 3;
const REST_MS = 1000;

/** Throws CONFIG_INVALID where key, certificate and institution do not belong together. Connects at the first call. */
export function connectPeers(connection: FabricConnection, onEvent: (event: PeerEvent) => void = () => {}): OwnPeers {
  const { msp, certificatePem } = connection;
  checkIdentity(connection);
  const sign = createSigner(connection.privateKeyPem);
  const given = Object.entries(connection.deadlines ?? {}).filter(([, value]) => value !== undefined);
  const deadlines: FabricDeadlines = { ...DEADLINES, ...Object.fromEntries(given) };
  const within = (ms: number) => (): CallOptions => ({ deadline: Date.now() + ms });

  const peers = connection.peers.map((one) => {
    const client = openClient(one);
    const gateway = connect({
      client,
      identity: { mspId: msp, credentials: Buffer.from(certificatePem) },
      signer: sign,
      // The signer takes the message and hashes it itself.
      hash: hash.none,
      endorseOptions: within(deadlines.endorseMs),
      submitOptions: within(deadlines.submitMs),
      commitStatusOptions: within(deadlines.commitMs),
      ...(one.clientCertificatePem === undefined
        ? {}
        : { tlsClientCertificateHash: createHash('sha256').update(new X509Certificate(one.clientCertificatePem).raw).digest() }),
    });
    const make = (deadlineIsFault: boolean) => {
      const breaker = circuitBreaker(
        handleWhen((error) => peerIsSilent(error, deadlineIsFault)),
        { breaker: new ConsecutiveBreaker(FAILURES), halfOpenAfter: REST_MS },
      );
      breaker.onBreak(() => onEvent({ kind: 'breaker', peer: one.name, state: 'open' }));
      breaker.onReset(() => onEvent({ kind: 'breaker', peer: one.name, state: 'closed' }));
      return breaker;
    };
    const network = gateway.getNetwork(connection.channel);
    const peer: OwnPeer = {
      name: one.name,
      gateway,
      network,
      async ask(chaincode, name, args, time) {
        let proposal = network.getContract(chaincode).newProposal(name, { arguments: [...args] });
        if (time !== undefined) proposal = gateway.newProposal(atTime(proposal.getBytes(), time));
        const signed = messages.ProposedTransaction.deserializeBinary(proposal.getBytes()).getProposal() ?? new protos.SignedProposal();
        signed.setSignature(await sign(proposal.getDigest()));
        const response = (await processProposal(client, signed, within(deadlines.evaluateMs)())).getResponse();
        if (response === undefined || response.getStatus() >= 400) throw new PeerAnswer(one.endpoint, msp, response);
        return response.getPayload_asU8();
      },
    };
    // Apart, for a commit that takes long says nothing of the peer, and its success nothing of whether it endorses.
    return { peer, client, calls: make(true), waits: make(false) };
  });

  /** Where the last call was answered: a commit is waited for where the transaction was sent, and a peer that hangs is asked last. */
  let preferred = 0;

  async function run<T>(work: (peer: OwnPeer) => Promise<T>, deadlineIsFault = true): Promise<T> {
    let last: unknown = new CodedError('LEDGER_UNAVAILABLE', { diagnostics: 'No peer is configured.' });
    const first = preferred;
    for (let i = 0; i < peers.length; i++) {
      const at = (first + i) % peers.length;
      const one = peers[at];
      if (one === undefined) break;
      const { peer, calls, waits } = one;
      try {
        const answer = await (deadlineIsFault ? calls : waits).execute(() => work(peer));
        preferred = at;
        return answer;
      } catch (error) {
        if (error instanceof BrokenCircuitError) {
          const diagnostics = `${peer.name} failed too often and rests for a moment.`;
          last = new CodedError('LEDGER_UNAVAILABLE', { diagnostics, retryAfterSeconds: 1 });
          continue;
        }
        last = error;
        const another = peerIsSilent(error, deadlineIsFault) || peerIsUnable(error) || codeOf(error) === 'LEDGER_UNAVAILABLE';
        if (!another) throw error;
        onEvent({ kind: 'peer-failed', peer: peer.name, error: error as Error });
      }
    }
    throw last;
  }

  return {
    all: peers.map(({ peer }) => peer),
    deadlines,
    run,
    query: (chaincode, name, args) => run((peer) => peer.ask(chaincode, name, args)),
    sign,
    close() {
      for (const { peer, client } of peers) {
        peer.gateway.close();
        client.close();
      }
    },
  };
}

function processProposal(client: Client, proposal: protos.SignedProposal, options: CallOptions): Promise<protos.ProposalResponse> {
  return new Promise((resolve, reject) => {
    client.makeUnaryRequest(
      '/protos.Endorser/ProcessProposal',
      (message: protos.SignedProposal) => Buffer.from(message.serializeBinary()),
      (bytes: Buffer) => protos.ProposalResponse.deserializeBinary(bytes),
      proposal,
      options,
      (error, answer) => {
        if (answer === undefined) reject(error ?? new Error('no answer'));
        else resolve(answer);
      },
    );
  });
}

function openClient(peer: FabricPeer): Client {
  const bytes = (pem: string | undefined) => (pem === undefined ? null : Buffer.from(pem));
  const secure = credentials.createSsl(Buffer.from(peer.tlsRootPem), bytes(peer.clientKeyPem), bytes(peer.clientCertificatePem));
  return new Client(peer.endpoint, secure, {
    ...(peer.serverName === undefined
      ? {}
      : { 'grpc.ssl_target_name_override': peer.serverName, 'grpc.default_authority': peer.serverName }),
    // Blocks are larger than gRPC's 4 MiB.
    'grpc.max_receive_message_length': -1,
    'grpc.max_send_message_length': -1,
    // A peer that is back is found within 2 s: gRPC's own back-off goes up to two minutes.
    'grpc.initial_reconnect_backoff_ms': 100,
    'grpc.max_reconnect_backoff_ms': 2000,
    // A peer takes pings once a minute; oftener it hangs up.
    'grpc.keepalive_time_ms': 120_000,
    'grpc.keepalive_timeout_ms': 10_000,
  });
}

function checkIdentity({ msp, institution, certificatePem, privateKeyPem }: FabricConnection): void {
  let belongs = false;
  try {
    belongs = new X509Certificate(certificatePem).publicKey.equals(createPublicKey(privateKeyPem));
  } catch {
    // Neither text is repeated.
  }
  if (!belongs)
    throw new CodedError('CONFIG_INVALID', { diagnostics: 'The private key of the Fabric identity does not belong to its certificate.' });
  if (callerOf(msp, certificatePem).institution !== institution)
    throw new CodedError('CONFIG_INVALID', { diagnostics: 'The certificate of the Fabric identity names another institution, or none.' });
}
