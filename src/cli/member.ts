import type { Command } from 'commander';
import { print, table, withOperations } from './run.ts';

export function addMemberCommand(program: Command): void {
  const member = program.command('member').description('registered persons of this institution');
  member
    .command('add')
    .description('register a person on the ledger; the name stays here')
    .requiredOption('--name <name>', 'as in the directory')
    .requiredOption('--role <role>', 'clinician, carer, researcher, insurer, pharmacy, registrar or privacy-officer')
    .option('--json', 'for machines')
    .addHelpText('after', '\nExample:\n  $ oncobridge member add --name "Dr. Ana Ruiz" --role clinician')
    .action(async (options: { name: string; role: string; json?: boolean }, command: Command) => {
      const { json, ...input } = options;
      print(json, await withOperations(command, (operations) => operations.memberAdd(input)), (added) => added.member);
    });
  member
    .command('suspend <member>')
    .description('take all rights from a member, on the ledger and at once')
    .option('--json', 'for machines')
    .addHelpText('after', '\nExample:\n  $ oncobridge member suspend mem-0c7ye1d2gq8v3kxw5n4t6hzrma')
    .action(async (id: string, options: { json?: boolean }, command: Command) => {
      print(
        options.json,
        await withOperations(command, (operations) => operations.memberSuspend({ member: id })),
        (suspended) => `${suspended.member} is suspended.`,
      );
    });
  member
    .command('list')
    .description('members with role and status')
    .option('--json', 'for machines')
    .addHelpText('after', '\nExample:\n  $ oncobridge member list')
    .action(async (options: { json?: boolean }, command: Command) => {
      print(options.json, await withOperations(command, (operations) => operations.memberList({})), (members) =>
        table(
          ['member', 'role', 'status', 'name'],
          members.map((m) => [m.member, m.role, m.status, m.name]),
        ),
      );
    });
}
