import type { CapabilityStatement } from 'fhir/r4.js';
import { Client } from 'fhir-kit-client';
import { CodedError, codeOf } from '../../errors.ts';
import { type Authentication, createAuthentication } from './authentication.ts';
import { createHttpTransport, type HttpAnswer, type HttpRequest } from './http-transport.ts';
import { DEFAULT_LIMITS, type LimitOptions, type SourceOptions } from './options.ts';
import { createOriginGuard, type OriginGuard } from './origin-guard.ts';
import { outcomeOf } from './outcome.ts';
import { createResilience, readRetryAfter } from './resilience.ts';

/** Everything between a strategy and the wire: sign-in, retries, pace, limits, pinned origin. One per source. */
export interface Session {
  readonly base: URL;
  readonly guard: OriginGuard;
  readonly limits: LimitOptions;
  readonly authentication: Authentication;
  /** An answer below 400, or an error of the table; see `refusal` for what a 4xx becomes. */
  get(url: URL, options: GetOptions): Promise<HttpAnswer>;
  /** The capability statement, read through fhir-kit-client over this session's transport. */
  capabilities(signal?: AbortSignal): Promise<CapabilityStatement>;
  close(): void;
}
export interface GetOptions {
  signal?: AbortSignal | undefined;
  accept?: string;
  maxBytes: number;
  /** Default true. */
  withToken?: boolean;
}

/** What a 4xx said, for those who can go on without the answer. */
export interface Refusal {
  status: number;
  /** Issue codes of the OperationOutcome. */
  issues: readonly string[];
}
const refusals = new WeakMap<CodedError, Refusal>();
/** The server's refusal behind a SOURCE_REFUSED or SOURCE_AUTHENTICATION error; undefined for anything else. */
export function refusal(error: unknown): Refusal | undefined {
  return error instanceof CodedError ? refusals.get(error) : undefined;
}

const FHIR_JSON = 'application/fhir+json, application/json;q=0.9';
const MAX_REDIRECTS = 3;

