import * as http from 'node:http';
import * as https from 'node:https';
import { rootCertificates } from 'node:tls';
import { AwsV4Signer } from 'aws4fetch';
import { CodedError, codeOf } from '../errors.ts';

/**
 * Requests for single objects of an S3 bucket: signed (Signature Version 4), bounded in size and time, sent again where
 * that can help. There is no request here that lists (protocol, section 7): a call names one object.
 *
 * aws4fetch signs; node:http(s) carries, for fetch cannot be given a CA, a pool of connections or a limit of bytes.
 */
export interface S3Requests {
  /** Any answer that sending again would not change. UNAVAILABLE after the last attempt or the deadline, BLOB_TOO_LARGE. */
  send(request: S3Request): Promise<S3Answer>;
  close(): void;
}
export interface S3Request {
  method: 'GET' | 'HEAD' | 'PUT' | 'DELETE';
  /** Name of the object, as the port has it: it needs no escaping. */
  name: string;
  headers?: Readonly<Record<string, string>>;
  body?: Uint8Array;
  /** SHA-256 of the body in hex; of nothing by default. */
  bodySha256?: string;
}
export interface S3Answer {
  status: number;
  headers: http.IncomingHttpHeaders;
  bytes: Uint8Array;
  /** The store's own code of an error (`AccessDenied`), where it gave one. */
  code: string | undefined;
}

export interface S3Options {
  /** `https://host[:port]`; http only to loopback, which the configuration checks. */
  endpoint: string;
  region: string;
  bucket: string;
  accessKeyId: string;
  secretAccessKey: string;
  sessionToken?: string | undefined;
  /** Folder inside the bucket, with its final `/`: the same for every institution that shares the bucket. */
  prefix?: string | undefined;
  /** `path`: endpoint/bucket/name. `virtual-host`: bucket.endpoint/name. */
  addressing?: 'path' | 'virtual-host' | undefined;
  /** The store's own TLS root beside those that Node knows (PEM). */
  tlsRootPem?: string | undefined;
  /** Of one call with all its attempts; a second more for every MiB carried. */
  timeoutMs?: number | undefined;
  /** What is larger is not read. */
  maxObjectBytes?: number | undefined;
  attempts?: number | undefined;
}

const SHA256_OF_NOTHING = 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855';
/** Connections to the store at once; more calls wait for one. */
const CONNECTIONS = 16;
const ERROR_BYTES = 64 * 1024;
/** Codes under a 4xx status that say "again", not "never" (Amazon S3, Error responses). */
const PASSING = new Set([
  'BadDigest',
  'IncompleteBody',
  'OperationAborted',
  'RequestTimeout',
  'SlowDown',
  'TooManyRequests',
  'XAmzContentSHA256Mismatch',
]);

export function createS3Requests(options: S3Options): S3Requests {
  const { attempts = 4, timeoutMs = 30_000, maxObjectBytes = 512 * 1024 * 1024 } = options;
  const base = baseOf(options);
  const pool = { keepAlive: true, maxSockets: CONNECTIONS, scheduling: 'lifo' as const };
  const { tlsRootPem } = options;
  const secure = base.protocol === 'https:';
  // `ca` replaces Node's own list; a store's own root is trusted beside it.
  const agent = secure
    ? new https.Agent(tlsRootPem === undefined ? pool : { ...pool, ca: [...rootCertificates, tlsRootPem] })
    : new http.Agent(pool);
  const closing = new AbortController();
  /** Signing keys of the day, which aws4fetch derives once. */
  const cache = new Map<string, ArrayBuffer>();

  async function sign(request: S3Request): Promise<{ url: URL; headers: Record<string, string> }> {
    const url = new URL(base);
    url.pathname += `${options.prefix ?? ''}${request.name}`;
    const { accessKeyId, secretAccessKey, sessionToken, region } = options;
    const signed = await new AwsV4Signer({
      method: request.method,
      url: url.href,
      headers: { ...request.headers, 'x-amz-content-sha256': request.bodySha256 ?? SHA256_OF_NOTHING },
      accessKeyId,
      secretAccessKey,
      ...(sessionToken === undefined ? {} : { sessionToken }),
      service: 's3',
      region,
      cache,
    }).sign();
    return { url, headers: Object.fromEntries(signed.headers) };
  }

  async function exchange(request: S3Request, deadline: Deadline): Promise<S3Answer> {
    const { url, headers } = await sign(request);
    // A request that begins after the end would open a connection that nobody closes.
    deadline.signal.throwIfAborted();
    const { body } = request;
    if (request.method === 'PUT') headers['content-length'] = String(body?.length ?? 0);
    headers['user-agent'] = 'oncobridge';
    const message = await new Promise<http.IncomingMessage>((resolve, reject) => {
      const outgoing = (secure ? https : http).request(url, { method: request.method, agent, headers, signal: deadline.signal }, resolve);
      // A connection on which nothing moves is given up before the deadline, so that another one can be tried.
      outgoing.setTimeout(timeoutMs / 3, () => outgoing.destroy(new Error('nothing moves')));
      outgoing.on('error', reject);
      outgoing.end(body);
    });
    const status = message.statusCode ?? 0;
    const declared = Number(message.headers['content-length'] ?? Number.NaN);
    const wanted = status >= 200 && status < 300;
    const limit = wanted ? maxObjectBytes : ERROR_BYTES;
    if (request.method !== 'HEAD' && declared > limit) message.destroy();
    if (wanted && request.method !== 'HEAD' && declared > limit)
      throw new CodedError('BLOB_TOO_LARGE', { diagnostics: `It has ${declared} bytes.` });
    if (wanted && declared > 0 && request.method === 'GET') deadline.allow(declared);
    const bytes = declared > limit && request.method !== 'HEAD' ? new Uint8Array() : await readBody(message, limit);
    if (request.method !== 'HEAD' && declared <= limit && bytes.length !== declared) throw new Error('the answer is cut off');
    const code = wanted ? undefined : /<Code>([A-Za-z0-9]{1,64})<\/Code>/.exec(Buffer.from(bytes).toString('latin1'))?.[1];
    return { status, headers: message.headers, bytes, code };
  }

  return {
    async send(request) {
      const deadline = startDeadline(timeoutMs, closing.signal);
      deadline.allow(request.body?.length ?? 0);
      let failure: { said: string; cause?: unknown } = { said: 'It is being closed.' };
      try {
        for (let attempt = 1; !deadline.signal.aborted; attempt++) {
          let waitMs = Math.random() * Math.min(5000, 100 * 2 ** attempt);
          try {
            const answer = await exchange(request, deadline);
            if (!isPassing(answer)) return answer;
            failure = { said: `It answered ${answer.status} ${answer.code ?? ''}`.trimEnd() };
            // Longer than there is time for: the caller hears it at once, and comes again when it can.
            waitMs = Math.max(waitMs, retryAfterMs(answer.headers['retry-after']));
          } catch (error) {
            if (codeOf(error) !== undefined) throw error;
            failure = { said: wordsOf(error, deadline.signal), cause: error };
            if (isOfTls(error)) break;
          }
          if (attempt >= attempts || waitMs >= deadline.leftMs()) break;
          await pause(waitMs, deadline.signal);
        }
      } finally {
        deadline.end();
      }
      throw new CodedError('UNAVAILABLE', { diagnostics: `The object store: ${failure.said}.`, cause: failure.cause });
    },
    close() {
      closing.abort();
      agent.destroy();
    },
  };
}

