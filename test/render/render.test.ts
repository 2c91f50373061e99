/** The PDFs as seen, as read, as bytes and as files: pictures, text, determinism, attachments, page breaks. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import * as fc from 'fast-check';
import { decodePDFRawStream, PDFArray, PDFDict, PDFDocument, PDFName, PDFRawStream } from 'pdf-lib';
import { codeOf } from '../../src/errors.ts';
import type { LaboratoryDocument } from '../../src/records/model.ts';
import { grayOf } from '../../src/render/dose-bars.ts';
import { extractBundle, extractFiles } from '../../src/render/extract.ts';
import { createFontBook, printable } from '../../src/render/font-book.ts';
import { breakLines } from '../../src/render/lines.ts';
import { createClock } from '../../src/render/moments.ts';
import { renderPdf } from '../../src/render/render-pdf.ts';
import { createSheet } from '../../src/render/sheet.ts';
import { TEXT } from '../../src/render/theme.ts';
import { loadTypefaces } from '../../src/render/typefaces.ts';
import { bundleOf, course, largeReport, longNames, longNote, oddReport, panelReport } from './documents.ts';
import { NAMES, PICTURES, renderNamed, SOURCE_PDF } from './expected.ts';
import { differences, pictureOf, placedText, rasterise, textOf } from './raster.ts';

const typefaces = loadTypefaces();
const run = promisify(execFile);
const flat = (text: string): string => text.replaceAll(/\s+/g, ' ').normalize('NFC');
const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

/** The known fault of PDF writers: text extracts, but the glyphs of `codePoint` are not drawn. */
async function withoutGlyph(pdf: Uint8Array, character: string): Promise<Uint8Array> {
  const document = await PDFDocument.load(pdf, { updateMetadata: false });
  const code = (character.codePointAt(0) ?? 0).toString(16).padStart(4, '0');
  let dropped = 0;
  for (const [, object] of document.context.enumerateIndirectObjects()) {
    if (!(object instanceof PDFDict) || object.get(PDFName.of('Subtype')) !== PDFName.of('Type0')) continue;
    const map = Buffer.from(decodePDFRawStream(streamOf(object, 'ToUnicode')).decode()).toString('latin1');
    const id = new RegExp(`<([0-9a-f]{4})> <${code}>`).exec(map)?.[1];
    if (id === undefined) continue;
    const font = object.lookup(PDFName.of('DescendantFonts'), PDFArray).lookup(0, PDFDict);
    const glyphs = streamOf(font, 'CIDToGIDMap').contents;
    glyphs.fill(0, Number.parseInt(id, 16) * 2, Number.parseInt(id, 16) * 2 + 2);
    // Glyph 0 would be drawn as a box; the fault draws nothing, so its outline goes too: an empty glyph is one of equal offsets.
    emptyFirstGlyph(font);
    dropped += 1;
  }
  assert.ok(dropped > 0, `no font draws ${character}`);
  return document.save({ useObjectStreams: false });
}

function streamOf(dictionary: PDFDict, key: string): PDFRawStream {
  const stream = dictionary.lookup(PDFName.of(key));
  assert.ok(stream instanceof PDFRawStream, key);
  return stream;
}

function emptyFirstGlyph(font: PDFDict): void {
  const file = streamOf(font.lookup(PDFName.of('FontDescriptor'), PDFDict), 'FontFile2');
  const bytes = Buffer.from(decodePDFRawStream(file).decode());
  for (let record = 12; record < 12 + bytes.readUInt16BE(4) * 16; record += 16) {
    const offset = bytes.readUInt32BE(record + 8);
    if (bytes.toString('latin1', record, record + 4) !== 'glyf') continue;
    // No contours: the glyph has a head and no outline.
    bytes.writeInt16BE(0, offset);
  }
  font
    .lookup(PDFName.of('FontDescriptor'), PDFDict)
    .set(PDFName.of('FontFile2'), font.context.register(font.context.flateStream(bytes, { Length1: bytes.length })));
}

