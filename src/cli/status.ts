import type { Command } from 'commander';
import type { StatusReport } from './operations.ts';
import { print, table, withOperations } from './run.ts';

export function addStatusCommand(program: Command): void {
  program
    .command('status')
    .description('how everything stands')
    .option('--json', 'for machines')
    .addHelpText('after', '\nExample:\n  $ oncobridge status --json')
    .action(async (options: { json?: boolean }, command: Command) => {
      print(options.json, await withOperations(command, (operations) => operations.status({})), statusText);
    });
}

function statusText(status: StatusReport): string {
  const { ledger, outbox, queue } = status;
  return [
    `oncobridge ${status.version}, ${status.institution}, config ${status.configHash.slice(0, 12)}`,
    `database  ${status.database}`,
    `ledger    ${ledger.kind}: ${!ledger.reachable ? 'DOES NOT ANSWER' : `${ledger.nodes} node${ledger.nodes === 1 ? '' : 's'}, ${ledger.consensus}; height ${ledger.height}`}, projected ${ledger.projected}, ${ledger.fresh ? 'fresh' : 'STALE'}${ledger.ageSeconds === null ? '' : ` (${ledger.ageSeconds} s)`}, ${ledger.alarms} alarms`,
    ...(ledger.peers.length === 0
      ? []
      : [`peers     ${ledger.peers.map(({ name, state }) => `${name} ${state === 'closed' ? 'in use' : 'DOES NOT ANSWER'}`).join(', ')}`]),
    `outbox    ${outbox.depth} unsettled, oldest ${Math.round(outbox.oldestSeconds)} s`,
    `queue     ${queue.waiting} waiting, ${queue.active} active, ${queue.delayed} delayed, ${queue.failed} failed`,
    `documents ${status.documents}`,
    '',
    table(['record outcome', 'count'], Object.entries(status.records)),
    '',
    table(
      ['stream', 'state', 'last success', 'last error'],
      status.streams.map((s) => [
        `${s.source}/${s.stream}`,
        s.running ? 'running' : s.lastError === null ? 'idle' : 'stopped in error',
        s.lastSuccess,
        s.lastError,
      ]),
    ),
  ].join('\n');
}
