import type { Command } from 'commander';
import { CodedError } from '../errors.ts';
import { findServer } from './control-client.ts';
import { startControlServer } from './control-server.ts';
import { controlFile, type GlobalOptions, PROBLEMS } from './run.ts';
import { readSettings } from './settings.ts';

/** A stop takes at most: requests 10 s, jobs 10 s, PostgreSQL 20 s, and what is between. */
export const STOP_GIVES_UP_MS = 60_000;

export function addStartCommand(program: Command): void {
  program
    .command('start')
    .description('run the server: facade, pulls by schedule, ledger writer; until SIGTERM or `oncobridge stop`')
    .option('--log-level <level>', 'trace, debug, info, warn, error', 'info')
    .option('--json', 'say where it listens as JSON')
    .addHelpText('after', '\nExample:\n  $ oncobridge --config config/embedded.yaml start')
    .action(async (options: { logLevel: string; json?: boolean }, command: Command) => {
      const settings = await readSettings(command.optsWithGlobals<GlobalOptions>().config);
      if (settings.notice !== undefined) process.stderr.write(`${settings.notice}\n`);
      const running = await findServer(controlFile(settings.data));
      if (running !== undefined) throw new CodedError('CONFLICT', { diagnostics: `A server runs already, process ${running.pid}.` });
      const { createApp } = await import('../app.ts');
      const app = await createApp({ settings, serve: true, logLevel: options.logLevel });
      let stopping: Promise<void> | undefined;
      const stop = (): Promise<void> => {
        // What does not end is ended: a kill is safe, and the next start finds what was left.
        setTimeout(() => process.exit(PROBLEMS), STOP_GIVES_UP_MS).unref();
        return (stopping ??= control.close().then(() => app.close()));
      };
      const control = await startControlServer({
        file: controlFile(settings.data),
        facade: app.facadeUrl,
        onError: (error, operation) => app.core.log.error({ operation, err: error }, 'an operation failed'),
        operations: {
          ...app.operations,
          stop: async () => {
            setTimeout(() => void stop(), 50);
            return { pid: process.pid };
          },
        },
      }).catch(async (error: unknown) => {
        await app.close();
        throw error;
      });
      for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => void stop());
      process.stdout.write(
        options.json === true
          ? `${JSON.stringify({ pid: process.pid, facade: app.facadeUrl, operations: app.operationsUrl })}\n`
          : `FHIR R4 at ${app.facadeUrl}, health and metrics at ${app.operationsUrl}; stop with \`oncobridge stop\`.\n`,
      );
    });
}
