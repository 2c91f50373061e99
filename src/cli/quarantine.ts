import { userInfo } from 'node:os';
import type { Command } from 'commander';
import type { IdentityCandidate, IdentityQuestion, ShownPerson } from '../pipeline/identity.ts';
import type { IdentityAnswered } from './operations.ts';
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
  quarantine
    .command('resolve <record>')
    .description(
      'who the patient of a held record is. Without an answer: shows, on a terminal, what differs, and a code for --seen; with one: links, and files what waits',
    )
    .option('--patient <id>', 'it is this patient (pat-…)')
    .option('--new', 'it is somebody who is not known here yet')
    .option('--reject', 'nothing of this patient of the source is taken')
    .option('--seen <code>', 'the code under what was shown')
    .option('--reason <words>', 'why; kept sealed')
    .option('--take-demographics', 'name and birth date of this record are printed from now on')
    .option('--move', 'what was filed of this patient of the source under somebody else is withdrawn there and goes along')
    .option('--force', 'although an identifier of a configured authority says otherwise')
    .option('--json', 'for machines; names nobody')
    .addHelpText(
      'after',
      '\nExample:\n  $ oncobridge quarantine resolve rec-ew2nqk3pmbo5g7s6yxqf4jzh3a\n  $ oncobridge quarantine resolve rec-ew2nqk3pmbo5g7s6yxqf4jzh3a --patient pat-2m7… --seen 1f09c3aa --reason "married, see call of 3 March"',
    )
    .action(async (record: string, options: ResolveOptions, command: Command) => {
      const { json, new: create, ...answer } = options;
      if (answer.patient === undefined && create !== true && answer.reject !== true) {
        // Names go to a person's eyes, not into a file or a pipe.
        const reveal = process.stdout.isTTY && json !== true;
        print(json, await withOperations(command, (operations) => operations.identityQuestion({ record, reveal })), questionText);
        return;
      }
      const whole = { ...answer, record, reason: answer.reason ?? '', seen: answer.seen ?? '', by: userInfo().username };
      const resolved = await withOperations(command, (operations) =>
        operations.identityResolve(create === true ? { ...whole, create } : whole),
      );
      print(json, resolved, resolvedText);
    });
}

interface ResolveOptions {
  patient?: string;
  new?: boolean;
  reject?: boolean;
  seen?: string;
  reason?: string;
  takeDemographics?: boolean;
  move?: boolean;
  force?: boolean;
  json?: boolean;
}

function questionText(question: IdentityQuestion): string {
  const { record, reason, patient, waiting, candidates, decided, person, seen } = question;
  const rows = candidates.map((one) => [one.patient, whyText(one), one.differsOn.join(', ') || 'nothing', one.documents]);
  const lines = [
    `${reason ?? `known as ${patient}`}; ${waiting} record${waiting === 1 ? '' : 's'} held.`,
    ...(decided === null ? [] : [`Decided on ${decided.at}: ${decided.patient ?? decided.choice}.`]),
    '',
    candidates.length === 0 ? 'No patient here comes into question.' : table(['patient', 'because of', 'differs in', 'documents'], rows),
  ];
  if (person === undefined) lines.push('', 'Names and birth dates are shown on a terminal only.');
  else {
    const shown = [person, ...candidates.map((one) => one.person)];
    const head = ['', 'the source', ...candidates.map((one) => one.patient)];
    const row = (name: string, of: (one: ShownPerson) => string | undefined) => [name, ...shown.map((one) => one && of(one))];
    lines.push(
      '',
      table(head, [
        row('name', (one) => one.name),
        row('birth date', (one) => one.birthDate),
        row('sex', (one) => one.sex),
        row('identifiers', (one) => one.identifiers.join(', ')),
      ]),
    );
  }
  lines.push(
    '',
    'Answer with one of --patient pat-…, --new, --reject:',
    `  oncobridge quarantine resolve ${record} --seen ${seen} --reason "…" --patient ${candidates[0]?.patient ?? 'pat-…'}`,
  );
  return lines.join('\n');
}

function whyText({ identifiers, before, link }: IdentityCandidate): string {
  return [
    ...(identifiers.length > 0 ? [`identifier of ${identifiers.join(', ')}`] : []),
    ...(before ? ['matched before'] : []),
    ...(link === null ? [] : [`link ${link}`]),
  ].join('; ');
}

function resolvedText({ choice, patient, already, withdrawn, filed }: IdentityAnswered): string {
  const who = patient === null ? 'rejected' : `${choice === 'new' ? 'new patient' : 'linked to'} ${patient}`;
  if (already) return `Decided so before: ${who}. ${filed} documents filed.`;
  return `${who}. ${filed} document${filed === 1 ? '' : 's'} filed${withdrawn === 0 ? '' : `, ${withdrawn} withdrawn`}.`;
}
