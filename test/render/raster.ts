/** Pages as pixels, and their comparison, without any system tool: pdf.js on a canvas. */
import { crc32, deflateSync } from 'node:zlib';
import { createCanvas, loadImage } from '@napi-rs/canvas';
import { getDocument, type PDFDocumentLoadingTask, type PDFDocumentProxy, type PDFPageProxy } from 'pdfjs-dist/legacy/build/pdf.mjs';

/** One page, eight-bit grey, row by row. */
export interface Picture {
  width: number;
  height: number;
  grey: Uint8Array;
}

type PageCanvas = Parameters<PDFPageProxy['render']>[0]['canvas'];

/** Pixels per inch of the committed pictures: small files, and a lost glyph still shows. */
export const DPI = 72;

/** Hands `use` the opened file and closes it. */
async function withPages<T>(pdf: Uint8Array, use: (document: PDFDocumentProxy) => Promise<T>): Promise<T> {
  // pdf.js takes the buffer away: it gets a copy. Embedded fonts are drawn as paths, so that no font of the machine can step in.
  const task: PDFDocumentLoadingTask = getDocument({ data: pdf.slice(), disableFontFace: true, useSystemFonts: false, verbosity: 0 });
  try {
    return await use(await task.promise);
  } finally {
    await task.destroy();
  }
}

/** Draws `pages` (from 1) as PNG; all pages unless told. */
export async function rasterise(pdf: Uint8Array, pages?: readonly number[]): Promise<Buffer[]> {
  return withPages(pdf, async (document) => {
    const images: Buffer[] = [];
    for (const number of pages ?? Array.from({ length: document.numPages }, (_, index) => index + 1)) {
      const page = await document.getPage(number);
      const viewport = page.getViewport({ scale: DPI / 72 });
      const canvas = createCanvas(Math.round(viewport.width), Math.round(viewport.height));
      // The canvas of @napi-rs is what pdf.js itself uses in Node; its types know only the browser's.
      await page.render({ canvas: canvas as unknown as PageCanvas, viewport }).promise;
      images.push(canvas.toBuffer('image/png'));
    }
    return images;
  });
}

/** The text of each page, as a reader copies it. */
export async function textOf(pdf: Uint8Array): Promise<string[]> {
  return withPages(pdf, async (document) => {
    const texts: string[] = [];
    for (let number = 1; number <= document.numPages; number += 1) {
      const content = await (await document.getPage(number)).getTextContent();
      texts.push(content.items.map((item) => ('str' in item ? `${item.str}${item.hasEOL ? '\n' : ''}` : '')).join(''));
    }
    return texts;
  });
}

/** Pieces of text of one page with their place, in points from the bottom left corner. */
export async function placedText(pdf: Uint8Array, number: number): Promise<{ text: string; x: number; y: number; width: number }[]> {
  return withPages(pdf, async (document) => {
    const content = await (await document.getPage(number)).getTextContent();
    return content.items.flatMap((item) =>
      'str' in item && item.str.trim() !== ''
        ? [{ text: item.str, x: Number(item.transform[4]), y: Number(item.transform[5]), width: item.width }]
        : [],
    );
  });
}

/** Reads a PNG; grey in sixteen levels, as the committed pictures have. */
export async function pictureOf(png: Buffer): Promise<Picture> {
  const image = await loadImage(png);
  const canvas = createCanvas(image.width, image.height);
  const context = canvas.getContext('2d');
  context.drawImage(image, 0, 0);
  const { data } = context.getImageData(0, 0, image.width, image.height);
  const grey = new Uint8Array(image.width * image.height);
  for (let index = 0; index < grey.length; index += 1) {
    const light = ((data[index * 4] ?? 0) * 299 + (data[index * 4 + 1] ?? 0) * 587 + (data[index * 4 + 2] ?? 0) * 114) / 1000;
    grey[index] = Math.round(light / 17) * 17;
  }
  return { width: image.width, height: image.height, grey };
}

/** A PNG of four grey bits a pixel: a fifth of what the canvas writes (ISO/IEC 15948). */
export function pngOf({ width, height, grey }: Picture): Buffer {
  const stride = Math.ceil(width / 2);
  const rows = Buffer.alloc((stride + 1) * height);
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      const at = y * (stride + 1) + 1 + (x >> 1);
      rows[at] = (rows[at] ?? 0) | (Math.round((grey[y * width + x] ?? 0) / 17) << (x % 2 === 0 ? 4 : 0));
    }
  }
  const chunk = (type: string, body: Buffer): Buffer => {
    const part = Buffer.concat([Buffer.from(type, 'latin1'), body]);
    const frame = Buffer.alloc(8);
    frame.writeUInt32BE(body.length, 0);
    frame.writeUInt32BE(crc32(part), 4);
    return Buffer.concat([frame.subarray(0, 4), part, frame.subarray(4)]);
  };
  const header = Buffer.from([0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0]);
  header.writeUInt32BE(width, 0);
  header.writeUInt32BE(height, 4);
  const signature = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);
  return Buffer.concat([signature, chunk('IHDR', header), chunk('IDAT', deflateSync(rows, { level: 9 })), chunk('IEND', Buffer.alloc(0))]);
}

/** A square of this many pixels holds about two letters: one that is lost changes its mean far more than smoothing does. */
const SQUARE = 8;
/** Grey levels by which the mean of a square may differ. */
const TOLERANCE = 12;

/** Squares that differ, as `x,y` in pixels; empty if the pictures are alike. */
export function differences(actual: Picture, expected: Picture): string[] {
  if (actual.width !== expected.width || actual.height !== expected.height) return [`size ${actual.width} x ${actual.height}`];
  const found: string[] = [];
  for (let top = 0; top < actual.height; top += SQUARE) {
    for (let left = 0; left < actual.width; left += SQUARE) {
      let sum = 0;
      let count = 0;
      for (let y = top; y < Math.min(top + SQUARE, actual.height); y += 1) {
        for (let x = left; x < Math.min(left + SQUARE, actual.width); x += 1) {
          sum += Math.abs((actual.grey[y * actual.width + x] ?? 0) - (expected.grey[y * actual.width + x] ?? 0));
          count += 1;
        }
      }
      if (sum / count > TOLERANCE) found.push(`${left},${top}`);
    }
  }
  return found;
}
