/** A small trend: earlier values by time, the reference range as a band behind, the newest value as a dot. */
import type { Sheet } from './sheet.ts';
import { COLOUR } from './theme.ts';

export interface TrendPoint {
  /** Milliseconds; where any is unknown, the points stand at equal distances. */
  at: number | undefined;
  value: number;
}

/** Draws `points` (oldest first, two or more) into the box at `x`, `top`. */
export function drawSparkline(
  sheet: Sheet,
  box: { x: number; top: number; width: number; height: number },
  points: readonly TrendPoint[],
  range: { low: number | undefined; high: number | undefined },
): void {
  const values = points.map((point) => point.value);
  const known = [...values, ...[range.low, range.high].filter((bound) => bound !== undefined)];
  let least = Math.min(...known);
  let most = Math.max(...known);
  if (least === most) {
    least -= 1;
    most += 1;
  }
  const inset = 2.5;
  const height = box.height - inset * 2;
  const yOf = (value: number): number => box.top + inset + height * (1 - (value - least) / (most - least));

  const times = points.map((point) => point.at);
  const start = times[0];
  const end = times.at(-1);
  const timed = start !== undefined && end !== undefined && end > start && times.every((time) => time !== undefined);
  const xOf = (index: number): number => {
    const share = timed ? ((times[index] ?? start) - start) / (end - start) : index / Math.max(1, points.length - 1);
    return box.x + inset + (box.width - inset * 2) * share;
  };

  if (range.low !== undefined || range.high !== undefined) {
    const upper = range.high === undefined ? box.top : yOf(range.high);
    const lower = range.low === undefined ? box.top + box.height : yOf(range.low);
    if (lower > upper) sheet.rectangle(box.x, upper, box.width, lower - upper, COLOUR.band);
  }
  sheet.polyline(
    points.map((point, index) => [xOf(index), yOf(point.value)] as const),
    COLOUR.accent,
    1,
  );
  points.forEach((point, index) => {
    const last = index === points.length - 1;
    sheet.dot(xOf(index), yOf(point.value), last ? 2.1 : 0.9, last ? COLOUR.ink : COLOUR.accent);
  });
}
