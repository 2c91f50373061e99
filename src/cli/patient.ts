import { createInterface } from 'node:readline';
import type { Command } from 'commander';
import type { ErasureCertificate } from '../erasure/erasure.ts';
import { print, withOperations } from './run.ts';

export function addPatientCommand(program: Command): void {
  const patient = program.command('patient').description('patients of this institution');
  patient
    .command('find')
    .description('the pseudonym (pat-…) behind an identifier, read from standard input so that it stays out of histories and process lists')
    .option('--authority <id>', 'authority of the configuration (patients.authorities)', 'mrn')
    .option('--json', 'for machines')
    .addHelpText('after', '\nExample:\n  $ echo 00417733 | oncobridge patient find --authority mrn')
    .action(async (options: { authority: string; json?: boolean }, command: Command) => {
      if (process.stdin.isTTY) process.stderr.write('Identifier: ');
      const value = await firstLine();
      const found = await withOperations(command, (operations) => operations.patientFind({ authority: options.authority, value }));
      print(options.json, found, (one) => one.patient);
    });
  patient
    .command('erase <patient>')
    .description(
      'erases a patient (pat-…) whose keys are in custody: keys, objects, rows and index, for ever; whoever holds their own keys signs it themself',
    )
    .requiredOption('--by <id>', 'registrar who has the request (mem-…)')
    .requiredOption('--irrevocably', 'nothing brings it back')
    .option('--json', 'for machines')
    .addHelpText('after', '\nExample:\n  $ oncobridge patient erase pat-4kz… --by mem-3fa… --irrevocably')
    .action(async (name: string, { by, json }: { by: string; json?: boolean }, command: Command) => {
      print(json, await withOperations(command, (operations) => operations.patientErase({ patient: name, by })), certificateText);
    });
  patient
    .command('erasure <patient>')
    .description("the certificate of a patient's erasure: when, what was removed, what stays on the ledger")
    .option('--json', 'for machines')
    .addHelpText('after', '\nExample:\n  $ oncobridge patient erasure pat-4kz…')
    .action(async (name: string, { json }: { json?: boolean }, command: Command) => {
      print(json, await withOperations(command, (operations) => operations.patientErasure({ patient: name })), certificateText);
    });
}

function certificateText({ institution, patient, block, erased, keyBackupsGone, removed, alsoKnownAs, stays }: ErasureCertificate): string {
  const counted = (counts: object): string =>
    Object.entries(counts)
      .map(([name, count]) => `${count} ${name.replaceAll(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`)}`)
      .join(', ');
  return [
    `patient:            ${patient} of ${institution}`,
    `on the ledger:      block ${block}`,
    `erased live:        ${erased ?? 'under way; it is taken up again'}`,
    `key backups gone:   ${keyBackupsGone ?? 'at most 30 days after that'}`,
    `removed:            ${counted(removed)}`,
    `stays, for ever:    ${counted(stays)}`,
    ...(alsoKnownAs.length === 0 ? [] : [`NOT erased:         ${alsoKnownAs.join(', ')}, other pseudonyms of the same person; erase each`]),
  ].join('\n');
}

async function firstLine(): Promise<string> {
  for await (const line of createInterface({ input: process.stdin })) return line.trim();
  return '';
}
