import type { Consent } from 'fhir/r4.js';
import type { Audit } from '../audit/audit.ts';
import type { Actor } from '../auth/actor.ts';
import type { Interaction } from '../auth/scopes.ts';
import type { readableScope } from '../consent/readable-scope.ts';
import type { BlobStore } from '../store/blobs.ts';
import type { Database, Sql } from '../store/database.ts';
import type { Custodian } from '../vault/custodian.ts';
import type { Sealer } from '../vault/sealed-object.ts';
import type { SealedRows } from '../vault/sealed-rows.ts';

/** Who asks, and when: what every operation of the facade takes. `now` is one moment for the whole request. */
export interface Caller {
  actor: Actor;
  requestId: string;
  /** Client address, for the audit. */
  address?: string;
  now: Date;
  /** Path and query (or form) as sent, for the audit, which keeps it sealed. */
  query?: string;
  /** The view of the ledger is too old: only what a declared emergency opens is in scope. */
  breakGlass?: true;
}

export interface PatientKey {
  institution: string;
  patient: string;
}

/** A resource as another part hands it over: its exact JSON text, stamped with id and meta. */
export interface ServedResource {
  type: string;
  id: string;
  versionId: string;
  lastUpdated: Date;
  text: string;
  /** Whom it is about, for the audit. */
  patients: readonly PatientKey[];
}

/**
 * Consents, as the consent room keeps them (their text is the ledger's permissions). Every call answers within what this
 * actor may see; hidden and missing are both `undefined`.
 */
export interface ConsentPort {
  /**
   * Writes the permissions of a new Consent. `committed` false: accepted, not yet on the ledger (answered 202). Throws
   * UNPROCESSABLE where it cannot be enforced, FORBIDDEN or NOT_FOUND where this actor may not write for that patient.
   */
  createConsent(actor: Actor, resource: Consent, caller: Caller): Promise<{ resource: ServedResource; committed: boolean }>;
  /** `ifMatch` is the version named by the client; PRECONDITION_FAILED where another is current, NOT_FOUND where hidden or missing. */
  updateConsent(
    actor: Actor,
    id: string,
    resource: Consent,
    ifMatch: string | undefined,
    caller: Caller,
  ): Promise<{ resource: ServedResource; committed: boolean }>;
  readConsent(actor: Actor, id: string, now: Date): Promise<ServedResource | undefined>;
  /** All Consents that the actor may see, of these patients where named. The facade filters, sorts and pages. Throws TOO_COSTLY where they are too many. */
  searchConsents(actor: Actor, query: { patients?: readonly string[]; now: Date }): Promise<readonly ServedResource[]>;
}

/** Audit events as FHIR resources: the patient's own, or all for the privacy officer. Newest first. */
export interface AuditEventPort {
  readAuditEvent(actor: Actor, id: string, now: Date): Promise<ServedResource | undefined>;
  searchAuditEvents(
    actor: Actor,
    query: {
      patients?: readonly string[];
      /** Inclusive bounds of `recorded`. */
      from?: Date;
      until?: Date;
      count: number;
      /** Where the page before ended, as the port said it. */
      after?: string;
      now: Date;
    },
  ): Promise<{ resources: readonly ServedResource[]; after?: string }>;
}

export interface FacadeParts {
  database: Database;
  /** Look-ups by id, those of requests at the same time together: `createGatheredReads` of src/store/gathered-reads.ts. */
  reads: Sql;
  rows: SealedRows;
  sealer: Sealer;
  /** Opens the document keys of what another institution recorded and we hold. */
  custodian: Pick<Custodian, 'unwrapDocumentKey'>;
  blobs: BlobStore;
  audit: Audit;
  consents: ConsentPort;
  auditEvents: AuditEventPort;
  /** The actor of a bearer token; throws UNAUTHENTICATED. */
  verifyToken(token: string): Promise<Actor>;
  /** Whether the projection may answer (protocol, section 5). Where it may not, only break-glass is served: `access`. */
  fresh(): boolean | Promise<boolean>;
  /** Whether the token's scopes allow this at all, decided from the request alone: `scopeAllows` of src/auth/scopes.ts. */
  allows(actor: Actor, type: string, interaction: Interaction): boolean;
  /** The readable scope; `src/consent/readable-scope.ts` in production. */
  readableScope: typeof readableScope;
  /** An object that does not match the ledger, or is gone: raise the alarm. */
  onIntegrity(alarm: { document: string; version: number; reason: string }): void;
  /** Errors that the client sees as INTERNAL. */
  onError(error: unknown, requestId: string): void;
  clock(): Date;
  /** 32 bytes: seals the cursors of pages. The same in every process of the institution. */
  cursorKey: Uint8Array;
  institution: string;
}

export interface FacadeSettings {
  /** Public address of the FHIR base, without a slash at its end: `https://fhir.example.org/fhir`. */
  baseUrl: string;
  /** Patients that a search on sealed values may open (architecture section 4). */
  maxPinned: number;
  /** Rows that one such search may open. */
  maxOpened: number;
  defaultCount: number;
  maxCount: number;
  maxIncluded: number;
  cursorLifetimeMs: number;
  /** Requests a minute and client; 0: no limit. */
  requestsPerMinute: number;
  smart: SmartEndpoints;
  software: { name: string; version: string };
}

export interface SmartEndpoints {
  issuer: string;
  tokenEndpoint: string;
  jwksUri?: string;
  authorizationEndpoint?: string;
  introspectionEndpoint?: string;
  scopesSupported: readonly string[];
  capabilities: readonly string[];
}

export const DEFAULT_SETTINGS: Omit<FacadeSettings, 'baseUrl' | 'smart' | 'software'> = {
  maxPinned: 50,
  maxOpened: 20_000,
  defaultCount: 50,
  maxCount: 500,
  maxIncluded: 1000,
  cursorLifetimeMs: 15 * 60_000,
  requestsPerMinute: 0,
};

/** What an operation answers: ready to be sent. */
export interface Answer {
  status: number;
  headers: Readonly<Record<string, string>>;
  body: string | Uint8Array | undefined;
}