export function createSession(options: SourceOptions): Session {
  const limits: LimitOptions = { ...DEFAULT_LIMITS };
  for (const [name, value] of Object.entries(options.limits ?? {})) if (value !== undefined) Object.assign(limits, { [name]: value });
  const base = new URL(`${options.baseUrl.replace(/\/+$/, '')}/`);
  const transport = createHttpTransport({ caPem: options.tls?.caPem, concurrency: limits.concurrency });
  const resilience = createResilience(limits);
  const guard = createOriginGuard({
    baseUrl: base,
    allowedOrigins: options.allowedOrigins ?? [],
    attachmentOrigins: options.attachmentOrigins ?? [],
  });

  /** One exchange under all policies; throws for what is worth a retry, returns everything else. */
  const attempt = (request: HttpRequest): Promise<HttpAnswer> =>
    resilience.run(request.url.host, request.signal, async () => {
      const answer = await transport.exchange(request);
      const retryAfterSeconds = readRetryAfter(answer.headers['retry-after'], answer.headers.date);
      const wait = retryAfterSeconds === undefined ? {} : { retryAfterSeconds };
      if (answer.status === 429) throw new CodedError('SOURCE_THROTTLED', { diagnostics: 'It answers 429.', ...wait });
      if (answer.status === 408 || answer.status >= 500) {
        throw new CodedError('SOURCE_UNREACHABLE', { diagnostics: `It answers ${answer.status}.`, ...wait });
      }
      return answer;
    });

  const plainGet = async (start: URL, get: GetOptions, token: string | undefined): Promise<HttpAnswer> => {
    let url = start;
    for (let redirects = 0; ; redirects++) {
      const headers: Record<string, string> = { accept: get.accept ?? FHIR_JSON };
      // Checked at each step: whatever built the URL, the token never leaves the configured origins.
      if (token !== undefined && guard.trusted(url)) headers.authorization = `Bearer ${token}`;
      const answer = await attempt({
        method: 'GET',
        url,
        headers,
        maxBytes: get.maxBytes,
        timeoutMs: limits.timeoutMs,
        signal: get.signal,
      });
      const location = answer.headers.location;
      if (![301, 302, 303, 307, 308].includes(answer.status) || location === undefined) return answer;
      if (redirects === MAX_REDIRECTS) throw new CodedError('SOURCE_PAGING', { diagnostics: 'Too many redirects.' });
      url = guard.page(location, url);
    }
  };

  const refused = (answer: HttpAnswer): CodedError => {
    const outcome = outcomeOf(answer.bytes);
    const scopes = authentication.missingScopes();
    const named = scopes.length > 0 ? ` Scopes asked and not granted: ${scopes.join(' ')}.` : '';
    const issues = outcome.codes.length > 0 ? ` (${outcome.codes.join(', ')})` : '';
    const error = new CodedError(answer.status === 401 ? 'SOURCE_AUTHENTICATION' : 'SOURCE_REFUSED', {
      diagnostics: `It answers ${answer.status}${issues}.${named}`,
    });
    refusals.set(error, { status: answer.status, issues: outcome.codes });
    return error;
  };

  const get = async (url: URL, request: GetOptions): Promise<HttpAnswer> => {
    const withToken = request.withToken !== false;
    let answer: HttpAnswer | undefined;
    // A token may end at any time: one more is asked for; a fresh one that is refused too is a wrong configuration.
    for (let round = 0; round < 2; round++) {
      const token = withToken ? await authentication.token(request.signal) : undefined;
      answer = await plainGet(url, request, token);
      if (answer.status !== 401 || token === undefined) break;
      authentication.refused(token);
    }
    if (!answer) throw new CodedError('INTERNAL');
    if (answer.status >= 400) throw refused(answer);
    return answer;
  };

  /**
   * fhir-kit-client brings FHIR's URLs and the reading of SMART's metadata; its wire is replaced by ours, because its own
   * follows any origin with the token, has no timeout, no limit and no CA (fhir-facade.md section 6).
   */
  const clientOver = (withToken: boolean, signal: AbortSignal | undefined): Client => {
    const client = new Client({ baseUrl: base.href });
    const request = async (_method: string, written: string): Promise<Record<string, unknown> & { resourceType: string }> => {
      const url = guard.page(written.replace(/^\//, ''), base);
      const answer = await get(url, { signal, withToken, maxBytes: limits.maxPageBytes, accept: `${FHIR_JSON}, */*;q=0.1` });
      return parseJson(answer.bytes) as Record<string, unknown> & { resourceType: string };
    };
    client.httpClient.request = request as typeof client.httpClient.request;
    return client;
  };

  const discoverTokenUrl = async (signal?: AbortSignal): Promise<string> => {
    const client = clientOver(false, signal);
    // Asked in this order by hand: smartAuthMetadata() takes whichever answers first, and a capability statement without
    // the extension counts as an answer without a URL.
    const found = await client
      .request('.well-known/smart-configuration')
      .then((document) => (document as { token_endpoint?: unknown }).token_endpoint)
      .catch((error: unknown) => {
        if (codeOf(error) !== 'SOURCE_REFUSED' && codeOf(error) !== 'SOURCE_RESPONSE') throw error;
        return undefined;
      });
    const text = typeof found === 'string' ? found : (await client.smartAuthMetadata()).tokenUrl?.href;
    if (text === undefined) {
      throw new CodedError('SOURCE_AUTHENTICATION', { diagnostics: 'The server names no token URL; set `auth.tokenUrl`.' });
    }
    const url = URL.parse(text, base.href);
    if (!url || !guard.trusted(url)) {
      throw new CodedError('SOURCE_ORIGIN', {
        diagnostics: `SMART discovery names a token URL at ${url?.origin ?? 'no valid URL'}; set \`auth.tokenUrl\` if it is right.`,
      });
    }
    return url.href;
  };

  const authentication = createAuthentication(options.auth, {
    discoverTokenUrl,
    postForm: async (text, form, signal) => {
      const answer = await attempt({
        method: 'POST',
        url: new URL(text),
        headers: { accept: 'application/json', 'content-type': 'application/x-www-form-urlencoded' },
        body: form.toString(),
        maxBytes: 2 ** 20,
        timeoutMs: limits.timeoutMs,
        signal,
      });
      return { status: answer.status, text: Buffer.from(answer.bytes).toString('utf8') };
    },
  });

  return {
    base,
    guard,
    limits,
    authentication,
    get,
    capabilities: async (signal) => {
      // Open by the specification (R4 3.1.0.16.1 advises it); a server that wants a token for it gets one.
      const statement = await clientOver(false, signal)
        .capabilityStatement()
        .catch((error: unknown) => {
          if (!refusal(error)) throw error;
          return clientOver(true, signal).capabilityStatement();
        });
      return statement as unknown as CapabilityStatement;
    },
    close: () => transport.close(),
  };
}

function parseJson(bytes: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder().decode(bytes)) as unknown;
  } catch {
    throw new CodedError('SOURCE_RESPONSE', { diagnostics: 'The answer is not JSON.' });
  }
}
