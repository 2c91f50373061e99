import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { objectOf, objectsOf } from '../../src/records/elements.ts';
import { type JsonObject, parseResource } from '../../src/records/lossless-json.ts';

/** Third-party sample data, read where it lies and never copied. Absent: the tests say so and skip. */
const ROOT = fileURLToPath(new URL('../../../shared/samples/', import.meta.url));
const present = existsSync(ROOT);
if (!present) console.warn('SKIPPED: the samples in ../shared/samples are not here; mapping of third-party payloads is untested.');

export const samples = {
  skip: present ? false : 'no ../shared/samples',
  list: (folder: string): readonly string[] =>
    readdirSync(`${ROOT}${folder}`)
      .filter((name) => name.endsWith('.json'))
      .sort()
      .map((name) => `${folder}/${name}`),
};
export function sample(name: string): JsonObject {
  return parseResource(readFileSync(`${ROOT}${name}`));
}
/** Resources of a Bundle; `urn:uuid:` full urls become the references' ids, as an adapter does. */
export function bundleResources(name: string): readonly JsonObject[] {
  return objectsOf(sample(name)['entry'])
    .map((entry) => objectOf(entry['resource']))
    .filter((resource) => resource !== undefined);
}
