/** Parts that the layouts share: title with status, banner, key-value grid, notes, the closing page of record. */
import { block, type Cell, type Flow, paragraph } from './flow.ts';
import { baselineOf, type Line, textLines } from './lines.ts';
import type { Align } from './sheet.ts';
import { TONE } from './status.ts';
import { COLOUR, NOT_PROVIDED, TEXT, type TextStyle } from './theme.ts';

/** Title and, right of it, the status in a frame. */
export function titleBlock(flow: Flow, title: string, subtitle: string | undefined, status: string): void {
  const { sheet } = flow;
  const chip = sheet.measure(status, TEXT.head) + 14;
  const lines: Line[] = textLines(sheet, title, TEXT.title, flow.width - chip - 16);
  if (subtitle !== undefined && subtitle !== '')
    lines.push(...textLines(sheet, subtitle, { ...TEXT.body, colour: COLOUR.muted }, flow.width - chip - 16));
  const top = flow.y;
  block(flow, [{ x: 0, lines }]);
  const x = flow.left + flow.width - chip;
  sheet.frame(x, top + 5, chip, 15, COLOUR.strongRule, 0.75);
  sheet.text(x + chip / 2, top + 15.2, status, { ...TEXT.head, colour: COLOUR.ink }, 'centre');
  flow.y += 7;
}

/** A tinted box with a bar on its left, a sign and two lines: seen without colour too. */
export function banner(flow: Flow, title: string, text: string, tone: 'caution' | 'alarm' | 'note'): void {
  const { sheet } = flow;
  const { bar, wash } = TONE[tone];
  const inner = flow.width - 46;
  const lines = [...textLines(sheet, title, { ...TEXT.subheading, colour: bar }, inner), ...textLines(sheet, text, TEXT.body, inner)];
  block(flow, [{ x: 36, lines }], {
    padding: 7,
    behind: (top, height) => {
      sheet.rectangle(flow.left, top, flow.width, height, wash);
      sheet.rectangle(flow.left, top, 3, height, bar);
      const y = top + 15;
      const x = flow.left + 20;
      if (tone === 'note') {
        sheet.dot(x, y, 6.5, bar);
        sheet.text(x, y + 3.3, 'i', { ...TEXT.strong, colour: COLOUR.white }, 'centre');
      } else {
        sheet.polygon(
          [
            [x, y - 7],
            [x + 7.5, y + 6],
            [x - 7.5, y + 6],
          ],
          bar,
        );
        sheet.text(x, y + 4.2, '!', { ...TEXT.strong, colour: COLOUR.white }, 'centre');
      }
    },
  });
  flow.y += 10;
}

export interface Fact {
  label: string;
  /** `undefined` or empty prints "not provided by source". Several values stand one below the other. */
  value: string | readonly string[] | undefined;
  /** Columns that it takes; 1 unless told. */
  span?: number;
}

/** Facts in a grid: a small label over each value. */
export function facts(flow: Flow, list: readonly Fact[], columns: number, options: { x?: number; width?: number } = {}): void {
  const { sheet } = flow;
  const x = options.x ?? 0;
  const gutter = 14;
  const unit = ((options.width ?? flow.width - x) + gutter) / columns;
  let row: Cell[] = [];
  let column = 0;
  const flush = (): void => {
    if (row.length > 0) {
      block(flow, row);
      flow.y += 5.5;
    }
    row = [];
    column = 0;
  };
  for (const fact of list) {
    const span = Math.min(fact.span ?? 1, columns);
    if (column + span > columns) flush();
    const width = unit * span - gutter;
    row.push({ x: x + column * unit, lines: [...textLines(sheet, fact.label, TEXT.label, width), ...valueLines(flow, fact.value, width)] });
    column += span;
  }
  flush();
}

function valueLines(flow: Flow, value: Fact['value'], width: number): Line[] {
  const values = (typeof value === 'string' ? [value] : (value ?? [])).filter((text) => text.trim() !== '');
  if (values.length === 0) return absent(flow, width, TEXT.body);
  return values.flatMap((text) => textLines(flow.sheet, text, TEXT.body, width));
}

/** "not provided by source" in a cell of a table, small: it may take two lines without making the row taller. */
export function absentCell(flow: Flow, width: number, align: Align = 'left', text: string = NOT_PROVIDED): Line[] {
  return textLines(flow.sheet, text, TEXT.absentCell, width, align);
}

/** "not provided by source", quiet, as high as the text that it stands for. */
export function absent(flow: Flow, width: number, like: TextStyle): Line[] {
  return textLines(flow.sheet, NOT_PROVIDED, { ...TEXT.absent, leading: like.leading }, width);
}

/** Short remarks, each behind a small dash. */
export function remarks(flow: Flow, list: readonly string[], options: { x?: number; style?: TextStyle } = {}): void {
  const style = options.style ?? TEXT.body;
  const x = options.x ?? 0;
  for (const remark of list) {
    const lines = textLines(flow.sheet, remark, style, flow.width - x - 10);
    const { sheet } = flow;
    block(flow, [
      {
        x,
        lines: [
          {
            height: style.leading,
            paint: (left, top) => sheet.text(left, top + baselineOf(style), '–', { ...style, colour: COLOUR.muted }),
          },
        ],
      },
      { x: x + 10, lines },
    ]);
    flow.y += 2;
  }
}

/** A line of muted text, for legends below tables. */
export function legend(flow: Flow, text: string): void {
  flow.y += 4;
  paragraph(flow, text, TEXT.tiny);
}

/** A box with a frame, for things that stand on their own. */
export function card(flow: Flow, lines: readonly Line[], wash = COLOUR.wash): void {
  const { sheet } = flow;
  block(flow, [{ x: 12, lines: [...lines] }], {
    padding: 9,
    behind: (top, height) => sheet.rectangle(flow.left, top, flow.width, height, wash, 3),
  });
  flow.y += 7;
}
