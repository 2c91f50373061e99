/**
 * The few tables of a TrueType font that a PDF needs: which glyph a character has, how wide it is, how tall the face.
 * ISO/IEC 14496-22 (OpenType), tables head, hhea, hmtx, cmap (formats 4 and 12), OS/2.
 */
export interface TrueType {
  /** Ascent, descent, cap height, box and widths are in units of 1/1000 em, as PDF counts them. */
  ascent: number;
  descent: number;
  capHeight: number;
  box: readonly [number, number, number, number];
  /** Glyph of a code point, 0 if the face has none. */
  glyphOf(codePoint: number): number;
  /** Advance width of a glyph. */
  advanceOf(glyph: number): number;
}

/** Reads the tables of `bytes`. Throws a RangeError on a file that is no TrueType font. */
export function parseTrueType(bytes: Uint8Array): TrueType {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const tables = new Map<string, number>();
  for (let index = 0; index < view.getUint16(4); index += 1) {
    const record = 12 + index * 16;
    tables.set(String.fromCharCode(...bytes.subarray(record, record + 4)), view.getUint32(record + 8));
  }
  const table = (tag: string): number => {
    const offset = tables.get(tag);
    if (offset === undefined) throw new RangeError(`font without ${tag}`);
    return offset;
  };
  const head = table('head');
  const hhea = table('hhea');
  const hmtx = table('hmtx');
  const scale = 1000 / view.getUint16(head + 18);
  const metrics = view.getUint16(hhea + 34);
  const ascent = view.getInt16(hhea + 4) * scale;
  const os2 = tables.get('OS/2');
  const capHeight = os2 !== undefined && view.getUint16(os2) >= 2 ? view.getInt16(os2 + 88) * scale : ascent * 0.7;
  const glyphOf = readCharacterMap(view, table('cmap'));
  return {
    ascent,
    descent: view.getInt16(hhea + 6) * scale,
    capHeight,
    box: [
      view.getInt16(head + 36) * scale,
      view.getInt16(head + 38) * scale,
      view.getInt16(head + 40) * scale,
      view.getInt16(head + 42) * scale,
    ],
    glyphOf,
    advanceOf: (glyph) => view.getUint16(hmtx + Math.min(glyph, metrics - 1) * 4) * scale,
  };
}

function readCharacterMap(view: DataView, cmap: number): (codePoint: number) => number {
  const basic = new Uint16Array(0x10000);
  const beyond = new Map<number, number>();
  const put = (codePoint: number, glyph: number): void => {
    if (glyph === 0) return;
    if (codePoint < 0x10000) basic[codePoint] = glyph;
    else beyond.set(codePoint, glyph);
  };
  for (let index = 0; index < view.getUint16(cmap + 2); index += 1) {
    const record = cmap + 4 + index * 8;
    const platform = view.getUint16(record);
    // Unicode (0) and Windows (3, not symbol) subtables speak of code points.
    if (platform !== 0 && !(platform === 3 && view.getUint16(record + 2) !== 0)) continue;
    const subtable = cmap + view.getUint32(record + 4);
    const format = view.getUint16(subtable);
    if (format === 4) readFormat4(view, subtable, put);
    if (format === 12) readFormat12(view, subtable, put);
  }
  return (codePoint) => (codePoint < 0x10000 ? (basic[codePoint] ?? 0) : (beyond.get(codePoint) ?? 0));
}

function readFormat4(view: DataView, at: number, put: (codePoint: number, glyph: number) => void): void {
  const twice = view.getUint16(at + 6);
  const ends = at + 14;
  const starts = ends + twice + 2;
  const deltas = starts + twice;
  const offsets = deltas + twice;
  for (let step = 0; step < twice; step += 2) {
    const end = view.getUint16(ends + step);
    const start = view.getUint16(starts + step);
    const delta = view.getUint16(deltas + step);
    const offset = view.getUint16(offsets + step);
    for (let codePoint = start; codePoint <= end && codePoint !== 0xffff; codePoint += 1) {
      if (offset === 0) {
        put(codePoint, (codePoint + delta) & 0xffff);
        continue;
      }
      const glyph = view.getUint16(offsets + step + offset + (codePoint - start) * 2);
      put(codePoint, glyph === 0 ? 0 : (glyph + delta) & 0xffff);
    }
  }
}

function readFormat12(view: DataView, at: number, put: (codePoint: number, glyph: number) => void): void {
  for (let group = 0; group < view.getUint32(at + 12); group += 1) {
    const record = at + 16 + group * 12;
    const start = view.getUint32(record);
    const first = view.getUint32(record + 8);
    for (let codePoint = start; codePoint <= view.getUint32(record + 4); codePoint += 1) put(codePoint, first + codePoint - start);
  }
}
