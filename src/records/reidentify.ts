import { objectOf, objectsOf, stringOf, targetOf } from './elements.ts';
import { isObject, type Json, type JsonObject, textOf } from './lossless-json.ts';
import { markupSections } from './note-text.ts';

/** Where a source's references lead here. */
export interface Identities {
  /** Our id of a source resource of this subject or of the directory; undefined where it is not known here. */
  resourceId(sourceType: string, sourceId: string): string | undefined;
  /** Our `pat-…`. */
  patient: string;
}

type Writable = { [key: string]: Json | undefined };

/**
 * A source resource as ours: our id, our references, meta without the source's. What is known here is referenced by our ids;
 * what is not keeps its display and type only, since a reference or a logical identifier may be an MRN or a serial.
 * Numbers keep their digits. Contained resources stay, and so do references to them.
 *
 * A narrative is a second copy of the data in HTML of a stranger's making: generated ones are dropped, since every reader can
 * make their own. Where it says more than the data (`additional`, `extensions`, a Composition's sections) its text is kept,
 * rebuilt as plain paragraphs: no tag, attribute or address of the source survives. `notes` says what was done.
 */
export function reidentify(resource: JsonObject, id: string, identities: Identities): { resource: JsonObject; notes: readonly string[] } {
  const notes: string[] = [];
  const contained = new Set(objectsOf(resource['contained']).map((item) => `#${textOf(item['id']) ?? ''}`));
  const scope: Scope = { identities, contained, notes };
  const out: Writable = { resourceType: resource['resourceType'], id };
  const meta = cleanMeta(resource['meta']);
  if (meta !== undefined) out['meta'] = meta;
  for (const key of Object.keys(resource)) {
    if (key === 'resourceType' || key === 'id' || key === 'meta' || key === '_id') continue;
    const value = rewrite(resource[key], key, scope);
    if (value !== undefined) out[key] = value;
  }
  return { resource: out, notes };
}

interface Scope {
  identities: Identities;
  contained: ReadonlySet<string>;
  notes: string[];
}

/** `profile`, `security` and `tag`; versionId, lastUpdated and source are the source's and would name it. */
function cleanMeta(meta: Json | undefined): JsonObject | undefined {
  const source = objectOf(meta);
  const out: Writable = {};
  for (const key of ['profile', 'security', 'tag']) if (source?.[key] !== undefined) out[key] = source[key];
  return Object.keys(out).length > 0 ? out : undefined;
}

function rewrite(value: Json | undefined, key: string, scope: Scope): Json | undefined {
  if (Array.isArray(value)) {
    const items: Json[] = [];
    for (const item of value as readonly Json[]) {
      // null holds the place of a primitive beside its `_` sibling; only what we removed ourselves may close up.
      const rewritten = item === null ? null : rewrite(item, key, scope);
      if (rewritten !== undefined) items.push(rewritten);
    }
    return items.length > 0 ? items : undefined;
  }
  if (!isObject(value)) return value;
  if (key === 'text' && typeof value['div'] === 'string') return narrative(value, scope);
  if (
    key === 'attachment' ||
    key === 'presentedForm' ||
    key === 'valueAttachment' ||
    (key === 'content' && value['contentType'] !== undefined)
  )
    return attachment(value, scope);
  if (typeof value['reference'] === 'string' || (isObject(value['identifier']) && isReferenceLike(value))) return reference(value, scope);
  if (key === 'meta') return cleanMeta(value);
  const out: Writable = {};
  let members = 0;
  for (const name of Object.keys(value)) {
    const rewritten = rewrite(value[name], name, scope);
    if (rewritten === undefined) continue;
    out[name] = rewritten;
    members++;
  }
  // An extension left with nothing but its url says nothing, and is not valid FHIR.
  if (members === 0 || (members === 1 && out['url'] !== undefined && typeof value['url'] === 'string' && Object.keys(value).length > 1))
    return undefined;
  return out;
}

