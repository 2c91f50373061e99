import { createHash, createHmac, hash, timingSafeEqual } from 'node:crypto';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import * as http from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import S3rver from 's3rver';

/** A key pair that the store's operator has issued to an institution. One institution may have several, for a change of keys. */
export interface StoreCredential {
  institution: string;
  accessKeyId: string;
  secretAccessKey: string;
}

/** One request as the store's operator sees it. */
export interface StoreRequest {
  /** Milliseconds since the epoch. */
  at: number;
  method: string;
  /** `list`: anything that would show names: the service, the bucket, a query. */
  operation: 'get' | 'head' | 'put' | 'delete' | 'list' | 'other';
  /** Whose credential; undefined where the signature does not hold. */
  institution: string | undefined;
  /** Name of the object; the whole path for what is none. */
  name: string;
  status: number;
  /** Of the object's bytes that went in or out. */
  bytes: number;
}

/** What goes wrong, for objects whose name `match` accepts, `times` times (for ever by default). */
export interface StoreFault {
  kind: 'missing' | 'truncated' | 'altered' | 'swapped' | 'unavailable' | 'throttled' | 'slow' | 'hung' | 'not-kept';
  /** Of the object, and whose request it is. */
  match?: (name: string, institution: string) => boolean;
  times?: number;
  /** Of `slow`: how long the answer waits. */
  delayMs?: number;
  /** Of `swapped`: whose bytes are served instead. */
  other?: string;
  /** Of `throttled`: seconds in Retry-After. */
  retryAfter?: number;
}

export interface SharedStore {
  endpoint: string;
  region: string;
  bucket: string;
  requests: readonly StoreRequest[];
  issue(credential: StoreCredential): void;
  withdraw(accessKeyId: string): void;
  /** Adds a fault; the answer takes it away again. */
  fault(fault: StoreFault): () => void;
  close(): Promise<void>;
}

const REGION = 'us-east-1';
const BUCKET = 'oncobridge';
const SKEW_MS = 15 * 60_000;

/**
 * The object store that institutions share, as its operator sets it up (docs/shared-store.md): s3rver on a socket that only
 * we know, and before it a door of ours that checks every signature with the institution's own secret and holds the
 * policy: anybody gets anything, an institution puts and deletes under its own prefix, nobody lists. Like
 * S3 it answers a missing object with AccessDenied, for nobody may list; `missing: 'NoSuchKey'` plays a store that tells.
 */
