/**
 * The process that is killed: the whole core, pulling when it is told to. `node crash-child.ts <config>`, with an IPC channel.
 * It starts the first pull by itself, as a server's schedule does.
 */

import type { Truth } from '../../simulator/truth.ts';
import { createCore } from '../../src/app/core.ts';
import { readSettings } from '../../src/cli/settings.ts';
import { compareWithTruth } from './truth-comparison.ts';
import { settled } from './world.ts';

export type Order = { do: 'pull' } | { do: 'settle' } | { do: 'compare'; truth: Truth } | { do: 'audit' } | { do: 'close' };
export type Report =
  | { is: 'up'; databaseUrl: string; data: string }
  | { is: 'page' }
  /** One stream was read to its end, and all of it is stored. */
  | { is: 'stream'; at: number }
  | { is: 'pulled'; begun: number; errors: string[]; filed: number }
  | { is: 'settled' }
  | { is: 'compared'; problems: string[] }
  | { is: 'audited'; differences: string[]; ledger: string[]; documents: number; blocks: number }
  | { is: 'failed'; what: string };

const tell = (report: Report): void => void process.send?.(report);
const settings = await readSettings(process.argv[2] ?? '');
const core = await createCore({ settings, logLevel: process.env['CRASH_LOG'] ?? 'warn' });

async function pull(): Promise<void> {
  const begun = Date.now();
  const errors: string[] = [];
  await Promise.all(
    core.sources.map(async (configured) => {
      for (const stream of configured.source.streams) {
        const { error } = await core.pull.pullStream(configured, stream, new AbortController().signal, () => tell({ is: 'page' }));
        if (error === undefined) tell({ is: 'stream', at: Date.now() });
        else errors.push(`${configured.source.id}/${stream}: ${error}`);
      }
    }),
  );
  const filed = await core.assembler.drain().catch((error: unknown) => {
    errors.push(`assembly: ${error instanceof Error ? error.message : 'unknown'}`);
    return 0;
  });
  tell({ is: 'pulled', begun, errors, filed });
}

async function obey(order: Order): Promise<void> {
  switch (order.do) {
    case 'pull':
      return pull();
    case 'settle':
      await settled(core);
      return tell({ is: 'settled' });
    case 'compare':
      return tell({ is: 'compared', problems: await compareWithTruth(core, order.truth) });
    case 'audit': {
      const report = await core.reconcile.reconcile();
      const { problems, blocks } = await core.verifyLedger();
      return tell({
        is: 'audited',
        differences: report.differences.map((one) => JSON.stringify(one)),
        ledger: problems.map((one) => JSON.stringify(one)),
        documents: report.documents,
        blocks,
      });
    }
    case 'close':
      await core.close();
      process.disconnect();
  }
}

// One order after the other, as they came.
let last: Promise<void> = Promise.resolve();
process.on('message', (order: Order) => {
  last = last
    .then(() => obey(order))
    .catch((error: unknown) => tell({ is: 'failed', what: error instanceof Error ? `${error.name}: ${error.message}` : 'unknown' }));
});
// The parent has gone: leave no server behind.
process.on('disconnect', () => void core.close());
tell({ is: 'up', databaseUrl: core.database.url, data: settings.data });
