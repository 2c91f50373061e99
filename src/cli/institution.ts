import type { Command } from 'commander';
import { findServer } from './control-client.ts';
import { saveCosigned } from './ledger-joining.ts';
import { controlFile, type GlobalOptions, print, withOperations } from './run.ts';
import { readSettings } from './settings.ts';

export function addInstitutionCommand(program: Command): void {
  const institution = program.command('institution').description('this institution on the ledger');
  institution
    .command('rotate-key')
    .description('turn to new signing and encryption keys; envelopes to the old ones still open')
    .option('--export <file>', 'where the current signing key is lost: write the statement that two other institutions co-sign, instead')
    .option('--json', 'for machines')
    .addHelpText(
      'after',
      '\nExample:\n  $ oncobridge institution rotate-key\n  $ oncobridge institution rotate-key --export rotation.json   # then, at two others: ledger cosign, and ledger submit',
    )
    .action(async (options: { export?: string; json?: boolean }, command: Command) => {
      const { export: path } = options;
      if (path === undefined) {
        print(
          options.json,
          await withOperations(command, (operations) => operations.institutionRotateKey({})),
          ({ version, thumbprint, txId, block }) =>
            [
              `The institution has new keys, version ${version} on the ledger: transaction ${txId}, block ${block}.`,
              `thumbprint   ${thumbprint}`,
              'Back up the key store now.',
            ].join('\n'),
        );
        return;
      }
      const file = await exported(command);
      saveCosigned(path, file);
      print(options.json, file, ({ thumbprint, version }) =>
        [
          `${path} is to be co-signed by two other active institutions, one after the other, and then submitted by any of them.`,
          `version      ${version}`,
          `thumbprint   ${thumbprint}   (read it to them yourself; do not send it with the file)`,
          'Back up the key store now: it holds the new keys, which are used as soon as the ledger names them.',
        ].join('\n'),
      );
    });
}

/** Where the lost key keeps the server from starting, the key store is opened here. */
async function exported(command: Command) {
  const settings = await readSettings(command.optsWithGlobals<GlobalOptions>().config);
  if ((await findServer(controlFile(settings.data))) !== undefined)
    return withOperations(command, (operations) => operations.institutionExportKey({}));
  const { exportRotation } = await import('../app/ledger-identity.ts');
  return exportRotation(settings);
}
