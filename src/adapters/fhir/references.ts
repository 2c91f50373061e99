import type { Resource } from 'fhir/r4.js';

/**
 * The literal references of a resource to other resources of the same server, without repeats: relative ones and absolute
 * ones under `base`. Contained (`#x`), logical (identifier only) and foreign references are none of ours to read.
 */
export function referencesIn(resource: Resource | undefined, base: URL): { type: string; id: string }[] {
  const found = new Map<string, { type: string; id: string }>();
  const visit = (value: unknown): void => {
    if (Array.isArray(value)) for (const item of value) visit(item);
    else if (typeof value === 'object' && value !== null) {
      for (const [name, member] of Object.entries(value)) {
        if (name === 'reference' && typeof member === 'string') {
          const reference = readReference(member, base);
          if (reference) found.set(`${reference.type}/${reference.id}`, reference);
        } else if (typeof member === 'object') visit(member);
      }
    }
  };
  visit(resource);
  return [...found.values()];
}

function readReference(text: string, base: URL): { type: string; id: string } | undefined {
  const relative = text.startsWith(base.href) ? text.slice(base.href.length) : text;
  const match = /^([A-Z][A-Za-z]+)\/([A-Za-z0-9.-]{1,64})(?:\/_history\/[A-Za-z0-9.-]{1,64})?$/.exec(relative);
  return match?.[1] && match[2] ? { type: match[1], id: match[2] } : undefined;
}