const REFERENCE_MEMBERS = new Set(['reference', '_reference', 'type', 'identifier', 'display', '_display', 'id', 'extension']);
/** A logical reference: nothing but identifier, type and display. An element with `use` or `system` beside is something else. */
function isReferenceLike(value: JsonObject): boolean {
  return Object.keys(value).every((member) => REFERENCE_MEMBERS.has(member));
}

function reference(value: JsonObject, scope: Scope): JsonObject | undefined {
  const target = targetOf(value);
  const display = stringOf(value['display']);
  if (target?.startsWith('#')) return scope.contained.has(target) ? keep({ reference: target, display }) : keep({ display });
  const [type = '', sourceId = ''] = target === undefined || target.startsWith('urn:') ? ['', ''] : target.split('/');
  // A patient's display is a name that may be out of date; our own Patient says it.
  if (type === 'Patient' || stringOf(value['type']) === 'Patient')
    return { reference: `Patient/${scope.identities.patient}`, type: 'Patient' };
  const id =
    target === undefined
      ? undefined
      : target.startsWith('urn:')
        ? scope.identities.resourceId('', target)
        : scope.identities.resourceId(type, sourceId);
  const ofType = stringOf(value['type']) ?? (type === '' ? undefined : type);
  if (id !== undefined && ofType !== undefined) return keep({ reference: `${ofType}/${id}`, type: ofType, display });
  const nationalId = objectOf(value['identifier']);
  if (stringOf(nationalId?.['system']) === 'http://hl7.org/fhir/sid/us-npi') return keep({ type: ofType, identifier: nationalId, display });
  if (display === undefined) {
    scope.notes.push(`A reference to a ${ofType ?? 'resource'} that is not known here was left out.`);
    return undefined;
  }
  return keep({ type: ofType, display });
}
function keep(members: {
  reference?: string | undefined;
  type?: string | undefined;
  identifier?: JsonObject | undefined;
  display?: string | undefined;
}): JsonObject | undefined {
  const out: Writable = {};
  for (const [name, member] of Object.entries(members)) if (member !== undefined) out[name] = member;
  return Object.keys(out).length > 0 ? out : undefined;
}

/** Inline data stays; an address is the source's own server, share or drive, and nobody here may be led there. */
function attachment(value: JsonObject, scope: Scope): JsonObject {
  const { url, ...rest } = value;
  if (url !== undefined) scope.notes.push('The address of an attachment was left out; its bytes ride inside the rendered document.');
  if (typeof rest['title'] === 'string' && /[\\/]/.test(rest['title'])) delete (rest as Writable)['title'];
  delete (rest as Writable)['id'];
  return rest;
}

function narrative(value: JsonObject, scope: Scope): JsonObject | undefined {
  const status = stringOf(value['status']);
  if (status === 'generated' || status === 'empty') {
    scope.notes.push('A generated narrative was left out.');
    return undefined;
  }
  const paragraphs = markupSections(stringOf(value['div']) ?? '', 'html').flatMap((section) => [
    ...(section.title === undefined ? [] : [section.title]),
    ...section.paragraphs,
  ]);
  if (paragraphs.length === 0) return undefined;
  scope.notes.push('A narrative was kept as plain paragraphs.');
  return {
    status: status ?? 'additional',
    div: `<div xmlns="http://www.w3.org/1999/xhtml">${paragraphs.map((text) => `<p>${escapeXml(text)}</p>`).join('')}</div>`,
  };
}
function escapeXml(text: string): string {
  return text.replace(/&/g, '&amp;').replace(/</g, '&lt;').replace(/>/g, '&gt;').replace(/"/g, '&quot;');
}

/** Source references that a resource makes, for fetching ids before `reidentify` is called. */
export function referencesOf(resource: JsonObject): readonly string[] {
  const found = new Set<string>();
  const walk = (value: Json | undefined): void => {
    if (Array.isArray(value)) for (const item of value as readonly Json[]) walk(item);
    else if (isObject(value)) {
      const target = targetOf(value);
      if (target !== undefined && !target.startsWith('#')) found.add(target);
      for (const name of Object.keys(value)) if (typeof value[name] === 'object') walk(value[name]);
    }
  };
  walk(resource);
  return [...found].sort();
}
