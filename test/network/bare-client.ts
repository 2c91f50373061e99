import { createPrivateKey } from 'node:crypto';
import * as grpc from '@grpc/grpc-js';
import { connect, hash, signers } from '@hyperledger/fabric-gateway';
import type { FabricNetwork } from '../../network/network.ts';

/** A client of the barest chaincode, at one institution's first peer or at the one given. */
export interface BareClient {
  /** Returns when committed; throws what the gateway says. */
  put(key: string, value: string): Promise<void>;
  get(key: string): Promise<string>;
  close(): void;
}

export async function bareClient(network: FabricNetwork, institution: string, peer = 0): Promise<BareClient> {
  const connection = await network.connection(institution, 'bare');
  const { endpoint, tlsRootPem } = connection.peers[peer] ?? { endpoint: '', tlsRootPem: '' };
  const client = new grpc.Client(endpoint, grpc.credentials.createSsl(Buffer.from(tlsRootPem)));
  const deadline = (ms: number) => () => ({ deadline: Date.now() + ms });
  const gateway = connect({
    client,
    identity: { mspId: connection.msp, credentials: Buffer.from(connection.certificatePem) },
    signer: signers.newPrivateKeySigner(createPrivateKey(connection.privateKeyPem)),
    hash: hash.sha256,
    evaluateOptions: deadline(5000),
    endorseOptions: deadline(10_000),
    submitOptions: deadline(8000),
    commitStatusOptions: deadline(20_000),
  });
  const contract = gateway.getNetwork(connection.channel).getContract(connection.chaincode);
  return {
    put: async (key, value) => void (await contract.submitTransaction('put', key, value)),
    get: async (key) => Buffer.from(await contract.evaluateTransaction('get', key)).toString(),
    close() {
      gateway.close();
      client.close();
    },
  };
}

/** One put by a client of its own, tried again while the network recovers; the value is read back at the same peer. */
export async function putSoon(network: FabricNetwork, institution: string, key: string, value: string, peer = 0): Promise<string> {
  const until = Date.now() + 30_000;
  for (;;) {
    const client = await bareClient(network, institution, peer);
    try {
      await client.put(key, value);
      return await client.get(key);
    } catch (error) {
      if (Date.now() > until) throw error;
    } finally {
      client.close();
    }
  }
}
