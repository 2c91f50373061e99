import { readFileSync } from 'node:fs';
import { dirname, resolve } from 'node:path';

/**
 * References in configuration values: `${env:NAME}`, `${env:NAME:-default}`, `${file:path}`. A resolved value carries a
 * mark until the schema strips it, so that a secret field can tell a reference from a literal.
 */
const MARK = '\u0000ref\u0000';
const PATTERN = /\$\{(env|file):([^}:]+)(?::-([^}]*))?\}/g;

export function isReferenced(value: string): boolean {
  return value.startsWith(MARK);
}

export function stripReference(value: string): string {
  return value.startsWith(MARK) ? value.slice(MARK.length) : value;
}

/**
 * The value with its references resolved and marked. `onMissing` hears what is not set: it names variable or file,
 * never a value. A file's trailing newline is cut.
 */
export function resolveReferences(
  value: string,
  options: { file: string; env: NodeJS.ProcessEnv; onMissing: (message: string) => string | undefined },
): { value: string; from: string[] } {
  const from: string[] = [];
  let hasDefault = false;
  const resolved = value.replaceAll(PATTERN, (_all, scheme: string, name: string, fallback: string | undefined) => {
    from.push(`${scheme}:${name}`);
    if (scheme === 'env') {
      const found = options.env[name];
      if (found !== undefined && found !== '') return found;
      if (fallback !== undefined) {
        hasDefault = true;
        return fallback;
      }
      return options.onMissing(`the environment variable ${name} is not set`) ?? '';
    }
    const path = resolve(dirname(options.file), name);
    try {
      return readFileSync(path, 'utf8').replace(/\r?\n$/, '');
    } catch {
      return options.onMissing(`the file ${name} cannot be read`) ?? '';
    }
  });
  // A default written in the file is a literal: it must not pass as a secret.
  return { value: from.length > 0 && !hasDefault ? MARK + resolved : resolved, from };
}
