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
    `ledger    ${ledgerText(ledger)}`,
    ...status.openAlarms.map(
      ({ kind, count, since }) =>
        `ALARM     ${kind}, ${count === 1 ? 'once' : `${count} times`}, since ${since}: docs/operations.md, "Watch"`,
    ),
    ...(ledger.peers.length === 0 ? [] : [`peers     ${ledger.peers.map(peerText).join(', ')}`]),
    `outbox    ${outbox.depth} unsettled, oldest ${Math.round(outbox.oldestSeconds)} s`,
    `queue     ${queue.waiting} waiting, ${queue.active} active, ${queue.delayed} delayed, ${queue.failed} failed`,
    `documents ${status.documents}`,
    ...linksText(status.links),
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

function linksText({ open, bound, confirmed, held, rejected }: StatusReport['links']): string[] {
  if (open + bound + confirmed + held + rejected === 0) return [];
  const waits = held === 0 ? '' : `, ${held} HELD for a person: oncobridge link list`;
  return [`links     ${confirmed} confirmed, ${bound} not compared yet, ${open} codes open, ${rejected} rejected${waits}`];
}

function ledgerText({ kind, reachable, consensus, height, projected, fresh, ageSeconds, alarms }: StatusReport['ledger']): string {
  const there = reachable ? `${consensus}; height ${height}` : 'DOES NOT ANSWER';
  const age = ageSeconds === null ? '' : `, own newest ${ageSeconds} s ago`;
  return `${kind}: ${there}, projected ${projected}, ${fresh ? 'fresh' : 'STALE'}${age}, ${alarms} alarms`;
}

function peerText({ name, state }: StatusReport['ledger']['peers'][number]): string {
  return `${name} ${state === 'closed' ? 'is asked' : 'IS LEFT ALONE, it does not answer'}`;
}
