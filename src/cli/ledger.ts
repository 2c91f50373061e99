import type { Command } from 'commander';
import { findServer, remoteOperations } from './control-client.ts';
import { addJoiningCommands } from './ledger-joining.ts';
import type { VerifyResult } from './operations.ts';
import { controlFile, type GlobalOptions, PROBLEMS, print } from './run.ts';
import { readSettings } from './settings.ts';
import { verifyResult } from './verify-result.ts';

export function addLedgerCommand(program: Command): void {
  const ledger = program.command('ledger').description('the ledger');
  ledger
    .command('verify')
    .description('run every block again and compare; finds an altered byte and a missing tail; exits 1 where it does')
    .option('--json', 'for machines')
    .addHelpText('after', '\nExample:\n  $ oncobridge ledger verify')
    .action(async (options: { json?: boolean }, command: Command) => {
      const result = await verify(command);
      print(options.json, result, ({ ok, blocks, transactions, problems }) =>
        ok ? `${blocks} blocks with ${transactions} transactions hold.` : `THE LEDGER DOES NOT HOLD\n${problems.join('\n')}`,
      );
      if (!result.ok) process.exitCode = PROBLEMS;
    });
  addJoiningCommands(ledger);
}

/**
 * In the running server where one runs; else over the database (and on Fabric the peers) alone, for a ledger that was tampered
 * with may keep a server from starting, and that is when it must be asked.
 */
async function verify(command: Command): Promise<VerifyResult> {
  const settings = await readSettings(command.optsWithGlobals<GlobalOptions>().config);
  const server = await findServer(controlFile(settings.data));
  if (server !== undefined) return remoteOperations(server).verify({});
  const { verifyAlone } = await import('../app/verify-alone.ts');
  return verifyResult(await verifyAlone(settings));
}
