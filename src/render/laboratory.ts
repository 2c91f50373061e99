/** Layout of a laboratory report: its own results with flag, range and trend, then the cumulative grid of earlier ones. */
import type { LaboratoryAnalyte, LaboratoryDocument, LaboratoryResult } from '../records/model.ts';
import { drawFlag, flagLook, flagWidth } from './flag.ts';
import { type Flow, heading } from './flow.ts';
import { printable } from './font-book.ts';
import { baselineOf, textLines } from './lines.ts';
import type { Clock } from './moments.ts';
import { absentCell, facts, legend, remarks } from './parts.ts';
import { drawSparkline, type TrendPoint } from './sparkline.ts';
import { type Column, type TableCell, type TableGroup, type TableRow, table } from './table.ts';
import { COLOUR, NOT_PROVIDED, TEXT } from './theme.ts';

/** Columns of the cumulative grid per block, the report's own included. */
const GRID_COLUMNS = 7;
const PLAIN_STATUS = new Set(['final', '']);

export function laboratoryBody(flow: Flow, document: LaboratoryDocument, clock: Clock): void {
  const { header, performer } = document;
  const time = (value: string | undefined): string | undefined => (value === undefined ? undefined : clock.moment(value));
  facts(
    flow,
    [
      { label: 'Collected', value: time(document.collected) },
      { label: 'Received', value: time(document.received) },
      { label: 'Reported', value: time(document.reported) },
      { label: 'Specimen', value: document.specimen },
      { label: 'Ordered by', value: document.orderedBy },
      { label: 'Responsible for the report', value: header.signer ?? header.author },
      {
        label: 'Performing laboratory',
        value:
          performer === undefined
            ? undefined
            : [performer.name, ...(performer.identifiers.length === 0 ? [] : [performer.identifiers.join(', ')])],
        span: 2,
      },
      { label: 'Laboratory director', value: performer?.director },
    ],
    3,
  );
  results(flow, document, clock);
  if (document.conclusion !== undefined) {
    heading(flow, 'Conclusion', 30);
    remarks(flow, [document.conclusion]);
  }
  if (document.comments.length > 0) {
    heading(flow, 'Comments', 30);
    remarks(flow, document.comments);
  }
  if (document.cancelled.length > 0) {
    heading(flow, 'Cancelled tests', 30);
    remarks(
      flow,
      document.cancelled.map(({ name, reason }) => `${name}: ${reason ?? `reason ${NOT_PROVIDED}`}`),
    );
  }
  cumulative(flow, document, clock);
}

function results(flow: Flow, document: LaboratoryDocument, clock: Clock): void {
  const { sheet } = flow;
  heading(flow, 'Results', 90);
  if (document.panels.every((panel) => panel.analytes.length === 0)) {
    remarks(flow, [`Results: ${NOT_PROVIDED}`]);
    return;
  }
  const analyteWidth = flow.width - 360;
  const columns: Column[] = [
    { title: 'Analyte', width: analyteWidth },
    { title: 'Result', width: 70, align: 'decimal' },
    { title: 'Flag', width: 52 },
    { title: 'Unit', width: 74 },
    { title: 'Reference range', width: 80 },
    { title: 'Trend', width: 84 },
  ];
  const seen = new Set<string>();
  let unflagged = false;
  let trends = false;

  const resultCells = (result: LaboratoryResult, trend: TableCell): TableCell[] => {
    if (result.flag === undefined) unflagged = true;
    else seen.add(result.flag);
    const abnormal = result.flag !== undefined && flagLook(result.flag).abnormal;
    const value: TableCell = { text: result.value, style: abnormal ? TEXT.strong : TEXT.body };
    // Words such as a culture's finding take the room of unit and range that they do not have.
    const wordy = result.number === undefined && result.unit === undefined && result.range === undefined;
    if (wordy && sheet.measure(result.value, TEXT.body) > 62) {
      return [{ ...value, span: 4, aside: flagAside(flow, result) }, trend];
    }
    if (result.unit === undefined && result.range === undefined) {
      return [value, flagCell(flow, result), { lines: absentCell(flow, 146, 'left', `unit and range ${NOT_PROVIDED}`), span: 2 }, trend];
    }
    return [value, flagCell(flow, result), optional(flow, result.unit, 66), optional(flow, result.range, 72), trend];
  };
  const groups: TableGroup[] = document.panels
    .filter((panel) => panel.analytes.length > 0)
    .map((panel) => ({
      title: panel.name,
      rows: panel.analytes.flatMap((analyte): TableRow[] => {
        const points = trendOf(analyte, clock);
        if (points.length > 1) trends = true;
        const status = PLAIN_STATUS.has(analyte.current.status) ? [] : [`This result is ${analyte.current.status.replaceAll('-', ' ')}.`];
        const name: TableCell = { lines: textLines(sheet, analyte.name, TEXT.body, analyteWidth - 8) };
        return [
          {
            cells: [name, ...resultCells(analyte.current, trendCell(flow, analyte, points))],
            notes: [...status, ...analyte.notes],
          },
          ...analyte.components.map(
            (component): TableRow => ({
              cells: [{ text: component.name }, ...resultCells(component.current, { lines: [] })],
              indent: 12,
            }),
          ),
        ];
      }),
    }));
  table(flow, columns, groups);
  const words = [...seen].map((flag) => `${flag} ${flagLook(flag).words}`);
  const parts = [
    ...(words.length > 0 ? [`Flags as the source gave them: ${words.join(', ')}.`] : []),
    ...(unflagged ? [`A dash in the column Flag: flag ${NOT_PROVIDED}.`] : []),
    ...(trends ? ['Trend: oldest to newest, the reference range shaded, the dot is this report.'] : []),
  ];
  legend(flow, parts.join(' '));
}

