import { readFileSync, writeFileSync } from 'node:fs';
import type { Command } from 'commander';
import { CodedError } from '../errors.ts';
import type { DirectoryReport } from '../membership/directory.ts';
import type { DirectoryFound } from './operations.ts';
import { PROBLEMS, print, table, withOperations } from './run.ts';

/** Signed directories: who works at an institution, for other institutions and for patients' devices. */
export function addDirectoryCommand(program: Command): void {
  const directory = program.command('directory').description('signed directories of institutions: members, roles, thumbprints of keys');
  directory
    .command('export')
    .description('write this institution’s directory, signed, for other institutions; holds names of its members')
    .requiredOption('--out <file>', 'where it goes')
    .option('--json', 'for machines')
    .addHelpText('after', '\nExample:\n  $ oncobridge directory export --out example-cancer-centre.directory')
    .action(async (options: { out: string; json?: boolean }, command: Command) => {
      const made = await withOperations(command, (operations) => operations.directoryExport({}));
      save(options.out, made.directory);
      print(options.json, made, ({ institution }) => `${options.out} holds the directory of ${institution}.`);
    });
  directory
    .command('import <file>')
    .description('take another institution’s directory, in the place of an older one; every member in it must stand so on the ledger')
    .option('--json', 'for machines')
    .addHelpText('after', '\nExample:\n  $ oncobridge directory import lakeside.directory')
    .action(async (path: string, options: { json?: boolean }, command: Command) => {
      const file = load(path);
      print(options.json, await withOperations(command, (operations) => operations.directoryImport({ directory: file })), membersOf);
    });
  directory
    .command('check <file>')
    .description('hold a directory against the ledger without taking it; exits 1 where a member is not so there')
    .option('--json', 'for machines')
    .addHelpText('after', '\nExample:\n  $ oncobridge directory check lakeside.directory')
    .action(async (path: string, options: { json?: boolean }, command: Command) => {
      const file = load(path);
      const report = await withOperations(command, (operations) => operations.directoryCheck({ directory: file }));
      print(options.json, report, membersOf);
      if (report.members.some((member) => member.onLedger !== 'as listed')) process.exitCode = PROBLEMS;
    });
  directory
    .command('show [institution]')
    .description('the directories kept here, or one with its members, as the ledger bears them out now')
    .option('--json', 'for machines')
    .addHelpText('after', '\nExample:\n  $ oncobridge directory show')
    .action(async (institution: string | undefined, options: { json?: boolean }, command: Command) => {
      const input = institution === undefined ? {} : { institution };
      const found = await withOperations(command, (operations) => operations.directoryShow(input));
      const [only] = found;
      const isOne = institution !== undefined && only !== undefined && 'report' in only;
      print(options.json, found, () => (isOne ? membersOf(only.report) : directoriesOf(found)));
      if (found.some((one) => 'code' in one)) process.exitCode = PROBLEMS;
    });
}

function membersOf({ institution, name, issued, expires, members }: DirectoryReport): string {
  return [
    `${name}, ${institution}`,
    `signed ${issued}, good until ${expires}; signature and keys are those of the ledger`,
    table(
      ['member', 'role', 'on the ledger', 'name'],
      members.map((one) => [one.id, one.role, one.onLedger, one.name]),
    ),
  ].join('\n');
}

function directoriesOf(found: readonly DirectoryFound[]): string {
  return table(
    ['institution', 'state', 'until', 'members', 'name'],
    found.map((one) =>
      'report' in one
        ? [one.institution, stateOf(one.report), one.report.expires.slice(0, 10), one.report.members.length, one.report.name]
        : [one.institution, one.code, '', '', ''],
    ),
  );
}

function stateOf({ members }: DirectoryReport): string {
  const others = members.filter((member) => member.onLedger !== 'as listed').length;
  return others === 0 ? 'as on the ledger' : `${others} not as on the ledger`;
}

function load(path: string): string {
  try {
    return readFileSync(path, 'utf8').trim();
  } catch {
    throw new CodedError('BAD_REQUEST', { diagnostics: `${path} cannot be read.` });
  }
}

function save(path: string, jws: string): void {
  try {
    writeFileSync(path, `${jws}\n`);
  } catch {
    throw new CodedError('BAD_REQUEST', { diagnostics: `${path} cannot be written.` });
  }
}
