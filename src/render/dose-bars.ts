/**
 * Dose per volume as horizontal bars, delivered against planned, on one axis in cGy. Volumes stand side by side and are never
 * added; the numbers printed are the source's own digits.
 */
import type { DoseVolume } from '../records/model.ts';
import { block, type Flow } from './flow.ts';
import { baselineOf, type Line, textLines } from './lines.ts';
import { legend } from './parts.ts';
import type { Sheet } from './sheet.ts';
import { COLOUR, NOT_PROVIDED, TEXT } from './theme.ts';

const NAME_WIDTH = 138;
const VALUE_WIDTH = 122;
const ROW = 27;

export function doseBars(flow: Flow, volumes: readonly DoseVolume[]): void {
  const { sheet } = flow;
  const most = Math.max(
    0,
    ...volumes.flatMap((volume) => [volume.deliveredCGy, volume.plannedCGy, volume.prescribedCGy].map((text) => doseOf(text) ?? 0)),
  );
  // Nothing to compare: the table that follows says what is missing.
  if (most === 0) return;
  const step = niceStep(most);
  const ticks = Array.from({ length: Math.ceil(most / step) + 1 }, (_, index) => index * step);
  const end = ticks.at(-1) ?? step;
  const left = NAME_WIDTH + 8;
  const width = flow.width - left - VALUE_WIDTH;
  const xOf = (dose: number): number => flow.left + left + (width * dose) / end;

  const axis = (): void => {
    block(flow, [{ x: 0, lines: [axisLine(sheet, ticks, xOf, flow.left)] }]);
  };
  flow.ensure(12 + ROW * Math.min(volumes.length, 4) + 16);
  axis();
  for (const volume of volumes) {
    const name = textLines(sheet, volume.name, TEXT.strong, NAME_WIDTH).slice(0, 3);
    const place = [volume.type, volume.site, volume.laterality].filter((text) => text !== undefined).join(', ');
    const below = place === '' ? [] : textLines(sheet, place, TEXT.tiny, NAME_WIDTH);
    const labels: Line[] = [
      ...(volume.deliveredCGy === undefined
        ? textLines(sheet, `delivered ${NOT_PROVIDED}`, TEXT.tiny, VALUE_WIDTH - 8)
        : textLines(sheet, `${volume.deliveredCGy} cGy`, TEXT.strong, VALUE_WIDTH - 8)),
      ...textLines(sheet, planned(volume), TEXT.tiny, VALUE_WIDTH - 8),
    ];
    block(
      flow,
      [
        { x: 0, lines: [...name, ...below] },
        { x: left + width + 8, lines: labels },
      ],
      {
        padding: 3,
        onNewPage: axis,
        behind: (top, height) => drawBars(sheet, volume, { top, height, xOf, ticks }),
      },
    );
  }
  legend(flow, 'Dark bar: delivered. Light bar behind: planned. Upright stroke: prescribed. Doses of different volumes are never added.');
}

function drawBars(
  sheet: Sheet,
  volume: DoseVolume,
  at: { top: number; height: number; xOf(dose: number): number; ticks: readonly number[] },
): void {
  const { top, height, xOf, ticks } = at;
  for (const tick of ticks) sheet.rule(xOf(tick), top, xOf(tick), top + height, COLOUR.rule, tick === 0 ? 1 : 0.4);
  const middle = top + Math.min(height / 2, 14);
  const zero = xOf(0);
  const plannedDose = doseOf(volume.plannedCGy);
  const delivered = doseOf(volume.deliveredCGy);
  const prescribed = doseOf(volume.prescribedCGy);
  if (plannedDose !== undefined) sheet.rectangle(zero, middle - 7, xOf(plannedDose) - zero, 14, COLOUR.planned);
  if (delivered !== undefined) sheet.rectangle(zero, middle - 3.75, xOf(delivered) - zero, 7.5, COLOUR.delivered);
  if (prescribed !== undefined) sheet.rule(xOf(prescribed), middle - 9, xOf(prescribed), middle + 9, COLOUR.ink, 1.5);
}

function planned(volume: DoseVolume): string {
  const parts = [`planned ${volume.plannedCGy === undefined ? NOT_PROVIDED : `${volume.plannedCGy} cGy`}`];
  if (volume.prescribedCGy !== undefined && volume.prescribedCGy !== volume.plannedCGy)
    parts.push(`prescribed ${volume.prescribedCGy} cGy`);
  return parts.join('\n');
}

function axisLine(sheet: Sheet, ticks: readonly number[], xOf: (dose: number) => number, left: number): Line {
  return {
    height: 12,
    paint: (_, top) => {
      sheet.text(left, top + baselineOf(TEXT.tiny), 'cGy, physical dose', TEXT.tiny);
      for (const tick of ticks) sheet.text(xOf(tick), top + baselineOf(TEXT.tiny), String(tick), TEXT.tiny, 'centre');
    },
  };
}

/** The dose as a number for a bar's length only; what is printed is the text. */
function doseOf(text: string | undefined): number | undefined {
  if (text === undefined || !/^\d+(\.\d+)?$/.test(text.trim())) return undefined;
  return Number(text);
}

/** Distance of ticks: 1, 2 or 5 times a power of ten, so that at most six are drawn. */
function niceStep(most: number): number {
  const power = 10 ** Math.floor(Math.log10(most / 5));
  const factor = [1, 2, 5, 10].find((candidate) => most / (power * candidate) <= 5) ?? 10;
  return power * factor;
}

/** `5040` cGy is `50.40` Gy: the decimal point moves, digits stay. Undefined for what is no plain number. */
export function grayOf(doseCGy: string | undefined): string | undefined {
  const match = /^(\d+)(?:\.(\d+))?$/.exec(doseCGy?.trim() ?? '');
  if (match === null) return undefined;
  const digits = (match[1] ?? '').padStart(3, '0');
  return `${digits.slice(0, -2)}.${digits.slice(-2)}${match[2] ?? ''}`;
}
