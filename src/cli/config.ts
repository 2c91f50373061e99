import type { Command } from 'commander';
import { formatProblem } from '../config/load.ts';
import { generatedFiles } from '../config/reference.ts';
import { CodedError } from '../errors.ts';
import { newId } from '../ids.ts';
import { type GlobalOptions, print, table } from './run.ts';
import { checkSettings } from './settings.ts';

export function addConfigCommand(program: Command): void {
  const config = program.command('config').description('the configuration');
  config
    .command('check')
    .description('read every file against the schema; exits 78 with file:line:column of each problem')
    .option('--json', 'for machines')
    .addHelpText('after', '\nExample:\n  $ oncobridge --config config/production.yaml config check')
    .action((options: { json?: boolean }, command: Command) => {
      const loaded = checkSettings(command.optsWithGlobals<GlobalOptions>().config);
      print(options.json, { ok: true, hash: loaded.hash, warnings: loaded.warnings }, ({ hash, warnings }) =>
        [
          ...warnings.map((warning) => `warning: ${formatProblem(warning)}`),
          `The configuration holds: ${loaded.sources.length} sources, hash ${hash.slice(0, 12)}.`,
        ].join('\n'),
      );
    });
  config
    .command('print')
    .description('every value with where it came from; secrets are not shown')
    .option('--json', 'for machines')
    .addHelpText('after', '\nExample:\n  $ oncobridge config print --json')
    .action((options: { json?: boolean }, command: Command) => {
      const loaded = checkSettings(command.optsWithGlobals<GlobalOptions>().config);
      print(options.json, loaded.values, (values) =>
        table(
          ['value', '', 'from'],
          values.map((v) => [v.path, v.secret ? '(secret)' : JSON.stringify(v.value), v.origin]),
        ),
      );
    });
  config
    .command('schema [file]')
    .description('the JSON Schema (draft-07) of a server or source file')
    .addHelpText('after', '\nExample:\n  $ oncobridge config schema source')
    .action((file: string = 'server') => {
      const schema = generatedFiles().get(`config/schema/${file}.v1.json`);
      if (schema === undefined) throw new CodedError('BAD_REQUEST', { diagnostics: 'Say `server` or `source`.' });
      process.stdout.write(schema);
    });
  config
    .command('institution-id')
    .description('make a new random id for an institution: for institution.id, and for the attribute of its Fabric certificate')
    .addHelpText('after', '\nExample:\n  $ oncobridge config institution-id')
    .action(() => void process.stdout.write(`${newId('inst')}\n`));
}
