import { createPrivateKey } from 'node:crypto';
import { get } from 'node:http';
import * as grpc from '@grpc/grpc-js';
import { credentials } from '@grpc/grpc-js';
import { connect, hash, signers } from '@hyperledger/fabric-gateway';
import { CodedError } from '../src/errors.ts';
import type { FabricConnection } from '../src/ledger/fabric/connection.ts';
import { pause } from './processes.ts';
import type { Topology } from './topology.ts';

/** A call that any state of the chaincode answers. It is endorsed and not submitted, so that the ledger holds nothing of it. */
export interface Probe {
  function: string;
  args: readonly string[];
}

/**
 * Waits until each institution's gateway gets the probe endorsed by two institutions: peers have met, chaincode servers
 * answer, the definition has arrived. Health checks and a committed definition do not say as much. Throws FABRIC_STEP.
 */
export async function waitEndorsed(connections: readonly FabricConnection[], probe: Probe, timeoutMs: number): Promise<void> {
  const until = Date.now() + timeoutMs;
  await Promise.all(
    connections.map(async (connection) => {
      for (;;) {
        const problem = await endorse(connection, probe);
        if (problem === undefined) return;
        if (Date.now() > until)
          throw new CodedError('FABRIC_STEP', { diagnostics: `${connection.chaincode} at ${connection.msp}: ${problem}` });
        await pause(60);
      }
    }),
  );
}

async function endorse(connection: FabricConnection, probe: Probe): Promise<string | undefined> {
  const [peer] = connection.peers;
  if (peer === undefined) return 'no peer';
  // A client of its own each time: one that was refused waits before it dials again.
  const client = new grpc.Client(peer.endpoint, credentials.createSsl(Buffer.from(peer.tlsRootPem)));
  const gateway = connect({
    client,
    identity: { mspId: connection.msp, credentials: Buffer.from(connection.certificatePem) },
    signer: signers.newPrivateKeySigner(createPrivateKey(connection.privateKeyPem)),
    hash: hash.sha256,
    endorseOptions: () => ({ deadline: Date.now() + 5000 }),
  });
  try {
    const contract = gateway.getNetwork(connection.channel).getContract(connection.chaincode);
    await contract.newProposal(probe.function, { arguments: [...probe.args] }).endorse();
    return undefined;
  } catch (error) {
    const { message, details } = error as Error & { details?: { message: string }[] };
    return `${message} ${details?.map((one) => one.message).join('; ') ?? ''}`;
  } finally {
    gateway.close();
    client.close();
  }
}

/**
 * Waits until the orderers have a leader: before that they refuse every transaction. A release whose orderers do not say is
 * taken at its word after a while. Throws FABRIC_STEP.
 */
export async function waitLeader(topology: Topology, timeoutMs: number): Promise<void> {
  const until = Date.now() + timeoutMs;
  for (;;) {
    const metrics = await Promise.all(topology.orderers.map(({ operationsPort }) => readMetrics(operationsPort)));
    if (metrics.some((text) => /^consensus_\w+_(is_leader|leader_id)\{[^}]*\} [1-9]/m.test(text))) return;
    const silent = metrics.every((text) => !/^consensus_\w+_(is_leader|leader_id)\b/m.test(text));
    if (silent && metrics.some((text) => text !== '') && Date.now() > until - timeoutMs + 5000) return;
    if (Date.now() > until) throw new CodedError('FABRIC_STEP', { diagnostics: 'The orderers found no leader.' });
    await pause(50);
  }
}

function readMetrics(port: number): Promise<string> {
  return new Promise((done) => {
    const asked = get({ host: '127.0.0.1', port, path: '/metrics', timeout: 1000 }, (answer) => {
      let text = '';
      answer.setEncoding('utf8').on('data', (part: string) => {
        text += part;
      });
      answer.once('end', () => done(text));
    });
    asked.once('timeout', () => asked.destroy());
    asked.once('error', () => done(''));
  });
}
