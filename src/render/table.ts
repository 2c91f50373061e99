/**
 * Tables that break over pages: the head is repeated, a row is never split (unless it alone is taller than a page, then
 * between lines), a group's heading stays with its first row and returns as "continued". Numbers align at their decimal point.
 */
import { block, type Cell, type Flow } from './flow.ts';
import { baselineOf, gap, heightOf, type Line, textLines } from './lines.ts';
import { COLOUR, TEXT, type TextStyle } from './theme.ts';

export interface Column {
  title: string;
  /** Points, padding included. */
  width: number;
  align?: 'left' | 'right' | 'decimal';
  /** Second line of the head, quieter. */
  subtitle?: string;
  tint?: boolean;
}

/** Text (`aside` is painted behind it, such as a flag), or lines made by the caller. */
export type TableCell =
  | { text: string; style?: TextStyle; aside?: { width: number; paint(x: number, top: number): void }; span?: number }
  | { lines: readonly Line[]; span?: number };

export interface TableRow {
  cells: readonly TableCell[];
  /** Below the row and on its page: footnotes of the row. */
  notes?: readonly string[];
  /** Draws the row's first cell further in. */
  indent?: number;
}

export interface TableGroup {
  title?: string;
  rows: readonly TableRow[];
}

const PAD_X = 4;
const PAD_Y = 3.25;
const NUMBER = /^([<>≤≥~=]*\s*[-−+]?)(\d+)([.,]\d+)?$/;

export function table(flow: Flow, columns: readonly Column[], groups: readonly TableGroup[]): void {
  const { sheet } = flow;
  const lefts: number[] = [];
  let width = 0;
  for (const column of columns) {
    lefts.push(width);
    width += column.width;
  }
  const fractions = columns.map((_, index) => fractionWidth(flow, columns, groups, index));
  const head = headCells(flow, columns, lefts);
  const headHeight = Math.max(...head.map((cell) => heightOf(cell.lines))) + 7;

  const paintHead = (): void => {
    block(flow, head, { padding: 1 });
    sheet.rule(flow.left, flow.y + 1.5, flow.left + width, flow.y + 1.5, COLOUR.strongRule, 0.75);
    flow.y += 2;
  };
  const paintGroup = (title: string): void => {
    block(flow, [{ x: PAD_X, lines: textLines(sheet, title, TEXT.subheading, width - PAD_X * 2) }], {
      padding: 3,
      behind: (top, height) => sheet.rectangle(flow.left, top, width, height, COLOUR.wash),
    });
  };

  flow.ensure(headHeight + 60);
  paintHead();
  for (const group of groups) {
    group.rows.forEach((row, rowIndex) => {
      const cells = rowCells(flow, columns, lefts, fractions, row);
      const first = rowIndex === 0 && group.title !== undefined;
      const continued = (): void => {
        paintHead();
        if (group.title !== undefined) paintGroup(first ? group.title : `${group.title} (continued)`);
      };
      const height = Math.max(...cells.map((cell) => heightOf(cell.lines))) + PAD_Y * 2;
      if (first && group.title !== undefined) {
        // The group's heading must not stay behind alone, nor be painted twice when the row moves.
        const needed = 22 + Math.min(height, flow.body * 0.5);
        if (needed > flow.remaining()) {
          flow.newPage();
          paintHead();
        }
        paintGroup(group.title);
      }
      block(flow, cells, {
        padding: PAD_Y,
        onNewPage: continued,
        behind: (top, rowHeight) => {
          columns.forEach((column, index) => {
            if (column.tint === true) sheet.rectangle(flow.left + (lefts[index] ?? 0), top, column.width, rowHeight, COLOUR.noteWash);
          });
        },
      });
      sheet.rule(flow.left, flow.y, flow.left + width, flow.y, COLOUR.rule, 0.5);
    });
  }
}

