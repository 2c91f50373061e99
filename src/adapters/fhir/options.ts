/**
 * Everything that a FHIR source can be told. The config schema produces exactly these objects, secrets already resolved.
 * Optional members may be absent or `undefined`; the defaults stand in DEFAULT_LIMITS and in the comments.
 */
export interface SourceOptions {
  /** The source's id in the config; part of every record's name. */
  id: string;
  /** FHIR base without a trailing slash, e.g. `https://aria.example:55370/fhir/r4`. */
  baseUrl: string;
  /**
   * Further origins (`https://host:port`) that page links and attachments may lead to, *with the token*: other names of
   * the same server. The origin of `baseUrl` is always allowed. Everything else is refused.
   */
  allowedOrigins?: readonly string[] | undefined;
  /** Origins that attachments may be read from *without the token* (a pre-signed store). */
  attachmentOrigins?: readonly string[] | undefined;
  auth: AuthOptions;
  tls?: TlsOptions | undefined;
  limits?: Partial<LimitOptions> | undefined;
  streams: readonly StreamOptions[];
}

export interface TlsOptions {
  /** PEM text of the certificate authorities to trust *beside* the public ones: an internal CA. Checks are never switched off. */
  caPem?: string | undefined;
}

export type AuthOptions = NoAuth | ClientCredentials | SmartBackend;
export interface NoAuth {
  type: 'none';
}
/** OAuth2 client credentials with a shared secret in the form body: what ARIA's token service takes. */
export interface ClientCredentials {
  type: 'client-credentials';
  /** Required: a shared secret is never sent to a URL that a server told us. */
  tokenUrl: string;
  clientId: string;
  clientSecret: string;
  scopes: readonly string[];
}
/** SMART Backend Services: private_key_jwt (http://hl7.org/fhir/smart-app-launch/backend-services.html). */
export interface SmartBackend {
  type: 'smart-backend';
  /** Absent: read from `.well-known/smart-configuration`; it must then lie on an allowed origin. */
  tokenUrl?: string | undefined;
  clientId: string;
  /** PKCS#8 PEM, or the JSON text of a private JWK. */
  privateKey: string;
  algorithm: 'ES384' | 'RS384';
  /** `kid` of the assertion; absent: the key's RFC 7638 thumbprint. */
  keyId?: string | undefined;
  scopes: readonly string[];
}

export interface LimitOptions {
  /** Requests per second, all streams of the source together. */
  requestsPerSecond: number;
  /** Requests under way at the same time. */
  concurrency: number;
  /** One request, from its start to the last byte of its answer. */
  timeoutMs: number;
  /** Retries after the first attempt: 429, 5xx, timeouts, broken connections. Never 400, 404, 422. */
  maxRetries: number;
  /** Backoff: decorrelated jitter from `retryBaseMs` up to `retryCapMs`. A longer Retry-After ends the pull, coded. */
  retryBaseMs: number;
  retryCapMs: number;
  /** Retries that may be outstanding over all requests; every 5 successes give one back. */
  retryBudget: number;
  breaker: { failures: number; halfOpenAfterMs: number };
  /** One page, after decompression. */
  maxPageBytes: number;
  maxAttachmentBytes: number;
  /** All answers of one pull. */
  maxPullBytes: number;
  /** Pages of one search chain. */
  maxPages: number;
}

export const DEFAULT_LIMITS: LimitOptions = {
  requestsPerSecond: 5,
  concurrency: 2,
  timeoutMs: 20_000,
  maxRetries: 4,
  retryBaseMs: 500,
  retryCapMs: 30_000,
  retryBudget: 20,
  breaker: { failures: 10, halfOpenAfterMs: 30_000 },
  maxPageBytes: 64 * 2 ** 20,
  maxAttachmentBytes: 200 * 2 ** 20,
  maxPullBytes: 16 * 2 ** 30,
  maxPages: 20_000,
};

/** What is fetched beside the records of a search. */
export interface FollowOptions {
  /** Referenced resources to read once per pull and to yield before whatever refers to them. */
  types: readonly ('Patient' | 'Practitioner' | 'Organization')[];
  /** Fetch what `Attachment.url` names (DocumentReference.content, DiagnosticReport.presentedForm) and decode inline data. */
  attachments: boolean;
}

export type StreamOptions = LastUpdatedStream | PatientSweepStream;

/** For a server that searches by `_lastUpdated`. */
export interface LastUpdatedStream {
  id: string;
  strategy: 'last-updated';
  /** `Type?query` templates, each with its own cursor; no `_lastUpdated`, `_count` or `_sort` in them. */
  searches: readonly string[];
  /** Each pull reads again this far before the cursor; late and simultaneous records are caught by it. */
  lookbackMs: number;
  /** FHIR date or instant where the first pull begins; absent: at the server's oldest record. */
  initialSince?: string | undefined;
  /** `_count`. */
  pageSize: number;
  /** `_sort` value, where the server offers one; absent: not sent. */
  sort?: string | undefined;
  /**
   * Known patients whose records are read again in each pull, in rotation, by the same searches with `patient=<id>`: the
   * safety net for late arrivals, and the only way in which a deletion is seen. Absent or 0: none.
   */
  rescanPatientsPerPull?: number | undefined;
  follow: FollowOptions;
}

/** For a server without `_lastUpdated` on what is wanted: find patients, read each one's records, compare. */
export interface PatientSweepStream {
  id: string;
  strategy: 'patient-sweep';
  /** How patients with news are found; absent: only patients already known are swept. */
  discover?: DiscoverOptions | undefined;
  /** `Type?query` templates; `patient=<id>` is added to each. */
  perPatient: readonly string[];
  /** Already known patients to sweep in one pull beside the discovered ones, in rotation. Absent: all of them. */
  knownPatientsPerPull?: number | undefined;
  pageSize: number;
  follow: FollowOptions;
}

export interface DiscoverOptions {
  /** A `Type?query` template of something that *has* `_lastUpdated` and refers to patients, e.g. `Appointment`. */
  search: string;
  lookbackMs: number;
  initialSince?: string | undefined;
}

/**
 * How a server differs from plain FHIR. A profile (aria/) sets these; they are not for the config.
 */
export interface Dialect {
  kind: string;
  /** Parameters added to every search, e.g. `_total=none`. */
  searchParameters: readonly (readonly [name: string, value: string])[];
  /** True where a repeated or comma-joined parameter is refused: such a template becomes one search per value. */
  singleValuesOnly: boolean;
}

export const PLAIN_FHIR: Dialect = { kind: 'fhir', searchParameters: [], singleValuesOnly: false };
