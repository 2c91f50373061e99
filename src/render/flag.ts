/**
 * Flags of results, by shape and text, colour only besides: up for high, down for low, doubled for critical, a diamond for
 * abnormal. Codes of HL7 v3 ObservationInterpretation; the source's flag as it stands, never computed here.
 */
import { baselineOf } from './lines.ts';
import type { Sheet } from './sheet.ts';
import { COLOUR, type Colour, TEXT, type TextStyle } from './theme.ts';

type Shape = 'up' | 'down' | 'diamond' | 'none';

export interface FlagLook {
  shape: Shape;
  count: 0 | 1 | 2;
  words: string;
  colour: Colour;
  abnormal: boolean;
}

const LOOKS: Record<string, readonly [Shape, 0 | 1 | 2, string]> = {
  H: ['up', 1, 'high'],
  HU: ['up', 2, 'significantly high'],
  HH: ['up', 2, 'critically high'],
  '>': ['up', 1, 'above scale'],
  L: ['down', 1, 'low'],
  LU: ['down', 2, 'significantly low'],
  LL: ['down', 2, 'critically low'],
  '<': ['down', 1, 'below scale'],
  A: ['diamond', 1, 'abnormal'],
  AA: ['diamond', 2, 'critically abnormal'],
  POS: ['diamond', 1, 'positive'],
  DET: ['diamond', 1, 'detected'],
  R: ['diamond', 1, 'resistant'],
  N: ['none', 0, 'normal'],
  NEG: ['none', 0, 'negative'],
  ND: ['none', 0, 'not detected'],
  S: ['none', 0, 'susceptible'],
  I: ['none', 0, 'intermediate'],
  IND: ['none', 0, 'indeterminate'],
};

/** How `flag` looks. A code that we do not know is marked as abnormal and printed as it is. */
export function flagLook(flag: string): FlagLook {
  const [shape, count, words] = LOOKS[flag.toUpperCase()] ?? (['diamond', 1, 'as given'] as const);
  const colour = shape === 'down' ? COLOUR.low : shape === 'none' ? COLOUR.muted : COLOUR.high;
  return { shape, count, words, colour, abnormal: shape !== 'none' };
}

const SIDE = 5.6;

/** Width of shapes and text together. */
export function flagWidth(sheet: Sheet, flag: string, style: TextStyle = TEXT.strong): number {
  const look = flagLook(flag);
  return look.count * (SIDE + 1.2) + (look.count > 0 ? 2 : 0) + sheet.measure(flag, style);
}

/** Draws `▲ H` with its left edge at `x`, on the line whose top is `top`. `rowStyle` gives the baseline. */
export function drawFlag(sheet: Sheet, x: number, top: number, flag: string, rowStyle: TextStyle, style: TextStyle = TEXT.strong): void {
  const look = flagLook(flag);
  const baseline = top + baselineOf(rowStyle);
  const middle = baseline - style.size * 0.36;
  let left = x;
  for (let index = 0; index < look.count; index += 1) {
    drawShape(sheet, look.shape, left + SIDE / 2, middle, look.colour);
    left += SIDE + 1.2;
  }
  if (look.count > 0) left += 2;
  sheet.text(left, baseline, flag, { ...style, weight: look.abnormal ? 'semibold' : 'regular', colour: look.colour });
}

function drawShape(sheet: Sheet, shape: Shape, x: number, y: number, colour: Colour): void {
  const half = SIDE / 2;
  if (shape === 'up')
    sheet.polygon(
      [
        [x, y - half],
        [x + half, y + half],
        [x - half, y + half],
      ],
      colour,
    );
  if (shape === 'down')
    sheet.polygon(
      [
        [x, y + half],
        [x + half, y - half],
        [x - half, y - half],
      ],
      colour,
    );
  if (shape === 'diamond')
    sheet.polygon(
      [
        [x, y - half - 0.4],
        [x + half + 0.4, y],
        [x, y + half + 0.4],
        [x - half - 0.4, y],
      ],
      colour,
    );
}
