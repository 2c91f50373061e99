import { createHash } from 'node:crypto';
import express, { type Express, type Request, type Response } from 'express';
import type { FaultKind, Faults } from './faults.ts';
import { type JsonObject, jsonText, type Resource } from './json.ts';
import { type Cell, headOf, type Publication, type RecordStore, type SourceName } from './record-store.ts';
import { matchesDate, matchesToken } from './search-index.ts';

/** The habits of one FHIR server. */
export interface FhirProfile {
  source: SourceName;
  path: string;
  software: { name: string; version: string };
  /** Search parameters that each resource type takes, as in its CapabilityStatement. */
  parameters: Readonly<Record<string, readonly string[]>>;
  /** False: a repeated or comma-joined parameter is refused (HAPI-1953). */
  multipleValues: boolean;
  pageSize: { standard: number; most: number };
  /** A reason to refuse a search as too costly. */
  tooCostly(type: string, query: URLSearchParams): string | undefined;
  /** security member of the CapabilityStatement. */
  security: JsonObject;
  /** Link to further results from an opaque cursor. */
  nextLink(base: string, cursor: string): string;
  cursorOf(query: URLSearchParams): string | undefined;
  /** Operations of their own, tried before reads. True where answered. */
  operation?(type: string, request: Request, response: Response): boolean;
}

export interface BinaryContent {
  contentType: string;
  bytes(): Uint8Array;
  /** Whose it is, e.g. `DocumentReference/x`: a token that may not read that type may not read this. */
  of: string;
}

/** What a bearer token allows; undefined where the token counts for nothing. */
export type Authorise = (authorization: string | undefined) => ((type: string, right: 'r' | 's') => boolean) | undefined;

export interface LoggedRequest {
  source: SourceName;
  method: string;
  /** Path and query; never a token. */
  url: string;
  status: number;
}

interface FhirServerParts {
  profile: FhirProfile;
  store: RecordStore;
  binaries: ReadonlyMap<string, BinaryContent>;
  faults: Faults;
  authorise: Authorise;
  baseUrl(): string;
  /** Another host that a malicious next link names. */
  strangerUrl(): string;
  nowMs(): number;
  log(request: LoggedRequest): void;
}

interface Snapshot {
  cells: readonly Cell[];
  count: number;
  self: string;
}

const FHIR_JSON = 'application/fhir+json; charset=utf-8';
const KEPT_SEARCHES = 64;
/** Parameters that shape an answer and select nothing. */
const SHAPING = new Set(['_count', '_total', '_sort', '_format']);

/** OperationOutcome with one issue. */
export function outcome(code: string, diagnostics: string, severity = 'error'): JsonObject {
  return { resourceType: 'OperationOutcome', issue: [{ severity, code, diagnostics }] };
}