export async function startSharedStore(options: {
  folder: string;
  institutions: readonly StoreCredential[];
  port?: number;
  missing?: 'AccessDenied' | 'NoSuchKey';
  /** A careless operator: every credential puts and deletes everywhere. */
  careless?: boolean;
}): Promise<SharedStore> {
  const { folder, missing = 'AccessDenied', careless = false } = options;
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const behind = await startBehind(folder);
  const credentials = new Map(options.institutions.map((one) => [one.accessKeyId, one]));
  const requests: StoreRequest[] = [];
  const faults = new Set<StoreFault & { left: number }>();

  const takeFault = (name: string, institution: string): StoreFault | undefined => {
    for (const fault of faults) {
      if (fault.left <= 0 || fault.match?.(name, institution) === false) continue;
      fault.left -= 1;
      return fault;
    }
    return undefined;
  };

  async function answer(request: http.IncomingMessage, body: Buffer, found: Found): Promise<Reply> {
    const now = Date.now();
    const caller = callerOf(request, body, credentials, now);
    if (typeof caller === 'string') return refusal(caller === 'XAmzContentSHA256Mismatch' ? 400 : 403, caller);
    found.institution = caller.institution;
    const { operation, name } = found;
    if (operation === 'list' || operation === 'other') return refusal(403, 'AccessDenied');
    const changes = operation === 'put' || operation === 'delete';
    if (changes && !careless && !name.startsWith(`${caller.institution}/`)) return refusal(403, 'AccessDenied');
    const fault = takeFault(name, caller.institution);
    if (fault?.kind === 'slow') await new Promise((resolve) => setTimeout(resolve, fault.delayMs ?? 1000));
    if (fault?.kind === 'hung') return new Promise(() => {});
    if (fault?.kind === 'unavailable') return refusal(503, 'ServiceUnavailable');
    if (fault?.kind === 'throttled') return refusal(429, 'TooManyRequests', { 'retry-after': String(fault.retryAfter ?? 1) });
    if (fault?.kind === 'missing' && !changes) return missingReply(missing);
    if (fault?.kind === 'not-kept' && operation === 'put') body = Buffer.alloc(body.length);
    const reply = await behind.ask(request.method ?? '', fault?.kind === 'swapped' && fault.other ? fault.other : name, body);
    if (reply.status === 404) return missingReply(missing);
    if (fault?.kind === 'truncated') return { ...reply, cut: Math.floor(reply.bytes.length / 2) };
    if (fault?.kind === 'altered') {
      const altered = Buffer.from(reply.bytes);
      altered[altered.length >> 1] = (altered[altered.length >> 1] ?? 0) ^ 1;
      return { ...reply, bytes: altered };
    }
    return reply;
  }

  const server = http.createServer((request, response) => {
    void (async () => {
      const body = await bodyOf(request);
      const found = operationOf(request);
      const reply = await answer(request, body, found);
      const sent = found.operation === 'put' ? body.length : found.operation === 'get' ? reply.bytes.length : 0;
      requests.push({ at: Date.now(), method: request.method ?? '', ...found, status: reply.status, bytes: reply.status < 300 ? sent : 0 });
      response.writeHead(reply.status, {
        ...reply.headers,
        ...(request.method === 'HEAD' ? {} : { 'content-length': reply.bytes.length }),
      });
      if (reply.cut !== undefined) response.write(reply.bytes.subarray(0, reply.cut), () => response.destroy());
      else response.end(request.method === 'HEAD' ? undefined : reply.bytes);
    })().catch(() => response.destroy());
  });
  await new Promise<void>((resolve) => server.listen(options.port ?? 0, '127.0.0.1', resolve));

  return {
    endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    region: REGION,
    bucket: BUCKET,
    requests,
    issue: (credential) => void credentials.set(credential.accessKeyId, credential),
    withdraw: (accessKeyId) => void credentials.delete(accessKeyId),
    fault(fault) {
      const added = { ...fault, left: fault.times ?? Number.POSITIVE_INFINITY };
      faults.add(added);
      return () => void faults.delete(added);
    },
    async close() {
      await new Promise((resolve) => {
        server.close(resolve);
        server.closeAllConnections();
      });
      await behind.close();
    },
  };
}

type Found = Pick<StoreRequest, 'operation' | 'institution' | 'name'>;

interface Reply {
  status: number;
  headers: http.OutgoingHttpHeaders;
  bytes: Buffer;
  /** Bytes after which the connection breaks. */
  cut?: number;
}

function operationOf({ method = '', url = '' }: http.IncomingMessage): Found {
  const [path = '', query] = url.split('?', 2);
  const name = decodeURIComponent(path.slice(`/${BUCKET}/`.length));
  if (!path.startsWith(`/${BUCKET}/`) || name === '' || query !== undefined)
    return { operation: method === 'GET' || method === 'HEAD' ? 'list' : 'other', institution: undefined, name: url };
  const operations: Readonly<Record<string, StoreRequest['operation']>> = { GET: 'get', HEAD: 'head', PUT: 'put', DELETE: 'delete' };
  return { operation: operations[method] ?? 'other', institution: undefined, name };
}

/**
 * Whose signature it is (AWS Signature Version 4, header form), or the code of the refusal. Written after the standard and not
 * with the client's library, so that a mistake there is found.
 */
