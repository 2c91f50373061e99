import { createHash } from 'node:crypto';
import type { Resource } from 'fhir/r4.js';
import { CodedError } from '../../errors.ts';
import type { RawRecord } from '../source.ts';
import { type ScannedEntry, scanBundle } from './bundle-scanner.ts';
import type { HttpAnswer } from './http-transport.ts';
import { summariseOutcome } from './outcome.ts';
import type { Session } from './session.ts';

/** One page of a search, read. */
export interface SearchPage {
  /** What the search asked for. */
  matches: readonly ParsedRecord[];
  /** What the server added by itself (`search.mode` include). */
  included: readonly ParsedRecord[];
  warnings: readonly string[];
  /** The page behind this one, checked against the allowed origins. */
  next: URL | undefined;
  /** An instant of the server's own clock at or before the query's start; undefined where it tells none. */
  serverTime: string | undefined;
}
export interface ParsedRecord {
  record: RawRecord;
  /** Parsed for references and attachments only; undefined where the text is not valid JSON. */
  resource: Resource | undefined;
}

/** Counts what one pull has read; shared by all its chains. */
export interface PullMeter {
  bytes: number;
}

/**
 * Walks the pages of one search. A page is read only when the one before was taken, so one page is in memory at a time.
 * Errors: SOURCE_ORIGIN, SOURCE_PAGING (a link seen before, the same page again and again, too many), SOURCE_TOO_LARGE,
 * SOURCE_RESPONSE, and those of the session.
 */
export async function* walkPages(session: Session, start: URL, meter: PullMeter, signal: AbortSignal): AsyncGenerator<SearchPage> {
  const visited = new Set<string>();
  const contents = new Map<string, number>();
  let url: URL | undefined = start;
  for (let count = 0; url; count++) {
    if (count === session.limits.maxPages) throw new CodedError('SOURCE_PAGING', { diagnostics: `More than ${count} pages.` });
    const name = digest(url.href);
    if (visited.has(name))
      throw new CodedError('SOURCE_PAGING', { diagnostics: `A link leads back to an earlier page (page ${count + 1}).` });
    visited.add(name);
    const answer = await session.get(url, { signal, maxBytes: session.limits.maxPageBytes });
    countBytes(session, meter, answer);
    const page = readPage(session, url, answer);
    if (page.matches.length > 0) {
      const content = digest(page.matches.map(({ record }) => `${record.type}/${record.id}/${record.versionId}`).join('\n'));
      const times = (contents.get(content) ?? 0) + 1;
      contents.set(content, times);
      // Once may be a shift: a record inserted during offset paging moves a short page's content to the next.
      if (times > 2 || (times > 1 && page.matches.length > 1)) {
        throw new CodedError('SOURCE_PAGING', { diagnostics: `A page repeats an earlier one (page ${count + 1}).` });
      }
    }
    yield page;
    url = page.next;
  }
}

/** Adds an answer to what the pull has read; SOURCE_TOO_LARGE past the limit. */
export function countBytes(session: Session, meter: PullMeter, answer: HttpAnswer): void {
  meter.bytes += answer.bytes.length;
  if (meter.bytes > session.limits.maxPullBytes) {
    throw new CodedError('SOURCE_TOO_LARGE', {
      diagnostics: `One pull read more than ${session.limits.maxPullBytes} bytes; the next goes on.`,
    });
  }
}

function readPage(session: Session, url: URL, answer: HttpAnswer): SearchPage {
  const bundle = scanBundle(answer.bytes);
  if (json(bundle.members.get('resourceType')) !== 'Bundle')
    throw new CodedError('SOURCE_RESPONSE', { diagnostics: 'The answer is no Bundle.' });
  const matches: ParsedRecord[] = [];
  const included: ParsedRecord[] = [];
  const warnings: string[] = [];
  for (const entry of bundle.entries) {
    const parsed = readEntry(entry);
    if (typeof parsed === 'string') warnings.push(parsed);
    else (entry.searchMode === 'include' ? included : matches).push(parsed);
  }
  const links = (json(bundle.members.get('link')) ?? []) as { relation?: unknown; url?: unknown }[];
  const next = Array.isArray(links) ? links.find((link) => link?.relation === 'next')?.url : undefined;
  return {
    matches,
    included,
    warnings,
    next: typeof next === 'string' ? session.guard.page(next, url) : undefined,
    serverTime: serverTimeAtStart(answer) ?? bundleTime(json(bundle.members.get('meta'))),
  };
}

