import { createHash } from 'node:crypto';
import { canonicalJson } from '../canonical-json.ts';
import { compareText } from './elements.ts';
import type { Manifest } from './model.ts';

/**
 * The canonical text of a manifest. `own` and `context` are sorted here by source, type, id and version, so that the order
 * of arrival is not part of what a document is made from.
 */
export function manifestText(manifest: Manifest): string {
  const sorted = (records: Manifest['own']): readonly object[] =>
    [...records]
      .sort((a, b) => compareText(orderOf(a), orderOf(b)))
      .map(({ source, type, id, versionId, record, sha256, resource }) => ({ source, type, id, versionId, record, sha256, resource }));
  return canonicalJson({
    ...manifest,
    demographics: { recordSha256: manifest.demographics.recordSha256 },
    own: sorted(manifest.own),
    context: sorted(manifest.context),
  });
}
function orderOf(record: Manifest['own'][number]): string {
  return [record.source, record.type, record.id, record.versionId, record.sha256].join('\u0000');
}

/** SHA-256, hex: printed on every page instead of the document's own hash. */
export function manifestHash(manifest: Manifest): string {
  return createHash('sha256').update(manifestText(manifest), 'utf8').digest('hex');
}
