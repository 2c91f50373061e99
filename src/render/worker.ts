/** A rendering thread: typefaces and harfbuzz stay warm between documents. Started by renderer.ts only. */
import { parentPort } from 'node:worker_threads';
import type { ClinicalDocument } from '../records/model.ts';
import { type Attachments, renderPdf } from './render-pdf.ts';
import type { Paper } from './theme.ts';
import { loadTypefaces } from './typefaces.ts';
import { WARM_UP } from './warm-up.ts';

export interface RenderJob {
  id: number;
  document: ClinicalDocument;
  attachments: Attachments;
  paper: Paper;
}
export type RenderReply = { id: number; pdf: Uint8Array } | { id: number; failure: string };

const typefaces = loadTypefaces();
// A failure of this would be that of the first real document too, which says so.
renderPdf(WARM_UP, { bundle: new TextEncoder().encode('{"resourceType":"Bundle"}'), sources: [] }, { paper: 'a4', typefaces }).catch(
  () => {},
);

parentPort?.on('message', (job: RenderJob) => {
  renderPdf(job.document, job.attachments, { paper: job.paper, typefaces }).then(
    (pdf) => {
      const reply: RenderReply = { id: job.id, pdf };
      parentPort?.postMessage(reply, pdf.byteLength === pdf.buffer.byteLength ? [pdf.buffer as ArrayBuffer] : []);
    },
    // The text of an unforeseen error may quote what was rendered: only its kind and place leave the thread.
    (error: unknown) => {
      const reply: RenderReply = { id: job.id, failure: placeOf(error) };
      parentPort?.postMessage(reply);
    },
  );
});

/** `TypeError at results (laboratory.ts:63:23)`. */
function placeOf(error: unknown): string {
  if (!(error instanceof Error)) return 'unknown';
  const frame = /^ +at (?:([\w.<>]+) \()?\S*\/render\/([\w-]+\.ts:\d+:\d+)\)?$/m.exec(error.stack ?? '');
  return frame === null ? error.name : `${error.name} at ${frame[1] ?? 'top'} (${frame[2]})`;
}
