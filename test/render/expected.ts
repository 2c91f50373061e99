/** Which pages are compared with committed pictures: each layout and each script. */
import { createHash } from 'node:crypto';
import type { ClinicalDocument } from '../../src/records/model.ts';
import { renderPdf } from '../../src/render/render-pdf.ts';
import { loadTypefaces } from '../../src/render/typefaces.ts';
import { ALL, bundleOf, coverNote } from './documents.ts';

export const SOURCE_PDF = new TextEncoder().encode(
  '%PDF-1.4\n% stands for a scanned letter of the source, kept byte for byte\n\x00\xff\n%%EOF\n',
);
const typefaces = loadTypefaces();

/** Picture's name -> document and page (from 1). */
export const PICTURES: Record<string, { document: string; page: number }> = {
  'laboratory-panel': { document: 'panelReport', page: 1 },
  'laboratory-corrected-korean': { document: 'oddReport', page: 1 },
  'laboratory-long-names': { document: 'longNames', page: 1 },
  'laboratory-large-second-page': { document: 'largeReport', page: 2 },
  'note-vietnamese': { document: 'longNote', page: 1 },
  'note-vietnamese-second-page': { document: 'longNote', page: 2 },
  'note-cover-cyrillic': { document: 'cover', page: 1 },
  'dose-course-korean': { document: 'course', page: 1 },
  'dose-course-korean-second-page': { document: 'course', page: 2 },
  'dose-bare': { document: 'bareCourse', page: 1 },
};

export function documentNamed(name: string): ClinicalDocument {
  if (name === 'cover') return coverNote(createHash('sha256').update(SOURCE_PDF).digest('hex'), SOURCE_PDF.length);
  const document = ALL[name];
  if (document === undefined) throw new RangeError(name);
  return document;
}

export const NAMES = [...Object.keys(ALL), 'cover'];

/** Renders one of the documents with an 8 KB bundle, the cover with its source file. */
export function renderNamed(name: string): Promise<Uint8Array> {
  const sources = name === 'cover' ? [{ name: 'letter.pdf', mediaType: 'application/pdf', bytes: SOURCE_PDF }] : [];
  return renderPdf(documentNamed(name), { bundle: bundleOf(8000), sources }, { typefaces });
}
