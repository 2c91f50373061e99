import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { dirname, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';

const project = fileURLToPath(new URL('../', import.meta.url));

export interface ChaincodePackage {
  /** `<label>:<sha256 of the bytes>`, as every peer computes it. */
  id: string;
  bytes: Uint8Array;
}

/**
 * The package of a chaincode that runs as a server of its own: what institutions approve. It holds no code, for peers run
 * none; it holds the digest of every source file that the server consists of, so that approving the package approves those
 * sources. The same sources and label give the same bytes on every machine.
 */
export async function packageChaincode(folder: string, label: string): Promise<ChaincodePackage> {
  // Each peer replaces this by the address of its own server when it installs the package: network/builder.
  const connection = { address: 'localhost:0', dial_timeout: '10s', tls_required: true };
  const sources = await digestSources(join(folder, 'main.ts'));
  const code = tarGz({ 'connection.json': json(connection), 'sources.json': json(sources) });
  const bytes = tarGz({ 'metadata.json': json({ type: 'ccaas', label }), 'code.tar.gz': code });
  return { id: `${label}:${createHash('sha256').update(bytes).digest('hex')}`, bytes };
}

/** SHA-256 of a file and of all that it imports by relative path, by path within the project. */
async function digestSources(main: string): Promise<Record<string, string>> {
  const found = new Map<string, string>();
  const todo = [resolve(main)];
  for (let path = todo.pop(); path !== undefined; path = todo.pop()) {
    if (found.has(path)) continue;
    const text = await readFile(path, 'utf8');
    found.set(path, createHash('sha256').update(text).digest('hex'));
    for (const [, imported = ''] of text.matchAll(/(?:from|import)\s*\(?\s*['"](\.{1,2}\/[^'"]+)['"]/g))
      todo.push(resolve(dirname(path), imported));
  }
  const byPath = [...found].map(([path, hash]) => [relative(project, path), hash] as const);
  return Object.fromEntries(byPath.sort(([a], [b]) => (a < b ? -1 : 1)));
}

function json(value: unknown): Uint8Array {
  return Buffer.from(JSON.stringify(value));
}

/** A ustar archive (POSIX.1-1988) with no owner and no times, stored: compression differs between versions of zlib. */
function tarGz(files: Readonly<Record<string, Uint8Array>>): Uint8Array {
  const parts: Uint8Array[] = [];
  for (const [name, content] of Object.entries(files)) {
    const header = Buffer.alloc(512);
    const octal = (value: number, at: number, length: number): void => {
      header.write(`${value.toString(8).padStart(length - 1, '0')}\0`, at, 'latin1');
    };
    header.write(name, 0, 'latin1');
    octal(0o644, 100, 8);
    octal(0, 108, 8);
    octal(0, 116, 8);
    octal(content.length, 124, 12);
    octal(0, 136, 12);
    header.write('        0', 148, 'latin1');
    header.write('ustar\u000000', 257, 'latin1');
    octal(
      header.reduce((sum, byte) => sum + byte, 0),
      148,
      7,
    );
    header.write(' ', 155, 'latin1');
    parts.push(header, content, Buffer.alloc((512 - (content.length % 512)) % 512));
  }
  parts.push(Buffer.alloc(1024));
  const zipped = gzipSync(Buffer.concat(parts), { level: 0 });
  // Byte 9 of the header names the operating system, RFC 1952 section 2.3.1.
  zipped[9] = 255;
  return zipped;
}
