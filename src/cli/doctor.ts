import type { Command } from 'commander';
import type { Finding } from '../ledger/fabric/finding.ts';
import { type GlobalOptions, PROBLEMS, print, table } from './run.ts';
import { readSettings } from './settings.ts';

const WORDS = { ok: 'ok', warning: 'WARNING', failed: 'FAILED', unknown: 'not known' } as const;

export function addDoctorCommand(program: Command): void {
  const doctor = program.command('doctor').description('look at what oncobridge stands on, and say what to do');
  doctor
    .command('ledger')
    .description(
      'the Fabric network, from the configuration outwards; exits 1 where something fails. Needs no server and no keys of the custodian',
    )
    .option('--json', 'for machines')
    .addHelpText('after', '\nExample:\n  $ oncobridge --config config/production.yaml doctor ledger')
    .action(async (options: { json?: boolean }, command: Command) => {
      const settings = await readSettings(command.optsWithGlobals<GlobalOptions>().config);
      const { examineLedger } = await import('../app/examine-ledger.ts');
      report(options.json, await examineLedger(settings.config.server));
    });
  doctor
    .command('store')
    .description(
      'the store of sealed objects: puts, gets and deletes a random object of our own, and tries what the policy must refuse. It lists nothing. Exits 1 where something fails',
    )
    .option('--json', 'for machines')
    .addHelpText('after', '\nExample:\n  $ oncobridge --config config/production.yaml doctor store')
    .action(async (options: { json?: boolean }, command: Command) => {
      const settings = await readSettings(command.optsWithGlobals<GlobalOptions>().config);
      const { examineStore } = await import('../app/examine-store.ts');
      report(options.json, await examineStore(settings));
    });
}

function report(json: boolean | undefined, findings: readonly Finding[]): void {
  const ok = !findings.some((one) => one.state === 'failed');
  print(json, { ok, findings }, () => findingsText(findings));
  if (!ok) process.exitCode = PROBLEMS;
}

function findingsText(findings: readonly Finding[]): string {
  const todo = findings.filter((one) => one.todo !== undefined);
  return [
    table(
      ['check', '', 'found'],
      findings.map((one) => [one.check, WORDS[one.state], one.found]),
    ),
    ...(todo.length === 0 ? [] : ['', 'What to do:', ...todo.map((one) => `- ${one.check}: ${one.todo}`)]),
  ].join('\n');
}
