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
  return (await treesCpuMs([root]))[0];
}

/** The same of several, by one look at all processes: reading them costs CPU of our own. */
export async function treesCpuMs(roots: readonly number[]): Promise<(number | undefined)[]> {
  const found = new Map<number, { parent: number; ms: number }>();
  const names = await readdir('/proc').catch(() => []);
  await Promise.all(
    names
      .filter((name) => /^\d+$/.test(name))
      .map(async (name) => {
        const one = await processCpu(name);
        if (one !== undefined) found.set(Number(name), one);
      }),
  );
  return roots.map((root) => {
    if (!found.has(root)) return undefined;
    let sum = 0;
    for (const [pid, { ms }] of found) if (descends(found, pid, root)) sum += ms;
    return sum;
  });
}

async function processCpu(pid: string): Promise<{ parent: number; ms: number } | undefined> {
  const read = (name: string): Promise<string> => readFile(`/proc/${pid}/${name}`, 'utf8').catch(() => '');
  const [stat, schedule] = await Promise.all([read('stat'), read('schedstat')]);
  // The command's name stands in parentheses and may hold anything; the fields are counted from behind it.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  const ticks = (...at: number[]): number => at.reduce((sum, one) => sum + Number(fields[one] ?? 0), 0) * MS_PER_TICK;
  const parent = Number(fields[1]);
  if (!Number.isInteger(parent)) return undefined;
  // The scheduler's own count is in nanoseconds, but of one thread. PostgreSQL's processes have one.
  const precise = fields[17] === '1' ? Number(schedule.split(' ')[0]) / 1e6 : Number.NaN;
  return { parent, ms: (Number.isFinite(precise) && precise > 0 ? precise : ticks(11, 12)) + ticks(13, 14) };
}

function descends(found: ReadonlyMap<number, { parent: number }>, pid: number, root: number): boolean {
  for (let at: number | undefined = pid; at !== undefined && at > 1; at = found.get(at)?.parent) if (at === root) return true;
  return false;
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