describe('as seen', () => {
  for (const [name, { document, page }] of Object.entries(PICTURES)) {
    test(`${name} looks as committed`, async () => {
      const [png] = await rasterise(await renderNamed(document), [page]);
      assert.ok(png);
      const expected = await pictureOf(readFileSync(new URL(`../fixtures/render/${name}.png`, import.meta.url)));
      assert.deepEqual(
        differences(await pictureOf(png), expected),
        [],
        'differs; if meant so: node test/render/update-expected.ts, and look',
      );
    });
  }

  // Each of the four scripts: a single character whose glyph is lost must be seen, though the text still extracts.
  for (const [document, character] of [
    ['panelReport', 'w'],
    ['longNote', 'ị'],
    ['cover', 'ґ'],
    ['oddReport', '민'],
  ] as const) {
    test(`a lost glyph (${character}) shows in the picture and not in the text`, async () => {
      const good = await renderNamed(document);
      const bad = await withoutGlyph(good, character);
      assert.deepEqual(await textOf(bad), await textOf(good));
      const [[expected], [actual]] = await Promise.all([rasterise(good, [1]), rasterise(bad, [1])]);
      assert.ok(expected && actual);
      assert.notDeepEqual(differences(await pictureOf(actual), await pictureOf(expected)), []);
    });
  }
});

describe('as read', () => {
  test('names, values and marks extract in every script', async () => {
    const [panel, odd, note, dose, cover] = (
      await Promise.all(['panelReport', 'oddReport', 'longNote', 'course', 'cover'].map(async (name) => textOf(await renderNamed(name))))
    ).map((pages) => flat(pages.join(' ')));
    for (const word of [
      'Eleanor Whitcombe',
      '00417233 (Harborview Hospital)',
      'Neutrophils, absolute',
      '0.94',
      'LL',
      '1.8 - 7.7',
      'CLIA 50D0987654',
      'Tomas Okafor',
    ])
      assert.ok(panel?.includes(word), word);
    for (const word of [
      '김민준',
      '서울중앙병원 방사선종양학과',
      'was 1.49 mg/dL',
      '>10.0',
      '1:80',
      'This result is preliminary',
      'not provided by source',
      'Lactate: specimen not on ice',
      '검체가 용혈되어',
    ])
      assert.ok(odd?.includes(word), word);
    for (const word of [
      'Nguyễn Thị Thu Hương',
      'Phạm Văn Đức',
      'AJCC 8th edition',
      'Amended',
      '40 mg/m²',
      '→ cisplatin',
      'Dental clearance received',
    ])
      assert.ok(note?.includes(word), word);
    for (const word of [
      '이서연',
      'In progress as of 13 Mar 2026, 00:02 UTC+09:00',
      '4500.5',
      '45.005',
      'Breast_L_v2',
      'anatomy changed (seroma)',
      'not for treatment planning',
      '0.00',
    ])
      assert.ok(dose?.includes(word), word);
    for (const word of ['Ярослава Володимирівна Щербаченко-Ґалаґан', 'letter.pdf', sha256(SOURCE_PDF), 'byte for byte'])
      assert.ok(cover?.includes(word), word);
  });

  test('no dose is a sum of others', async () => {
    const text = flat((await textOf(await renderNamed('course'))).join(' '));
    // 5000 + 4500.5 + 600 over volumes, 5000 + 600 over phases, 2000 + 3000 + 5000 over levels.
    for (const sum of ['10100.5', '5600', '10000', '9500.5']) assert.ok(!text.includes(sum), sum);
  });

  test('every page carries patient, page number, document, manifest and as-of', async () => {
    for (const name of NAMES) {
      const pages = await textOf(await renderNamed(name));
      pages.forEach((page, index) => {
        const text = flat(page);
        assert.ok(text.includes(`Page ${index + 1} of ${pages.length}`), name);
        assert.match(text, /MRN /, name);
        assert.match(text, /Born /, name);
        assert.match(text, /doc-[a-z2-7]{26} · version \d+ · manifest [0-9a-f]{12}/, name);
        assert.match(text, /As of 1[23] Mar 2026(, \d\d:\d\d UTC[+−]\d\d:\d\d)? \((America\/New_York|Asia\/Seoul|UTC)\)/, name);
      });
    }
  });

  test('the narrative is whole and in order', async () => {
    const text = flat((await textOf(await renderNamed('longNote'))).join(' ')).replaceAll(' ', '');
    let from = 0;
    for (const section of longNote.sections) {
      for (const paragraph of section.paragraphs) {
        for (const word of paragraph.split(/\s+/)) {
          const at = text.indexOf(word.replaceAll(' ', ''), from);
          assert.ok(at >= 0, `lost or out of order: ${word}`);
          from = at;
        }
      }
    }
  });

  test('characters without a glyph are boxes that the last page lists', async () => {
    const text = flat((await textOf(await renderNamed('longNames'))).join(' '));
    assert.match(text, /stand as boxes with their code: U\+0E0A, U\+0E21, .*U\+1F469/);
    const plain = flat((await textOf(await renderNamed('panelReport'))).join(' '));
    assert.ok(!plain.includes('boxes'));
  });

  test('a table that breaks repeats its head and its group, and keeps a row and its note together', async () => {
    const pdf = await renderPdf(largeReport, { bundle: bundleOf(100), sources: [] }, { typefaces });
    const second = await placedText(pdf, 2);
    assert.ok(second.some(({ text }) => text === 'Reference range'));
    assert.ok(second.some(({ text }) => text === 'Chemistry (continued)'));
    for (let page = 1; page <= 2; page += 1) {
      const items = await placedText(pdf, page);
      for (const name of items.filter(({ text }) => text.endsWith('analyte 6'))) {
        const note = items.find(({ text, y }) => text.startsWith('A note that belongs') && name.y - y > 0 && name.y - y < 16);
        assert.ok(note, `${name.text} on page ${page} has lost its note`);
      }
      assert.ok(Math.min(...items.map(({ y }) => y)) >= 30, 'something is drawn below the footer');
    }
  });

  test('numbers of a column align at their decimal point', async () => {
    const items = await placedText(await renderPdf(panelReport, { bundle: bundleOf(100), sources: [] }, { typefaces }), 1);
    const points = ['3.42', '0.94', '10.8', '32.9', '12.40'].map((value) => {
      const item = items.find(({ text, x }) => text === value && x < 260);
      assert.ok(item, value);
      const book = createFontBook(typefaces);
      return item.x + (book.advance(value.split('.')[0] ?? '', 'semibold') * TEXT.strong.size) / 1000;
    });
    assert.ok(Math.max(...points) - Math.min(...points) < 0.1, points.join(' '));
  });
});

