import * as http from 'node:http';
import * as https from 'node:https';
import type { Readable } from 'node:stream';
import { rootCertificates } from 'node:tls';
import { createBrotliDecompress, createGunzip, createInflate } from 'node:zlib';
import { CodedError, codeOf } from '../../errors.ts';

/**
 * One HTTP exchange and nothing else: exact bytes, one timeout over the whole answer, a byte limit after decompression,
 * a CA bundle per source, no redirect followed. node:http(s) rather than fetch, because the fetch that Node ships takes a
 * CA only through a package that it does not export (fhir-facade.md section 6, traps 3 and 4).
 */
export interface HttpTransport {
  /** Rejects with SOURCE_UNREACHABLE, SOURCE_TLS or SOURCE_TOO_LARGE; any status is an answer. */
  exchange(request: HttpRequest): Promise<HttpAnswer>;
  close(): void;
}
export interface HttpRequest {
  method: 'GET' | 'POST';
  url: URL;
  headers: Readonly<Record<string, string>>;
  body?: string;
  maxBytes: number;
  timeoutMs: number;
  signal?: AbortSignal | undefined;
}
export interface HttpAnswer {
  status: number;
  headers: http.IncomingHttpHeaders;
  bytes: Uint8Array;
  /** From sending the request to the last byte of its answer. */
  elapsedMs: number;
}

export function createHttpTransport(options: { caPem?: string | undefined; concurrency: number }): HttpTransport {
  const pool = { keepAlive: true, maxSockets: options.concurrency, scheduling: 'lifo' as const };
  const plain = new http.Agent(pool);
  // `ca` replaces Node's own list; an internal CA is trusted beside it, for a token service may sit elsewhere.
  const secure = new https.Agent(options.caPem ? { ...pool, ca: [...rootCertificates, options.caPem] } : pool);
  return {
    exchange: async (request) => {
      const startedMs = performance.now();
      const timeout = AbortSignal.timeout(request.timeoutMs);
      const signal = request.signal ? AbortSignal.any([request.signal, timeout]) : timeout;
      try {
        signal.throwIfAborted();
        const message = await send(request, request.url.protocol === 'https:' ? secure : plain, signal);
        const bytes = await readBody(message, request.maxBytes, signal);
        return { status: message.statusCode ?? 0, headers: message.headers, bytes, elapsedMs: performance.now() - startedMs };
      } catch (error) {
        // The caller's own abort is no fault of the source.
        if (request.signal?.aborted) throw request.signal.reason;
        throw transportError(error, timeout.aborted);
      }
    },
    close: () => {
      plain.destroy();
      secure.destroy();
    },
  };
}

function send(request: HttpRequest, agent: http.Agent, signal: AbortSignal): Promise<http.IncomingMessage> {
  return new Promise((resolve, reject) => {
    const secure = request.url.protocol === 'https:';
    const headers: Record<string, string> = { 'accept-encoding': 'gzip, deflate, br', 'user-agent': 'oncobridge', ...request.headers };
    if (request.body !== undefined) headers['content-length'] = String(Buffer.byteLength(request.body));
    const outgoing = (secure ? https : http).request(request.url, { method: request.method, agent, headers, signal }, resolve);
    outgoing.on('error', reject);
    outgoing.end(request.body);
  });
}

async function readBody(message: http.IncomingMessage, maxBytes: number, signal: AbortSignal): Promise<Uint8Array> {
  const body = decompressed(message);
  const abort = (): void => void message.destroy(new Error('aborted'));
  signal.addEventListener('abort', abort, { once: true });
  const chunks: Buffer[] = [];
  let total = 0;
  try {
    for await (const chunk of body) {
      const bytes = chunk as Buffer;
      total += bytes.length;
      if (total > maxBytes) {
        throw new CodedError('SOURCE_TOO_LARGE', { diagnostics: `An answer is larger than ${maxBytes} bytes.` });
      }
      chunks.push(bytes);
    }
    // A connection that ends early rejects above; a short content-length body sets `complete` to false.
    if (!message.complete) throw new Error('the answer is cut off');
    return Buffer.concat(chunks, total);
  } finally {
    signal.removeEventListener('abort', abort);
    if (!message.complete) message.destroy();
  }
}

function decompressed(message: http.IncomingMessage): Readable {
  const encoding = message.headers['content-encoding']?.trim().toLowerCase() ?? 'identity';
  if (encoding === 'identity' || encoding === '') return message;
  const transform =
    encoding === 'gzip' || encoding === 'x-gzip'
      ? createGunzip()
      : encoding === 'deflate'
        ? createInflate()
        : encoding === 'br'
          ? createBrotliDecompress()
          : undefined;
  if (!transform) throw new CodedError('SOURCE_RESPONSE', { diagnostics: 'The answer has an unknown content-encoding.' });
  message.on('error', (error) => transform.destroy(error));
  return message.pipe(transform);
}

// Codes of OpenSSL and Node for a certificate that fails: unknown authority, wrong host name, expired.
const TLS_CODE = /^(ERR_TLS_|CERT_|ERR_SSL_|UNABLE_TO_|SELF_SIGNED_|DEPTH_ZERO_|INVALID_CA|HOSTNAME_MISMATCH|ERR_OSSL_)/;

function transportError(error: unknown, timedOut: boolean): Error {
  if (codeOf(error)) return error as CodedError;
  if (timedOut) return new CodedError('SOURCE_UNREACHABLE', { diagnostics: 'No complete answer in time.', cause: error });
  const code = (error as NodeJS.ErrnoException | undefined)?.code ?? '';
  if (TLS_CODE.test(code)) return new CodedError('SOURCE_TLS', { diagnostics: `${code}.`, cause: error });
  return new CodedError('SOURCE_UNREACHABLE', { diagnostics: `${code || 'The answer was cut off'}.`, cause: error });
}
