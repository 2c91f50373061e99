/** What every page carries: the patient on top, page number, document, version, manifest and "as of" below. */
import type { DocumentHeader } from '../records/model.ts';
import type { Frame } from './flow.ts';
import { baselineOf, breakLines } from './lines.ts';
import type { Clock } from './moments.ts';
import type { Sheet } from './sheet.ts';
import { COLOUR, MARGIN, NOT_PROVIDED, TEXT } from './theme.ts';

export interface PageFrame extends Frame {
  /** Draws all footers, once the number of pages is known. */
  drawFeet(): void;
}

export interface FrameText {
  /** Category in plain words: `Laboratory report`. */
  kind: string;
  /** Warning of the category, printed on each page. */
  warning: string;
  /** Status to show on each page, where it is not plainly final. */
  status?: string;
}

const FOOT_HEIGHT = 34;

export function createPageFrame(sheet: Sheet, header: DocumentHeader, clock: Clock, words: FrameText): PageFrame {
  const left = MARGIN.left;
  const right = sheet.width - MARGIN.right;
  const width = right - left;
  const leftWidth = width * 0.64;
  const rightWidth = width * 0.33;

  const { patient } = header;
  const name = breakLines(sheet, patient.name === '' ? NOT_PROVIDED : patient.name, TEXT.patient, leftWidth);
  const facts = [
    `Born ${patient.birthDate === undefined ? NOT_PROVIDED : clock.moment(patient.birthDate)}`,
    `Sex ${patient.sex ?? NOT_PROVIDED}`,
    ...(patient.deceased === undefined || patient.deceased === 'false'
      ? []
      : [`Deceased ${patient.deceased === 'true' ? '' : clock.moment(patient.deceased)}`.trim()]),
  ];
  const identifiers =
    patient.identifiers.length === 0
      ? [`MRN ${NOT_PROVIDED}`]
      : patient.identifiers.map((identifier, index) => `${index === 0 ? 'MRN ' : 'ID '}${identifier.value} (${identifier.authority})`);
  const below = [facts.join('   ·   '), identifiers.join('   ·   ')].flatMap((line) => breakLines(sheet, line, TEXT.small, leftWidth));
  const facility = breakLines(sheet, header.facility === '' ? NOT_PROVIDED : header.facility, TEXT.strong, rightWidth);
  const aside = [words.kind, ...(words.status === undefined ? [] : [words.status])];

  const headHeight = Math.max(
    name.length * TEXT.patient.leading + below.length * TEXT.small.leading + 2,
    facility.length * TEXT.strong.leading + aside.length * TEXT.smallMuted.leading + 2,
  );
  const top = MARGIN.top + headHeight + 18;

  const drawHead = (): void => {
    let y = MARGIN.top;
    for (const line of name) {
      sheet.text(left, y + baselineOf(TEXT.patient), line, TEXT.patient);
      y += TEXT.patient.leading;
    }
    y += 1;
    for (const line of below) {
      sheet.text(left, y + baselineOf(TEXT.small), line, TEXT.small);
      y += TEXT.small.leading;
    }
    y = MARGIN.top + 1.5;
    for (const line of facility) {
      sheet.text(right, y + baselineOf(TEXT.strong), line, TEXT.strong, 'right');
      y += TEXT.strong.leading;
    }
    aside.forEach((line, index) => {
      const style = index === 1 ? { ...TEXT.smallMuted, weight: 'semibold' as const, colour: COLOUR.caution } : TEXT.smallMuted;
      sheet.text(right, y + baselineOf(style), line, style, 'right');
      y += style.leading;
    });
    sheet.rule(left, MARGIN.top + headHeight + 5, right, MARGIN.top + headHeight + 5, COLOUR.accent, 1.25);
  };

  const drawFeet = (): void => {
    const pages = sheet.pageCount();
    const base = sheet.height - MARGIN.bottom;
    const asOf = `As of ${clock.moment(header.asOf)} (${clock.zone})`;
    for (let page = 0; page < pages; page += 1) {
      sheet.select(page);
      sheet.rule(left, base - 19, right, base - 19, COLOUR.rule, 0.75);
      sheet.text(left, base - 9, asOf, TEXT.tiny);
      sheet.text(left, base, `${header.documentId} · version ${header.version} · manifest ${header.manifestHash.slice(0, 12)}`, TEXT.tiny);
      sheet.text(right, base - 9, `Page ${page + 1} of ${pages}`, { ...TEXT.tiny, weight: 'semibold', colour: COLOUR.ink }, 'right');
      sheet.text(right, base, words.warning, TEXT.tiny, 'right');
    }
  };

  return { left, width, top, bottom: sheet.height - MARGIN.bottom - FOOT_HEIGHT, drawHead, drawFeet };
}
