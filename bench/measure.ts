import { readdir, readFile } from 'node:fs/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

/**
 * What the benches measure with. The machine may be busy with other things, so the main figure is CPU time, by turns
 * with the baseline, and the median of the rounds.
 */

/** CPU milliseconds of this process so far, all its threads and garbage collection included. */
export function ownCpuMs(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
}

/** Linux counts processes' CPU in hundredths of a second, whatever the kernel's own tick. */
const MS_PER_TICK = 10;

/**
 * CPU milliseconds so far of a process, the children that it has reaped and all that descend from it: a PostgreSQL
 * server with its backends. Undefined where the system has no /proc.
 */
export async function treeCpuMs(root: number): Promise<number | undefined> {
  const children = new Map<number, number[]>();
  const ticks = new Map<number, number>();
  const names = await readdir('/proc').catch(() => []);
  await Promise.all(
    names
      .filter((name) => /^\d+$/.test(name))
      .map(async (name) => {
        const stat = await readFile(`/proc/${name}/stat`, 'utf8').catch(() => '');
        // The command's name stands in parentheses and may hold anything; the fields are counted from behind it.
        const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
        const parent = Number(fields[1]);
        const pid = Number(name);
        if (!Number.isInteger(parent)) return;
        children.set(parent, [...(children.get(parent) ?? []), pid]);
        // utime, stime, and the same of the children that were waited for.
        ticks.set(
          pid,
          [11, 12, 13, 14].reduce((sum, at) => sum + Number(fields[at] ?? 0), 0),
        );
      }),
  );
  if (!ticks.has(root)) return undefined;
  let sum = 0;
  for (const queue = [root]; queue.length > 0; ) {
    const pid = queue.pop() ?? 0;
    sum += ticks.get(pid) ?? 0;
    queue.push(...(children.get(pid) ?? []));
  }
  return sum * MS_PER_TICK;
}

export function median(values: readonly number[]): number {
  return percentile(values, 0.5);
}

export function percentile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN;
}

let collect: (() => void) | undefined;

/** Collects garbage now, so that memory can be compared. */
export function collectGarbage(): void {
  if (collect === undefined) {
    setFlagsFromString('--expose-gc');
    collect = runInNewContext('gc') as () => void;
  }
  collect();
}

/** Numbers that look random and are the same in every run: mulberry32, in [0, 1). */
export function random(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
  };
}
