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
 * One line per stream: rewritten in place on a terminal, printed once at its end elsewhere, so that a log stays readable.
 */
export function createProgress(out: NodeJS.WriteStream = process.stderr): (progress: PullProgress) => void {
  let open: string | undefined;
  return (progress) => {
    const name = `${progress.source}/${progress.stream}`;
    if (!out.isTTY) {
      if (progress.done) out.write(`${progressText(progress)}\n`);
      return;
    }
    if (open !== undefined && open !== name) out.write('\n');
    open = progress.done ? undefined : name;
    out.write(`\r\u001b[2K${progressText(progress).slice(0, (out.columns ?? 120) - 1)}${progress.done ? '\n' : ''}`);
  };
}
