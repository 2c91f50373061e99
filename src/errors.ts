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
  PRECONDITION_FAILED: { status: 412, issue: 'conflict', text: 'The version named in If-Match is not the current one.' },
  TOO_LARGE: { status: 413, issue: 'too-long', text: 'The request is too large.' },
  UNSUPPORTED_MEDIA: { status: 415, issue: 'not-supported', text: 'The content type is not supported.' },
  UNPROCESSABLE: { status: 422, issue: 'business-rule', text: 'The resource says something that cannot be enforced here.' },
  THROTTLED: { status: 429, issue: 'throttled', text: 'Too many requests. Wait and repeat.' },
  INTERNAL: { status: 500, issue: 'exception', text: 'An internal error occurred. The request id finds it in the log.' },
  STALE: { status: 503, issue: 'transient', text: 'The ledger view is too old to decide. Try again shortly.' },
  UNAVAILABLE: { status: 503, issue: 'transient', text: 'A part that is needed is not available. Try again shortly.' },
  INTEGRITY: {
    status: 500,
    issue: 'security',
    text: 'A stored object does not match the ledger. It is not served; the operator has been alarmed.',
  },
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
