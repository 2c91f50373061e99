/**
 * Runs one command after another in one process, each as `src/main.ts` does: what a launch costs (Node, the modules) is paid
 * once. `node command-host.ts`, with an IPC channel.
 */
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
    await createProgram()
      .parseAsync([...args], { from: 'user' })
      .catch(exitWith);
    ran.code = process.exitCode ?? 0;
  } finally {
    process.stdout.write = write.stdout;
    process.stderr.write = write.stderr;
    process.exitCode = 0;
  }
  return ran;
}

process.on('message', (asked: Asked) => void run(asked).then((ran) => process.send?.(ran)));
