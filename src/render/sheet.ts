/**
 * The pages as drawn: text, lines, shapes, in points from the top left corner, written as PDF content operators
 * (ISO 32000-1, annex A). Only sRGB fill and stroke colours, no transparency: both are what PDF/A asks for.
 */
import { codePointName, type FontBook, utf16Hex } from './font-book.ts';
import { type Colour, PAPER, type Paper, type TextStyle } from './theme.ts';

export type Align = 'left' | 'right' | 'centre';
/** A point from the top left corner of the page. */
export type Point = readonly [x: number, y: number];

export interface Sheet {
  readonly width: number;
  readonly height: number;
  readonly book: FontBook;
  addPage(): void;
  pageCount(): number;
  /** Draws on page `index` (from 0) from now on: footers are drawn when the number of pages is known. */
  select(index: number): void;
  /** Width of `text` in points. */
  measure(text: string, style: TextStyle): number;
  /** One line of text; `x` is its left, right or middle, `baseline` its baseline. */
  text(x: number, baseline: number, text: string, style: TextStyle, align?: Align): void;
  rule(x1: number, y1: number, x2: number, y2: number, colour: Colour, thickness: number): void;
  rectangle(x: number, y: number, width: number, height: number, fill: Colour, radius?: number): void;
  frame(x: number, y: number, width: number, height: number, stroke: Colour, thickness: number): void;
  polygon(points: readonly Point[], fill: Colour): void;
  polyline(points: readonly Point[], stroke: Colour, thickness: number): void;
  dot(x: number, y: number, radius: number, fill: Colour): void;
  /** Content streams, one per page. */
  contents(): string[];
}

/** Bézier handle of a quarter circle. */
const ARC = 0.5523;

export function createSheet(book: FontBook, paper: Paper): Sheet {
  const { width, height } = PAPER[paper];
  const pages: string[][] = [];
  let ops: string[] = [];

  const at = (x: number, y: number): string => `${number(x)} ${number(height - y)}`;
  const rgbs = new Map<Colour, string>();
  const rgb = (colour: Colour): string => {
    let text = rgbs.get(colour);
    if (text === undefined) {
      text = colour.map(number).join(' ');
      rgbs.set(colour, text);
    }
    return text;
  };
  const fill = (colour: Colour): string => `${rgb(colour)} rg`;
  const stroke = (colour: Colour, thickness: number): string => `${rgb(colour)} RG ${number(thickness)} w`;

  // A character that no font has: its code point in a box, as readers of broken text know it; it still extracts as itself.
  const missingBox = (x: number, baseline: number, codePoint: number, style: TextStyle): void => {
    const { size } = style;
    const digits = codePointName(codePoint).slice(2);
    ops.push(`/Span <</ActualText <FEFF${utf16Hex(codePoint)}>>> BDC ${stroke(style.colour, 0.5)}`);
    ops.push(`${at(x + size * 0.08, baseline + size * 0.15)} ${number(size * 0.84)} ${number(size * 0.95)} re S`);
    const tiny: TextStyle = { ...style, size: size * 0.36, weight: 'regular' };
    const half = Math.ceil(digits.length / 2);
    text(x + size / 2, baseline - size * 0.36, digits.slice(0, half), tiny, 'centre');
    text(x + size / 2, baseline + size * 0.04, digits.slice(half), tiny, 'centre');
    ops.push('EMC');
  };
  const text = (x: number, baseline: number, value: string, style: TextStyle, align: Align = 'left'): void => {
    if (value === '') return;
    const runs = book.runs(value, style.weight);
    const scale = style.size / 1000;
    let left = x;
    if (align !== 'left') {
      let total = 0;
      for (const run of runs) total += run.width;
      left -= total * scale * (align === 'right' ? 1 : 0.5);
    }
    let open = false;
    for (const run of runs) {
      if (run.kind === 'missing') {
        if (open) ops.push('ET');
        open = false;
        missingBox(left, baseline, run.codePoint, style);
      } else {
        if (!open) ops.push(`BT ${fill(style.colour)} ${at(left, baseline)} Td`);
        open = true;
        ops.push(`/${run.font} ${number(style.size)} Tf <${run.hex}> Tj`);
      }
      left += run.width * scale;
    }
    if (open) ops.push('ET');
  };
  const path = (points: readonly Point[]): string => points.map(([x, y], index) => `${at(x, y)} ${index === 0 ? 'm' : 'l'}`).join(' ');

  return {
    width,
    height,
    book,
    addPage() {
      ops = [];
      pages.push(ops);
    },
    pageCount: () => pages.length,
    select(index) {
      ops = pages[index] ?? ops;
    },
    measure: (value, style) => (book.advance(value, style.weight) * style.size) / 1000,
    text,
    rule(x1, y1, x2, y2, colour, thickness) {
      ops.push(`${stroke(colour, thickness)} ${at(x1, y1)} m ${at(x2, y2)} l S`);
    },
    rectangle(x, y, w, h, colour, radius = 0) {
      if (radius <= 0) {
        ops.push(`${fill(colour)} ${at(x, y + h)} ${number(w)} ${number(h)} re f`);
        return;
      }
      const r = Math.min(radius, w / 2, h / 2);
      const k = r * (1 - ARC);
      ops.push(
        fill(colour),
        `${at(x + r, y)} m ${at(x + w - r, y)} l ${at(x + w - k, y)} ${at(x + w, y + k)} ${at(x + w, y + r)} c`,
        `${at(x + w, y + h - r)} l ${at(x + w, y + h - k)} ${at(x + w - k, y + h)} ${at(x + w - r, y + h)} c`,
        `${at(x + r, y + h)} l ${at(x + k, y + h)} ${at(x, y + h - k)} ${at(x, y + h - r)} c`,
        `${at(x, y + r)} l ${at(x, y + k)} ${at(x + k, y)} ${at(x + r, y)} c f`,
      );
    },
    frame(x, y, w, h, colour, thickness) {
      ops.push(`${stroke(colour, thickness)} ${at(x, y + h)} ${number(w)} ${number(h)} re S`);
    },
    polygon(points, colour) {
      ops.push(`${fill(colour)} ${path(points)} f`);
    },
    polyline(points, colour, thickness) {
      ops.push(`1 j 1 J ${stroke(colour, thickness)} ${path(points)} S 0 j 0 J`);
    },
    dot(x, y, r, colour) {
      const k = r * ARC;
      ops.push(
        `${fill(colour)} ${at(x - r, y)} m ${at(x - r, y - k)} ${at(x - k, y - r)} ${at(x, y - r)} c`,
        `${at(x + k, y - r)} ${at(x + r, y - k)} ${at(x + r, y)} c ${at(x + r, y + k)} ${at(x + k, y + r)} ${at(x, y + r)} c`,
        `${at(x - k, y + r)} ${at(x - r, y + k)} ${at(x - r, y)} c f`,
      );
    },
    contents: () => pages.map((page) => page.join('\n')),
  };
}

/** At most three decimals and never an exponent: PDF knows none. */
function number(value: number): string {
  return String(Math.round(value * 1000) / 1000);
}
