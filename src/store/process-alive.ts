import { readFile } from 'node:fs/promises';

/** Whether a process has this id. One of another user has, though it may not be signalled; a zombie has too, until it is reaped. */
export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

/** Which process: a pid alone is reused, in a container at once, so start time and boot stand beside it. */
export interface ProcessIdentity {
  pid: number;
  /** Start time of the process in clock ticks (Linux), else empty. */
  started: string;
  /** Boot id of the machine (Linux), else empty. */
  boot: string;
}

export async function processIdentity(pid: number): Promise<ProcessIdentity> {
  const read = (path: string): Promise<string> => readFile(path, 'utf8').catch(() => '');
  const status = await read(`/proc/${pid}/stat`);
  // The command's name may hold blanks and brackets: fields count from the last bracket; start time is field 22.
  const started =
    status
      .slice(status.lastIndexOf(')') + 2)
      .split(' ')
      .at(19) ?? '';
  return { pid, started, boot: (await read('/proc/sys/kernel/random/boot_id')).trim() };
}

/** Whether it is that process and no later one of the same id. Where the system tells neither start nor boot, the pid alone counts. */
export async function isRunning({ pid, started, boot }: ProcessIdentity): Promise<boolean> {
  if (!isAlive(pid)) return false;
  const now = await processIdentity(pid);
  return (boot === '' || now.boot === boot) && (started === '' || now.started === started);
}
