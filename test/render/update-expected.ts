/** Renews the committed pictures: `node test/render/update-expected.ts`. Look at every one that changed before committing it. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { PICTURES, renderNamed } from './expected.ts';
import { pictureOf, pngOf, rasterise } from './raster.ts';

const folder = new URL('../fixtures/render/', import.meta.url);
mkdirSync(folder, { recursive: true });
for (const [name, { document, page }] of Object.entries(PICTURES)) {
  const [png] = await rasterise(await renderNamed(document), [page]);
  if (png !== undefined) writeFileSync(new URL(`${name}.png`, folder), pngOf(await pictureOf(png)));
}
