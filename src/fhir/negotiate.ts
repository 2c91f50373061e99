/** A media range of an Accept header (RFC 9110 12.5.1). */
interface MediaRange {
  type: string;
  quality: number;
  parameters: ReadonlyMap<string, string>;
}

const FHIR_JSON_TYPES = new Set(['application/fhir+json', 'application/json', 'text/json']);

export function parseAccept(header: string | undefined): readonly MediaRange[] {
  if (header === undefined || header.trim() === '') return [{ type: '*/*', quality: 1, parameters: new Map() }];
  return header.split(',').map((part) => {
    const [type = '', ...rest] = part.split(';').map((text) => text.trim());
    const parameters = new Map(
      rest.map((text) => {
        const [name = '', value = ''] = text.split('=');
        return [name.trim().toLowerCase(), value.trim().replace(/^"|"$/g, '')] as const;
      }),
    );
    const quality = Number(parameters.get('q') ?? 1);
    return { type: type.toLowerCase(), quality: Number.isNaN(quality) ? 0 : quality, parameters };
  });
}

/** Whether FHIR JSON of R4 may be sent. `_format` beats Accept (R4 3.1.0.1.11). */
export function acceptsFhirJson(accept: string | undefined, format: string | undefined): boolean {
  if (format !== undefined) return format === 'json' || FHIR_JSON_TYPES.has(mediaType(format));
  return parseAccept(accept).some(
    ({ type, quality, parameters }) =>
      quality > 0 &&
      (FHIR_JSON_TYPES.has(type) || type === 'application/*' || type === '*/*') &&
      ['4.0', undefined].includes(parameters.get('fhirversion')),
  );
}

/**
 * How a Binary goes out: `fhir` where FHIR JSON was asked for by name, `raw` where its own type or anything is accepted
 * (R4 Binary, 2.42.3), undefined where neither is.
 */
export function binaryForm(accept: string | undefined, format: string | undefined, contentType: string): 'raw' | 'fhir' | undefined {
  const own = mediaType(contentType);
  if (format !== undefined) {
    if (format === 'json' || FHIR_JSON_TYPES.has(mediaType(format))) return 'fhir';
    return mediaType(format) === own ? 'raw' : undefined;
  }
  const ranges = parseAccept(accept).filter((range) => range.quality > 0);
  const best = (test: (type: string) => boolean): number =>
    Math.max(0, ...ranges.filter(({ type }) => test(type)).map((range) => range.quality));
  const fhir = best((type) => FHIR_JSON_TYPES.has(type));
  const raw = best((type) => (type === own && !FHIR_JSON_TYPES.has(own)) || type === '*/*' || type === `${own.split('/')[0]}/*`);
  if (fhir === 0 && raw === 0) return undefined;
  return fhir >= raw ? 'fhir' : 'raw';
}

function mediaType(text: string): string {
  // A `+` in a query string arrives as a space.
  return (text.split(';')[0] ?? '').trim().toLowerCase().replace(' ', '+');
}
