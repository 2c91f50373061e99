/**
 * Runs one command after another in one process, each as `src/main.ts` does: what a launch costs (Node, the modules) is paid
 * once. `node command-host.ts`, with an IPC channel.
 */
import { type Command, CommanderError } from 'commander';
import { createProgram } from '../../src/cli/program.ts';
import { exitWith } from '../../src/cli/run.ts';

export interface Asked {
  args: readonly string[];
  env: Readonly<Record<string, string>>;
  /** Standard output is a terminal. */
  terminal?: boolean;
}
export interface Ran {
  code: number;
  out: string;
  err: string;
}

/** A wrong word throws, in place of ending the process. */
function throwing(command: Command): Command {
  for (const inner of command.commands) throwing(inner);
  return command.exitOverride();
}

const own = { ...process.env };

async function run({ args, env, terminal = false }: Asked): Promise<Ran> {
  const ran: Ran = { code: 0, out: '', err: '' };
  process.env = { ...own, ...env };
  process.exitCode = 0;
  process.stdout.isTTY = terminal;
  const write = { stdout: process.stdout.write, stderr: process.stderr.write };
  process.stdout.write = (text: string | Uint8Array) => {
    ran.out += text.toString();
    return true;
  };
  process.stderr.write = (text: string | Uint8Array) => {
    ran.err += text.toString();
    return true;
  };
  try {
    await throwing(createProgram())
      .parseAsync([...args], { from: 'user' })
      .catch((error: unknown) => {
        if (error instanceof CommanderError) process.exitCode = error.exitCode;
        else exitWith(error);
      });
    ran.code = process.exitCode ?? 0;
  } finally {
    process.stdout.write = write.stdout;
    process.stderr.write = write.stderr;
    process.exitCode = 0;
  }
  return ran;
}

process.on('message', (asked: Asked) => void run(asked).then((ran) => process.send?.(ran)));
