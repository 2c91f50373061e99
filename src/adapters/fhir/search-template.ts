import { CodedError } from '../../errors.ts';

/** A `Type?query` template of the config, taken apart. */
export interface SearchTemplate {
  type: string;
  /** Decoded names and values in the order written. */
  parameters: readonly (readonly [name: string, value: string])[];
}

/** Reads a template; CONFIG_INVALID where it is none. */
export function parseTemplate(text: string): SearchTemplate {
  const [type, query = ''] = splitOnce(text, '?');
  if (!/^[A-Z][A-Za-z]+$/.test(type))
    throw new CodedError('CONFIG_INVALID', { diagnostics: `"${text}" is no search such as \`Type?name=value\`.` });
  const parameters = query
    .split('&')
    .filter((pair) => pair !== '')
    .map((pair): readonly [string, string] => {
      const [name, value = ''] = splitOnce(pair, '=');
      return [decode(name), decode(value)];
    });
  return { type, parameters };
}

/**
 * The searches that together say what the template says, each parameter once and with one value: for servers that refuse
 * repeated or comma-joined parameters (HAPI-1953). Values joined by a comma mean "or", so their results are merged.
 * A repeated parameter means "and", which cannot be split: CONFIG_INVALID.
 */
export function splitIntoSingleValues(template: SearchTemplate): SearchTemplate[] {
  const names = template.parameters.map(([name]) => name);
  if (new Set(names).size !== names.length) {
    throw new CodedError('CONFIG_INVALID', { diagnostics: `A search of ${template.type} repeats a parameter, which this server refuses.` });
  }
  let searches: (readonly [string, string])[][] = [[]];
  for (const [name, value] of template.parameters) {
    // A comma behind a backslash belongs to the value (R4 3.1.1.4.0.1).
    const values = value.match(/(?:\\.|[^,\\])+/g) ?? [''];
    searches = searches.flatMap((search) => values.map((one) => [...search, [name, one] as const]));
  }
  return searches.map((parameters) => ({ type: template.type, parameters }));
}

/** The URL of a search. Encoded as R4 wants it: `|` and `:` of tokens percent-encoded, spaces as %20. */
export function searchUrl(base: URL, template: SearchTemplate, extra: readonly (readonly [name: string, value: string])[]): URL {
  const query = [...template.parameters, ...extra].map(([name, value]) => `${encodeURIComponent(name)}=${encodeURIComponent(value)}`);
  return new URL(`${template.type}${query.length > 0 ? `?${query.join('&')}` : ''}`, base);
}

function splitOnce(text: string, separator: string): [string, string?] {
  const at = text.indexOf(separator);
  return at < 0 ? [text] : [text.slice(0, at), text.slice(at + 1)];
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
