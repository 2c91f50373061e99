/**
 * The characters that one document uses, and their fonts in the PDF.
 *
 * The recipe: NFC text; harfbuzz subset of exactly the characters used, without layout closure; the subset embedded whole.
 * pdf-lib's own subsetting drops glyphs silently (Hopding/pdf-lib#1232) and its fontkit maps `ị` to `i` plus a dot, so
 * neither is used: each character gets a character id (CID) of its own, a CIDToGIDMap leads it to its glyph in the subset
 * and a ToUnicode map back to the character, so what is drawn and what is extracted cannot differ. No kerning, no shaping:
 * Latin, Greek, Cyrillic, Hangul and Han only.
 */
import { type PDFContext, PDFDict, PDFName, type PDFRef, PDFString } from 'pdf-lib';
import subsetFont from 'subset-font';
import { parseTrueType } from './true-type.ts';
import type { Script, Typeface, Typefaces, Weight } from './typefaces.ts';

/** A stretch of text in one font, or a character that no font has (drawn as a box by the sheet). Widths in 1/1000 em. */
export type TextRun = { kind: 'glyphs'; font: string; hex: string; width: number } | { kind: 'missing'; codePoint: number; width: number };

export interface FontBook {
  /** Width in 1/1000 em. */
  advance(text: string, weight: Weight): number;
  /** Encodes text for drawing and notes its characters for the subset. */
  runs(text: string, weight: Weight): TextRun[];
  /** Code points that no typeface has, as `U+0E01`, sorted. */
  missing(): string[];
  /** Writes the fonts into the file and returns the /Font resource dictionary. To be called once, after all text is laid out. */
  embed(context: PDFContext): Promise<PDFDict>;
}

/** Width of the box that stands for a missing character, 1/1000 em. */
const MISSING_ADVANCE = 1000;
/** Tables that a PDF viewer never reads; without them subsetting and file cost a fifth. */
const UNUSED_TABLES = [
  'GSUB',
  'GPOS',
  'GDEF',
  'BASE',
  'MATH',
  'STAT',
  'OS/2',
  'name',
  'post',
  'gasp',
  'kern',
  'vhea',
  'vmtx',
  'VORG',
  'DSIG',
];

interface UsedFace {
  face: Typeface;
  /** Character id of each code point, in order of first use; 0 is .notdef and never drawn. */
  ids: Map<number, number>;
}

/**
 * Composes text (NFC), turns tabs into spaces and drops what has no appearance by definition (soft hyphen, zero width
 * marks, variation selectors, byte-order mark). Other control characters stay and are drawn as boxes.
 */
export function printable(text: string): string {
  // Most text is plain ASCII; the patterns below cost more than all else.
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
  if (/^[\n\x20-\x7e]*$/.test(text)) return text;
  return text
    .normalize('NFC')
    .replaceAll(/\r\n?|\u2028|\u2029|\u0085|\v|\f/g, '\n')
    .replaceAll('\t', '    ')
    .replaceAll(/\p{Default_Ignorable_Code_Point}/gu, '');
}

export function createFontBook(typefaces: Typefaces): FontBook {
  const used = new Map<string, UsedFace>();
  const missing = new Set<number>();
  // Advance by code point; -1 where unknown yet. One array per weight, for text is measured many times over.
  const advances: Record<Weight, Float64Array> = {
    regular: new Float64Array(0x3000).fill(-1),
    semibold: new Float64Array(0x3000).fill(-1),
  };

  const faceFor = (codePoint: number, weight: Weight): Typeface | undefined => {
    for (const script of ['latin', 'korean'] satisfies Script[]) {
      const face = typefaces.face(script, weight);
      if (face.font.glyphOf(codePoint) !== 0) return face;
    }
    return undefined;
  };
  const measure = (codePoint: number, weight: Weight): number => {
    const face = faceFor(codePoint, weight);
    return face === undefined ? MISSING_ADVANCE : face.font.advanceOf(face.font.glyphOf(codePoint));
  };
  const advanceOf = (codePoint: number, weight: Weight): number => {
    if (codePoint >= 0x3000) return measure(codePoint, weight);
    const known = advances[weight][codePoint] ?? -1;
    if (known >= 0) return known;
    const width = measure(codePoint, weight);
    advances[weight][codePoint] = width;
    return width;
  };
  const idOf = (face: Typeface, codePoint: number): string => {
    let entry = used.get(face.resource);
    if (entry === undefined) {
      entry = { face, ids: new Map() };
      used.set(face.resource, entry);
    }
    let id = entry.ids.get(codePoint);
    if (id === undefined) {
      id = entry.ids.size + 1;
      entry.ids.set(codePoint, id);
    }
    return id.toString(16).padStart(4, '0');
  };
  interface Glyph {
    font: string;
    /** Character id, four hex digits. */
    hex: string;
    width: number;
  }
  const glyphs: Record<Weight, Map<number, Glyph | undefined>> = { regular: new Map(), semibold: new Map() };
  const glyphFor = (codePoint: number, weight: Weight): Glyph | undefined => {
    const known = glyphs[weight];
    if (known.has(codePoint)) return known.get(codePoint);
    const face = faceFor(codePoint, weight);
    const glyph = face === undefined ? undefined : { font: face.resource, hex: idOf(face, codePoint), width: advanceOf(codePoint, weight) };
    known.set(codePoint, glyph);
    return glyph;
  };

  return {
    advance(text, weight) {
      let width = 0;
      for (let index = 0; index < text.length; index += 1) {
        const codePoint = text.codePointAt(index) ?? 0;
        if (codePoint > 0xffff) index += 1;
        width += advanceOf(codePoint, weight);
      }
      return width;
    },
    runs(text, weight) {
      const runs: TextRun[] = [];
      for (const character of text) {
        const codePoint = character.codePointAt(0) ?? 0;
        const glyph = glyphFor(codePoint, weight);
        if (glyph === undefined) {
          missing.add(codePoint);
          runs.push({ kind: 'missing', codePoint, width: MISSING_ADVANCE });
          continue;
        }
        const last = runs.at(-1);
        if (last?.kind === 'glyphs' && last.font === glyph.font) {
          last.hex += glyph.hex;
          last.width += glyph.width;
        } else {
          runs.push({ kind: 'glyphs', ...glyph });
        }
      }
      return runs;
    },
    missing: () => [...missing].sort((a, b) => a - b).map(codePointName),
    async embed(context) {
      const resources = PDFDict.withContext(context);
      for (const { face, ids } of [...used.values()].sort((a, b) => (a.face.resource < b.face.resource ? -1 : 1))) {
        resources.set(PDFName.of(face.resource), await embedFace(context, face, ids));
      }
      return resources;
    },
  };
}

