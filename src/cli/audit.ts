import type { Command } from 'commander';
import { PROBLEMS, print, withOperations } from './run.ts';

export function addAuditCommand(program: Command): void {
  program
    .command('audit')
    .description('the log of accesses')
    .command('verify')
    .description('build every anchor again from the events and compare with the ledger; exits 1 where anything differs')
    .option('--contents', 'open every event too and compare it with what was anchored')
    .option('--json', 'for machines')
    .addHelpText('after', '\nExample:\n  $ oncobridge audit verify --contents')
    .action(async (options: { contents?: boolean; json?: boolean }, command: Command) => {
      const { json, ...input } = options;
      const result = await withOperations(command, (operations) => operations.auditVerify(input));
      print(json, result, ({ ok, anchors, events, problems }) =>
        ok ? `${anchors} anchors over ${events} events hold.` : `THE LOG OF ACCESSES DOES NOT HOLD\n${problems.join('\n')}`,
      );
      if (!result.ok) process.exitCode = PROBLEMS;
    });
}
