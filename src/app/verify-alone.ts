import { join } from 'node:path';
import type { Settings } from '../cli/settings.ts';
import { type VerifyReport, verifyLedger } from '../ledger/verify.ts';
import { verifyChannel } from '../ledger/verify-channel.ts';
import type { Database } from '../store/database.ts';
import { withDatabaseAlone } from './database-alone.ts';
import { fabricConnection } from './fabric-connection.ts';

/** `oncobridge ledger verify` where no server runs: nothing is started but what must be read. */
export async function verifyAlone(settings: Settings): Promise<VerifyReport> {
  const { server } = settings.config;
  return withDatabaseAlone(settings, (database) =>
    server.ledger.kind === 'embedded'
      ? verifyLedger({ database, tipFile: join(settings.data, 'ledger-tip') })
      : verifyOverPeers(server, database),
  );
}

async function verifyOverPeers(server: Settings['config']['server'], database: Database): Promise<VerifyReport> {
  const { connection, pinned } = fabricConnection(server);
  const { createFabricLedger } = await import('../ledger/fabric/fabric-ledger.ts');
  const ledger = await createFabricLedger({ connection, ledgerId: pinned ?? '' });
  try {
    const { institution, msp } = connection;
    return await verifyChannel({ database, ledger, institution, msp });
  } finally {
    await ledger.close();
  }
}
