import type { Command } from 'commander';
import { createProgress, progressText } from './progress.ts';
import { PROBLEMS, print, withOperations } from './run.ts';

export function addPullCommand(program: Command): void {
  program
    .command('pull')
    .description('pull what is new from the sources, and file it')
    .option('--source <id>', 'one source only')
    .option('--stream <id>', 'one stream only')
    .option('--dry-run', 'read and decide, store nothing')
    .option('--json', 'for machines')
    .addHelpText('after', '\nExample:\n  $ oncobridge pull --source ehr --dry-run')
    .action(async (options: { source?: string; stream?: string; dryRun?: boolean; json?: boolean }, command: Command) => {
      const { json, ...input } = options;
      const onProgress = json === true ? () => {} : createProgress();
      const report = await withOperations(command, (operations) => operations.pull(input, onProgress));
      print(json, report, ({ filed, streams }) =>
        options.dryRun === true
          ? `Nothing was stored.\n${streams.map(progressText).join('\n')}`
          : `${filed} document${filed === 1 ? '' : 's'} filed.`,
      );
      if (report.failed) process.exitCode = PROBLEMS;
    });
}