function callerOf(
  request: http.IncomingMessage,
  body: Buffer,
  credentials: ReadonlyMap<string, StoreCredential>,
  now: number,
): StoreCredential | string {
  const { headers, method = '', url = '' } = request;
  const form =
    /^AWS4-HMAC-SHA256 Credential=([^/]+)\/(\d{8})\/([^/]+)\/s3\/aws4_request, ?SignedHeaders=([a-z0-9;-]+), ?Signature=([0-9a-f]{64})$/;
  const [, accessKeyId = '', day = '', region = '', signed = '', signature = ''] = form.exec(headers.authorization ?? '') ?? [];
  const credential = credentials.get(accessKeyId);
  if (credential === undefined) return accessKeyId === '' ? 'AccessDenied' : 'InvalidAccessKeyId';
  const date = String(headers['x-amz-date']);
  const at = Date.parse(date.replace(/^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z$/, '$1-$2-$3T$4:$5:$6Z'));
  if (!(Math.abs(now - at) < SKEW_MS)) return 'RequestTimeTooSkewed';
  const names = signed.split(';');
  const payload = String(headers['x-amz-content-sha256']);
  if (!['host', 'x-amz-date', 'x-amz-content-sha256'].every((name) => names.includes(name))) return 'SignatureDoesNotMatch';
  const [path = '', query = ''] = url.split('?', 2);
  const canonical = [
    method,
    path,
    query.split('&').filter(Boolean).map(canonicalParameter).sort().join('&'),
    ...names.map((name) => `${name}:${String(headers[name] ?? '').trim()}`),
    '',
    signed,
    payload,
  ].join('\n');
  const scope = `${day}/${region}/s3/aws4_request`;
  const hmac = (key: string | Buffer, text: string): Buffer => createHmac('sha256', key).update(text).digest();
  const key = [region, 's3', 'aws4_request'].reduce(hmac, hmac(`AWS4${credential.secretAccessKey}`, day));
  const expected = hmac(key, ['AWS4-HMAC-SHA256', date, scope, hash('sha256', canonical)].join('\n'));
  if (!timingSafeEqual(expected, Buffer.from(signature, 'hex'))) return 'SignatureDoesNotMatch';
  return createHash('sha256').update(body).digest('hex') === payload ? credential : 'XAmzContentSHA256Mismatch';
}

function canonicalParameter(parameter: string): string {
  const [name = '', value = ''] = parameter.split('=', 2).map((part) => encodeURIComponent(decodeURIComponent(part)));
  return `${name}=${value}`;
}

function refusal(status: number, code: string, headers: http.OutgoingHttpHeaders = {}): Reply {
  const text = `<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>${code}</Code></Error>`;
  return { status, headers: { 'content-type': 'application/xml', ...headers }, bytes: Buffer.from(text) };
}

function missingReply(code: 'AccessDenied' | 'NoSuchKey'): Reply {
  return refusal(code === 'NoSuchKey' ? 404 : 403, code);
}

async function bodyOf(request: http.IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of request as AsyncIterable<Buffer>) chunks.push(chunk);
  return Buffer.concat(chunks);
}

/** s3rver on a socket in a folder of ours. It takes unsigned requests, so nobody else may reach it. */
async function startBehind(folder: string) {
  const s3rver = new S3rver({ silent: true, directory: folder, configureBuckets: [{ name: BUCKET, configs: [] }], vhostBuckets: false });
  await s3rver.configureBuckets();
  // A socket's path is short, which the store's folder need not be.
  const place = mkdtempSync(join(tmpdir(), 'oncobridge-s3-'));
  const socketPath = join(place, 's3.sock');
  const server = http.createServer(s3rver.callback());
  await new Promise<void>((resolve) => server.listen(socketPath, resolve));
  const agent = new http.Agent({ keepAlive: true });
  /** It writes an object in place: two puts of one name at once would mix. */
  let puts: Promise<unknown> = Promise.resolve();
  const send = (method: string, name: string, body: Buffer): Promise<Reply> =>
    new Promise((resolve, reject) => {
      const headers = method === 'PUT' ? { 'content-length': body.length, 'content-type': 'application/octet-stream' } : {};
      const outgoing = http.request({ socketPath, agent, method, path: `/${BUCKET}/${name}`, headers }, (message) => {
        bodyOf(message).then((bytes) => {
          const { etag, 'content-length': length } = message.headers;
          const size = method === 'HEAD' && length !== undefined ? { 'content-length': length } : {};
          resolve({ status: message.statusCode ?? 500, headers: { ...size, ...(etag === undefined ? {} : { etag }) }, bytes });
        }, reject);
      });
      outgoing.on('error', reject);
      outgoing.end(body);
    });
  return {
    ask(method: string, name: string, body: Buffer): Promise<Reply> {
      if (method !== 'PUT') return send(method, name, body);
      const put = puts.then(() => send(method, name, body));
      puts = put.catch(() => {});
      return put;
    },
    async close(): Promise<void> {
      agent.destroy();
      await new Promise((resolve) => {
        server.close(resolve);
        server.closeAllConnections();
      });
      rmSync(place, { recursive: true, force: true });
    },
  };
}
