import { readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { CodedError } from '../errors.ts';
import { newId } from '../ids.ts';

/** The institution's opaque id: configured, or made at the first start and kept beside the data. */
export async function institutionId(data: string, configured: string | undefined): Promise<string> {
  const file = join(data, 'institution');
  const kept = await readFile(file, 'utf8').then(
    (text) => text.trim() || undefined,
    () => undefined,
  );
  if (kept !== undefined && configured !== undefined && kept !== configured)
    throw new CodedError('CONFIG_INVALID', { diagnostics: `institution.id is not the one that this data directory belongs to (${kept}).` });
  const id = configured ?? kept ?? newId('inst');
  if (kept === undefined) {
    // Whole or not at all: everything that is kept from now on bears this name.
    await writeFile(`${file}.new`, `${id}\n`, { mode: 0o600, flush: true });
    await rename(`${file}.new`, file);
  }
  return id;
}
