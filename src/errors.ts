/**
 * Every error that oncobridge raises on purpose, in one table. docs/errors.md is generated from it, the facade turns a
 * row into an OperationOutcome, the command line prints code and text. `text` is public: it never holds a value of a
 * patient, and says what to do.
 *
 * `issue` is the FHIR R4 IssueType (http://hl7.org/fhir/R4/valueset-issue-type.html).
 */
interface ErrorRow {
  status: number;
  issue: string;
  text: string;
}

export const ERRORS = {
  // -- configuration (exit 78) --
  CONFIG_INVALID: {
    status: 500,
    issue: 'invalid',
    text: 'The configuration is invalid. Correct the lines listed and run `oncobridge config check`.',
  },
  CONFIG_NOT_FOUND: { status: 500, issue: 'not-found', text: 'The configuration file does not exist. Name one with --config.' },
  SECRET_MISSING: {
    status: 500,
    issue: 'security',
    text: 'A secret that the configuration refers to is not set. Set the variable or make the file.',
  },
  SECRET_WEAK: {
    status: 500,
    issue: 'security',
    text: 'A secret is weak, a default, or lies where it must not. Make a new one of at least 16 random characters and keep it elsewhere.',
  },
  STREAM_BUSY: { status: 409, issue: 'conflict', text: 'The stream is being pulled already. Wait for it to finish.' },
  // -- http and FHIR --
  BAD_REQUEST: { status: 400, issue: 'invalid', text: 'The request is malformed.' },
  PARAMETER_UNKNOWN: {
    status: 400,
    issue: 'not-supported',
    text: 'A search parameter is not supported here. See the CapabilityStatement.',
  },
  PARAMETER_INVALID: { status: 400, issue: 'value', text: 'A search parameter has an invalid value.' },
  TOO_COSTLY: { status: 400, issue: 'too-costly', text: 'The search would have to open too many records. Narrow it to a patient.' },
  UNAUTHENTICATED: { status: 401, issue: 'login', text: 'A valid bearer token is required.' },
  FORBIDDEN: { status: 403, issue: 'forbidden', text: 'The token does not allow this kind of request.' },
  NOT_FOUND: { status: 404, issue: 'not-found', text: 'Not found.' },
  METHOD_NOT_ALLOWED: { status: 405, issue: 'not-supported', text: 'The method is not allowed here.' },
  NOT_ACCEPTABLE: { status: 406, issue: 'not-supported', text: 'None of the accepted formats can be produced.' },
  CONFLICT: { status: 409, issue: 'conflict', text: 'The resource was changed meanwhile. Read it again and repeat.' },
  IDENTITY_CONTRADICTED: {
    status: 409,
    issue: 'conflict',
    text: 'An identifier of a configured authority says otherwise. Have it corrected at the source, or repeat with --force.',
  },
  PRECONDITION_FAILED: { status: 412, issue: 'conflict', text: 'The version named in If-Match is not the current one.' },
  TOO_LARGE: { status: 413, issue: 'too-long', text: 'The request is too large.' },
  UNSUPPORTED_MEDIA: { status: 415, issue: 'not-supported', text: 'The content type is not supported.' },
  RANGE_NOT_SATISFIABLE: { status: 416, issue: 'value', text: 'The range asked for lies outside the content.' },
  UNPROCESSABLE: { status: 422, issue: 'business-rule', text: 'The resource says something that cannot be enforced here.' },
  THROTTLED: { status: 429, issue: 'throttled', text: 'Too many requests. Wait and repeat.' },
  INTERNAL: { status: 500, issue: 'exception', text: 'An internal error occurred. The request id finds it in the log.' },
  STALE: { status: 503, issue: 'transient', text: 'The ledger view is too old to decide. Try again shortly.' },
  UNAVAILABLE: { status: 503, issue: 'transient', text: 'A part that is needed is not available. Try again shortly.' },
  NOT_FETCHED: {
    status: 503,
    issue: 'transient',
    text: 'A document of another institution that you may read is not here yet. Try again; if this stays, the operator knows, and a search that names other patients is not held up.',
  },
  INCOMPLETE: {
    status: 200,
    issue: 'incomplete',
    text: 'The list is incomplete: documents of another institution that you may read could not be fetched. It is tried again; the operator has been alarmed.',
  },
  // -- records --
  CONTENT_INVALID: {
    status: 422,
    issue: 'invalid',
    text: 'The content of a record cannot be read. It was set aside; see the quarantine.',
  },
  INTEGRITY: {
    status: 500,
    issue: 'security',
    text: 'A stored object does not match the ledger. It is not served; the operator has been alarmed.',
  },
  // -- keys and sealed objects --
  KEYS_LOCKED: {
    status: 500,
    issue: 'security',
    text: 'The passphrase does not open the key store. Give the one it was made with.',
  },
  KEYS_BUSY: { status: 503, issue: 'lock-error', text: 'Another process holds the key store. Stop it, or use the command through it.' },
  KEYS_BROKEN: {
    status: 500,
    issue: 'security',
    text: 'The key store is damaged or belongs to another institution. Restore it from its own backup.',
  },
  KEY_MISSING: {
    status: 500,
    issue: 'security',
    text: 'No key is kept here that opens this. It was destroyed, or was never given to this institution.',
  },
  KEY_DIFFERS: {
    status: 500,
    issue: 'security',
    text: "The ledger names a category key that is not this key store's. Nothing is sealed to it; restore the key store's newest backup, or find out who published it.",
  },
  CATEGORY_KEY_UNPUBLISHED: {
    status: 503,
    issue: 'transient',
    text: "The ledger has no key of the patient's for this category. It waits until the patient's device publishes one.",
  },
  CUSTODY_REFUSED: {
    status: 403,
    issue: 'forbidden',
    text: 'The custodian signs only for a patient in its custody, on behalf of that patient or of a registrar.',
  },
  SEAL_BROKEN: {
    status: 500,
    issue: 'security',
    text: 'A sealed object or row was altered, or is not the expected one. Nothing of it is used.',
  },
  ENVELOPE_UNFIT: {
    status: 422,
    issue: 'business-rule',
    text: "An envelope does not fit the statement. Send those that the payload names under this institution's prefix, whole, and no other.",
  },
  ENVELOPE_QUOTA: {
    status: 429,
    issue: 'throttled',
    text: 'More came in envelopes than is kept here for one patient or one other institution. Hand the statement to another gateway, or wait.',
  },
  // -- directories of other institutions --
  DIRECTORY_MALFORMED: { status: 422, issue: 'structure', text: 'This is no signed directory of an institution on this ledger.' },
  DIRECTORY_SIGNATURE: {
    status: 422,
    issue: 'security',
    text: "The directory is not signed by the institution's key on the ledger. Have it exported again; if that does not help, the file was altered.",
  },
  DIRECTORY_KEY: {
    status: 422,
    issue: 'security',
    text: 'The directory names another key than the ledger does. Nothing is wrapped to it. Have it exported again.',
  },
  DIRECTORY_MEMBER: {
    status: 422,
    issue: 'security',
    text: 'A member of the directory is not so on the ledger: unknown, suspended, expired, or of another role or key.',
  },
  DIRECTORY_EXPIRED: { status: 422, issue: 'expired', text: 'The directory has expired. Have the institution export it again.' },
  // -- what other institutions' patients share --
  ENVELOPE_BROKEN: {
    status: 503,
    issue: 'security',
    text: 'An envelope in the shared store is not the one that the ledger names. It is fetched again; nothing of it is used.',
  },
  ENVELOPE_KEY: {
    status: 422,
    issue: 'security',
    text: "An envelope holds another key than the patient's on the ledger. Nothing is fetched with it; the patient grants anew.",
  },
  SHARED_HASH: {
    status: 503,
    issue: 'security',
    text: 'An object in the shared store is not the one that the ledger names. It is fetched again; nothing of it is used.',
  },
  SHARED_KEY: {
    status: 503,
    issue: 'security',
    text: 'No key was given here for this version of the category. It is opened once an envelope brings one.',
  },
  SHARED_CONTENT: {
    status: 422,
    issue: 'security',
    text: 'A shared object says more than its entry allows. Nothing of it is served; the institution that sealed it must enter it anew.',
  },
  SHARED_ID_TAKEN: {
    status: 409,
    issue: 'duplicate',
    text: "A shared object uses an id that is somebody else's here. Nothing of it is served.",
  },
  SHARED_QUOTA: {
    status: 503,
    issue: 'throttled',
    text: 'More is shared here than a quota takes. It waits; raise the quota under `sharing`, or have less granted.',
  },
  // -- blobs --
  BLOB_NAME: { status: 500, issue: 'invalid', text: 'A blob name must be <institution>/[envelopes/]<sha256 in hex>.' },
  BLOB_MISSING: {
    status: 503,
    issue: 'not-found',
    text: 'A stored object is missing, or the store hides it from our credential. Run `oncobridge reconcile` and `oncobridge doctor store`.',
  },
  BLOB_TOO_LARGE: {
    status: 500,
    issue: 'too-long',
    text: 'A stored object is larger than any that is made here. It is not read; ask the institution under whose prefix it lies.',
  },
  STORE_REFUSED: {
    status: 503,
    issue: 'security',
    text: "The object store refuses our request. Run `oncobridge doctor store`; check the credential, its policy, bucket, region and this machine's clock.",
  },
  // -- sources --
  SOURCE_STREAM: { status: 500, issue: 'not-found', text: 'The source has no such stream. See the source in the configuration.' },
  SOURCE_MARK: {
    status: 500,
    issue: 'invalid',
    text: "The stream's stored mark cannot be read. Clear it to read everything again; docs/operations.md says how.",
  },
  SOURCE_UNREACHABLE: {
    status: 503,
    issue: 'transient',
    text: 'The source cannot be reached or keeps failing. It is tried again at the next pull; if this stays, check its address and the network.',
  },
  SOURCE_TLS: {
    status: 502,
    issue: 'security',
    text: "The source's TLS certificate is not trusted. Name its authority in `tls.ca`; checks cannot be switched off.",
  },
  SOURCE_AUTHENTICATION: {
    status: 502,
    issue: 'login',
    text: 'Authentication failing: the source or its token service refuses our credentials. Check client id, secret or key, and scopes.',
  },
  SOURCE_THROTTLED: {
    status: 503,
    issue: 'throttled',
    text: 'The source asks us to wait longer than one pull may. The next pull goes on.',
  },
  SOURCE_REFUSED: {
    status: 502,
    issue: 'processing',
    text: 'The source refuses the request. Check the search in the stream, and the scopes.',
  },
  SOURCE_RESPONSE: {
    status: 502,
    issue: 'structure',
    text: "The source's answer is damaged or is not FHIR. The page is read again at the next pull.",
  },
  SOURCE_ORIGIN: {
    status: 502,
    issue: 'security',
    text: 'The source leads to an origin that is not allowed. If it is the same server, add it to `allowedOrigins`.',
  },
  SOURCE_PAGING: {
    status: 502,
    issue: 'structure',
    text: "The source's pages go round in a circle. The stream stops here and its mark stays.",
  },
  SOURCE_TOO_LARGE: {
    status: 502,
    issue: 'too-long',
    text: "The source's answer exceeds a limit. Lower the page size or raise the limit.",
  },
  // -- store and queue --
  POSTGRES_MISSING: {
    status: 500,
    issue: 'not-found',
    text: 'The embedded PostgreSQL is not installed for this platform. Run `npm install` (with optional dependencies), or configure a PostgreSQL by URL.',
  },
  POSTGRES_ROOT: {
    status: 500,
    issue: 'security',
    text: 'PostgreSQL does not run as root, user namespaces are barred here, and no unprivileged account can reach both the program and the data folder. Start oncobridge as an ordinary user, or move the data folder and the program where such an account can reach them, or configure a PostgreSQL by URL.',
  },
  POSTGRES_FAILED: {
    status: 500,
    issue: 'exception',
    text: 'The embedded PostgreSQL did not start. Its log lies in its folder beside the data.',
  },
  POSTGRES_BUSY: {
    status: 500,
    issue: 'lock-error',
    text: 'Another process holds the database folder and its server does not answer. Wait for it or end it.',
  },
  POSTGRES_VERSION: {
    status: 500,
    issue: 'not-supported',
    text: 'The database folder was made by another major version of PostgreSQL. Dump it with that version and restore it into a new folder.',
  },
  MIGRATION_NEWER: {
    status: 500,
    issue: 'not-supported',
    text: 'The database was migrated by a newer oncobridge. Install that version or newer.',
  },
  MIGRATION_EDITED: {
    status: 500,
    issue: 'conflict',
    text: 'A migration that the database already has was changed afterwards. Restore the file; changes go into a new migration.',
  },
  QUEUE_EVICTS: {
    status: 500,
    issue: 'business-rule',
    text: 'Redis may evict jobs. Set `maxmemory-policy noeviction`.',
  },
  QUEUE_UNAVAILABLE: { status: 503, issue: 'transient', text: 'The queue does not answer. Check its server; nothing is lost meanwhile.' },
  // -- ledger --
  LEDGER_REFUSED: { status: 422, issue: 'business-rule', text: 'The ledger contract refused the transaction; nothing was written.' },
  LEDGER_MISMATCH: {
    status: 500,
    issue: 'exception',
    text: 'Endorsers disagree about the effect of a transaction. It was not sent; the operator has been alarmed.',
  },
  LEDGER_CONFLICT: {
    status: 409,
    issue: 'conflict',
    text: 'The ledger found the transaction invalid because what it read had changed. Endorse it anew.',
  },
  LEDGER_INVALID: {
    status: 500,
    issue: 'processing',
    text: 'The ledger committed the transaction as invalid. An operator must look at it.',
  },
  LEDGER_UNKNOWN: {
    status: 503,
    issue: 'transient',
    text: 'It is not known whether the ledger committed the transaction. Ask for its status, then submit the same bytes.',
  },
  LEDGER_UNAVAILABLE: { status: 503, issue: 'transient', text: 'The ledger cannot be reached. Nothing was sent. Try again shortly.' },
  LEDGER_UNPINNED: {
    status: 500,
    issue: 'invalid',
    text: 'No ledger id is configured. One institution runs `oncobridge ledger found`; everybody writes the id that it prints into `ledger.id`.',
  },
  LEDGER_NOT_FOUNDED: {
    status: 500,
    issue: 'not-found',
    text: 'The contract on this channel is not founded yet. One institution runs `oncobridge ledger found`.',
  },
  LEDGER_OTHER: {
    status: 500,
    issue: 'security',
    text: 'This is another ledger than the one named: every signature binds the ledger id. Correct `ledger.id` or the channel; for a new ledger use a new data directory and database.',
  },
  INSTITUTION_NOT_REGISTERED: {
    status: 500,
    issue: 'not-found',
    text: 'This institution is not registered on the ledger. Run `oncobridge ledger join` and have the statement co-signed and submitted.',
  },
  LEDGER_CORRUPT: {
    status: 500,
    issue: 'security',
    text: 'The stored ledger contradicts itself or its tip file. Run `oncobridge ledger verify`.',
  },
  // -- Fabric network of our own (network/) --
  FABRIC_MISSING: {
    status: 500,
    issue: 'not-found',
    text: "Fabric's commands are not there and cannot be built. Install Go 1.24 or newer (https://go.dev/dl), or set FABRIC_BIN to a folder with peer, orderer, configtxgen, cryptogen and osnadmin.",
  },
  FABRIC_BUILD: {
    status: 500,
    issue: 'exception',
    text: "Building Fabric's commands failed. Check the network and the version of Go, or set FABRIC_BIN to a folder with ready ones.",
  },
  FABRIC_NODE: {
    status: 500,
    issue: 'exception',
    text: 'A process of the Fabric network did not come up. Its log lies in the folder of the network under logs/.',
  },
  FABRIC_STEP: {
    status: 500,
    issue: 'exception',
    text: 'A step of making the Fabric network failed. What stands remains; `npm run fabric -- up` goes on from there, `down` removes it.',
  },
  FABRIC_FOLDER: {
    status: 409,
    issue: 'conflict',
    text: 'The folder does not hold the Fabric network that was asked for. Name another folder, or take down what is there.',
  },
  FABRIC_BUSY: {
    status: 409,
    issue: 'lock-error',
    text: 'Another process is bringing this Fabric network up or down. Wait for it to finish.',
  },
  LEDGER_DEFINITION: {
    status: 503,
    issue: 'business-rule',
    text: 'The network has put a contract definition into force that this institution has not approved. Nothing after it is followed until it is approved.',
  },
  // -- linking with a patient of another institution (protocol section 8) --
  LINK_MALFORMED: { status: 422, issue: 'invalid', text: 'This is no linking code, or it was damaged on the way. Copy or scan it again.' },
  LINK_MISSING: {
    status: 422,
    issue: 'required',
    text: "No linking code was given, and this patient is not linked yet. A code of the receiving institution must be in the permission's envelope.",
  },
  LINK_UNKNOWN: { status: 422, issue: 'not-found', text: 'This institution has not made this linking code. Ask it for a new one.' },
  LINK_EXPIRED: { status: 422, issue: 'expired', text: 'The linking code has expired or was taken back. Ask for a new one.' },
  LINK_REJECTED: {
    status: 403,
    issue: 'forbidden',
    text: 'Somebody of this institution has rejected the link. Nothing of this patient is taken until they come with a new code.',
  },
  LINK_USED: { status: 422, issue: 'duplicate', text: 'The linking code was used by somebody else before. Ask for a new one.' },
  LINK_OTHER: {
    status: 422,
    issue: 'business-rule',
    text: 'The linking code is that of another institution, or the patient is linked to somebody else here.',
  },
  // -- rendering --
  RENDER_FAILED: {
    status: 500,
    issue: 'exception',
    text: 'A document could not be rendered. Its records were set aside; see the quarantine.',
  },
  PDF_UNREADABLE: { status: 422, issue: 'invalid', text: 'The file is no PDF of ours: it cannot be read, or carries no FHIR Bundle.' },
} as const satisfies Record<string, ErrorRow>;

export type ErrorCode = keyof typeof ERRORS;

/** Where in a request, file or record the error lies; never holds a value of a patient. */
export interface ErrorDetail {
  /** What exactly, for the reader of the answer; free of patient data. */
  diagnostics?: string;
  /** FHIRPath or parameter names at fault. */
  expression?: string[];
  /** Seconds after which a retry makes sense. */
  retryAfterSeconds?: number;
  cause?: unknown;
}

/** An error of the table. `message` is `CODE: text diagnostics`. */
export class CodedError extends Error {
  readonly code: ErrorCode;
  readonly detail: ErrorDetail;
  constructor(code: ErrorCode, detail: ErrorDetail = {}) {
    const text = ERRORS[code].text;
    super(`${code}: ${text}${detail.diagnostics ? ` ${detail.diagnostics}` : ''}`, { cause: detail.cause });
    this.name = 'CodedError';
    this.code = code;
    this.detail = detail;
  }
}

/** The code of an error of the table, else undefined. */
export function codeOf(error: unknown): ErrorCode | undefined {
  return error instanceof CodedError ? error.code : undefined;
}
