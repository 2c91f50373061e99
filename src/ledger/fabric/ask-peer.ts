import { createHash, createPrivateKey } from 'node:crypto';
import { Client, credentials } from '@grpc/grpc-js';
import { connect, type Gateway, GatewayError, signers } from '@hyperledger/fabric-gateway';
import type { FabricConnection, FabricPeer } from './connection.ts';
import type { AskPeer } from './doctor.ts';

/**
 * Queries to one peer at a time, for `oncobridge doctor ledger`: without failover and breakers, which would hide what is to be
 * seen. Rejects with an Error whose message an operator can read.
 */
export function createAskPeer(connection: FabricConnection): { ask: AskPeer; close(): void } {
  const opened = new Map<FabricPeer, { client: Client; gateway: Gateway }>();

  function open(peer: FabricPeer): Gateway {
    const found = opened.get(peer);
    if (found !== undefined) return found.gateway;
    const { tlsRootPem, clientKeyPem, clientCertificatePem } = peer;
    const isMutual = clientKeyPem !== undefined && clientCertificatePem !== undefined;
    const client = new Client(
      peer.endpoint,
      credentials.createSsl(
        Buffer.from(tlsRootPem),
        isMutual ? Buffer.from(clientKeyPem) : null,
        isMutual ? Buffer.from(clientCertificatePem) : null,
      ),
      {
        'grpc.max_receive_message_length': -1,
        ...(peer.serverName === undefined ? {} : { 'grpc.ssl_target_name_override': peer.serverName }),
      },
    );
    const gateway = connect({
      client,
      identity: { mspId: connection.msp, credentials: Buffer.from(connection.certificatePem) },
      signer: signers.newPrivateKeySigner(createPrivateKey(connection.privateKeyPem)),
      hash: (message) => createHash('sha256').update(message).digest(),
      evaluateOptions: () => ({ deadline: Date.now() + (connection.deadlines?.evaluateMs ?? 5000) }),
    });
    opened.set(peer, { client, gateway });
    return gateway;
  }

  return {
    async ask(peer, chaincode, query, args) {
      const contract = open(peer).getNetwork(connection.channel).getContract(chaincode);
      try {
        return await contract.evaluate(query, { arguments: [...args], endorsingOrganizations: [connection.msp] });
      } catch (error) {
        throw new Error(textOf(error), { cause: error });
      }
    },
    close() {
      for (const { client, gateway } of opened.values()) {
        gateway.close();
        client.close();
      }
    },
  };
}

/** The peers' own words where there are any: the gateway's are of the call. */
function textOf(error: unknown): string {
  if (!(error instanceof GatewayError)) return error instanceof Error ? error.message : String(error);
  const [first] = error.details;
  return first?.message ?? error.message;
}
