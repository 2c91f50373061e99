import { cpSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { basename, dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Simulator } from './simulator.ts';

const root = fileURLToPath(new URL('../', import.meta.url));

/**
 * A sample configuration as it ships, copied into the demo's folder with the simulator's addresses and credentials written in, so
 * that every command works with it and needs no variable: what stood as a reference to the environment becomes its value, a
 * secret a file of its own. Ports are free ones.
 */
export function copyConfig(options: {
  run: string;
  sample: 'embedded.yaml' | 'production.yaml';
  simulator: Simulator;
  values?: Record<string, string>;
  /** Values that become a file of their own. */
  files?: Record<string, string>;
  change?: (text: string) => string;
}): string {
  const { run, sample, simulator, change = (text: string): string => text } = options;
  const { ehr, aria } = simulator;
  const values: Record<string, string> = {
    EHR_FHIR_URL: ehr.baseUrl,
    EHR_CLIENT_ID: ehr.clientId,
    ARIA_FHIR_URL: aria.baseUrl,
    ARIA_TOKEN_URL: aria.tokenUrl,
    ARIA_CLIENT_ID: aria.clientId,
    ...options.values,
  };
  const files: Record<string, string> = {
    EHR_CLIENT_KEY: JSON.stringify(ehr.privateKeyJwk),
    ARIA_CLIENT_SECRET: aria.clientSecret,
    ...options.files,
  };
  cpSync(join(root, 'config'), join(run, 'config'), { recursive: true });
  const secrets = join(run, 'secrets');
  mkdirSync(secrets, { mode: 0o700 });
  for (const [name, content] of Object.entries(files)) writeFileSync(join(secrets, name), content, { mode: 0o600 });
  const reference = /\$\{env:([A-Z0-9_]+)(?::-[^}]*)?\}/g;
  const config = join(run, 'config', sample);
  for (const file of [config, join(run, 'config/sources/ehr.yaml'), join(run, 'config/sources/aria.yaml')]) {
    const text = readFileSync(file, 'utf8').replaceAll(reference, (all, name: string) =>
      name in files ? `\${file:${join(relative(dirname(file), secrets), name)}}` : (values[name] ?? all),
    );
    const own = basename(file) === sample ? change(text) : text;
    writeFileSync(file, own.replace('port: 8480', 'port: 0').replace('port: 8481', 'port: 0'));
  }
  return config;
}
