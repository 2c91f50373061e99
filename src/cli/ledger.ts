import type { Command } from 'commander';
import { PROBLEMS, print, withOperations } from './run.ts';

export function addLedgerCommand(program: Command): void {
  program
    .command('ledger')
    .description('the ledger')
    .command('verify')
    .description('run every block again and compare; finds an altered byte and a missing tail; exits 1 where it does')
    .option('--json', 'for machines')
    .addHelpText('after', '\nExample:\n  $ oncobridge ledger verify')
    .action(async (options: { json?: boolean }, command: Command) => {
      const result = await withOperations(command, (operations) => operations.verify({}));
      print(options.json, result, ({ ok, blocks, transactions, problems }) =>
        ok ? `${blocks} blocks with ${transactions} transactions hold.` : `THE LEDGER DOES NOT HOLD\n${problems.join('\n')}`,
      );
      if (!result.ok) process.exitCode = PROBLEMS;
    });
}
