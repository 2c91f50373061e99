import type { BenchRow } from './row.ts';

const HEADS = ['what', 'ours', 'baseline', 'ratio', 'unit', 'target', 'met'];

/** The rows as text in columns. */
export function table(rows: readonly BenchRow[]): string {
  const cells = rows.map((row) => [
    row.name,
    figure(row.ours),
    row.baseline === undefined ? '' : figure(row.baseline),
    row.ratio === undefined ? '' : row.ratio.toFixed(2),
    row.unit,
    row.target ?? '',
    row.met === undefined ? '' : row.met ? 'yes' : 'NO',
  ]);
  const widths = HEADS.map((head, column) => Math.max(head.length, ...cells.map((line) => line[column]?.length ?? 0)));
  const line = (texts: readonly string[]): string =>
    texts
      .map((text, column) => (column >= 1 && column <= 3 ? text.padStart(widths[column] ?? 0) : text.padEnd(widths[column] ?? 0)))
      .join('  ')
      .trimEnd();
  return `${[line(HEADS), line(widths.map((width) => '-'.repeat(width))), ...cells.map(line)].join('\n')}\n`;
}

/** Three digits that count, whole numbers whole. */
function figure(value: number): string {
  if (!Number.isFinite(value)) return '–';
  return Math.abs(value) >= 100 || Number.isInteger(value) ? Math.round(value).toString() : value.toPrecision(3);
}