function baseOf({ endpoint, bucket, addressing }: S3Options): URL {
  const base = new URL(endpoint);
  if (addressing === 'virtual-host') base.hostname = `${bucket}.${base.hostname}`;
  else base.pathname = `/${bucket}`;
  if (!base.pathname.endsWith('/')) base.pathname += '/';
  return base;
}

interface Deadline {
  signal: AbortSignal;
  /** Time for that many bytes on top. */
  allow(bytes: number): void;
  leftMs(): number;
  end(): void;
}

function startDeadline(timeoutMs: number, closing: AbortSignal): Deadline {
  const over = new AbortController();
  let endMs = performance.now() + timeoutMs;
  let timer: NodeJS.Timeout;
  const arm = (): void => {
    timer = setTimeout(() => over.abort(new Error('no complete answer in time')), Math.max(0, endMs - performance.now()));
  };
  arm();
  return {
    signal: AbortSignal.any([over.signal, closing]),
    allow(bytes) {
      endMs += (bytes / (1024 * 1024)) * 1000;
      clearTimeout(timer);
      arm();
    },
    leftMs: () => endMs - performance.now(),
    end: () => clearTimeout(timer),
  };
}

async function readBody(message: http.IncomingMessage, limit: number): Promise<Uint8Array> {
  const chunks: Buffer[] = [];
  let total = 0;
  try {
    for await (const chunk of message as AsyncIterable<Buffer>) {
      total += chunk.length;
      if (total > limit) throw new CodedError('BLOB_TOO_LARGE', { diagnostics: `It has more than ${limit} bytes.` });
      chunks.push(chunk);
    }
    if (!message.complete) throw new Error('the answer is cut off');
    return Buffer.concat(chunks, total);
  } finally {
    if (!message.complete) message.destroy();
  }
}

function isPassing({ status, code }: S3Answer): boolean {
  return status >= 500 || status === 429 || status === 408 || (status >= 400 && code !== undefined && PASSING.has(code));
}

/** RFC 9110, section 10.2.3: seconds or a date. */
function retryAfterMs(value: string | undefined): number {
  if (value === undefined) return 0;
  if (/^\d{1,9}$/.test(value)) return Number(value) * 1000;
  const at = Date.parse(value);
  return Number.isNaN(at) ? 0 : Math.max(0, at - Date.now());
}

/** Codes of OpenSSL and Node for a certificate that fails: trying again changes nothing. */
const TLS_CODE = /^(ERR_TLS_|CERT_|ERR_SSL_|UNABLE_TO_|SELF_SIGNED_|DEPTH_ZERO_|INVALID_CA|HOSTNAME_MISMATCH|ERR_OSSL_)/;

function isOfTls(error: unknown): boolean {
  return TLS_CODE.test((error as NodeJS.ErrnoException).code ?? '');
}

/** What may be said of a failed connection: never a URL, which holds the object's name. */
function wordsOf(error: unknown, signal: AbortSignal): string {
  if (isOfTls(error)) return 'Its TLS certificate is not trusted; name its authority in blobs.tlsRootCertificate';
  if (signal.aborted) return 'No complete answer in time';
  const { code, message } = error as NodeJS.ErrnoException;
  return code === undefined ? `The connection failed (${message})` : `The connection failed (${code})`;
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      clearTimeout(timer);
      signal.removeEventListener('abort', done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal.addEventListener('abort', done, { once: true });
  });
}