describe('as bytes', () => {
  test('the same in any time zone and locale', { timeout: 60_000 }, async () => {
    const program = `import { NAMES, renderNamed } from './test/render/expected.ts'; import { createHash } from 'node:crypto';
      for (const name of NAMES) console.log(name, createHash('sha256').update(await renderNamed(name)).digest('hex'));`;
    const cwd = fileURLToPath(new URL('../../', import.meta.url));
    const hashes = async (TZ: string, LANG: string): Promise<string> =>
      (await run(process.execPath, ['--input-type=module', '-e', program], { cwd, env: { ...process.env, TZ, LANG, LC_ALL: LANG } }))
        .stdout;
    const [seoul, newYork] = await Promise.all([hashes('Asia/Seoul', 'ko_KR.UTF-8'), hashes('America/New_York', 'tr_TR.UTF-8')]);
    const here: string[] = [];
    // In another order too: what was rendered before must not show.
    for (const name of [...NAMES].reverse()) here.unshift(`${name} ${sha256(await renderNamed(name))}\n`);
    assert.equal(seoul, newYork);
    assert.equal(seoul, here.join(''));
  });

  test('small, and A4 or Letter as asked', async () => {
    for (const name of NAMES) assert.ok((await renderNamed(name)).length <= 150_000, name);
    const letter = await PDFDocument.load(await renderPdf(course, { bundle: bundleOf(100), sources: [] }, { typefaces, paper: 'letter' }));
    assert.deepEqual(letter.getPage(0).getSize(), { width: 612, height: 792 });
  });
});

describe('attachments', () => {
  test('bundle and sources come back byte for byte, typed and related', async () => {
    const bundle = bundleOf(50_000);
    const sources = [
      { name: '../../etc/письмо.pdf', mediaType: 'application/pdf', bytes: SOURCE_PDF },
      { name: 'fhir-bundle.json', mediaType: 'text/plain; charset=utf-8', bytes: new TextEncoder().encode('note '.repeat(500)) },
      { name: '', mediaType: 'nonsense', bytes: new Uint8Array(0) },
    ];
    const pdf = await renderPdf(course, { bundle, sources }, { typefaces });
    assert.deepEqual(await extractBundle(pdf), bundle);
    const files = await extractFiles(pdf);
    assert.deepEqual(
      files.map(({ name, mediaType, relationship }) => [name, mediaType, relationship]),
      [
        ['2-fhir-bundle.json', 'text/plain', 'Source'],
        ['fhir-bundle.json', 'application/fhir+json', 'Data'],
        ['source-3', 'application/octet-stream', 'Source'],
        ['письмо.pdf', 'application/pdf', 'Source'],
      ],
    );
    for (const source of sources)
      assert.ok(
        files.some((file) => Buffer.from(file.bytes).equals(source.bytes)),
        source.name,
      );
  });

  test('what is no PDF of ours is refused with a code', async () => {
    const plain = await PDFDocument.create();
    plain.addPage();
    for (const bytes of [new Uint8Array(0), new TextEncoder().encode('no pdf at all'), await plain.save()]) {
      await assert.rejects(extractBundle(bytes), (error) => codeOf(error) === 'PDF_UNREADABLE');
    }
  });
});

