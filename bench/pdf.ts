/**
 * PDFs per CPU second: our documents beside a bare pdf-lib document of two pages with as many pieces of text, made by the recipe
 * that pdf-lib's own users follow (harfbuzz subset, fontkit, `drawText`), without layout, header, charts, XMP or profile.
 */
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import fontkit from '@pdf-lib/fontkit';
import { PDFDocument } from 'pdf-lib';
import subsetFont from 'subset-font';
import type { ClinicalDocument } from '../src/records/model.ts';
import { renderPdf } from '../src/render/render-pdf.ts';
import { loadTypefaces } from '../src/render/typefaces.ts';
import { bundleOf, course, longNote, oddReport, panelReport } from '../test/render/documents.ts';
import { median, ownCpuMs } from './measure.ts';
import type { BenchRow } from './row.ts';

const ROUNDS = 40;
const BUNDLE = bundleOf(20_000);

/** Median CPU milliseconds (all threads of the process, garbage collection included) of `work`, after warming up. */
async function medianCpuMs(work: () => Promise<unknown>): Promise<number> {
  for (let index = 0; index < 8; index += 1) await work();
  const samples: number[] = [];
  for (let index = 0; index < ROUNDS; index += 1) {
    const before = ownCpuMs();
    await work();
    samples.push(ownCpuMs() - before);
  }
  return median(samples);
}

/** Two pages of `lines` short lines each, as `drawText` draws them, with the Bundle attached. */
async function bareDocument(font: Buffer, lines: readonly string[]): Promise<Uint8Array> {
  const document = await PDFDocument.create({ updateMetadata: false });
  document.registerFontkit(fontkit);
  const subset = await subsetFont(font, [...new Set(lines.join(''))].join(''), { targetFormat: 'truetype', noLayoutClosure: true });
  const embedded = await document.embedFont(subset, { subset: false });
  await document.attach(BUNDLE, 'fhir-bundle.json', { mimeType: 'application/fhir+json' });
  const half = Math.ceil(lines.length / 2);
  for (const part of [lines.slice(0, half), lines.slice(half)]) {
    const page = document.addPage();
    part.forEach((line, index) =>
      page.drawText(line, { x: 40 + (index % 5) * 100, y: 800 - Math.floor(index / 5) * 14, size: 8, font: embedded }),
    );
  }
  return document.save();
}

/** Pieces of text of about as many as a two-page document of ours draws, over its alphabet. */
function piecesFor(count: number, alphabet: string): string[] {
  return Array.from({ length: count }, (_, index) =>
    Array.from({ length: 12 }, (_ignored, at) => alphabet[(index * 7 + at * 3) % alphabet.length] ?? ' ').join(''),
  );
}

const LATIN = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.,()-/%';

/** Each kind of document: CPU per document and size, ours and the bare one; a ratio below 1 is cheaper. */
export async function benchPdf(): Promise<BenchRow[]> {
  const typefaces = loadTypefaces();
  const locate = createRequire(import.meta.url);
  const latin = readFileSync(locate.resolve('@expo-google-fonts/noto-sans/400Regular/NotoSans_400Regular.ttf'));
  const korean = readFileSync(locate.resolve('@expo-google-fonts/noto-sans-kr/400Regular/NotoSansKR_400Regular.ttf'));
  const bareLatin = await medianCpuMs(() => bareDocument(latin, piecesFor(230, LATIN)));
  const bareKorean = await medianCpuMs(() =>
    bareDocument(korean, piecesFor(200, `${LATIN}김민준서울중앙병원방사선종양학과검체용혈칼륨수치`)),
  );
  const bareBytes = (await bareDocument(latin, piecesFor(230, LATIN))).length;

  const cases: [string, ClinicalDocument, number, number][] = [
    ['laboratory, 2 pages', panelReport, bareLatin, 25],
    ['note, 3 pages, Vietnamese', longNote, bareLatin, 25],
    ['laboratory, 2 pages, Hangul', oddReport, bareKorean, 60],
    ['dose, 3 phases and 4 plans, Hangul', course, bareKorean, 60],
  ];
  const rows: BenchRow[] = [];
  for (const [name, document, baseline, most] of cases) {
    const render = (): Promise<Uint8Array> => renderPdf(document, { bundle: BUNDLE, sources: [] }, { typefaces });
    const ours = await medianCpuMs(render);
    rows.push({ name: `PDF: ${name}`, ours, baseline, ratio: ours / baseline, unit: 'ms CPU', target: `<= ${most}`, met: ours <= most });
    const bytes = (await render()).length;
    rows.push({
      name: `PDF size: ${name}`,
      ours: bytes / 1000,
      baseline: bareBytes / 1000,
      ratio: bytes / bareBytes,
      unit: 'KB',
      target: '<= 150',
      met: bytes <= 150_000,
    });
  }
  return rows;
}
