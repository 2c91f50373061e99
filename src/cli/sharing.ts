import type { Command } from 'commander';
import type { Hold } from '../sharing/own-decisions.ts';
import type { SharedCategoryReport, SharingEndReport } from '../sharing/report.ts';
import type { SharingReport } from './operations.ts';
import { print, table, withOperations } from './run.ts';

interface ByOptions {
  by: string;
  reason: string;
  json?: boolean;
}

export function addSharingCommand(program: Command): void {
  const sharing = program.command('sharing').description('what patients of other institutions share with this one (docs/institutions.md)');
  sharing
    .command('list')
    .description('categories shared with us: what is held, what is still missing; names nobody')
    .option('--json', 'for machines')
    .addHelpText('after', '\nExample:\n  $ oncobridge sharing list')
    .action(async (options: { json?: boolean }, command: Command) => {
      print(options.json, await withOperations(command, (operations) => operations.sharingList({})), categoriesText);
    });
  sharing
    .command('show <institution> <patient>')
    .description('one patient of another institution: documents held, missing or refused with their codes, and what has ended')
    .option('--json', 'for machines')
    .addHelpText('after', '\nExample:\n  $ oncobridge sharing show inst-7q2… pat-4kz…')
    .action(async (institution: string, patient: string, options: { json?: boolean }, command: Command) => {
      const shown = await withOperations(command, (operations) => operations.sharingShow({ institution, patient }));
      print(options.json, shown, ({ categories, documents, ends }) =>
        [
          categoriesText(categories),
          documents.length === 0
            ? 'No documents.'
            : table(
                ['document', 'version', 'category', 'state', 'code', 'tries', 'since', 'bytes', 'block'],
                documents.map((d) => [d.document, d.version, d.category, d.state, d.code, d.attempts, d.since, d.bytes, d.block]),
              ),
          endsText(ends),
        ].join('\n\n'),
      );
    });
  sharing
    .command('report')
    .description(
      'for the privacy officer: what is held since when and on which permission, and what was ended and deleted, with its anchor',
    )
    .option('--json', 'for machines')
    .addHelpText('after', '\nExample:\n  $ oncobridge sharing report --json > sharing.json')
    .action(async (options: { json?: boolean }, command: Command) => {
      print(options.json, await withOperations(command, (operations) => operations.sharingReport({})), reportText);
    });
  sharing
    .command('renounce <institution> <patient> <category>')
    .description('give up what was granted to us: denied here at once, deleted, and on the ledger as soon as it takes it')
    .requiredOption('--by <id>', 'privacy officer or registrar who decides (mem-…)')
    .option('--json', 'for machines')
    .addHelpText('after', '\nExample:\n  $ oncobridge sharing renounce inst-7q2… pat-4kz… laboratory --by mem-3fa…')
    .action(async (institution: string, patient: string, category: string, { by, json }: ByOptions, command: Command) => {
      const done = await withOperations(command, (operations) => operations.sharingRenounce({ institution, patient, category, by }));
      print(
        json,
        done,
        ({ permissions, left, state }) =>
          `${permissions} permission${permissions === 1 ? '' : 's'} given up; denied here from now on, ${state === 'committed' ? 'and so on the ledger' : 'and on its way to the ledger'}.` +
          (left === 0 ? '' : ` ${left} by role remain: these are the patient's to revoke.`),
      );
    });
  const hold = sharing.command('hold').description('legal holds: sealed copies that outlast the permission, and that nobody can read');
  hold
    .command('place <institution> <patient> <category>')
    .description('keep the sealed copies of this category when its permission ends; the keys are destroyed all the same')
    .requiredOption('--by <id>', 'privacy officer (mem-…)')
    .requiredOption('--reason <words>', 'why; kept sealed')
    .option('--json', 'for machines')
    .addHelpText(
      'after',
      '\nExample:\n  $ oncobridge sharing hold place inst-7q2… pat-4kz… laboratory --by mem-3fa… --reason "case 12/2027"',
    )
    .action(async (institution: string, patient: string, category: string, { by, reason, json }: ByOptions, command: Command) => {
      const done = await withOperations(command, (operations) =>
        operations.sharingHoldPlace({ institution, patient, category, by, reason }),
      );
      print(json, done, () => 'The hold is placed.');
    });
  hold
    .command('lift <institution> <patient> <category>')
    .description('end a hold: what it kept is deleted')
    .requiredOption('--by <id>', 'privacy officer (mem-…)')
    .option('--json', 'for machines')
    .addHelpText('after', '\nExample:\n  $ oncobridge sharing hold lift inst-7q2… pat-4kz… laboratory --by mem-3fa…')
    .action(async (institution: string, patient: string, category: string, { by, json }: ByOptions, command: Command) => {
      const done = await withOperations(command, (operations) => operations.sharingHoldLift({ institution, patient, category, by }));
      print(json, done, ({ objects }) => `The hold is lifted; ${objects} sealed cop${objects === 1 ? 'y is' : 'ies are'} deleted.`);
    });
  hold
    .command('list')
    .description('holds, and how many sealed copies each keeps')
    .option('--json', 'for machines')
    .addHelpText('after', '\nExample:\n  $ oncobridge sharing hold list')
    .action(async (options: { json?: boolean }, command: Command) => {
      print(options.json, await withOperations(command, (operations) => operations.sharingHoldList({})), holdsText);
    });
}

function categoriesText(categories: readonly SharedCategoryReport[]): string {
  if (categories.length === 0) return 'Nothing is shared with this institution.';
  return table(
    ['institution', 'patient', 'category', 'state', 'code', 'link', 'since', 'held', 'bytes', 'wanted', 'missing', 'permissions'],
    categories.map((c) => [
      c.institution,
      c.patient,
      c.category,
      c.state,
      c.code,
      c.link,
      c.since,
      c.documents,
      c.bytes,
      c.wanted,
      c.missing,
      c.permissions.map((p) => `${p.grantee}${p.until === null ? '' : ` until ${p.until}`}`).join(', '),
    ]),
  );
}

function endsText(ends: readonly SharingEndReport[]): string {
  if (ends.length === 0) return 'Nothing has ended.';
  return table(
    [
      'institution',
      'patient',
      'category',
      'document',
      'cause',
      'block',
      'ended',
      'deleted',
      'documents',
      'rows',
      'objects',
      'keys',
      'held',
      'anchor',
    ],
    ends.map((e) => [
      e.institution,
      e.patient,
      e.category,
      e.document,
      e.cause,
      e.block,
      e.ended,
      e.deleted ?? 'under way',
      e.documents,
      e.rows,
      e.objects,
      e.keys,
      e.held,
      e.anchor ?? 'with the next',
    ]),
  );
}

function holdsText(holds: readonly Hold[]): string {
  if (holds.length === 0) return 'There are no legal holds.';
  return table(
    ['institution', 'patient', 'category', 'by', 'reason', 'placed', 'lifted', 'sealed copies'],
    holds.map((h) => [h.institution, h.patient, h.category, h.by, h.reason, h.placed, h.lifted, h.objects]),
  );
}

function reportText({ institution, at, held, ended, holds }: SharingReport): string {
  return [
    `${institution}, ${at}`,
    'HELD',
    categoriesText(held),
    'ENDED AND DELETED',
    endsText(ended),
    'LEGAL HOLDS',
    holdsText(holds),
  ].join('\n\n');
}
