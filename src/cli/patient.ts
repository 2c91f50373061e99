import { createInterface } from 'node:readline';
import type { Command } from 'commander';
import { print, withOperations } from './run.ts';

export function addPatientCommand(program: Command): void {
  program
    .command('patient')
    .description('patients of this institution')
    .command('find')
    .description('the pseudonym (pat-…) behind an identifier, read from standard input so that it stays out of histories and process lists')
    .option('--authority <id>', 'authority of the configuration (patients.authorities)', 'mrn')
    .option('--json', 'for machines')
    .addHelpText('after', '\nExample:\n  $ echo 00417733 | oncobridge patient find --authority mrn')
    .action(async (options: { authority: string; json?: boolean }, command: Command) => {
      if (process.stdin.isTTY) process.stderr.write('Identifier: ');
      const value = await firstLine();
      const found = await withOperations(command, (operations) => operations.patientFind({ authority: options.authority, value }));
      print(options.json, found, ({ patient }) => patient);
    });
}

async function firstLine(): Promise<string> {
  for await (const line of createInterface({ input: process.stdin })) return line.trim();
  return '';
}
