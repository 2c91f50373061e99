/**
 * The server's side of the read benches, in a process of its own, so that its CPU is not that of who asks. One seeded
 * database, one address for each way to read it. Started by consented-read.ts and growth.ts.
 */
import type { Audit } from '../src/audit/audit.ts';
import { createAuditLog } from '../src/audit/audit-log.ts';
import { readableScope } from '../src/consent/readable-scope.ts';
import { sql } from '../src/store/sql.ts';
import { ownCpuMs } from './measure.ts';
import { createReadWorld, serveFacade, servePlain } from './read-world.ts';

export type Way = 'ours' | 'unaudited' | 'unscoped' | 'plain';
export interface ReadServerReady {
  urls: Record<Way, string>;
  postgresPid: number;
  token: string;
  readable: readonly string[];
}

const world = await createReadWorld(Number(process.argv[2] ?? 2000), Number(process.argv[3] ?? 0));
const silent: Audit = { record: async () => {}, close: async () => {} };
const audit = createAuditLog({ database: world.auditing, rows: world.rows });
/** Everything that has a key, without asking any permission. */
const everything: typeof readableScope = () =>
  sql`select k.inst, k.pat, k.category, null::timestamptz as data_start, null::timestamptz as data_end from projection.category_key k`;
const servers = {
  ours: await serveFacade(world, { audit, scope: readableScope }),
  unaudited: await serveFacade(world, { audit: silent, scope: readableScope }),
  unscoped: await serveFacade(world, { audit, scope: everything }),
  plain: await servePlain(world),
};

process.on('message', (message) => {
  if (message === 'cpu') process.send?.(ownCpuMs());
  else if (message === 'stop') void stop();
});
const ready: ReadServerReady = {
  urls: { ours: servers.ours.url, unaudited: servers.unaudited.url, unscoped: servers.unscoped.url, plain: servers.plain.url },
  postgresPid: world.postgresPid,
  token: world.token,
  readable: world.readable,
};
process.send?.(ready);

async function stop(): Promise<void> {
  await Promise.all(Object.values(servers).map((server) => server.close()));
  await audit.close();
  await world.close();
  process.disconnect();
}
