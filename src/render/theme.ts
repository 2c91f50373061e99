/** Colours and text styles of all layouts. Lengths are PDF points (1/72 inch). */
import type { Weight } from './typefaces.ts';

export type Paper = 'a4' | 'letter';

/** Red, green, blue, 0 to 1 in sRGB. */
export type Colour = readonly [number, number, number];

export interface TextStyle {
  size: number;
  /** Distance of two baselines. */
  leading: number;
  weight: Weight;
  colour: Colour;
}

function hex(value: number): Colour {
  return [((value >> 16) & 0xff) / 255, ((value >> 8) & 0xff) / 255, (value & 0xff) / 255];
}

/** Every text colour has a contrast of at least 4.5 to 1 on white and on its own wash (WCAG 2.2, 1.4.3). */
export const COLOUR = {
  ink: hex(0x17212b),
  muted: hex(0x566472),
  accent: hex(0x0f4c64),
  rule: hex(0xd5dce2),
  strongRule: hex(0x9aa7b2),
  wash: hex(0xf3f6f8),
  white: hex(0xffffff),
  high: hex(0xa3201c),
  low: hex(0x1c4f96),
  caution: hex(0x7a4d00),
  cautionWash: hex(0xfdf4e1),
  alarmWash: hex(0xfbecea),
  noteWash: hex(0xeaf2f6),
  band: hex(0xdfe9ee),
  planned: hex(0xc3d5de),
  delivered: hex(0x14607d),
} as const;

function style(size: number, leading: number, weight: Weight, colour: Colour): TextStyle {
  return { size, leading, weight, colour };
}

export const TEXT = {
  title: style(19, 24, 'semibold', COLOUR.ink),
  patient: style(12.5, 15.5, 'semibold', COLOUR.ink),
  heading: style(11.5, 15, 'semibold', COLOUR.accent),
  subheading: style(10, 13.5, 'semibold', COLOUR.ink),
  body: style(9, 12.5, 'regular', COLOUR.ink),
  strong: style(9, 12.5, 'semibold', COLOUR.ink),
  narrative: style(9.75, 14.5, 'regular', COLOUR.ink),
  label: style(7.25, 10, 'regular', COLOUR.muted),
  head: style(7.25, 9.5, 'semibold', COLOUR.muted),
  small: style(7.5, 10.25, 'regular', COLOUR.ink),
  smallMuted: style(7.5, 10.25, 'regular', COLOUR.muted),
  absent: style(7.5, 10.25, 'regular', COLOUR.muted),
  /** In the cells of a table, on two lines without making the row much taller. */
  absentCell: style(6.5, 7.5, 'regular', COLOUR.muted),
  tiny: style(6.75, 9, 'regular', COLOUR.muted),
} as const;

/** What a missing element prints: never blank, never zero. */
export const NOT_PROVIDED = 'not provided by source';

export const PAPER: Record<Paper, { width: number; height: number }> = {
  a4: { width: 595.28, height: 841.89 },
  letter: { width: 612, height: 792 },
};

export const MARGIN = { left: 44, right: 44, top: 34, bottom: 34 } as const;
