import { SEARCH_PARAMETERS } from '../records/search-parameters.ts';

/**
 * The resource types of the facade and how each is kept. `document`: rows of a document version, visible while the ledger
 * says so. `patient`: the one row of a person. `directory`: staff and organisations. `ledger`: made by the consent and
 * audit rooms when asked.
 */
export type Shelf = 'document' | 'patient' | 'directory' | 'ledger';

export interface ServedType {
  type: string;
  shelf: Shelf;
  /** As the CapabilityStatement says it. */
  interactions: readonly ('read' | 'vread' | 'history-instance' | 'search-type' | 'create' | 'update')[];
}

const ROWS = ['read', 'vread', 'history-instance', 'search-type'] as const;

export const SERVED_TYPES: ReadonlyMap<string, ServedType> = new Map(
  (
    [
      ['Patient', 'patient', ROWS],
      ['Practitioner', 'directory', ROWS],
      ['Organization', 'directory', ROWS],
      ['Observation', 'document', ROWS],
      ['DiagnosticReport', 'document', ROWS],
      ['Procedure', 'document', ROWS],
      ['ServiceRequest', 'document', ROWS],
      ['BodyStructure', 'document', ROWS],
      ['DocumentReference', 'document', ROWS],
      ['Provenance', 'document', ROWS],
      ['Binary', 'document', ['read']],
      ['Consent', 'ledger', ['read', 'search-type', 'create', 'update']],
      ['AuditEvent', 'ledger', ['read', 'search-type']],
    ] as const
  ).map(([type, shelf, interactions]) => [type, { type, shelf, interactions }]),
);

/** Types that can be searched, and so be included. */
export function isSearchable(type: string): boolean {
  return SEARCH_PARAMETERS.has(type) && (SERVED_TYPES.get(type)?.interactions.includes('search-type') ?? false);
}
