/**
 * Layout of a note: its narrative whole and in the source's order, section titles hung in the margin, addenda, and the
 * source files that ride inside. A source PDF is attached byte for byte; its pages are not merged, which would break PDF/A.
 */
import type { HistoryAndPhysicalDocument } from '../records/model.ts';
import { block, type Flow, heading, runLines } from './flow.ts';
import { gap, type Line, textLines } from './lines.ts';
import type { Clock } from './moments.ts';
import { card, facts } from './parts.ts';
import type { EmbeddedSource } from './pdf-file.ts';
import { COLOUR, NOT_PROVIDED, TEXT } from './theme.ts';

const HANG = 108;

export function historyAndPhysicalBody(
  flow: Flow,
  document: HistoryAndPhysicalDocument,
  clock: Clock,
  sources: readonly EmbeddedSource[],
): void {
  const { header } = document;
  facts(
    flow,
    [
      { label: 'Kind of note', value: document.noteType },
      { label: 'Date of service', value: header.dateOfService === undefined ? undefined : clock.moment(header.dateOfService) },
      { label: 'Encounter', value: document.encounter },
      { label: 'Author', value: header.author },
      { label: 'Signed by', value: header.signer },
    ],
    3,
  );
  const narrative = document.sections.filter(
    (section) => section.paragraphs.some((text) => text.trim() !== '') || section.title !== undefined,
  );
  if (narrative.length > 0) {
    heading(flow, 'Note', 60, 'text as the source gave it');
    for (const section of narrative) noteSection(flow, section.title, section.paragraphs);
  }
  for (const addendum of document.addenda) {
    const when = addendum.date === undefined ? `date ${NOT_PROVIDED}` : clock.moment(addendum.date);
    heading(flow, 'Addendum', 50, `${when} · ${addendum.author ?? `author ${NOT_PROVIDED}`}`);
    noteSection(flow, undefined, addendum.text.split(/\n{2,}/));
  }
  if (document.attachments.length > 0) sourceFiles(flow, document, sources, narrative.length === 0);
  else if (narrative.length === 0) {
    heading(flow, 'Note', 40);
    noteSection(flow, undefined, [`Text: ${NOT_PROVIDED}`]);
  }
}

function noteSection(flow: Flow, title: string | undefined, paragraphs: readonly string[]): void {
  const { sheet } = flow;
  const width = flow.width - HANG;
  const lines: Line[] = [];
  for (const text of paragraphs) {
    if (lines.length > 0) lines.push(gap(5));
    lines.push(...textLines(sheet, text, TEXT.narrative, width));
  }
  if (lines.length === 0) lines.push(...textLines(sheet, NOT_PROVIDED, { ...TEXT.narrative, colour: COLOUR.muted }, width));
  const titleLines =
    title === undefined ? [] : textLines(sheet, title, { ...TEXT.strong, leading: 14.5, colour: COLOUR.accent }, HANG - 14);
  // The title stays with at least three lines of its text.
  flow.space(4);
  flow.ensure(Math.max(titleLines.length, Math.min(lines.length, 3)) * TEXT.narrative.leading);
  const top = flow.y;
  block(flow, [{ x: 0, lines: titleLines }]);
  const below = flow.y;
  flow.y = top;
  const before = sheet.pageCount();
  runLines(flow, lines, HANG, () => {
    if (title === undefined) return;
    const y = flow.y;
    block(flow, [
      {
        x: 0,
        lines: [
          ...textLines(sheet, title, { ...TEXT.smallMuted, leading: 14.5 }, HANG - 14),
          ...textLines(sheet, 'continued', TEXT.tiny, HANG - 14),
        ],
      },
    ]);
    flow.y = y;
  });
  if (sheet.pageCount() === before) flow.y = Math.max(flow.y, below);
  flow.y += 7;
}

function sourceFiles(flow: Flow, document: HistoryAndPhysicalDocument, sources: readonly EmbeddedSource[], only: boolean): void {
  const { sheet } = flow;
  heading(
    flow,
    document.attachments.length === 1 ? 'Source file' : 'Source files',
    80,
    document.attachments.every(({ sha256 }) => sources.some((source) => source.sha256 === sha256))
      ? 'attached to this PDF byte for byte'
      : undefined,
  );
  if (only) {
    const text =
      'The note itself is the attached file named below: open it from the list of attachments of your PDF reader. This page only names it and the patient it belongs to.';
    block(flow, [{ x: 0, lines: textLines(sheet, text, TEXT.body, flow.width) }]);
    flow.y += 7;
  }
  document.attachments.forEach((attachment, index) => {
    const width = flow.width - 24;
    const embedded = sources.find((source) => source.sha256 === attachment.sha256) ?? undefined;
    card(flow, [
      ...textLines(sheet, attachment.title === '' ? `Source file ${index + 1}` : attachment.title, TEXT.subheading, width),
      ...textLines(
        sheet,
        `${attachment.mediaType} · ${size(attachment.sizeBytes)} · ${embedded === undefined ? 'not attached: kept with the source record' : `attached as ${embedded.name}`}`,
        TEXT.body,
        width,
      ),
      gap(2),
      ...textLines(sheet, `SHA-256 ${attachment.sha256}`, TEXT.tiny, width),
    ]);
  });
}

/** `184,320 bytes`: exact, so that it can be compared. */
function size(bytes: number): string {
  return `${String(bytes).replaceAll(/\B(?=(\d{3})+$)/g, ',')} bytes`;
}
