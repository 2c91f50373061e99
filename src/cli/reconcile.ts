import type { Command } from 'commander';
import { PROBLEMS, print, table, withOperations } from './run.ts';

export function addReconcileCommand(program: Command): void {
  program
    .command('reconcile')
    .description('compare documents, stored objects and ledger both ways; exits 1 on any difference')
    .option('--json', 'for machines')
    .addHelpText('after', '\nExample:\n  $ oncobridge reconcile --json')
    .action(async (options: { json?: boolean }, command: Command) => {
      const report = await withOperations(command, (operations) =>
        operations.reconcile({}, (done) => {
          if (process.stderr.isTTY) process.stderr.write(`\r${done} documents compared`);
        }),
      );
      if (process.stderr.isTTY) process.stderr.write('\n');
      print(options.json, report, ({ documents, entries, objects, underway, sweptObjects, shared, differences }) =>
        [
          `${documents} document versions, ${objects} objects, ${entries} ledger entries compared; ${underway} under way, ${sweptObjects} unused objects removed.`,
          `Shared with us: ${shared.held} documents held and compared, ${shared.pending} being fetched, ${shared.missing} missing or refused.`,
          differences.length === 0
            ? 'No differences.'
            : `${differences.length} DIFFERENCES\n${table(
                ['kind', 'document', 'version', 'object or detail'],
                differences.map((d) => [d.kind, d.document, d.version, d.pointer ?? d.detail]),
              )}`,
        ].join('\n'),
      );
      if (report.differences.length > 0) process.exitCode = PROBLEMS;
    });
}
