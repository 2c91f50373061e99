/**
 * Lines of text: breaking paragraphs to a width. Lines break at blanks and after the hyphen of a compound; a word wider than
 * the line breaks after a slash or underscore, else between any two characters; Han and kana break anywhere, Hangul only at
 * blanks (keep-all, as Korean typesetting prefers).
 */
import { printable } from './font-book.ts';
import type { Align, Sheet } from './sheet.ts';
import type { TextStyle } from './theme.ts';

/** Something as wide as its column and `height` tall, painted from its top left corner. */
export interface Line {
  height: number;
  /** Distance of the text's baseline from the top: the cells of a table's row share the first one. */
  baseline?: number;
  paint(x: number, top: number): void;
}

/** Distance from the top of a line to its baseline: the text's x-height sits in the middle of the leading. */
export function baselineOf(style: TextStyle): number {
  return style.leading / 2 + style.size * 0.34;
}

/** Breaks `text` into strings no wider than `width` points. Line breaks of the text are kept, an empty line too. */
export function breakLines(sheet: Sheet, text: string, style: TextStyle, width: number): string[] {
  const lines: string[] = [];
  for (const paragraph of printable(text).split('\n')) breakParagraph(sheet, paragraph.trimEnd(), style, width, lines);
  return lines;
}

function breakParagraph(sheet: Sheet, paragraph: string, style: TextStyle, width: number, lines: string[]): void {
  if (sheet.measure(paragraph, style) <= width) {
    lines.push(paragraph);
    return;
  }
  // The indent of a list in a narrative repeats on its broken lines.
  const indent = /^ */.exec(paragraph)?.[0] ?? '';
  const hanging = indent.length > 0 && sheet.measure(indent, style) < width / 3 ? indent : '';
  let line = hanging;
  let lineWidth = sheet.measure(line, style);
  let fresh = true;
  const push = (): void => {
    lines.push(line.trimEnd());
    line = hanging;
    lineWidth = sheet.measure(line, style);
    fresh = true;
  };
  const place = (piece: string, smaller: readonly ((piece: string) => readonly string[])[]): void => {
    const pieceWidth = sheet.measure(piece, style);
    const visible = piece.endsWith(' ') ? sheet.measure(piece.trimEnd(), style) : pieceWidth;
    if (!fresh && lineWidth + visible > width + 0.01) push();
    const [cut, ...rest] = smaller;
    if (lineWidth + visible > width + 0.01 && cut !== undefined && piece.length > 1) {
      for (const part of cut(piece)) place(part, rest);
      return;
    }
    line += piece;
    lineWidth += pieceWidth;
    fresh = false;
  };
  for (const piece of pieces(paragraph.trimStart())) place(piece, [(word) => word.split(/(?<=[/_])/), (word) => Array.from(word)]);
  if (line.trim() !== '') lines.push(line.trimEnd());
}

/** What may stand alone on a line: words with the blanks behind them, parts of compounds, single Han and kana. */
function pieces(text: string): string[] {
  return (
    text
      .match(
        /[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff] *|[^ \u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]*?(?:-(?=\p{L})|(?= |[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|$)) */gu,
      )
      ?.filter((piece) => piece !== '') ?? [text]
  );
}

/** `text` as lines of one column. */
export function textLines(sheet: Sheet, text: string, style: TextStyle, width: number, align: Align = 'left'): Line[] {
  const shift = align === 'left' ? 0 : align === 'right' ? width : width / 2;
  return breakLines(sheet, text, style, width).map((line) => ({
    height: style.leading,
    baseline: baselineOf(style),
    paint: (x, top) => sheet.text(x + shift, top + baselineOf(style), line, style, align),
  }));
}

export function heightOf(lines: readonly Line[]): number {
  let height = 0;
  for (const line of lines) height += line.height;
  return height;
}

/** Empty room between lines. */
export function gap(height: number): Line {
  return { height, paint: () => undefined };
}
