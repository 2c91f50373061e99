import { Worker } from 'node:worker_threads';
import type { RenderJob } from '../src/render/worker.ts';
import { random } from './measure.ts';

/**
 * Keeps a sample of what the pipeline renders, so that the same documents can be rendered alone afterwards. It listens where
 * jobs are handed to the rendering threads, so that nothing of the product knows of it. The sample's size is fixed (every
 * document as likely as any other), so that it weighs the same in a short and a long run.
 */
export function tapRenderer(most: number): { jobs(): readonly RenderJob[]; close(): void } {
  const kept: RenderJob[] = [];
  const draw = random(11);
  let seen = 0;
  const original = Worker.prototype.postMessage;
  function tapped(this: Worker, ...given: Parameters<Worker['postMessage']>): void {
    const [job] = given as [RenderJob];
    seen += 1;
    if (kept.length < most) kept.push(job);
    else {
      const place = Math.floor(draw() * seen);
      if (place < most) kept[place] = job;
    }
    original.apply(this, given);
  }
  Worker.prototype.postMessage = tapped as Worker['postMessage'];
  return {
    jobs: () => kept,
    close() {
      Worker.prototype.postMessage = original;
    },
  };
}
