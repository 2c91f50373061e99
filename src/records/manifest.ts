import { createHash } from 'node:crypto';
import { compareText } from './elements.ts';
import type { Manifest } from './model.ts';

type Plain = null | boolean | number | string | readonly Plain[] | { readonly [key: string]: Plain | undefined };

/** RFC 8785 (JCS) of plain JSON: members sorted by UTF-16 units, numbers and strings as ECMAScript writes them. */
export function canonicalJson(value: Plain): string {
  if (typeof value === 'number' && !Number.isFinite(value)) throw new RangeError('JCS has no infinite number');
  if (typeof value !== 'object' || value === null) return JSON.stringify(value);
  if (Array.isArray(value)) return `[${(value as readonly Plain[]).map(canonicalJson).join(',')}]`;
  const object = value as { readonly [key: string]: Plain | undefined };
  const members: string[] = [];
  for (const key of Object.keys(object).sort(compareText)) {
    const item = object[key];
    if (item !== undefined) members.push(`${JSON.stringify(key)}:${canonicalJson(item)}`);
  }
  return `{${members.join(',')}}`;
}

/**
 * The canonical text of a manifest. `own` and `context` are sorted here by source, type, id and version, so that the order
 * of arrival is not part of what a document is made from.
 */
export function manifestText(manifest: Manifest): string {
  const sorted = (records: Manifest['own']): readonly Plain[] =>
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
