import type { Command } from 'commander';
import { outcomesText } from './progress.ts';
import { print, table, withOperations } from './run.ts';

export function addQuarantineCommand(program: Command): void {
  const quarantine = program.command('quarantine').description('records that wait for a person');
  quarantine
    .command('list')
    .description('groups by reason, with a count and one example')
    .option('--json', 'for machines')
    .addHelpText('after', '\nExample:\n  $ oncobridge quarantine list')
    .action(async (options: { json?: boolean }, command: Command) => {
      print(options.json, await withOperations(command, (operations) => operations.quarantineList({})), (groups) =>
        groups.length === 0
          ? 'Nothing is in quarantine.'
          : table(
              ['count', 'stream', 'type', 'reason', 'rule', 'example', 'what to do'],
              groups.map((g) => [g.count, `${g.source}/${g.stream}`, g.type, g.reason, g.rule, g.example, g.text]),
            ),
      );
    });
  quarantine
    .command('show <record>')
    .description('one record: why it is held')
    .option('--json', 'for machines')
    .addHelpText('after', '\nExample:\n  $ oncobridge quarantine show rec-ew2nqk3pmbo5g7s6yxqf4jzh3a')
    .action(async (record: string, options: { json?: boolean }, command: Command) => {
      print(options.json, await withOperations(command, (operations) => operations.quarantineShow({ record })), (entry) =>
        table(['field', 'value'], Object.entries(entry)),
      );
    });
  quarantine
    .command('replay')
    .description('decide held records again, by the rules and the patients known now, from their kept bytes; without options all')
    .option('--record <id>', 'one record (rec-…)')
    .option('--reason <code>', 'held for this reason')
    .option('--source <id>', 'of this source')
    .option('--json', 'for machines')
    .addHelpText('after', '\nExample:\n  $ oncobridge quarantine replay --reason DOCUMENT_TYPE_UNKNOWN --source aria')
    .action(async (options: { record?: string; reason?: string; source?: string; json?: boolean }, command: Command) => {
      const { json, ...choice } = options;
      print(json, await withOperations(command, (operations) => operations.quarantineReplay(choice)), ({ records, outcomes, filed }) =>
        records === 0
          ? 'Nothing of that is in quarantine.'
          : `${records} records decided again: ${outcomesText(outcomes)}. ${filed} document${filed === 1 ? '' : 's'} filed.`,
      );
    });
}
