import type { OperationOutcome } from 'fhir/r4.js';
import { CodedError, ERRORS, type ErrorCode, type ErrorDetail } from '../errors.ts';

/** An error as it leaves over HTTP: the same for the same code, whatever data lies behind it. */
export interface ErrorAnswer {
  status: number;
  code: ErrorCode;
  headers: Readonly<Record<string, string>>;
  body: string;
}

/** The answer to an error: coded ones as the table says, those of the HTTP parsers by their kind, all others INTERNAL. */
export function errorAnswer(error: unknown): ErrorAnswer {
  const coded = error instanceof CodedError ? error : fromParser(error);
  const { status } = ERRORS[coded.code];
  const headers: Record<string, string> = {};
  if (status === 401) headers['WWW-Authenticate'] = 'Bearer realm="fhir"';
  const retryAfter = coded.detail.retryAfterSeconds ?? (status === 429 || status === 503 ? 5 : undefined);
  if (retryAfter !== undefined) headers['Retry-After'] = String(Math.max(1, Math.ceil(retryAfter)));
  return { status, code: coded.code, headers, body: JSON.stringify(operationOutcome(coded.code, coded.detail)) };
}

export function operationOutcome(code: ErrorCode, detail: ErrorDetail = {}, severity: 'error' | 'warning' = 'error'): OperationOutcome {
  const { issue, text, status } = ERRORS[code];
  return {
    resourceType: 'OperationOutcome',
    issue: [
      {
        severity: status >= 500 && severity === 'error' && issue === 'exception' ? 'fatal' : severity,
        code: issue as OperationOutcome['issue'][number]['code'],
        details: { coding: [{ system: 'urn:oncobridge:error', code }], text },
        // Details of a server's own failure stay in the log.
        ...(detail.diagnostics !== undefined && status < 500 ? { diagnostics: detail.diagnostics } : {}),
        ...(detail.expression !== undefined ? { expression: detail.expression } : {}),
      },
    ],
  };
}

/** Errors that express and its body parsers raise (http-errors: `status`, `type`), as rows of the table. */
function fromParser(error: unknown): CodedError {
  const { status, type } = (error ?? {}) as { status?: unknown; type?: unknown };
  if (type === 'entity.too.large' || status === 413) return new CodedError('TOO_LARGE');
  if (status === 415) return new CodedError('UNSUPPORTED_MEDIA');
  if (type === 'request.aborted' || (typeof status === 'number' && status >= 400 && status < 500)) return new CodedError('BAD_REQUEST');
  return new CodedError('INTERNAL', { cause: error });
}
