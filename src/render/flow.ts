/** Blocks one below the other over pages: a cursor that starts a new page, with its header, when a block does not fit. */
import { heightOf, type Line, textLines } from './lines.ts';
import type { Sheet } from './sheet.ts';
import { COLOUR, TEXT, type TextStyle } from './theme.ts';

export interface Flow {
  readonly sheet: Sheet;
  readonly left: number;
  readonly width: number;
  /** Top of the next block. */
  y: number;
  /** Height of a page's body. */
  readonly body: number;
  remaining(): number;
  /** Starts a new page unless `height` still fits (or the page is fresh). True if it did. */
  ensure(height: number): boolean;
  newPage(): void;
  /** Room between blocks; none at the top of a page. */
  space(height: number): void;
}

export interface Frame {
  left: number;
  width: number;
  top: number;
  bottom: number;
  /** Draws what each page carries on top. */
  drawHead(): void;
}

export function createFlow(sheet: Sheet, frame: Frame): Flow {
  const flow: Flow = {
    sheet,
    left: frame.left,
    width: frame.width,
    y: frame.top,
    body: frame.bottom - frame.top,
    remaining: () => frame.bottom - flow.y,
    ensure(height) {
      if (height <= flow.remaining() || flow.y === frame.top) return false;
      flow.newPage();
      return true;
    },
    newPage() {
      sheet.addPage();
      frame.drawHead();
      flow.y = frame.top;
    },
    space(height) {
      if (flow.y !== frame.top) flow.y += height;
    },
  };
  flow.newPage();
  return flow;
}

/** A cell of a block: lines at a distance from the block's left edge. */
export interface Cell {
  x: number;
  lines: readonly Line[];
}

export interface BlockOptions {
  /** Called on each new page of a block taller than a page, and before the block if it moved to a new page: repeats heads. */
  onNewPage?: () => void;
  /** Painted behind the block. */
  behind?: (top: number, height: number) => void;
  padding?: number;
  /** Height that must follow on the same page. */
  keep?: number;
}

/** Paints cells side by side. Moves as a whole to the next page; only a block taller than a page is split, between lines. */
export function block(flow: Flow, cells: readonly Cell[], options: BlockOptions = {}): void {
  const padding = options.padding ?? 0;
  const height = Math.max(0, ...cells.map((cell) => heightOf(cell.lines))) + padding * 2;
  if (height + (options.keep ?? 0) <= flow.body * 0.75) {
    if (flow.ensure(height + (options.keep ?? 0))) options.onNewPage?.();
    paintCells(flow, cells, height, padding, options);
    return;
  }
  splitBlock(flow, cells, padding, options);
}

function paintCells(flow: Flow, cells: readonly Cell[], height: number, padding: number, options: BlockOptions): void {
  options.behind?.(flow.y, height);
  for (const cell of cells) {
    let top = flow.y + padding;
    for (const line of cell.lines) {
      line.paint(flow.left + cell.x, top);
      top += line.height;
    }
  }
  flow.y += height;
}

function splitBlock(flow: Flow, cells: readonly Cell[], padding: number, options: BlockOptions): void {
  const next = cells.map(() => 0);
  const more = (): boolean => cells.some((cell, index) => (next[index] ?? 0) < cell.lines.length);
  if (flow.ensure(Math.min(120, flow.body))) options.onNewPage?.();
  while (more()) {
    const room = flow.remaining() - padding * 2;
    let moved = false;
    const parts = cells.map((cell, index) => {
      const start = next[index] ?? 0;
      let end = start;
      let height = 0;
      for (let line = cell.lines[end]; line !== undefined && height + line.height <= room; line = cell.lines[end]) {
        height += line.height;
        end += 1;
      }
      // A line taller than a page cannot be; were one made, it is painted rather than dropped.
      if (end === start && room >= flow.body * 0.5 && start < cell.lines.length) end += 1;
      moved ||= end > start;
      next[index] = end;
      return { x: cell.x, lines: cell.lines.slice(start, end) };
    });
    if (moved) {
      const height = Math.max(...parts.map((part) => heightOf(part.lines))) + padding * 2;
      paintCells(flow, parts, height, padding, options);
    }
    if (more()) {
      flow.newPage();
      options.onNewPage?.();
    }
  }
}

/** A section's heading over a thin rule; stays on the page of the `keep` points that follow it. */
export function heading(flow: Flow, text: string, keep = 70, aside?: string): void {
  const { sheet } = flow;
  flow.space(16);
  const lines = textLines(sheet, text, TEXT.heading, flow.width * (aside === undefined ? 1 : 0.6));
  const height = heightOf(lines) + 9;
  flow.ensure(height + keep);
  if (aside !== undefined) sheet.text(flow.left + flow.width, flow.y + 10.5, aside, TEXT.smallMuted, 'right');
  block(flow, [{ x: 0, lines }]);
  sheet.rule(flow.left, flow.y + 2.5, flow.left + flow.width, flow.y + 2.5, COLOUR.rule, 0.75);
  flow.y += 8;
}

/** Running text; breaks over pages with at least two lines on either side. */
export function paragraph(
  flow: Flow,
  text: string,
  style: TextStyle,
  options: { x?: number; width?: number; onNewPage?: () => void } = {},
): void {
  const x = options.x ?? 0;
  const lines = textLines(flow.sheet, text, style, options.width ?? flow.width - x);
  runLines(flow, lines, x, options.onNewPage);
}

/** Paints lines in order; no page begins or ends with a single line of them, unless there is only one. */
export function runLines(flow: Flow, lines: readonly Line[], x: number, onNewPage?: () => void): void {
  let index = 0;
  while (index < lines.length) {
    let end = index;
    let room = flow.remaining();
    for (let line = lines[end]; line !== undefined && line.height <= room; line = lines[end]) {
      room -= line.height;
      end += 1;
    }
    const left = lines.length - end;
    if (left === 1 && end - index > 2) end -= 1;
    if (left > 0 && end - index < 2 && flow.remaining() < flow.body) end = index;
    if (end === index && flow.remaining() >= flow.body) end = index + 1;
    block(flow, [{ x, lines: lines.slice(index, end) }]);
    index = end;
    if (index < lines.length) {
      flow.newPage();
      onNewPage?.();
    }
  }
}
