/** The pool of threads: same bytes as in process, failures told without patient data, an orderly end. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CodedError, codeOf } from '../../src/errors.ts';
import type { ClinicalDocument } from '../../src/records/model.ts';
import { renderPdf } from '../../src/render/render-pdf.ts';
import { createRenderer } from '../../src/render/renderer.ts';
import { bundleOf, course, longNote, oddReport, panelReport } from './documents.ts';

test('two threads give the bytes of the pure function and leave the caller its buffers', async () => {
  const renderer = createRenderer({ threads: 2 });
  try {
    const attachments = {
      bundle: bundleOf(3000),
      sources: [{ name: 'a.txt', mediaType: 'text/plain', bytes: new TextEncoder().encode('a') }],
    };
    const documents = [panelReport, oddReport, longNote, course, panelReport, course];
    const rendered = await Promise.all(documents.map((document) => renderer.render(document, attachments)));
    for (const [index, document] of documents.entries()) assert.deepEqual(rendered[index], await renderPdf(document, attachments));
    assert.ok(attachments.bundle.length > 0);
  } finally {
    await renderer.close();
  }
  await assert.rejects(renderer.render(panelReport, { bundle: bundleOf(1), sources: [] }), (error) => codeOf(error) === 'UNAVAILABLE');
});

test('a document that cannot be laid out fails alone, and its error holds nothing of it', async () => {
  const renderer = createRenderer({ threads: 1 });
  try {
    const broken = { ...panelReport, panels: 'Eleanor' } as unknown as ClinicalDocument;
    const attachments = { bundle: bundleOf(1), sources: [] };
    const [failed, fine] = await Promise.allSettled([renderer.render(broken, attachments), renderer.render(panelReport, attachments)]);
    assert.equal(failed.status, 'rejected');
    assert.ok(failed.reason instanceof CodedError);
    assert.equal(failed.reason.code, 'RENDER_FAILED');
    assert.match(failed.reason.message, /TypeError at \w+ \(laboratory\.ts:\d+:\d+\)$/);
    assert.ok(!/Eleanor|Whitcombe|00417233/.test(failed.reason.message));
    assert.equal(fine.status, 'fulfilled');
  } finally {
    await renderer.close();
  }
});

test('a thread that takes too long is ended, the next document gets a new one', async () => {
  const renderer = createRenderer({ threads: 1, timeoutMs: 6000 });
  try {
    const endless: ClinicalDocument = {
      ...longNote,
      sections: [{ paragraphs: Array.from({ length: 400_000 }, () => 'word '.repeat(80)) }],
    };
    const attachments = { bundle: bundleOf(1), sources: [] };
    const slow = renderer.render(endless, attachments);
    const next = renderer.render(panelReport, attachments);
    await assert.rejects(slow, (error) => codeOf(error) === 'RENDER_FAILED');
    assert.ok((await next).length > 0);
  } finally {
    await renderer.close();
  }
});

test('close lets the running document finish and refuses the waiting one', async () => {
  const renderer = createRenderer({ threads: 1 });
  const attachments = { bundle: bundleOf(1), sources: [] };
  const running = renderer.render(course, attachments);
  const waiting = renderer.render(panelReport, attachments);
  const [first, second] = await Promise.allSettled([running, waiting, renderer.close()]);
  assert.equal(first.status, 'fulfilled');
  assert.equal(second.status, 'rejected');
});
