import type { PullProgress } from '../pipeline/pull.ts';

/** `taken 12, skip:NOT_CLINICAL 4`. */
export function outcomesText(outcomes: Readonly<Record<string, number>>): string {
  return Object.entries(outcomes)
    .sort(([a], [b]) => a.localeCompare(b, 'en'))
    .map(([outcome, count]) => `${outcome} ${count}`)
    .join(', ');
}

export function progressText(progress: PullProgress): string {
  const { source, stream, pages, records, known, outcomes, error, done } = progress;
  const state = error !== undefined ? `FAILED ${error}` : done ? 'done' : '…';
  const found = outcomesText(outcomes);
  return `${`${source}/${stream}`.padEnd(14)} ${String(pages).padStart(3)} pages ${String(records).padStart(6)} records, ${known} known${found === '' ? '' : `; ${found}`}  ${state}`;
}

/**
 * One line per stream at its end; on a terminal, below them, one that says how far those under way have come. Elsewhere that
 * one is left out, so that a log stays readable.
 */
export function createProgress(out: NodeJS.WriteStream = process.stderr): (progress: PullProgress) => void {
  const underway = new Map<string, number>();
  return (progress) => {
    const name = `${progress.source}/${progress.stream}`;
    const clear = out.isTTY ? '\r\u001b[2K' : '';
    if (progress.done) {
      underway.delete(name);
      out.write(`${clear}${progressText(progress)}\n`);
    } else underway.set(name, progress.records);
    if (!out.isTTY || underway.size === 0) return;
    const line = [...underway].map(([stream, records]) => `${stream} ${records} records`).join(', ');
    out.write(`${clear}${line.slice(0, (out.columns ?? 120) - 3)} …`);
  };
}
