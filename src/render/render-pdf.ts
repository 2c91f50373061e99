/** One clinical document as PDF/A-3b: header and footer of each page, the category's body, and what the document is made from. */
import type { ClinicalDocument } from '../records/model.ts';
import { createFlow, type Flow, heading } from './flow.ts';
import { createFontBook } from './font-book.ts';
import { historyAndPhysicalBody } from './history-and-physical.ts';
import { laboratoryBody } from './laboratory.ts';
import { type Clock, createClock } from './moments.ts';
import { createPageFrame } from './page-frame.ts';
import { banner, facts, remarks, titleBlock } from './parts.ts';
import { BUNDLE_NAME, type EmbeddedSource, embeddedSources, writePdf } from './pdf-file.ts';
import { radiationDoseBody } from './radiation-dose.ts';
import { createSheet } from './sheet.ts';
import { statusLook } from './status.ts';
import { table } from './table.ts';
import { NOT_PROVIDED, type Paper, TEXT } from './theme.ts';
import { loadTypefaces, type Typefaces } from './typefaces.ts';

/** What rides inside the PDF: the FHIR Bundle (JSON) and the source's own files, byte for byte. */
export interface Attachments {
  bundle: Uint8Array;
  sources: readonly { name: string; mediaType: string; bytes: Uint8Array }[];
}

export interface RenderOptions {
  /** `a4` unless told. */
  paper?: Paper;
  /** Read once and handed in by whoever renders more than one document. */
  typefaces?: Typefaces;
}

/** Raised with every change that alters a byte of a PDF: a manifest names it, so that its bytes can be made again. */
const LAYOUT_VERSION = 1;

/** Name of the layout for the manifest (`Manifest.layout`). */
export function layoutName(paper: Paper = 'a4'): string {
  return `oncobridge-${LAYOUT_VERSION}-${paper}`;
}

const KIND: Record<ClinicalDocument['kind'], { kind: string; warning: string }> = {
  laboratory: {
    kind: 'Laboratory report',
    warning: 'A rendering; values and flags as reported by source',
  },
  'history-and-physical': { kind: 'Clinical note', warning: 'A rendering; text as provided by source' },
  'radiation-dose': {
    kind: 'Radiation treatment summary',
    warning: 'Physical dose; values as reported by source; not for treatment planning',
  },
};

/**
 * Renders `document` with `attachments` inside. Pure: the same model, attachments and paper give the same bytes in any time
 * zone and locale. Characters that no typeface has are drawn as boxes with their code point and listed on the last page.
 */
export async function renderPdf(document: ClinicalDocument, attachments: Attachments, options: RenderOptions = {}): Promise<Uint8Array> {
  const { header } = document;
  const paper = options.paper ?? 'a4';
  const book = createFontBook(options.typefaces ?? loadTypefaces());
  const sheet = createSheet(book, paper);
  const clock = createClock(header.zone);
  const look = statusLook(header.status, header.version, clock.moment(header.asOf));
  const sources = embeddedSources(attachments.sources);

  const frame = createPageFrame(sheet, header, clock, {
    ...KIND[document.kind],
    ...(look.banner === undefined ? {} : { status: look.banner.title }),
  });
  const flow = createFlow(sheet, frame);
  titleBlock(flow, header.title, subtitle(document), look.label);
  if (look.banner !== undefined) banner(flow, look.banner.title, withReason(document, header.status, look.banner.text), look.banner.tone);
  // A corrected summary of a course that goes on is both.
  if (document.kind === 'radiation-dose' && document.course.status !== header.status) {
    const { status } = document.course;
    const course = statusLook(status, header.version, clock.moment(header.asOf)).banner;
    if (course !== undefined) banner(flow, `Course: ${course.title}`, withReason(document, status, course.text), course.tone);
  }
  body(flow, document, clock, sources);
  aboutDocument(flow, document, clock, sources);
  frame.drawFeet();
  return writePdf(sheet, { header, bundle: attachments.bundle, sources, layout: layoutName(paper) });
}

function subtitle(document: ClinicalDocument): string | undefined {
  if (document.kind === 'radiation-dose') {
    const { name, sites } = document.course;
    return sites.length === 0 ? `Course ${name}` : `Course ${name} · ${sites.join(', ')}`;
  }
  const name = document.kind === 'laboratory' ? document.reportName : document.noteType;
  return name === document.header.title ? undefined : name;
}

function withReason(document: ClinicalDocument, status: string, text: string): string {
  if (document.kind !== 'radiation-dose' || status !== 'stopped') return text;
  return `${text} Reason: ${document.course.stopReason ?? NOT_PROVIDED}.`;
}

function body(flow: Flow, document: ClinicalDocument, clock: Clock, sources: readonly EmbeddedSource[]): void {
  switch (document.kind) {
    case 'laboratory':
      return laboratoryBody(flow, document, clock);
    case 'history-and-physical':
      return historyAndPhysicalBody(flow, document, clock, sources);
    case 'radiation-dose':
      return radiationDoseBody(flow, document, clock);
  }
}

/** Where the document comes from and what rides inside. */
function aboutDocument(flow: Flow, document: ClinicalDocument, clock: Clock, sources: readonly EmbeddedSource[]): void {
  const { header } = document;
  heading(flow, 'About this document', 110);
  facts(
    flow,
    [
      // A note says who wrote it, and when, at its head.
      ...(document.kind === 'history-and-physical'
        ? []
        : [
            { label: 'Date of service', value: header.dateOfService === undefined ? undefined : clock.moment(header.dateOfService) },
            { label: 'Author / signed by', value: `${header.author ?? NOT_PROVIDED} / ${header.signer ?? NOT_PROVIDED}` },
          ]),
      { label: 'Document', value: `${header.documentId}, version ${header.version}` },
      { label: 'As of', value: `${clock.moment(header.asOf)} (${clock.zone})` },
      { label: 'Attached', value: [BUNDLE_NAME, ...sources.map((source) => source.name)].join(', '), span: 2 },
      { label: 'Manifest (SHA-256)', value: header.manifestHash, span: 2 },
    ],
    2,
  );
  const width = flow.width;
  if (header.sources.length > 0) {
    table(
      flow,
      [
        { title: 'Source', width: width * 0.2 },
        { title: 'Kind of record', width: width * 0.2 },
        { title: 'Record', width: width * 0.38 },
        { title: 'Version', width: width * 0.22 },
      ],
      [
        {
          rows: header.sources.map((source) => ({
            cells: [source.source, source.type, source.id, source.versionId].map((text) => ({ text, style: TEXT.small })),
          })),
        },
      ],
    );
    flow.y += 4;
  }
  const missing = flow.sheet.book.missing();
  remarks(
    flow,
    [
      'This PDF is a rendering; the FHIR data it was made from are attached and hold in case of doubt.',
      ...(missing.length === 0
        ? []
        : [
            `Characters that no typeface here can draw stand as boxes with their code: ${missing.slice(0, 40).join(', ')}${missing.length > 40 ? ` and ${missing.length - 40} more` : ''}.`,
          ]),
    ],
    { style: TEXT.smallMuted },
  );
}
