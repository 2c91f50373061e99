/** Every layout is PDF/A-3b by veraPDF, and the check itself can fail. Needs a JDK and Maven; skips loudly, fails under REQUIRE_JAVA=1. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { PDFDocument, PDFHexString, StandardFonts } from 'pdf-lib';
import { NAMES, renderNamed } from './expected.ts';
import { checkPdfA } from './pdfa/check.ts';

test('all layouts conform; plain, encrypted, damaged and empty files do not', { timeout: 300_000 }, async (context) => {
  const folder = mkdtempSync(join(tmpdir(), 'oncobridge-pdfa-'));
  try {
    const write = (name: string, bytes: Uint8Array): string => {
      const path = join(folder, `${name}.pdf`);
      writeFileSync(path, bytes);
      return path;
    };
    const good: string[] = [];
    for (const name of NAMES) good.push(write(name, await renderNamed(name)));
    const plain = await PDFDocument.create();
    plain.addPage().drawText('font not embedded', { font: await plain.embedFont(StandardFonts.Helvetica) });
    const whole = await renderNamed('course');
    const bad = [
      write('bad-plain', await plain.save()),
      write('bad-encrypted', await encrypted(whole)),
      write('bad-cut', whole.slice(0, whole.length / 2)),
      write('bad-empty', new Uint8Array(0)),
      write('bad-no-pages', new TextEncoder().encode('%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n')),
    ];
    const outcome = checkPdfA([...good, ...bad]);
    if (outcome.kind === 'skipped') {
      assert.notEqual(process.env['REQUIRE_JAVA'], '1', `REQUIRE_JAVA=1, but: ${outcome.why}`);
      process.stderr.write(`\nSKIPPED: PDF/A was NOT checked: ${outcome.why}\n`);
      context.skip(outcome.why);
      return;
    }
    const verdict = new Map(outcome.lines.map((line) => [line.split(' ').find((word) => word.endsWith('.pdf')), line]));
    for (const path of good) assert.match(verdict.get(path) ?? 'missing', /^ok /);
    for (const path of bad) assert.match(verdict.get(path) ?? 'missing', /^fail /);
    assert.equal(outcome.ok, false);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

/** A file that says it is encrypted by the standard handler with a password that nobody has. */
async function encrypted(pdf: Uint8Array): Promise<Uint8Array> {
  const document = await PDFDocument.load(pdf, { updateMetadata: false });
  document.context.trailerInfo.Encrypt = document.context.register(
    document.context.obj({
      Filter: 'Standard',
      V: 2,
      R: 3,
      Length: 128,
      P: -44,
      O: PDFHexString.of('5a'.repeat(32)),
      U: PDFHexString.of('a5'.repeat(32)),
    }),
  );
  return document.save({ useObjectStreams: false });
}
