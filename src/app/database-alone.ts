import { join } from 'node:path';
import type { Settings } from '../cli/settings.ts';
import { CodedError } from '../errors.ts';
import { createDatabase, type Database } from '../store/database.ts';
import { createEmbeddedPostgres } from '../store/embedded-postgres.ts';
import { sql } from '../store/sql.ts';

/** The database for a command beside no server: nothing else is started. NOT_FOUND where no server has ever used it. */
export async function withDatabaseAlone<T>({ data, config }: Settings, work: (database: Database) => Promise<T>): Promise<T> {
  const { server } = config;
  const postgres = server.database.kind === 'embedded' ? await createEmbeddedPostgres({ directory: join(data, 'postgres') }) : undefined;
  const url = postgres?.url ?? (server.database.kind === 'postgres' ? server.database.url : '');
  const database = createDatabase({ url, maxConnections: 2 });
  try {
    const [made] = await database.query<{ table: string | null }>(sql`select to_regclass('projection.checkpoint')::text as table`);
    if (made?.table == null)
      throw new CodedError('NOT_FOUND', { diagnostics: 'The database holds no ledger view yet: `oncobridge start` makes it.' });
    return await work(database);
  } finally {
    await database.close();
    await postgres?.stop();
  }
}
