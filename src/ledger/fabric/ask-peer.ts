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
        const [one] = peers.all;
        if (one === undefined) throw new Error('no such peer');
        return await one.ask(chaincode, query, args);
      } catch (error) {
        throw new Error(textOf(error), { cause: error });
      }
    },
    close() {
      for (const peers of opened.values()) peers.close();
    },
  };
}

function textOf(error: unknown): string {
  return error instanceof Error ? error.message.replace(/^chaincode response \d+, /, '') : String(error);
}
