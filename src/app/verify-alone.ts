import { join } from 'node:path';
import type { Settings } from '../cli/settings.ts';
import { CodedError } from '../errors.ts';
import { type VerifyReport, verifyLedger } from '../ledger/verify.ts';
import { verifyChannel } from '../ledger/verify-channel.ts';
import { createDatabase, type Database } from '../store/database.ts';
import { createEmbeddedPostgres } from '../store/embedded-postgres.ts';
import { sql } from '../store/sql.ts';
import { fabricConnection } from './fabric-connection.ts';

/** `oncobridge ledger verify` where no server runs: nothing is started but what must be read. */
export async function verifyAlone({ data, config }: Settings): Promise<VerifyReport> {
  const { server } = config;
  const postgres = server.database.kind === 'embedded' ? await createEmbeddedPostgres({ directory: join(data, 'postgres') }) : undefined;
  const url = postgres?.url ?? (server.database.kind === 'postgres' ? server.database.url : '');
  const database = createDatabase({ url, maxConnections: 2 });
  try {
    const [made] = await database.query<{ table: string | null }>(sql`select to_regclass('projection.checkpoint')::text as table`);
    if (made?.table == null)
      throw new CodedError('NOT_FOUND', { diagnostics: 'The database holds no ledger view yet: `oncobridge start` makes it.' });
    return server.ledger.kind === 'embedded'
      ? await verifyLedger({ database, tipFile: join(data, 'ledger-tip') })
      : await verifyOverPeers(server, database);
  } finally {
    await database.close();
    await postgres?.stop();
  }
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
