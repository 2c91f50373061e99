import { readFile } from 'node:fs/promises';
import { request } from 'node:http';
import { createInterface } from 'node:readline';
import { CodedError } from '../errors.ts';
import { isAlive } from '../store/process-alive.ts';
import type { ControlFile, ControlLine } from './control-server.ts';
import type { Operations } from './operations.ts';

/** A pull may keep the process busy for a while; one that does not answer for so long hangs. */
const PING_MS = 10_000;

/** The running server's control file, undefined where none runs (a stale file of a killed one included). */
export async function findServer(file: string): Promise<ControlFile | undefined> {
  let control: ControlFile;
  try {
    control = JSON.parse(await readFile(file, 'utf8')) as ControlFile;
  } catch {
    return undefined;
  }
  if (!isAlive(control.pid)) return undefined;
  try {
    await call(control, 'ping', {}, () => {}, PING_MS);
    return control;
  } catch {
    return undefined; // the pid was given to another process, or the server hangs: whoever starts beside it finds its lock
  }
}

/** The operations of the running server, called as if they were here. */
export function remoteOperations(control: ControlFile): Operations {
  return new Proxy({} as Operations, {
    get: (_target, name) => (input: unknown, progress?: (p: unknown) => void) =>
      call(control, String(name), input ?? {}, progress ?? (() => {})),
  });
}

function call(control: ControlFile, name: string, input: unknown, progress: (p: unknown) => void, timeoutMs?: number): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const lost = (): void => reject(new CodedError('UNAVAILABLE', { diagnostics: 'The running server closed the connection.' }));
    const sent = request(
      { host: '127.0.0.1', port: control.port, path: `/${name}`, method: 'POST', headers: { authorization: `Bearer ${control.token}` } },
      (response) => {
        if (response.statusCode !== 200) {
          response.resume();
          reject(new CodedError('UNAVAILABLE', { diagnostics: `The running server answered ${response.statusCode}.` }));
          return;
        }
        const lines = createInterface({ input: response });
        lines.on('line', (text) => {
          const line = JSON.parse(text) as ControlLine;
          if ('progress' in line) progress(line.progress);
          else if ('result' in line) resolve(line.result);
          else reject(new CodedError(line.error.code, line.error.diagnostics === undefined ? {} : { diagnostics: line.error.diagnostics }));
        });
        lines.on('close', lost);
      },
    );
    sent.on('error', lost);
    if (timeoutMs !== undefined) sent.setTimeout(timeoutMs, () => sent.destroy());
    sent.end(JSON.stringify(input));
  });
}
