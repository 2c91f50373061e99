import { join } from 'node:path';
import { type Command, CommanderError } from 'commander';
import { CodedError } from '../errors.ts';
import { findServer, remoteOperations } from './control-client.ts';
import type { Operations } from './operations.ts';
import { readSettings } from './settings.ts';

/** Exit codes: 0 ok, 1 problems found, 64 a wrong command or option (EX_USAGE), 78 bad configuration (EX_CONFIG). */
export const PROBLEMS = 1;
const WRONG_USE = 64;
const BAD_CONFIG = 78;
const CONFIG_CODES = new Set(['CONFIG_INVALID', 'CONFIG_NOT_FOUND', 'SECRET_MISSING', 'SECRET_WEAK']);

export interface GlobalOptions {
  config: string;
}

/** Where the running server says how it is reached. */
export function controlFile(data: string): string {
  return join(data, 'run', 'control.json');
}

/** Runs `work` in the running server, or, where none runs, in a server of its own that serves nothing and ends with it. */
export async function withOperations<T>(command: Command, work: (operations: Omit<Operations, 'stop'>) => Promise<T>): Promise<T> {
  const settings = await readSettings(command.optsWithGlobals<GlobalOptions>().config);
  if (settings.notice !== undefined) process.stderr.write(`${settings.notice}\n`);
  const server = await findServer(controlFile(settings.data));
  if (server !== undefined) return work(remoteOperations(server));
  // Only now: a command that asks the running server loads none of it.
  const { createApp } = await import('../app.ts');
  const app = await createApp({ settings, serve: false, logLevel: 'warn' });
  try {
    return await work(app.operations);
  } finally {
    await app.close();
  }
}

/** Prints a result: JSON for machines, else what `text` makes of it. */
export function print<T>(json: boolean | undefined, result: T, text: (result: T) => string): void {
  process.stdout.write(`${json === true ? JSON.stringify(result, null, 2) : text(result)}\n`);
}

/** A coded error is printed as code and text; anything else with its stack, for it is our mistake. */
export function exitWith(error: unknown): void {
  // It has said itself what is wrong; help that was asked for is no error.
  if (error instanceof CommanderError) process.exitCode = error.exitCode === 0 ? 0 : WRONG_USE;
  else if (error instanceof CodedError) {
    process.stderr.write(`${error.message}\n`);
    process.exitCode = CONFIG_CODES.has(error.code) ? BAD_CONFIG : PROBLEMS;
  } else {
    process.stderr.write(`${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`);
    process.exitCode = PROBLEMS;
  }
}

/** Columns aligned by their widest cell. */
export function table(head: readonly string[], rows: readonly (readonly (string | number | null | undefined)[])[]): string {
  const cells = [head, ...rows.map((row) => row.map((cell) => String(cell ?? '')))];
  const widths = head.map((_, column) => Math.max(...cells.map((row) => row[column]?.length ?? 0)));
  return cells
    .map((row) =>
      row
        .map((cell, column) => cell.padEnd(widths[column] ?? 0))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}
