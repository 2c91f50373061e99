import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { App } from '../src/app.ts';
import { sql } from '../src/store/sql.ts';

/** Writes the standing version of every document as a PDF; returns the file names. */
export async function exportDocuments(app: App, folder: string): Promise<string[]> {
  const { database, sealer, blobs } = app.core;
  const rows = await database.query<{
    document: string;
    version: number;
    category: string;
    pat: string;
    pointer: string;
    ciphertext_hash: string;
    commitment: string;
  }>(sql`
    select d.document, d.version, d.category, d.pat, d.pointer, d.ciphertext_hash, d.commitment
    from document_version d join subject s on s.document = d.document and s.version = d.version
    where s.withdrawn_at is null order by d.category, d.clinical_time, d.document`);
  const files: string[] = [];
  for (const row of rows) {
    const pdf = await sealer.openPart(await blobs.get(row.pointer), 'pdf', {
      document: row.document,
      version: row.version,
      patient: row.pat,
      category: row.category,
      ciphertextHash: row.ciphertext_hash,
      commitment: row.commitment,
    });
    const name = `${row.category}-${row.document.slice(4, 12)}-v${row.version}.pdf`;
    writeFileSync(join(folder, name), pdf);
    files.push(name);
  }
  return files;
}
