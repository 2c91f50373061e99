import { compareText, objectOf, stringOf } from './elements.ts';
import { isObject, isRawNumber, type Json, type JsonObject } from './lossless-json.ts';

/**
 * The canonical text of what a resource says clinically: two versions with the same text differ only in meta, and make no
 * new document (edge cases 9, 52: a changed status IS a change). Hash it under a key before storing: it is a patient's data.
 * Left out: versionId, lastUpdated, source, profiles and tags of `meta` (labels of `meta.security` stay: they change who may
 * read), and a narrative that says of itself that it is generated from the data. The order of members does not count.
 */
export function clinicalContent(resource: JsonObject): string {
  const copy: { [key: string]: Json | undefined } = { ...resource };
  const security = objectOf(resource['meta'])?.['security'];
  if (security === undefined) delete copy['meta'];
  else copy['meta'] = { security };
  const narrative = stringOf(objectOf(resource['text'])?.['status']);
  if (narrative === 'generated' || narrative === 'empty') delete copy['text'];
  return sortedText(copy);
}

/** JSON with members in a fixed order and numbers in the source's digits. Not JCS: 2.0 and 2.00 are different statements. */
function sortedText(value: Json): string {
  if (Array.isArray(value)) return `[${(value as readonly Json[]).map(sortedText).join(',')}]`;
  if (!isObject(value)) return isRawNumber(value) ? value.rawJSON : JSON.stringify(value);
  const members: string[] = [];
  for (const key of Object.keys(value).sort(compareText)) {
    const item = value[key];
    if (item !== undefined) members.push(`${JSON.stringify(key)}:${sortedText(item)}`);
  }
  return `{${members.join(',')}}`;
}