describe('parts', () => {
  test('moments are printed in the zone given, with offset, as precise as they came', () => {
    const newYork = createClock('America/New_York');
    assert.equal(newYork.moment('2026-03-12T15:02:11Z'), '12 Mar 2026, 11:02 UTC−04:00');
    // The hour that happens twice.
    assert.equal(newYork.moment('2026-11-01T05:30:00Z'), '1 Nov 2026, 01:30 UTC−04:00');
    assert.equal(newYork.moment('2026-11-01T06:30:00Z'), '1 Nov 2026, 01:30 UTC−05:00');
    assert.equal(newYork.moment('2026-03-12T23:59:30-04:00'), '12 Mar 2026, 23:59 UTC−04:00');
    assert.equal(createClock('Asia/Kolkata').moment('2026-03-12T20:00:00Z'), '13 Mar 2026, 01:30 UTC+05:30');
    assert.equal(createClock('UTC').moment('2026-03-12T20:00:00Z'), '12 Mar 2026, 20:00 UTC');
    assert.equal(createClock('Nowhere/Land').zone, 'UTC');
    for (const [value, printed] of [
      ['1958', '1958'],
      ['1958-03', 'Mar 1958'],
      ['1958-03-04', '4 Mar 1958'],
      ['about noon', 'about noon'],
      ['2026-13-45T99:99:99Z', '2026-13-45T99:99:99Z'],
    ] as const)
      assert.equal(newYork.moment(value), printed);
  });

  test('gray moves the decimal point and nothing else', () => {
    assert.deepEqual(['5040', '4500.5', '0', '5', '50.00', '7000.125', 'about 50', undefined].map(grayOf), [
      '50.40',
      '45.005',
      '0.00',
      '0.05',
      '0.5000',
      '70.00125',
      undefined,
      undefined,
    ]);
  });

  test('whatever the text, lines hold all of it and none is too wide', () => {
    const words = fc.array(
      fc.oneof(
        fc.string({ unit: 'grapheme', maxLength: 40 }),
        fc.constantFrom('Wolfeschlegelsteinhausenbergerdorff', '방사선종양학과', 'mg/dL/1.73m²-long', '漢字かな', ' '),
      ),
      { maxLength: 12 },
    );
    fc.assert(
      fc.property(words, fc.integer({ min: 30, max: 300 }), (parts, width) => {
        const sheet = createSheet(createFontBook(typefaces), 'a4');
        const text = parts.join(' ');
        const lines = breakLines(sheet, text, TEXT.body, width);
        assert.equal(lines.join('').replaceAll(/\s/g, ''), printable(text).replaceAll(/\s/g, ''));
        for (const line of lines) assert.ok(Array.from(line.trim()).length <= 1 || sheet.measure(line, TEXT.body) <= width + 0.02, line);
      }),
      { seed: 20260312, numRuns: 150 },
    );
  });

  test('hostile text renders: control characters, lone surrogates, a row taller than a page, nothing at all', async () => {
    const [panel] = oddReport.panels;
    const [first] = panel?.analytes ?? [];
    assert.ok(panel && first);
    const hostile: LaboratoryDocument = {
      ...longNames,
      header: {
        ...longNames.header,
        title: '\u0000<&>\ud800\u202e\ufeff "title"\u0007',
        facility: '',
        patient: { ...longNames.header.patient, name: '' },
      },
      panels: [
        { ...panel, analytes: [{ ...first, name: 'x'.repeat(900), notes: ['tall '.repeat(4000)] }] },
        { name: '', analytes: [] },
      ],
      comments: ['\t\r\n\r\n', '한'.repeat(3000)],
    };
    const pdf = await renderPdf(hostile, { bundle: new Uint8Array(0), sources: [] }, { typefaces });
    const text = (await textOf(pdf)).join(' ');
    assert.equal(text.match(/tall/g)?.length, 4000);
    assert.equal(text.match(/한/g)?.length, 3000);
    assert.equal((await extractBundle(pdf)).length, 0);
  });
});