function headCells(flow: Flow, columns: readonly Column[], lefts: readonly number[]): Cell[] {
  return columns.map((column, index) => {
    const align = column.align === undefined || column.align === 'left' ? 'left' : 'right';
    const width = column.width - PAD_X * 2;
    const lines = textLines(flow.sheet, column.title, TEXT.head, width, align);
    if (column.subtitle !== undefined) lines.push(...textLines(flow.sheet, column.subtitle, TEXT.tiny, width, align));
    return { x: (lefts[index] ?? 0) + PAD_X, lines };
  });
}

function rowCells(flow: Flow, columns: readonly Column[], lefts: readonly number[], fractions: readonly number[], row: TableRow): Cell[] {
  const cells: Cell[] = [];
  let index = 0;
  for (const cell of row.cells) {
    const span = cell.span ?? 1;
    const column = columns[index];
    if (column === undefined) break;
    const indent = index === 0 ? (row.indent ?? 0) : 0;
    let width = -PAD_X * 2 - indent;
    for (let part = index; part < index + span; part += 1) width += columns[part]?.width ?? 0;
    const x = (lefts[index] ?? 0) + PAD_X + indent;
    cells.push({ x, lines: 'lines' in cell ? cell.lines : cellLines(flow, cell, column, width, fractions[index] ?? 0, span) });
    index += span;
  }
  const baseline = Math.max(0, ...cells.map((cell) => cell.lines[0]?.baseline ?? 0));
  for (const cell of cells) {
    const shift = baseline - (cell.lines[0]?.baseline ?? baseline);
    if (shift > 0) cell.lines = [gap(shift), ...cell.lines];
  }
  if (row.notes !== undefined && row.notes.length > 0) {
    const height = Math.max(...cells.map((cell) => heightOf(cell.lines)));
    const last = columns.length - 1;
    const width = (lefts[last] ?? 0) + (columns[last]?.width ?? 0) - PAD_X * 2 - 8;
    const lines: Line[] = [{ height: height + 1.5, paint: () => undefined }];
    for (const note of row.notes) lines.push(...textLines(flow.sheet, note, TEXT.small, width));
    cells.push({ x: PAD_X + 8, lines });
  }
  return cells;
}

function cellLines(
  flow: Flow,
  cell: Extract<TableCell, { text: string }>,
  column: Column,
  width: number,
  fraction: number,
  span: number,
): Line[] {
  const { sheet } = flow;
  const style = cell.style ?? TEXT.body;
  const { aside } = cell;
  const room = width - (aside?.width ?? 0);
  const shape = span === 1 && column.align === 'decimal' ? NUMBER.exec(cell.text) : null;
  let lines: Line[];
  if (shape !== null && sheet.measure(cell.text, style) <= room) {
    const whole = `${shape[1]}${shape[2]}`;
    lines = [
      {
        height: style.leading,
        baseline: baselineOf(style),
        paint: (x, top) => {
          // One string, so that it extracts as one: its whole part ends where all of the column end.
          sheet.text(x + room - fraction - sheet.measure(whole, style), top + baselineOf(style), cell.text, style);
        },
      },
    ];
  } else {
    const align = column.align === 'right' || (column.align === 'decimal' && span === 1) ? 'right' : 'left';
    lines = textLines(sheet, cell.text, style, room, align);
  }
  const first = lines[0];
  if (aside === undefined || first === undefined) return lines;
  return [{ ...first, paint: (x, top) => [first.paint(x, top), aside.paint(x + room, top)] }, ...lines.slice(1)];
}

/** Widest decimal part of a column: what stands right of its decimal points. */
function fractionWidth(flow: Flow, columns: readonly Column[], groups: readonly TableGroup[], index: number): number {
  if (columns[index]?.align !== 'decimal') return 0;
  let widest = 0;
  for (const group of groups) {
    for (const row of group.rows) {
      const cell = row.cells[index];
      if (cell === undefined || !('text' in cell)) continue;
      const part = NUMBER.exec(cell.text)?.[3];
      if (part !== undefined) widest = Math.max(widest, flow.sheet.measure(part, cell.style ?? TEXT.body));
    }
  }
  return widest;
}
