import { GatewayError } from '@hyperledger/fabric-gateway';
import type { FabricConnection, FabricPeer } from './connection.ts';
import type { AskPeer } from './doctor.ts';
import { connectPeers, type OwnPeers } from './peers.ts';

/**
 * Queries to one peer at a time, for `oncobridge doctor ledger`: without failover and breakers, which would hide what is to be
 * seen. Rejects with an Error whose message an operator can read.
 */
export function createAskPeer(connection: FabricConnection): { ask: AskPeer; close(): void } {
  const opened = new Map<FabricPeer, OwnPeers>();
  return {
    async ask(peer, chaincode, query, args) {
      const peers = opened.get(peer) ?? connectPeers({ ...connection, peers: [peer] });
      opened.set(peer, peers);
      try {
        const contract = peers.all[0]?.network.getContract(chaincode);
        if (contract === undefined) throw new Error('no such peer');
        return await contract.evaluate(query, { arguments: [...args], endorsingOrganizations: [connection.msp] });
      } catch (error) {
        throw new Error(textOf(error), { cause: error });
      }
    },
    close() {
      for (const peers of opened.values()) peers.close();
    },
  };
}

/** The peers' own words where there are any: the gateway's are of the call. */
function textOf(error: unknown): string {
  if (!(error instanceof GatewayError)) return error instanceof Error ? error.message : String(error);
  return error.details[0]?.message ?? error.message;
}
