import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { dirname, relative, resolve, sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseDocument } from 'yaml';
import { type LoadedConfig, loadConfig } from '../config/load.ts';
import { CodedError } from '../errors.ts';
import { makePassphraseFile } from '../vault/passphrase.ts';

/** The sample that ships with the project: what a command reads where --config names nothing. */
export const DEFAULT_CONFIG = fileURLToPath(new URL('../../config/embedded.yaml', import.meta.url));

export interface Settings {
  config: LoadedConfig;
  /** Absolute data directory. */
  data: string;
  /** Said once, when the start made a passphrase. */
  notice?: string;
}

/**
 * Reads the configuration for a command that runs. The first start of a trial makes the custodian's passphrase as a 0600
 * file where the config says so; any other config must not keep it beside the data (SECRET_WEAK).
 */
export async function readSettings(file: string, env: NodeJS.ProcessEnv = process.env): Promise<Settings> {
  const passphrase = passphraseFile(file);
  let notice: string | undefined;
  if (passphrase?.make === true && !existsSync(passphrase.path)) {
    mkdirSync(dirname(passphrase.path), { recursive: true, mode: process.getuid?.() === 0 ? 0o711 : 0o700 });
    await makePassphraseFile(passphrase.path);
    notice = `Made the custodian's passphrase: ${shown(passphrase.path)} (0600). It opens every key beside it; a production site keeps it elsewhere.`;
  }
  const config = loadConfig({ file, env });
  const data = resolve(dirname(config.file), config.server.data);
  if (passphrase !== undefined && !passphrase.make && isInside(passphrase.path, data))
    throw new CodedError('SECRET_WEAK', {
      diagnostics: `custodian.passphrase lies beside the data (${shown(passphrase.path)}): whoever copies the one has the other. Keep it elsewhere.`,
    });
  return { config, data, ...(notice === undefined ? {} : { notice }) };
}

/** For `config check`: reads without making anything. */
export function checkSettings(file: string, env: NodeJS.ProcessEnv = process.env): LoadedConfig {
  const passphrase = passphraseFile(file);
  return loadConfig({
    file,
    env,
    generate: (path) => (passphrase?.make === true && path === passphrase.path ? 'made at the first start' : undefined),
  });
}

function passphraseFile(file: string): { path: string; make: boolean } | undefined {
  if (!existsSync(file)) return undefined; // loadConfig says it, with its code
  const document = parseDocument(readFileSync(file, 'utf8'));
  const value = document.getIn(['custodian', 'passphrase']);
  const reference = typeof value === 'string' ? /^\$\{file:([^}]+)\}$/.exec(value)?.[1] : undefined;
  if (reference === undefined) return undefined;
  return { path: resolve(dirname(resolve(file)), reference), make: document.getIn(['custodian', 'makePassphrase']) === true };
}

function isInside(path: string, folder: string): boolean {
  return path.startsWith(folder + sep);
}

/** A path as a person would type it from here. */
export function shown(path: string): string {
  const near = relative(process.cwd(), path);
  return near.startsWith('..') || near === '' ? path : near;
}
