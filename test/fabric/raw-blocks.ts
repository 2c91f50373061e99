import type { common } from '@hyperledger/fabric-protos';
import { createBlockReader } from '../../src/ledger/fabric/block-reader.ts';
import type { FabricConnection } from '../../src/ledger/fabric/connection.ts';
import { connectPeers } from '../../src/ledger/fabric/peers.ts';

/** Every block of the channel up to this height, as the peer sends it. */
export async function rawBlocks(connection: FabricConnection, height: number): Promise<common.Block[]> {
  const peers = connectPeers(connection);
  const sources = peers.all.map(({ name, network }) => ({ name, open: (startBlock: bigint) => network.getBlockEvents({ startBlock }) }));
  const reader = createBlockReader({ sources, chaincode: connection.chaincode });
  const blocks: common.Block[] = [];
  try {
    for await (const { raw } of reader.rawBlocks(0)) if (blocks.push(raw) === height) break;
    return blocks;
  } finally {
    reader.close();
    peers.close();
  }
}
