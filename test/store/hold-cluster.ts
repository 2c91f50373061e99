/** A process that holds a cluster and writes into it until it is killed: `node hold-cluster.ts <directory> [busy]`. */
import { createDatabase } from '../../src/store/database.ts';
import { createEmbeddedPostgres } from '../../src/store/embedded-postgres.ts';
import { raw, sql } from '../../src/store/sql.ts';

const [directory = '', mode] = process.argv.slice(2);
const cluster = await createEmbeddedPostgres({ directory });
const database = createDatabase({ url: cluster.url });
// Two at the same time: one of them is told that it exists.
await database.query(raw('create table if not exists kept (n integer primary key)')).catch(() => {});
// A backend in a loop does not notice the death of its postmaster.
if (mode === 'busy') database.query(raw('select count(*) from generate_series(1, 100000000000)')).catch(() => {});
for (let n = 0; ; n++) {
  await database.query(sql`insert into kept values (${n}) on conflict do nothing`);
  process.stdout.write(`${n} ${await cluster.pid()} ${cluster.owned}\n`);
}
