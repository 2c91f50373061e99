/**
 * An institution that only follows: its projection over its own peer, in a process of its own. Tells its parent of every block
 * that it applied, with the moment (milliseconds since the epoch, the same clock for all processes of the machine).
 */
import { createFabricLedger } from '../src/ledger/fabric/fabric-ledger.ts';
import { createProjection } from '../src/ledger/projection.ts';
import { createDatabase } from '../src/store/database.ts';
import type { FollowerMessage, FollowerStart } from './fabric-world.ts';

const tell = (message: FollowerMessage): void => void process.send?.(message);

process.once('message', (message) => {
  const { connection, ledgerId, databaseUrl } = message as FollowerStart;
  const database = createDatabase({ url: databaseUrl, maxConnections: 4 });
  void (async () => {
    const ledger = await createFabricLedger({ connection, ledgerId });
    const projection = createProjection({ database, ledger, institution: connection.institution, onAlarm: (alarm) => tell({ alarm }) });
    projection.onApplied(({ number }) => tell({ applied: number, atMs: performance.timeOrigin + performance.now() }));
    await projection.start();
    tell({ applied: (await projection.height()) - 1, atMs: performance.timeOrigin + performance.now() });
    process.once('disconnect', () => {
      void (async () => {
        await projection.close();
        await ledger.close();
        await database.close();
      })();
    });
  })();
});
