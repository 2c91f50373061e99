import { createServer, type RequestListener, type Server } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import { CodedError } from '../errors.ts';
import { errorAnswer } from './outcome.ts';

export interface HttpServerOptions {
  /** What answers: an express app. */
  handler: RequestListener;
  /** Loopback unless told: a proxy with TLS stands before any other interface. */
  host?: string;
  /** 0: any free port. */
  port: number;
  requestTimeoutMs?: number;
  headersTimeoutMs?: number;
  keepAliveTimeoutMs?: number;
  maxHeaderBytes?: number;
  maxConnections?: number;
}

export interface HttpServer {
  readonly url: string;
  readonly port: number;
  /** Takes no new connection, lets what runs finish, and cuts what is left after the deadline. Idempotent. */
  close(deadlineMs?: number): Promise<void>;
}

/** Listens, then resolves. Rejects where the port is taken. */
export async function createHttpServer(options: HttpServerOptions): Promise<HttpServer> {
  const server = createServer(
    {
      requestTimeout: options.requestTimeoutMs ?? 60_000,
      headersTimeout: options.headersTimeoutMs ?? 15_000,
      keepAliveTimeout: options.keepAliveTimeoutMs ?? 65_000,
      maxHeaderSize: options.maxHeaderBytes ?? 16_384,
      connectionsCheckingInterval: 5000,
    },
    options.handler,
  );
  if (options.maxConnections !== undefined) server.maxConnections = options.maxConnections;
  server.on('clientError', refuseBroken);
  const host = options.host ?? '127.0.0.1';
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(options.port, host, () => {
      server.off('error', reject);
      resolve();
    });
  });
  const { port } = server.address() as AddressInfo;
  let closing: Promise<void> | undefined;
  return {
    port,
    url: `http://${host.includes(':') ? `[${host}]` : host}:${port}`,
    close(deadlineMs = 10_000) {
      closing ??= stop(server, deadlineMs);
      return closing;
    },
  };
}

async function stop(server: Server, deadlineMs: number): Promise<void> {
  const closed = new Promise<void>((resolve) => server.close(() => resolve()));
  // Node closes what is idle at the call, not what becomes idle after it: a kept-alive connection would hold us till its timeout.
  const idle = setInterval(() => server.closeIdleConnections(), 25);
  const deadline = setTimeout(() => server.closeAllConnections(), deadlineMs);
  await closed;
  clearInterval(idle);
  clearTimeout(deadline);
}

/** What HTTP's own parser refuses (oversized headers, broken requests, timeouts) gets an OperationOutcome like the rest. */
function refuseBroken(error: NodeJS.ErrnoException, socket: Socket): void {
  if (error.code === 'ECONNRESET' || !socket.writable) {
    socket.destroy();
    return;
  }
  const { status, body } = errorAnswer(new CodedError(error.code === 'HPE_HEADER_OVERFLOW' ? 'TOO_LARGE' : 'BAD_REQUEST'));
  socket.end(
    `HTTP/1.1 ${status} ${status === 413 ? 'Content Too Large' : 'Bad Request'}\r\nConnection: close\r\nContent-Type: application/fhir+json\r\n` +
      `Content-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
  );
}