/** A record, or a warning where the entry holds none. */
function readEntry(entry: ScannedEntry): ParsedRecord | string {
  if (!entry.resource) return 'An entry without a resource was left out.';
  const resource = parseResource(entry.resource, true);
  if (resource?.resourceType === ('OperationOutcome' as string)) {
    const { codes } = summariseOutcome(resource);
    return `The source warns: ${codes.join(', ') || 'OperationOutcome without a code'}.`;
  }
  // A damaged resource among sound ones goes on with its bytes, to be quarantined and seen: under the name it still shows,
  // else that of fullUrl, else one made of its content, so that the same damage is the same record.
  const shown = resource ?? parseResource(entry.resource, false);
  const named = /([A-Z][A-Za-z]+)\/([A-Za-z0-9.-]{1,64})(?:\/_history\/[^/]+)?$/.exec(entry.fullUrl ?? '');
  const type = nonEmpty(shown?.resourceType) ?? named?.[1] ?? 'Resource';
  const id = nonEmpty(shown?.id) ?? named?.[2] ?? `unnamed-${createHash('sha256').update(entry.resource).digest('hex').slice(0, 40)}`;
  return { record: toRecord(type, id, resource, entry.resource), resource };
}

function nonEmpty(text: unknown): string | undefined {
  return typeof text === 'string' && text !== '' ? text : undefined;
}

/** Undefined where the text is no JSON object, or (strictly) no UTF-8. */
function parseResource(slice: Uint8Array, strict: boolean): Resource | undefined {
  try {
    const value = JSON.parse(new TextDecoder('utf-8', { fatal: strict }).decode(slice)) as unknown;
    return typeof value === 'object' && value !== null ? (value as Resource) : undefined;
  } catch {
    return undefined;
  }
}

/** A record whose bytes are a copy of `slice`, so that a kept record does not keep its whole page alive. */
export function toRecord(type: string, id: string, resource: Resource | undefined, slice: Uint8Array): RawRecord {
  const { versionId, lastUpdated } = resource?.meta ?? {};
  return {
    type,
    id,
    versionId: typeof versionId === 'string' ? versionId : '',
    ...(typeof lastUpdated === 'string' ? { lastUpdated } : {}),
    mediaType: 'application/fhir+json',
    bytes: new Uint8Array(slice),
  };
}

/**
 * The server's clock when the query began: its `Date` less the time the exchange took (a duration, so our clock does not
 * matter) less one second, for `Date` has no fractions.
 */
function serverTimeAtStart(answer: HttpAnswer): string | undefined {
  const dateMs = Date.parse(answer.headers.date ?? '');
  return Number.isNaN(dateMs) ? undefined : new Date(dateMs - Math.ceil(answer.elapsedMs) - 1000).toISOString();
}

function bundleTime(meta: unknown): string | undefined {
  const text = (meta as { lastUpdated?: unknown } | undefined)?.lastUpdated;
  const atMs = typeof text === 'string' ? Date.parse(text) : Number.NaN;
  return Number.isNaN(atMs) ? undefined : new Date(atMs - 1000).toISOString();
}

function json(slice: Uint8Array | undefined): unknown {
  if (!slice) return undefined;
  try {
    return JSON.parse(new TextDecoder().decode(slice)) as unknown;
  } catch {
    throw new CodedError('SOURCE_RESPONSE', { diagnostics: 'The Bundle is malformed.' });
  }
}

function digest(text: string): string {
  return createHash('sha256').update(text).digest('base64');
}