/** `U+0E01`. */
export function codePointName(codePoint: number): string {
  return `U+${codePoint.toString(16).toUpperCase().padStart(4, '0')}`;
}

/** One face as Type0 font over CIDFontType2 (ISO 32000-1, 9.7). */
async function embedFace(context: PDFContext, face: Typeface, ids: ReadonlyMap<number, number>): Promise<PDFRef> {
  const codePoints = [...ids.keys()];
  const program = await subsetFont(face.bytes, String.fromCodePoint(...codePoints), {
    targetFormat: 'truetype',
    noLayoutClosure: true,
    noHinting: true,
    dropTables: UNUSED_TABLES,
  });
  const subset = parseTrueType(program);
  const glyphs = new Uint8Array((codePoints.length + 1) * 2);
  const widths: number[] = [];
  for (const [codePoint, id] of ids) {
    const glyph = subset.glyphOf(codePoint);
    // A glyph lost here would print as nothing while its text still extracts: the fault that this file exists to prevent.
    if (glyph === 0) throw new Error(`the subset of ${face.postScriptName} lost a glyph`);
    glyphs[id * 2] = glyph >> 8;
    glyphs[id * 2 + 1] = glyph & 0xff;
    widths.push(Math.round(subset.advanceOf(glyph)));
  }
  // A subset is named by six letters of its own (ISO 32000-1, 9.6.4); these follow from its size, as the bytes must not vary.
  const name = `${subsetTag(face.resource, program.length)}+${face.postScriptName}`;
  const { font } = face;
  const descriptor = context.register(
    context.obj({
      Type: 'FontDescriptor',
      FontName: name,
      Flags: 4,
      FontBBox: font.box.map(Math.round),
      ItalicAngle: 0,
      Ascent: Math.round(font.ascent),
      Descent: Math.round(font.descent),
      CapHeight: Math.round(font.capHeight),
      StemV: face.postScriptName.endsWith('SemiBold') ? 120 : 80,
      FontFile2: context.register(context.flateStream(program, { Length1: program.length })),
    }),
  );
  const descendant = context.register(
    context.obj({
      Type: 'Font',
      Subtype: 'CIDFontType2',
      BaseFont: name,
      CIDSystemInfo: { Registry: PDFString.of('Adobe'), Ordering: PDFString.of('Identity'), Supplement: 0 },
      FontDescriptor: descriptor,
      W: [1, widths],
      // A few hundred bytes: setting up a deflater costs more than they do.
      CIDToGIDMap: context.register(glyphs.length < 1024 ? context.stream(glyphs) : context.flateStream(glyphs)),
    }),
  );
  return context.register(
    context.obj({
      Type: 'Font',
      Subtype: 'Type0',
      BaseFont: name,
      Encoding: 'Identity-H',
      DescendantFonts: [descendant],
      ToUnicode: context.register(context.flateStream(toUnicode(codePoints))),
    }),
  );
}

function subsetTag(resource: string, size: number): string {
  let rest = size;
  let tag = '';
  for (let index = 0; index < 5; index += 1) {
    tag += String.fromCharCode(65 + (rest % 26));
    rest = Math.floor(rest / 26);
  }
  return `${String.fromCharCode(65 + Number(resource.slice(1)))}${tag}`;
}

function toUnicode(codePoints: readonly number[]): string {
  const lines: string[] = [];
  for (let start = 0; start < codePoints.length; start += 100) {
    const part = codePoints.slice(start, start + 100);
    lines.push(`${part.length} beginbfchar`);
    part.forEach((codePoint, index) => {
      lines.push(`<${(start + index + 1).toString(16).padStart(4, '0')}> <${utf16Hex(codePoint)}>`);
    });
    lines.push('endbfchar');
  }
  return `/CIDInit /ProcSet findresource begin
12 dict begin
begincmap
/CIDSystemInfo << /Registry (Adobe) /Ordering (UCS) /Supplement 0 >> def
/CMapName /Adobe-Identity-UCS def
/CMapType 2 def
1 begincodespacerange
<0000> <ffff>
endcodespacerange
${lines.join('\n')}
endcmap
CMapName currentdict /CMap defineresource pop
end
end`;
}

/** A code point in UTF-16BE, hex. */
export function utf16Hex(codePoint: number): string {
  return Array.from(String.fromCodePoint(codePoint).split(''), (unit) => unit.charCodeAt(0).toString(16).padStart(4, '0')).join('');
}
