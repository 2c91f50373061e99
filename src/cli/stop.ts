import type { Command } from 'commander';
import { isAlive } from '../store/process-alive.ts';
import { findServer, remoteOperations } from './control-client.ts';
import { controlFile, type GlobalOptions, PROBLEMS, print } from './run.ts';
import { readSettings } from './settings.ts';
import { STOP_GIVES_UP_MS } from './start.ts';

export function addStopCommand(program: Command): void {
  program
    .command('stop')
    .description('stop the running server: requests in flight finish, then everything is closed in reverse order')
    .option('--json', 'for machines')
    .addHelpText('after', '\nExample:\n  $ oncobridge stop')
    .action(async (options: { json?: boolean }, command: Command) => {
      const settings = await readSettings(command.optsWithGlobals<GlobalOptions>().config);
      const server = await findServer(controlFile(settings.data));
      if (server === undefined) {
        print(options.json, { stopped: false }, () => 'No server is running.');
        return;
      }
      await remoteOperations(server).stop({});
      const until = Date.now() + STOP_GIVES_UP_MS + 5000;
      while (isAlive(server.pid) && Date.now() < until) await new Promise((resolve) => setTimeout(resolve, 100));
      const stopped = !isAlive(server.pid);
      print(options.json, { stopped, pid: server.pid }, () => (stopped ? 'Stopped.' : 'It is still stopping.'));
      if (!stopped) process.exitCode = PROBLEMS;
    });
}
