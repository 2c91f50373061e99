import type { Command } from 'commander';
import { print, withOperations } from './run.ts';

export function addTokenCommand(program: Command): void {
  program
    .command('token')
    .description('a token of the development issuer for a person: a member (mem-…) or a patient (pat-…)')
    .requiredOption('--as <id>', 'member or patient')
    .option('--purpose <code>', 'purpose of use: TREAT, HPAYMT, HOPERAT, HRESCH, ETREAT, BTG, PATRQT')
    .option('--json', 'for machines')
    .addHelpText(
      'after',
      '\nExample:\n  $ curl -H "Authorization: Bearer $(oncobridge token --as mem-…)" http://127.0.0.1:8480/fhir/Patient',
    )
    .action(async (options: { as: string; purpose?: string; json?: boolean }, command: Command) => {
      const { json, ...input } = options;
      print(json, await withOperations(command, (operations) => operations.token(input)), (issued) => issued.token);
    });
}
