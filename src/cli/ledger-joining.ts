import { readFileSync, writeFileSync } from 'node:fs';
import type { Command } from 'commander';
import { CodedError } from '../errors.ts';
import type { CosignedFile } from '../membership/cosigned-file.ts';
import { findServer } from './control-client.ts';
import { controlFile, type GlobalOptions, print, withOperations } from './run.ts';
import { readSettings, type Settings } from './settings.ts';

/** Founding a ledger among several institutions, and joining it. */
export function addJoiningCommands(ledger: Command): void {
  ledger
    .command('found')
    .description('found the ledger of a Fabric channel, once and by one institution; prints the id that everybody pins as ledger.id')
    .option('--json', 'for machines')
    .addHelpText('after', '\nExample:\n  $ oncobridge --config config/production.yaml ledger found')
    .action(async (options: { json?: boolean }, command: Command) => {
      const settings = await alone(command);
      const { foundFabricLedger } = await import('../app/ledger-identity.ts');
      print(options.json, await foundFabricLedger(settings), ({ ledgerId, founder, txId, block, isNew }) =>
        [
          `${isNew ? 'Founded' : 'Founded already'} by ${founder}: transaction ${txId}, block ${block}.`,
          'Every institution pins it in its configuration:',
          `  id: ${ledgerId}`,
        ].join('\n'),
      );
    });
  ledger
    .command('join')
    .description('write the statement by which this institution asks to be registered on a ledger that others founded')
    .requiredOption('--out <file>', 'the file that goes to two active institutions (one, where only one exists)')
    .option('--json', 'for machines')
    .addHelpText('after', '\nExample:\n  $ oncobridge --config config/production.yaml ledger join --out join.json')
    .action(async (options: { out: string; json?: boolean }, command: Command) => {
      const settings = await alone(command);
      const { joinFabricLedger } = await import('../app/ledger-identity.ts');
      const file = await joinFabricLedger(settings);
      saveCosigned(options.out, file);
      print(options.json, file, ({ institution, thumbprint }) =>
        [
          `${options.out} is to be co-signed by two active institutions, one after the other, and then submitted by any of them.`,
          `institution  ${institution}`,
          `thumbprint   ${thumbprint}   (read it to them yourself; do not send it with the file)`,
        ].join('\n'),
      );
    });
  ledger
    .command('cosign <file>')
    .description('sign the statement of an institution that joins, or that turns to new keys; the file gets this signature too')
    .requiredOption('--thumbprint <thumbprint>', 'of its new signing key, as the institution itself told you')
    .option('--json', 'for machines')
    .addHelpText('after', '\nExample:\n  $ oncobridge ledger cosign join.json --thumbprint oKIywvGUpTVTyxMQ3bwIIeQUudfr_CkLMjCE19ECD-U')
    .action(async (path: string, options: { thumbprint: string; json?: boolean }, command: Command) => {
      const file = load(path);
      const signed = await withOperations(command, (operations) => operations.ledgerCosign({ file, thumbprint: options.thumbprint }));
      saveCosigned(path, signed);
      print(
        options.json,
        signed,
        ({ institution, signatures }) =>
          `${institution} has ${signatures.length - 1} signature${signatures.length === 2 ? '' : 's'} of others in ${path}.`,
      );
    });
  ledger
    .command('submit <file>')
    .description('bring the co-signed statement to the ledger; any active institution may')
    .option('--json', 'for machines')
    .addHelpText('after', '\nExample:\n  $ oncobridge ledger submit join.json')
    .action(async (path: string, options: { json?: boolean }, command: Command) => {
      const file = load(path);
      print(
        options.json,
        await withOperations(command, (operations) => operations.ledgerSubmit({ file })),
        ({ institution, txId, block }) =>
          `${institution} ${file.transaction === 'registerInstitution' ? 'is registered' : 'has new keys'}: transaction ${txId}, block ${block}.`,
      );
    });
}

/** What is done before the institution stands on the ledger: the keys are in no server's hands. */
async function alone(command: Command): Promise<Settings> {
  const settings = await readSettings(command.optsWithGlobals<GlobalOptions>().config);
  if (settings.notice !== undefined) process.stderr.write(`${settings.notice}\n`);
  const running = await findServer(controlFile(settings.data));
  if (running !== undefined)
    throw new CodedError('CONFLICT', {
      diagnostics: `A server runs, process ${running.pid}: this institution stands on its ledger already.`,
    });
  return settings;
}

function load(path: string): CosignedFile {
  try {
    const file = JSON.parse(readFileSync(path, 'utf8')) as CosignedFile | null;
    if (typeof file === 'object' && file !== null) return file;
  } catch {
    // below
  }
  throw new CodedError('BAD_REQUEST', {
    diagnostics: `${path} cannot be read as a file of \`oncobridge ledger join\` or \`oncobridge institution rotate-key\`.`,
  });
}

export function saveCosigned(path: string, file: CosignedFile): void {
  try {
    writeFileSync(path, `${JSON.stringify(file, null, 2)}\n`);
  } catch {
    throw new CodedError('BAD_REQUEST', { diagnostics: `${path} cannot be written.` });
  }
}
