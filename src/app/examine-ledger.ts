import type { ServerConfig } from '../config/schema.ts';
import { createAskPeer } from '../ledger/fabric/ask-peer.ts';
import { examineFabric } from '../ledger/fabric/doctor.ts';
import type { Finding } from '../ledger/fabric/finding.ts';
import { fabricConnection } from './fabric-connection.ts';

/** What `oncobridge doctor ledger` finds; of the embedded ledger there is nothing to look at from outside. */
export async function examineLedger(server: ServerConfig): Promise<readonly Finding[]> {
  if (server.ledger.kind === 'embedded')
    return [{ check: 'ledger', state: 'ok', found: 'embedded: one node, no consensus. `oncobridge ledger verify` runs it again' }];
  const { connection, pinned } = fabricConnection(server);
  const { ask, close } = createAskPeer(connection);
  try {
    return await examineFabric({ connection, ledgerId: pinned, ask });
  } finally {
    close();
  }
}