function optional(flow: Flow, text: string | undefined, width: number): TableCell {
  if (text === undefined || text === '') return { lines: absentCell(flow, width) };
  return flow.sheet.measure(text, TEXT.body) > width ? { text, style: TEXT.small } : { text };
}

function flagCell(flow: Flow, result: LaboratoryResult): TableCell {
  const { flag } = result;
  if (flag === undefined) return { text: '–', style: { ...TEXT.body, colour: COLOUR.muted } };
  return {
    lines: [
      { height: TEXT.body.leading, baseline: baselineOf(TEXT.body), paint: (x, top) => drawFlag(flow.sheet, x, top, flag, TEXT.body) },
    ],
  };
}

function flagAside(flow: Flow, result: LaboratoryResult): { width: number; paint(x: number, top: number): void } {
  const { flag } = result;
  const width = flag === undefined ? 8 : flagWidth(flow.sheet, flag) + 6;
  return { width, paint: (x, top) => (flag === undefined ? undefined : drawFlag(flow.sheet, x + 4, top, flag, TEXT.body)) };
}

/** Plain numbers of one unit, oldest first; the report's own is the last. */
function trendOf(analyte: LaboratoryAnalyte, clock: Clock): TrendPoint[] {
  const { current } = analyte;
  if (current.number === undefined) return [];
  const points: TrendPoint[] = [];
  for (const result of [current, ...analyte.earlier]) {
    if (result.number === undefined || result.unit !== current.unit) continue;
    points.push({ at: result.collected === undefined ? undefined : clock.order(result.collected), value: result.number });
  }
  return points.reverse();
}

function trendCell(flow: Flow, analyte: LaboratoryAnalyte, points: readonly TrendPoint[]): TableCell {
  if (points.length < 2) {
    const text = analyte.earlier.length === 0 ? 'no earlier value' : 'no trend';
    return { lines: absentCell(flow, 76, 'left', text) };
  }
  const { rangeLow: low, rangeHigh: high } = analyte.current;
  return {
    lines: [
      {
        height: TEXT.body.leading,
        paint: (x, top) => drawSparkline(flow.sheet, { x, top: top - 2, width: 76, height: TEXT.body.leading + 4 }, points, { low, high }),
      },
    ],
  };
}

