import assert from 'node:assert/strict';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { endLeftSite, type InstitutionsSite, type SiteInstitution, startInstitutionsSite } from '../../simulator/institutions-site.ts';
import { createSimulator, type Simulator } from '../../simulator/simulator.ts';
import { createDatabase, type Database } from '../../src/store/database.ts';
import { createEmbeddedPostgres } from '../../src/store/embedded-postgres.ts';
import { isAlive } from '../../src/store/process-alive.ts';

const PREFIX = 'oncobridge-institutions-';

/** A site of a test's own; one that a killed test process left is ended first. */
export async function openTestSite(): Promise<{ site: InstitutionsSite; simulator: Simulator; close(): Promise<void> }> {
  for (const name of await readdir(tmpdir())) {
    const pid = name.startsWith(PREFIX) ? Number(name.slice(PREFIX.length).split('-')[0]) : 0;
    if (!(pid > 0) || isAlive(pid)) continue;
    await endLeftSite(join(tmpdir(), name, 'site')).catch(() => {});
    await rm(join(tmpdir(), name), { recursive: true, force: true });
  }
  const folder = await mkdtemp(join(tmpdir(), `${PREFIX}${process.pid}-`));
  const simulator = await createSimulator();
  const site = await startInstitutionsSite({
    folder: join(folder, 'site'),
    simulator,
    // What stays missing is an alarm after seconds instead of minutes, and fetched seconds after it is back.
    change: (text) => `${text}\nsharing: { maxAttempts: 3, retryMissing: 2s }\n`,
  });
  return {
    site,
    simulator,
    async close() {
      await site.close();
      await simulator.close();
      await rm(folder, { recursive: true, force: true });
    },
  };
}

/** The database of an institution that runs, as its owner could reach it. */
export async function withDatabase<T>(of: SiteInstitution, work: (database: Database) => Promise<T>): Promise<T> {
  const attached = await createEmbeddedPostgres({ directory: join(of.data, 'postgres') });
  assert.ok(!attached.owned, 'its server does not run');
  const database = createDatabase({ url: attached.url, maxConnections: 2 });
  try {
    return await work(database);
  } finally {
    await database.close();
    await attached.stop();
  }
}
