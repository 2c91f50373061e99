import { randomBytes, timingSafeEqual } from 'node:crypto';
import { mkdir, rename, rm, writeFile } from 'node:fs/promises';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { dirname } from 'node:path';
import { CodedError, codeOf, type ErrorCode } from '../errors.ts';
import type { OperationName, Operations } from './operations.ts';

/** How a command finds the running server; lies in the data directory, readable by its user only. */
export interface ControlFile {
  pid: number;
  port: number;
  token: string;
  facade: string;
}

/** One line of an answer: progress as it comes, then the result or a coded error. */
export type ControlLine = { progress: unknown } | { result: unknown } | { error: { code: ErrorCode; diagnostics?: string } };

/**
 * The door through which a command run beside a running server works in that server: one process holds the keys
 * (architecture section 5). Loopback, a random token per start in a 0600 file, constant-time compare.
 */
export async function startControlServer(options: {
  file: string;
  facade: string;
  operations: Operations;
  /** Errors without a code: the caller is told INTERNAL, the operator must find them in the log. */
  onError(error: unknown, operation: string): void;
}): Promise<{ close(): Promise<void> }> {
  const { file, facade, operations, onError } = options;
  const token = randomBytes(32).toString('base64url');
  const expected = Buffer.from(`Bearer ${token}`);
  const server = createServer((request, response) => {
    void answer(request, response).catch(() => response.destroy());
  });
  server.requestTimeout = 0;

  async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const given = Buffer.from(request.headers.authorization ?? '');
    if (given.length !== expected.length || !timingSafeEqual(given, expected) || request.method !== 'POST') {
      response.writeHead(401).end();
      return;
    }
    const name = (request.url ?? '').slice(1);
    if (!Object.hasOwn(operations, name)) {
      response.writeHead(404).end();
      return;
    }
    const chunks: Buffer[] = [];
    let size = 0;
    for await (const chunk of request as AsyncIterable<Buffer>) {
      size += chunk.length;
      // The directory of a large hospital is the longest.
      if (size > 5_000_000) throw new CodedError('TOO_LARGE');
      chunks.push(chunk);
    }
    response.writeHead(200, { 'content-type': 'application/x-ndjson' });
    const write = (line: ControlLine): void => void response.write(`${JSON.stringify(line)}\n`);
    try {
      const input = JSON.parse(Buffer.concat(chunks).toString() || '{}') as never;
      const operation = operations[name as OperationName] as (input: never, progress: (p: unknown) => void) => Promise<unknown>;
      write({ result: (await operation(input, (progress) => write({ progress }))) ?? null });
    } catch (error) {
      if (codeOf(error) === undefined) onError(error, name);
      const diagnostics = error instanceof CodedError ? error.detail.diagnostics : undefined;
      write({ error: { code: codeOf(error) ?? 'INTERNAL', ...(diagnostics === undefined ? {} : { diagnostics }) } });
    }
    response.end();
  }

  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(0, '127.0.0.1', resolve);
  });
  const content: ControlFile = { pid: process.pid, port: (server.address() as AddressInfo).port, token, facade };
  await mkdir(dirname(file), { recursive: true, mode: 0o700 });
  await writeFile(`${file}.new`, JSON.stringify(content), { mode: 0o600 });
  await rename(`${file}.new`, file);
  return {
    async close() {
      await rm(file, { force: true });
      await new Promise<void>((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      });
    },
  };
}
