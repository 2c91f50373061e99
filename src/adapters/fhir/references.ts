import type { Resource } from 'fhir/r4.js';

/**
 * The literal references of a resource to other resources of the same server, without repeats: relative ones and absolute
 * ones under `base`. Contained (`#x`), logical (identifier only) and foreign references are none of ours to read.
 */
export function referencesIn(resource: Resource | undefined, base: URL): { type: string; id: string }[] {
  const found = new Map<string, { type: string; id: string }>();
  // A list of what is still to be looked at, not recursion: how deep a resource nests is the sender's choice.
  const open: unknown[] = [resource];
  while (open.length > 0) {
    const value = open.pop();
    if (typeof value !== 'object' || value === null) continue;
    // Pushed backwards, so that references come in the order written.
    for (const [name, member] of Object.entries(value).reverse()) {
      if (name === 'reference' && typeof member === 'string') {
        const reference = readReference(member, base);
        if (reference) found.set(`${reference.type}/${reference.id}`, reference);
      } else if (typeof member === 'object') open.push(member);
    }
  }
  return [...found.values()];
}

function readReference(text: string, base: URL): { type: string; id: string } | undefined {
  const relative = text.startsWith(base.href) ? text.slice(base.href.length) : text;
  const match = /^([A-Z][A-Za-z]+)\/([A-Za-z0-9.-]{1,64})(?:\/_history\/[A-Za-z0-9.-]{1,64})?$/.exec(relative);
  return match?.[1] && match[2] ? { type: match[1], id: match[2] } : undefined;
}