/** Read, version read, search with paging, Binary and metadata of one simulated server. */
export function createFhirServer(parts: FhirServerParts): Express {
  const { profile, store, faults } = parts;
  const searches = new Map<string, Snapshot>();
  let searchNumber = 0;
  const app = express();
  app.disable('x-powered-by');
  app.disable('etag');

  app.use(async (request, response, next) => {
    response.on('finish', () =>
      parts.log({ source: profile.source, method: request.method, url: request.originalUrl, status: response.statusCode }),
    );
    // The simulated day: a client takes its mark from this header, not from its own clock.
    response.setHeader('Date', new Date(parts.nowMs()).toUTCString());
    const acting = faults.take(profile.source, 'fhir', request.originalUrl, 'request');
    response.locals.faults = acting;
    if (await spoil(acting, request, response, parts.strangerUrl())) return;
    next();
  });

  app.get(`${profile.path}/metadata`, (_request, response) => send(response, 200, capability()));

  app.use((request, response, next) => {
    const grant = parts.authorise(request.headers.authorization);
    if (!grant) {
      response.setHeader('WWW-Authenticate', 'Bearer error="invalid_token"');
      send(response, 401, outcome('login', 'A valid access token is required.'));
      return;
    }
    response.locals.grant = grant;
    next();
  });

  app.get(profile.path, (request, response) => {
    const cursor = profile.cursorOf(queryOf(request));
    if (cursor === undefined) return send(response, 400, outcome('not-supported', 'System-wide search is not supported.'));
    const [key = '', offset = ''] = Buffer.from(cursor, 'base64url').toString('latin1').split('.');
    const snapshot = searches.get(key);
    if (!snapshot || !/^\d+$/.test(offset)) {
      return send(response, 410, outcome('expired', 'The search has expired; repeat it from its first page.'));
    }
    page(request, response, key, snapshot, Number(offset));
  });

  app.get(`${profile.path}/Binary/:id`, (request, response) => {
    const content = parts.binaries.get(request.params.id);
    if (!content) return send(response, 404, outcome('not-found', 'Not found.'));
    if (!allowed(response, content.of.split('/')[0] ?? '', 'r')) return;
    if ((request.headers.accept ?? '').includes('fhir+json')) {
      const data = Buffer.from(content.bytes()).toString('base64');
      return send(response, 200, { resourceType: 'Binary', id: request.params.id, contentType: content.contentType, data });
    }
    response.setHeader('Content-Type', content.contentType);
    response.status(200).end(content.bytes());
  });

  app.get(`${profile.path}/:type`, (request, response) => {
    const { type } = request.params;
    if (profile.operation?.(type, request, response)) return;
    if (!profile.parameters[type]) return send(response, 404, outcome('not-supported', `Unknown resource type '${type}'.`));
    if (allowed(response, type, 's')) search(type, request, response);
  });

  app.get(`${profile.path}/:type/:id`, (request, response) => {
    const { type, id } = request.params;
    if (profile.operation?.(`${type}/${id}`, request, response)) return;
    if (!profile.parameters[type]) return send(response, 404, outcome('not-supported', `Unknown resource type '${type}'.`));
    if (allowed(response, type, 'r')) read(response, store.head(type, id));
  });

  app.get(`${profile.path}/:type/:id/_history/:version`, (request, response) => {
    const { type, id, version } = request.params;
    if (!profile.parameters[type]) return send(response, 404, outcome('not-supported', `Unknown resource type '${type}'.`));
    if (allowed(response, type, 'r')) read(response, store.version(type, id, version));
  });

  app.use((_request, response) => send(response, 404, outcome('not-found', 'Not found.')));
  return app;

  function allowed(response: Response, type: string, right: 'r' | 's'): boolean {
    const grant = response.locals.grant as (type: string, right: 'r' | 's') => boolean;
    if (grant(type, right)) return true;
    send(response, 403, outcome('forbidden', `The granted scope does not cover ${type}.`));
    return false;
  }

  function read(response: Response, publication: Publication | undefined): void {
    if (!publication) return send(response, 404, outcome('not-found', 'Not found.'));
    if (publication.deleted) return send(response, 410, outcome('deleted', 'The resource was deleted.'));
    response.setHeader('ETag', `W/"${publication.versionId}"`);
    response.setHeader('Last-Modified', new Date(publication.atMs).toUTCString());
    send(response, 200, publication.body());
  }

  function search(type: string, request: Request, response: Response): void {
    const query = queryOf(request);
    const known = profile.parameters[type] ?? [];
    for (const [name, value] of query) {
      const base = name.split(':')[0] ?? name;
      if (!known.includes(base) && !SHAPING.has(base)) {
        const list = [...known].sort().join(', ');
        const text = `Unknown search parameter "${name}" for resource type "${type}". Valid search parameters for this search are: [${list}]`;
        return send(response, 400, outcome('processing', text));
      }
      if (name.includes(':')) return send(response, 400, outcome('not-supported', `Modifier of "${name}" is not supported.`));
      if (!profile.multipleValues && (query.getAll(name).length > 1 || /(?<!\\),/.test(value))) {
        const text =
          `HAPI-1953: Multiple values detected for non-repeatable parameter '${name}'. ` +
          'This server is not configured to allow multiple (AND/OR) values for this param.';
        return send(response, 400, outcome('processing', text));
      }
    }
    const count = query.get('_count');
    if (count !== null && !/^\d+$/.test(count)) return send(response, 400, outcome('invalid', 'Invalid value of _count.'));
    const costly = profile.tooCostly(type, query);
    if (costly) return send(response, 400, outcome('too-costly', costly));

    const patient = query.get('patient') ?? query.get('subject');
    const found: Cell[] = [];
    for (const cell of store.cells(type, patient === null ? undefined : patient.replace(/^Patient\//, ''))) {
      const verdict = matches(headOf(cell), query);
      if (verdict === undefined) return send(response, 400, outcome('invalid', 'Invalid date in a search parameter.'));
      if (verdict) found.push(cell);
    }
    const sort = query.get('_sort');
    if (sort === '_lastUpdated' || sort === '-_lastUpdated') {
      const sign = sort.startsWith('-') ? -1 : 1;
      found.sort((a, b) => sign * (headOf(a).atMs - headOf(b).atMs));
    } else if (sort === 'date' || sort === '-date') {
      const sign = sort.startsWith('-') ? -1 : 1;
      found.sort((a, b) => sign * ((headOf(a).index.date?.[0] ?? 0) - (headOf(b).index.date?.[0] ?? 0)));
    } else if (sort !== null) return send(response, 400, outcome('not-supported', 'Unsupported _sort.'));

    const size = Math.min(count === null ? profile.pageSize.standard : Number(count), profile.pageSize.most);
    const key = createHash('sha256').update(`${profile.source} search ${searchNumber++}`).digest('hex').slice(0, 32);
    // Only ids are kept: a record that changes while a client pages is seen in its newer form, as HAPI does.
    const snapshot: Snapshot = { cells: found, count: Math.max(size, 1), self: `${parts.baseUrl()}/${type}?${query.toString()}` };
    searches.set(key, snapshot);
    const oldest = searches.keys().next().value;
    if (searches.size > KEPT_SEARCHES && oldest !== undefined) searches.delete(oldest);
    page(request, response, key, snapshot, 0);
  }

  function page(request: Request, response: Response, key: string, snapshot: Snapshot, offset: number): void {
    const acting = faults.take(profile.source, 'fhir', request.originalUrl, 'page').map((fault) => fault.kind);
    const cursor = (at: number) => Buffer.from(`${key}.${at}`, 'latin1').toString('base64url');
    const next = (at: number) => profile.nextLink(parts.baseUrl(), cursor(at));
    const empty = acting.includes('empty-page');
    const cells = empty ? [] : snapshot.cells.slice(offset, offset + snapshot.count).filter((cell) => !headOf(cell).deleted);
    const link: JsonObject[] = [{ relation: 'self', url: offset === 0 ? snapshot.self : next(offset) }];
    const following = empty ? offset : offset + snapshot.count;
    let further = following < snapshot.cells.length || empty ? next(following) : undefined;
    if (acting.includes('loop-self')) further = next(offset);
    if (acting.includes('loop-back')) further = next(0);
    if (acting.includes('foreign-next')) further = next(following).replace(/^http:\/\/[^/]+/, parts.strangerUrl());
    // Behind a proxy that ends TLS, servers often write their own inner host name into links.
    if (acting.includes('http-next')) further = next(following).replace(/^http:\/\/[^/]+/, 'http://fhir-inner.invalid:8080');
    if (further !== undefined) link.push({ relation: 'next', url: further });
    const entry: JsonObject[] = cells.map((cell) => ({
      fullUrl: `${parts.baseUrl()}/${cell.type}/${cell.id}`,
      resource: headOf(cell).body(),
      search: { mode: 'match' },
    }));
    if (acting.includes('warning-entry')) {
      entry.push({
        resource: outcome('incomplete', 'Some results may be missing: an archive was not reachable.', 'warning'),
        search: { mode: 'outcome' },
      });
    }
    send(response, 200, {
      resourceType: 'Bundle',
      id: createHash('sha256').update(`${key}.${offset}`).digest('hex').slice(0, 32),
      meta: { lastUpdated: new Date(parts.nowMs()).toISOString() },
      type: 'searchset',
      link,
      ...(entry.length > 0 ? { entry } : {}),
    });
  }

  function capability(): JsonObject {
    return {
      resourceType: 'CapabilityStatement',
      status: 'active',
      date: new Date(parts.nowMs()).toISOString().slice(0, 10),
      kind: 'instance',
      software: { ...profile.software },
      implementation: { description: `${profile.software.name} with synthetic patients`, url: parts.baseUrl() },
      fhirVersion: '4.0.1',
      format: ['application/fhir+json', 'json'],
      rest: [
        {
          mode: 'server',
          security: profile.security,
          resource: [
            ...Object.entries(profile.parameters).map(([type, names]) => ({
              type,
              interaction: [{ code: 'read' }, { code: 'vread' }, { code: 'search-type' }],
              searchParam: names.map((name) => ({ name, type: parameterType(name) })),
            })),
            { type: 'Binary', interaction: [{ code: 'read' }] },
          ],
        },
      ],
    };
  }
}

function parameterType(name: string): string {
  if (name === '_lastUpdated' || name === 'date' || name === 'birthdate') return 'date';
  if (name === 'patient' || name === 'subject') return 'reference';
  return name === 'family' || name === 'given' || name === 'name' ? 'string' : 'token';
}

/** The query with its + and % undone, in the order sent. */
function queryOf(request: Request): URLSearchParams {
  const mark = request.originalUrl.indexOf('?');
  return new URLSearchParams(mark < 0 ? '' : request.originalUrl.slice(mark + 1));
}

/** True where the record satisfies all parameters; undefined where one of them is malformed. */
function matches(head: Publication, query: URLSearchParams): boolean | undefined {
  if (head.deleted) return false;
  for (const [name, value] of query) {
    if (SHAPING.has(name)) continue;
    let hit = false;
    for (const one of value.split(/(?<!\\),/)) {
      const verdict = matchesOne(head, name, one.replaceAll('\\,', ','));
      if (verdict === undefined) return undefined;
      hit ||= verdict;
    }
    if (!hit) return false;
  }
  return true;
}

function matchesOne(head: Publication, name: string, value: string): boolean | undefined {
  const { index } = head;
  if (name === '_id') return head.id === value;
  if (name === '_lastUpdated') return matchesDate(value, [head.atMs, head.atMs]);
  if (name === 'date') return index.date ? matchesDate(value, index.date) : matchesDate(value, [0, 0]) === undefined ? undefined : false;
  if (name === 'patient' || name === 'subject') return index.patients.includes(value.replace(/^Patient\//, ''));
  if (name === 'birthdate') return matchesToken(value, index.tokens.birthdate ?? []);
  const words = index.words[name];
  if (words) return words.some((word) => word.startsWith(value.toLowerCase()));
  return matchesToken(value, index.tokens[name] ?? []);
}

/** Plays request faults. True where the answer is done. */
export async function spoil(acting: readonly FaultKind[], request: Request, response: Response, strangerUrl: string): Promise<boolean> {
  for (const fault of acting) {
    switch (fault.kind) {
      case 'slow':
        await new Promise((resolve) => setTimeout(resolve, fault.delayMs));
        break;
      case 'status':
        send(response, fault.status, outcome(fault.issue ?? 'exception', fault.text ?? 'The simulator was told to fail.'));
        return true;
      case 'unauthorized':
        send(response, 401, outcome('login', 'The access token has expired.'));
        return true;
      case 'redirect':
        response.redirect(302, `${strangerUrl}${request.originalUrl}`);
        return true;
      case 'reset':
        request.socket.destroy();
        return true;
      case 'throttle': {
        // Both clocks of this answer are the real one, as of a gateway in front: a date form makes sense only beside its Date.
        const now = new Date();
        response.setHeader('Date', now.toUTCString());
        const until = new Date(now.getTime() + fault.seconds * 1000).toUTCString();
        response.setHeader('Retry-After', fault.form === 'date' ? until : String(fault.seconds));
        send(response, 429, outcome('throttled', 'Too many requests.'));
        return true;
      }
      default:
        break;
    }
  }
  return false;
}

function send(response: Response, status: number, body: JsonObject | Resource): void {
  const text = jsonText(body);
  const acting = (response.locals.faults ?? []) as FaultKind[];
  response.setHeader('Content-Type', FHIR_JSON);
  // A cut body is a whole HTTP answer: what a proxy with a full buffer sends, and what only a JSON parser notices.
  const cut = acting.some((fault) => fault.kind === 'truncate');
  response.status(status).end(cut ? text.slice(0, Math.floor(text.length / 2)) : text);
}
