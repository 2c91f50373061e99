import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { AddressInfo } from 'node:net';

/** A FHIR server small enough to be wrong in any way a test wants. Texts go out exactly as they were put in. */
export interface FixtureServer {
  readonly origin: string;
  readonly base: string;
  readonly requests: { method: string; url: string; headers: IncomingMessage['headers']; body: string }[];
  /** Puts a resource's text; its lastUpdated decides what `_lastUpdated` finds. */
  put(text: string): void;
  remove(type: string, id: string): void;
  /** Looked at before everything else: true where it answered. */
  hook: ((request: IncomingMessage & { body: string }, response: ServerResponse, url: URL) => boolean) | undefined;
  /** The server's clock. */
  nowMs: () => number;
  close(): Promise<void>;
}

interface Stored {
  type: string;
  id: string;
  lastUpdated: string;
  text: string;
  patients: string[];
}

export async function startFixtureServer(
  options: { tls?: { key: string; cert: string }; refuseRepeats?: boolean } = {},
): Promise<FixtureServer> {
  const stored = new Map<string, Stored>();
  const respond = (request: IncomingMessage, response: ServerResponse): void => {
    let body = '';
    request.on('data', (chunk: Buffer) => {
      body += chunk.toString();
    });
    request.on('end', () => {
      const url = new URL(request.url ?? '/', fixture.origin);
      fixture.requests.push({ method: request.method ?? '', url: request.url ?? '', headers: request.headers, body });
      response.setHeader('date', new Date(fixture.nowMs()).toUTCString());
      if (fixture.hook?.(Object.assign(request, { body }), response, url)) return;
      answer(response, url);
    });
  };
  const answer = (response: ServerResponse, url: URL): void => {
    const path = url.pathname.replace(/^\/fhir\/?/, '');
    const [type = '', id] = path.split('/');
    if (id !== undefined) {
      const one = stored.get(`${type}/${id}`);
      return one ? json(response, 200, one.text) : outcome(response, 404, 'not-found');
    }
    if (options.refuseRepeats) {
      for (const name of url.searchParams.keys()) {
        const values = url.searchParams.getAll(name);
        if (values.length > 1 || (name !== '_lastUpdated' && values[0]?.includes(','))) {
          return outcome(response, 400, 'processing', `HAPI-1953: Multiple Values detected for non-repeatable parameter '${name}'`);
        }
      }
    }
    const since = url.searchParams.get('_lastUpdated')?.replace(/^ge/, '');
    const patient = url.searchParams.get('patient');
    const found = [...stored.values()].filter(
      (one) =>
        one.type === type && (!since || Date.parse(one.lastUpdated) >= Date.parse(since)) && (!patient || one.patients.includes(patient)),
    );
    const count = Number(url.searchParams.get('_count') ?? 50);
    const offset = Number(url.searchParams.get('_offset') ?? 0);
    const next = new URL(url);
    next.searchParams.set('_offset', String(offset + count));
    bundle(
      response,
      found.slice(offset, offset + count).map(({ text }) => text),
      offset + count < found.length ? next.href : undefined,
    );
  };
  const server: Server = options.tls ? createTlsServer(options.tls, respond) : createServer(respond);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  const origin = `${options.tls ? 'https' : 'http'}://127.0.0.1:${port}`;
  const fixture: FixtureServer = {
    origin,
    base: `${origin}/fhir`,
    requests: [],
    hook: undefined,
    nowMs: Date.now,
    put: (text) => {
      const { resourceType, id, meta } = JSON.parse(text) as { resourceType: string; id: string; meta?: { lastUpdated?: string } };
      const patients = [...text.matchAll(/"Patient\/([^"]+)"/g)].map((match) => match[1] ?? '');
      stored.set(`${resourceType}/${id}`, { type: resourceType, id, lastUpdated: meta?.lastUpdated ?? '1970-01-01', text, patients });
    },
    remove: (type, id) => void stored.delete(`${type}/${id}`),
    close: async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
  return fixture;
}

export function json(response: ServerResponse, status: number, text: string): void {
  response.writeHead(status, { 'content-type': 'application/fhir+json' }).end(text);
}

export function outcome(response: ServerResponse, status: number, code: string, diagnostics = 'words that may name Jane Doe'): void {
  json(response, status, JSON.stringify({ resourceType: 'OperationOutcome', issue: [{ severity: 'error', code, diagnostics }] }));
}

/** A searchset with texts put in as they are. */
export function bundle(response: ServerResponse, texts: readonly string[], next?: string): void {
  const link = next === undefined ? '' : `"link": [{"relation": "next", "url": ${JSON.stringify(next)}}],`;
  json(
    response,
    200,
    `{"resourceType": "Bundle", "type": "searchset", ${link} "entry": [${texts.map((text) => `{"resource": ${text}}`).join(',\n')}]}`,
  );
}