/** Analytes by collection time, newest first; the report's own column is tinted and repeats on every block of columns. */
function cumulative(flow: Flow, document: LaboratoryDocument, clock: Clock): void {
  const analytes = document.panels.flatMap((panel) => panel.analytes);
  const times = new Map<string, number | undefined>();
  for (const analyte of analytes) {
    for (const result of analyte.earlier) times.set(result.collected ?? '', clock.order(result.collected ?? ''));
  }
  if (times.size === 0) return;
  const earlier = [...times.keys()].sort((a, b) => (times.get(b) ?? -Infinity) - (times.get(a) ?? -Infinity) || (a < b ? 1 : -1));
  const offsets = new Set(
    [...earlier, document.collected ?? ''].map((value) => clock.parts(value).offset).filter((offset) => offset !== ''),
  );
  const head = (value: string): { title: string; subtitle: string } => {
    if (value === '') return { title: 'Time', subtitle: NOT_PROVIDED };
    const { date, time, offset } = clock.parts(value);
    return { title: date, subtitle: offsets.size > 1 ? `${time} ${offset}` : time };
  };
  const shown = document.panels.filter((panel) => panel.analytes.some((analyte) => analyte.earlier.length > 0));

  for (let start = 0; start < earlier.length; start += GRID_COLUMNS - 1) {
    const part = earlier.slice(start, start + GRID_COLUMNS - 1);
    heading(flow, start === 0 ? 'Cumulative results' : 'Cumulative results, earlier', 90, 'newest first');
    const columnWidth = Math.min(64, (flow.width - 112) / (part.length + 1));
    const firstWidth = Math.min(flow.width - columnWidth * (part.length + 1), 190);
    const columns: Column[] = [
      { title: 'Analyte', width: firstWidth },
      { ...head(document.collected ?? analytes[0]?.current.collected ?? ''), width: columnWidth, align: 'decimal', tint: true },
      ...part.map((value): Column => ({ ...head(value), width: columnWidth, align: 'decimal' })),
    ];
    const groups = shown.map(
      (panel): TableGroup => ({
        title: panel.name,
        rows: panel.analytes
          .filter((analyte) => analyte.earlier.length > 0)
          .map((analyte) => ({
            cells: [
              { lines: nameWithUnit(flow, analyte, firstWidth - 8) },
              gridCell(flow, [analyte.current], analyte.current.unit),
              ...part.map((value) =>
                gridCell(
                  flow,
                  analyte.earlier.filter((result) => (result.collected ?? '') === value),
                  analyte.current.unit,
                ),
              ),
            ],
          })),
      }),
    );
    table(flow, columns, groups);
  }
  legend(
    flow,
    `Tinted column: this report. Earlier values are drawn for comparison; their own reports hold. Empty: not measured then.${offsets.size > 1 ? '' : ` Times in ${clock.zone} (${[...offsets][0] ?? 'date only'}).`}`,
  );
}

function nameWithUnit(flow: Flow, analyte: LaboratoryAnalyte, width: number): ReturnType<typeof textLines> {
  const { unit } = analyte.current;
  const { sheet } = flow;
  const lines = textLines(sheet, analyte.name, TEXT.small, width);
  const [first] = lines;
  if (unit === undefined || first === undefined) return lines;
  const nameWidth = sheet.measure(printable(analyte.name), TEXT.small);
  if (nameWidth + 6 + sheet.measure(unit, TEXT.tiny) > width) return [...lines, ...textLines(sheet, unit, TEXT.tiny, width)];
  return [
    {
      ...first,
      paint: (x, top) => {
        first.paint(x, top);
        sheet.text(x + nameWidth + 6, top + baselineOf(TEXT.small), printable(unit), TEXT.tiny);
      },
    },
  ];
}

/** Room for `▲▲ HH` right of a value, the same in every cell so that decimals align. */
const GRID_FLAG = 23;

function gridCell(flow: Flow, results: readonly LaboratoryResult[], unit: string | undefined): TableCell {
  const [first, ...rest] = results;
  if (first === undefined) return { lines: [] };
  const words = (result: LaboratoryResult): string =>
    `${result.value}${result.unit === unit || result.unit === undefined ? '' : ` ${result.unit}`}${PLAIN_STATUS.has(result.status) ? '' : ` (${result.status.replaceAll('-', ' ')})`}`;
  const text = [words(first), ...rest.map(words)].join('\n');
  const { flag } = first;
  const abnormal = flag !== undefined && flagLook(flag).abnormal;
  return {
    text,
    style: abnormal ? { ...TEXT.small, weight: 'semibold' } : TEXT.small,
    aside: {
      width: GRID_FLAG,
      paint: (x, top) => {
        if (abnormal) drawFlag(flow.sheet, x + 3, top, flag, TEXT.small, { ...TEXT.tiny, size: 5.75 });
      },
    },
  };
}
