import { createFhirSource } from '../fhir/fhir-source.ts';
import type { Dialect, SourceOptions } from '../fhir/options.ts';
import type { Source } from '../source.ts';
import { ARIA_STREAMS } from './aria-streams.ts';

/** As for any FHIR source; without `streams` the profile's own. */
export type AriaSourceOptions = Omit<SourceOptions, 'streams'> & { streams?: SourceOptions['streams'] | undefined };

/** One line per way in which the ARIA API differs from a plain FHIR server. */
const ARIA: Dialect = {
  kind: 'aria',
  // Broad searches can be refused; clients send `_total=none` and scope by patient (aria-and-oncology.md section 2, "cost guard").
  searchParameters: [['_total', 'none']],
  // HAPI-1953 "Multiple Values detected for non-repeatable parameter" (aria-and-oncology.md section 2, "server").
  singleValuesOnly: true,
};

/**
 * A source that is the ARIA API (FHIR R4 on premises, "ARIA API Profile Implementation Guide" 1.0.0).
 * Errors as `createFhirSource`.
 */
export function createAriaSource(options: AriaSourceOptions): Source {
  return createFhirSource({ ...options, streams: options.streams ?? ARIA_STREAMS }, ARIA);
}
