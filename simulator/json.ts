/**
 * JSON as the simulated servers write it. A decimal is kept as the text that the source typed, so that 2.00 goes out as
 * 2.00: FHIR R4 says that the precision of a decimal matters (http://hl7.org/fhir/R4/datatypes.html#decimal).
 */
interface Decimal {
  readonly rawJSON: string;
}
export type Json = string | number | boolean | null | Decimal | readonly Json[] | JsonObject;
export interface JsonObject {
  readonly [key: string]: Json | undefined;
}
export interface Resource extends JsonObject {
  readonly resourceType: string;
  readonly id: string;
}

// JSON.rawJSON is in Node 22 and later; TypeScript's library does not describe it yet.
const rawJson = (JSON as unknown as { rawJSON(text: string): Decimal }).rawJSON;

/** A decimal written to the wire exactly as `text`. Throws a SyntaxError where `text` is no JSON number. */
export function decimal(text: string): Decimal {
  if (!/^-?(0|[1-9]\d*)(\.\d+)?$/.test(text)) throw new SyntaxError('not a FHIR decimal');
  return rawJson(text);
}

/** The JSON text of a value; members that are undefined are left out. */
export function jsonText(value: Json): string {
  return JSON.stringify(value);
}

/** All values found by following member names, arrays flattened on the way: `values(report, 'category', 'coding')`. */
export function values(value: Json | undefined, ...path: readonly string[]): Json[] {
  const [name, ...rest] = path;
  if (value === undefined || value === null) return [];
  if (Array.isArray(value)) return value.flatMap((item: Json) => values(item, ...path));
  if (name === undefined) return [value];
  return typeof value === 'object' ? values((value as JsonObject)[name], ...rest) : [];
}

/** As `values`, strings only. */
export function strings(value: Json | undefined, ...path: readonly string[]): string[] {
  return values(value, ...path).filter((item) => typeof item === 'string');
}
