import { writeFile } from 'node:fs/promises';
import type { Command } from 'commander';
import { parseDurationMs } from '../config/schema.ts';
import { CodedError } from '../errors.ts';
import type { Difference, LinkedPerson, LinkShown } from '../sharing/link-comparison.ts';
import { linkQrForTerminal, linkQrSvg } from '../sharing/link-picture.ts';
import type { ListedLink, MadeCode } from '../sharing/links.ts';
import { print, table, withOperations } from './run.ts';

export function addLinkCommand(program: Command): void {
  const link = program.command('link').description('links between our patients and what they have elsewhere (docs/linking.md)');
  link
    .command('create')
    .description('a one-time code for our patient, to be carried into a permission at the other institution; a secret, shown this once')
    .requiredOption('--patient <id>', 'our patient (pat-…)')
    .requiredOption('--clinician <id>', 'whom the patient means to let read (mem-…)')
    .option('--by <id>', 'registrar or clinician who makes it (mem-…); without it the clinician')
    .option('--expires <duration>', 'how long it is good, at most 30d', '7d')
    .option('--svg <file>', 'also as a picture to print, in a new file')
    .option('--json', 'for machines')
    .addHelpText(
      'after',
      '\nExample:\n  $ oncobridge link create --patient pat-4kz… --clinician mem-7q2…\n  $ oncobridge link create --patient pat-4kz… --clinician mem-7q2… --by mem-3fa… --expires 2d --svg code.svg',
    )
    .action(async ({ patient, clinician, by, expires, svg, json }: CreateOptions, command: Command) => {
      const input = { patient, clinician, by: by ?? clinician, expiresInMs: durationMs(expires) };
      const made = await withOperations(command, (operations) => operations.linkCreate(input));
      // Before it is printed: a file that cannot be written must not cost the code, which nobody can show again.
      const problem = svg === undefined ? undefined : await writePicture(svg, made.text);
      print(json, made, codeText);
      if (problem !== undefined) throw problem;
    });
  link
    .command('list')
    .description('every code and what became of it; names nobody')
    .option('--json', 'for machines')
    .addHelpText('after', '\nExample:\n  $ oncobridge link list')
    .action(async (options: { json?: boolean }, command: Command) => {
      print(options.json, await withOperations(command, (operations) => operations.linkList({})), (links) =>
        links.length === 0
          ? 'No codes were made.'
          : table(
              ['link', 'status', 'patient', 'clinician', 'institution', 'expires', 'bound'],
              links.map((one) => [one.link, one.status, one.patient, one.clinician, one.institution, one.expires, one.bound]),
            ),
      );
    });
  link
    .command('show <link>')
    .description('one link: whose it is, and what differs where it is held')
    .option('--reveal', 'with name and birth date of both sides; on a terminal only')
    .option('--json', 'for machines; names nobody')
    .addHelpText('after', '\nExample:\n  $ oncobridge link show lnk-ew2nqk3pmbo5g7s6yxqf4jzh3a --reveal')
    .action(async (id: string, options: { reveal?: boolean; json?: boolean }, command: Command) => {
      // Names go to a person's eyes, not into a file or a pipe.
      const reveal = options.reveal === true && process.stdout.isTTY && options.json !== true;
      print(options.json, await withOperations(command, (operations) => operations.linkShow({ link: id, reveal })), linkText);
    });
  link
    .command('resolve <link>')
    .description('a person’s answer to a held link; what was rejected is deleted here')
    .option('--accept', 'they are one person: served from now on')
    .option('--reject', 'they are not: nothing of theirs is kept')
    .option('--seen <code>', 'with --accept: the code under what `link show` has shown')
    .requiredOption('--by <id>', 'registrar, clinician or privacy officer who answers (mem-…)')
    .requiredOption('--reason <words>', 'why; kept sealed')
    .option('--json', 'for machines')
    .addHelpText(
      'after',
      '\nExample:\n  $ oncobridge link resolve lnk-ew2… --accept --seen 1f09c3aa --by mem-3fa… --reason "married, passport seen"',
    )
    .action(async (id: string, options: ResolveOptions, command: Command) => {
      const { accept, reject, seen, by, reason, json } = options;
      if ((accept === true) === (reject === true))
        throw new CodedError('BAD_REQUEST', { diagnostics: 'Answer with one of --accept and --reject.' });
      if (accept === true && seen === undefined)
        throw new CodedError('BAD_REQUEST', { diagnostics: '`link show` shows what is to be accepted, and the code for --seen.' });
      const input = {
        link: id,
        answer: accept === true ? 'accept' : 'reject',
        by,
        reason,
        ...(seen === undefined ? {} : { seen }),
      } as const;
      const resolved = await withOperations(command, (operations) => operations.linkResolve(input));
      print(json, resolved, ({ link: of, state, already }) => `${of}: ${STATE_TEXT[state]}${already ? ' Answered so before.' : ''}`);
    });
  link
    .command('close <link>')
    .description('take a code back that nobody has used')
    .requiredOption('--by <id>', 'registrar, clinician or privacy officer (mem-…)')
    .option('--json', 'for machines')
    .addHelpText('after', '\nExample:\n  $ oncobridge link close lnk-ew2nqk3pmbo5g7s6yxqf4jzh3a --by mem-3fa…')
    .action(async (id: string, { by, json }: { by: string; json?: boolean }, command: Command) => {
      print(
        json,
        await withOperations(command, (operations) => operations.linkClose({ link: id, by })),
        (closed) => `${closed.link}: closed.`,
      );
    });
}

interface CreateOptions {
  patient: string;
  clinician: string;
  by?: string;
  expires: string;
  svg?: string;
  json?: boolean;
}
interface ResolveOptions {
  accept?: boolean;
  reject?: boolean;
  seen?: string;
  by: string;
  reason: string;
  json?: boolean;
}

const STATE_TEXT = {
  bound: 'to be compared anew.',
  confirmed: 'confirmed; served from now on.',
  held: 'held for a person.',
  rejected: 'rejected; nothing of theirs is kept.',
};

function durationMs(text: string): number {
  try {
    return parseDurationMs(text);
  } catch {
    throw new CodedError('BAD_REQUEST', { diagnostics: '--expires is a duration such as 7d or 12h.' });
  }
}

async function writePicture(file: string, text: string): Promise<CodedError | undefined> {
  try {
    await writeFile(file, linkQrSvg(text), { mode: 0o600, flag: 'wx' });
    return undefined;
  } catch (error) {
    const why = (error as { code?: string }).code ?? 'unknown';
    return new CodedError('BAD_REQUEST', { diagnostics: `The picture was not written (${why}): name a file that does not exist yet.` });
  }
}

function codeText({ link, text, expires }: MadeCode): string {
  const isTerminal = process.stdout.isTTY;
  return [
    ...(isTerminal ? [linkQrForTerminal(text, true), ''] : []),
    text,
    '',
    `${link}, good until ${expires}, for one patient and one use. It is a secret and is not shown again.`,
  ].join('\n');
}

function linkText(shown: ListedLink & LinkShown): string {
  const { theirs, held, seen, answered } = shown;
  const lines = [
    table(
      ['field', 'value'],
      [
        ['status', shown.status],
        ['our patient', shown.patient],
        ['theirs', theirs === null ? '' : `${theirs.patient} of ${theirs.institution}`],
        ['clinician', shown.clinician],
        ['made', `${shown.created} by ${shown.by}`],
        ['expires', shown.expires],
        ['bound', shown.bound],
        ['decided', [shown.decided, shown.decidedBy].filter((one) => one !== null).join(' by ')],
      ],
    ),
  ];
  if (answered !== null) lines.push('', `Answered on ${answered.at} by ${answered.by}: ${answered.answer}, "${answered.reason}"`);
  for (const one of held) {
    lines.push('', one.differs.map(differenceText).join(', '));
    const { theirs: them, ours: us } = one;
    if (them === undefined || us === undefined) continue;
    const row = (name: string, of: (person: LinkedPerson) => string | undefined) => [name, of(us), of(them)];
    const rows = [row('name', (of) => of.name), row('birth date', (of) => of.birthDate), row('sex', (of) => of.sex)];
    lines.push(table(['', 'our patient', 'theirs'], rows));
  }
  if (shown.status === 'held') {
    if (held.length === 0) lines.push('', 'What differed was deleted with their data; --accept has it compared anew.');
    else if (held.every((one) => one.theirs === undefined)) lines.push('', 'Names and birth dates: --reveal, on a terminal.');
    lines.push(
      '',
      'Answer with --accept or --reject:',
      `  oncobridge link resolve ${shown.link} --accept --seen ${seen} --by mem-… --reason "…"`,
    );
  }
  return lines.join('\n');
}

function differenceText({ field, how }: Difference): string {
  const what = field === 'name' ? 'the name' : 'the birth date';
  return how === 'differs' ? `${what} differs` : `${what} is missing or not whole on one side`;
}
