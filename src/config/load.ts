import { createHash } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { dirname, relative, resolve } from 'node:path';
import { isMap, isScalar, isSeq, LineCounter, type Node, parseDocument } from 'yaml';
import type { z } from 'zod';
import { CodedError } from '../errors.ts';
import { checkFabric, describeCertificate } from './fabric-check.ts';
import { isReferenced, resolveReferences, stripReference } from './references.ts';
import { parseDurationMs, type ServerConfig, type SourceConfig, serverSchema, sourceSchema } from './schema.ts';

/** One thing wrong in a file: `file:line:column path: what is wrong`. */
export interface ConfigProblem {
  severity: 'error' | 'warning';
  file: string;
  line: number;
  column: number;
  path: string;
  message: string;
}

/** Where a value came from: a place in a file, a reference, or the schema's default. */
export interface ConfigValue {
  path: string;
  value: unknown;
  origin: string;
  secret: boolean;
}

export interface LoadedConfig {
  file: string;
  server: ServerConfig;
  sources: readonly LoadedSource[];
  /** Hash over every file's resolved, redacted content: which rules a record was decided by. */
  hash: string;
  values: readonly ConfigValue[];
  warnings: readonly ConfigProblem[];
}
export interface LoadedSource {
  file: string;
  config: SourceConfig;
}

/** Thrown with every problem found, so that one run shows all of them. */
export class ConfigError extends CodedError {
  readonly problems: readonly ConfigProblem[];
  constructor(problems: readonly ConfigProblem[]) {
    super('CONFIG_INVALID', { diagnostics: `\n${problems.map(formatProblem).join('\n')}` });
    this.problems = problems;
  }
}

export function formatProblem(problem: ConfigProblem): string {
  const { file, line, column, path, message } = problem;
  return `${file}:${line}:${column} ${path === '' ? '' : `${path}: `}${message}`;
}

export interface LoadOptions {
  file: string;
  env?: NodeJS.ProcessEnv;
  /** Files that may be missing now because the start makes them (the custodian's passphrase). */
  generate?: (path: string) => string | undefined;
}

/**
 * Reads a configuration with its sources. Throws ConfigError naming every problem as `file:line:column path: what,
 * allowed, did you mean`.
 */
export function loadConfig(options: LoadOptions): LoadedConfig {
  const env = options.env ?? process.env;
  const file = resolve(options.file);
  if (!existsSync(file)) throw new CodedError('CONFIG_NOT_FOUND', { diagnostics: options.file });
  const problems: ConfigProblem[] = [];
  const values: ConfigValue[] = [];
  const hash = createHash('sha256');

  const { value: server, place, tree } = readFile(file, serverSchema, { env, problems, values, hash, generate: options.generate });
  const sources: LoadedSource[] = [];
  if (server !== undefined) problems.push(...checkServer(server, place));
  // Also where the file that names them is wrong: one run shows every problem of all files.
  for (const [index, name] of (server?.sources ?? namedSources(tree)).entries()) {
    const path = resolve(dirname(file), name);
    if (!existsSync(path)) {
      problems.push({ severity: 'error', ...place(['sources', index]), message: `the file ${name} does not exist` });
      continue;
    }
    const source = readFile(path, sourceSchema, { env, problems, values, hash, generate: undefined });
    const { value } = source;
    if (value === undefined) continue;
    if (server !== undefined) problems.push(...checkSource(value, server, source.place));
    if (sources.some((other) => other.config.id === value.id))
      problems.push({ severity: 'error', ...source.place(['id']), message: `another source has the id ${value.id} already` });
    sources.push({ file: path, config: value });
  }
  const errors = problems.filter((p) => p.severity === 'error');
  if (errors.length > 0 || server === undefined) throw new ConfigError(errors);
  return {
    file,
    server,
    sources,
    hash: hash.digest('hex'),
    values,
    warnings: problems.filter((p) => p.severity === 'warning'),
  };
}

/** What a file that is wrong elsewhere names as its sources. */
function namedSources(tree: unknown): readonly string[] {
  const named = (tree as { sources?: unknown } | undefined)?.sources;
  return Array.isArray(named) ? named.filter((name) => typeof name === 'string') : [];
}

type Path = readonly PropertyKey[];
type Place = (path: Path) => { file: string; line: number; column: number; path: string };

interface Reading {
  env: NodeJS.ProcessEnv;
  problems: ConfigProblem[];
  values: ConfigValue[];
  hash: ReturnType<typeof createHash>;
  generate: ((path: string) => string | undefined) | undefined;
}

/** `value` where the file is right; `tree` is what it says, right or wrong. */
function readFile<S extends z.ZodType>(
  file: string,
  schema: S,
  reading: Reading,
): { value: z.output<S> | undefined; tree: unknown; place: Place } {
  const shown = relative(process.cwd(), file) || file;
  const lines = new LineCounter();
  const document = parseDocument(readFileSync(file, 'utf8'), { lineCounter: lines, uniqueKeys: true });
  const at = (offset: number): { line: number; column: number } => {
    const { line, col } = lines.linePos(offset);
    return { line, column: col };
  };
  const place: Place = (path) => {
    // A path that is not in the file (a missing key) is shown at its nearest parent.
    for (let length = path.length; length >= 0; length--) {
      const node = length === 0 ? document.contents : keyNode(document.contents, path.slice(0, length));
      if (node?.range) return { file: shown, ...at(node.range[0]), path: pathText(path) };
    }
    return { file: shown, line: 1, column: 1, path: pathText(path) };
  };
  for (const error of document.errors) {
    const message = error.message.split('\n')[0]?.replace(/ at line \d+, column \d+:?$/, '') ?? 'not YAML';
    reading.problems.push({ severity: 'error', file: shown, ...at(error.pos[0]), path: '', message });
  }
  if (document.errors.length > 0) return { value: undefined, tree: undefined, place };

  const from = new Map<string, string>();
  const missing: string[] = [];
  const tree = resolveTree(document.contents, [], (text, path) => {
    const resolved = resolveReferences(text, {
      file,
      env: reading.env,
      onMissing(message) {
        const made = message.startsWith('the file') ? reading.generate?.(fileOf(text, file)) : undefined;
        if (made === undefined) {
          reading.problems.push({ severity: 'error', ...place(path), message });
          missing.push(pathText(path));
        }
        return made;
      },
    });
    if (resolved.from.length > 0) from.set(pathText(path), resolved.from.join(' '));
    return resolved.value;
  });

  const parsed = schema.safeParse(tree);
  if (!parsed.success) {
    const found = parsed.error.issues.flatMap((issue) => explain(issue, schema, tree, place, missing));
    // A key that is written wrong is not said to be missing as well.
    const meant = found.flatMap((one) => DID_YOU_MEAN.exec(one.message)?.[1] ?? []);
    reading.problems.push(
      ...found.filter((one) => !(one.message.startsWith(REQUIRED) && meant.includes(one.path.split('.').at(-1) ?? ''))),
    );
    return { value: undefined, tree, place };
  }
  if (missing.length > 0) return { value: undefined, tree, place };
  collect(parsed.data, [], (path, value) => {
    const name = pathText(path);
    const reference = from.get(name);
    const { line, column } = place(path);
    const given = valueAt(tree, path) !== undefined;
    const secret = isSecretPath(path);
    const certificate = typeof value === 'string' && value.includes('-----BEGIN CERTIFICATE-----');
    reading.values.push({
      path: `${shown}#${name}`,
      value: secret ? '(secret)' : certificate ? describeCertificate(value) : value,
      origin: reference ?? (given ? `${shown}:${line}:${column}` : 'default'),
      secret,
    });
    // Renewing a certificate changes nothing that a record is decided by.
    if (!secret && !certificate) reading.hash.update(`${name}=${JSON.stringify(value)}\n`);
  });
  return { value: parsed.data, tree, place };
}

const REQUIRED = 'required: ';
const DID_YOU_MEAN = /^unknown key, did you mean ([^?]+)\?/;
const SECRET_KEYS = new Set(['passphrase', 'secret', 'key', 'privateKey', 'clientKey']);
function isSecretPath(path: Path): boolean {
  const last = path.at(-1);
  if (typeof last !== 'string') return false;
  return SECRET_KEYS.has(last) || (last === 'url' && (path[0] === 'database' || path[0] === 'queue'));
}

function fileOf(text: string, file: string): string {
  return resolve(dirname(file), /\$\{file:([^}]+)\}/.exec(text)?.[1] ?? '');
}

function resolveTree(node: unknown, path: Path, onText: (text: string, path: Path) => string): unknown {
  if (isMap(node)) {
    const object: Record<string, unknown> = {};
    for (const item of node.items) {
      const key = String(isScalar(item.key) ? item.key.value : item.key);
      object[key] = resolveTree(item.value, [...path, key], onText);
    }
    return object;
  }
  if (isSeq(node)) return node.items.map((item, index) => resolveTree(item, [...path, index], onText));
  if (isScalar(node)) return typeof node.value === 'string' ? onText(node.value, path) : node.value;
  return node ?? undefined;
}

/** The node of a key (so that an unknown key is pointed at itself), or of a list item. */
function keyNode(contents: unknown, path: Path): Node | undefined {
  let node: unknown = contents;
  let shown: unknown;
  for (const part of path) {
    if (isMap(node)) {
      const pair = node.items.find((item) => isScalar(item.key) && String(item.key.value) === String(part));
      if (pair === undefined) return undefined;
      shown = pair.key;
      node = pair.value;
    } else if (isSeq(node)) {
      shown = node = node.items[Number(part)];
    } else return undefined;
  }
  const last = node ?? shown;
  return (isScalar(last) ? last : (shown ?? last)) as Node | undefined;
}

function pathText(path: Path): string {
  return path.map((part, index) => (typeof part === 'number' ? `[${part}]` : `${index > 0 ? '.' : ''}${String(part)}`)).join('');
}

function valueAt(tree: unknown, path: Path): unknown {
  return path.reduce<unknown>((value, part) => (value as Record<PropertyKey, unknown> | undefined)?.[part], tree);
}

function collect(value: unknown, path: Path, visit: (path: Path, value: unknown) => void): void {
  if (Array.isArray(value)) value.forEach((item, index) => collect(item, [...path, index], visit));
  else if (value !== null && typeof value === 'object')
    for (const [key, item] of Object.entries(value)) collect(item, [...path, key], visit);
  else visit(path, value);
}

function explain(issue: z.core.$ZodIssue, schema: z.ZodType, tree: unknown, place: Place, missing: readonly string[]): ConfigProblem[] {
  const problem = (path: Path, message: string): ConfigProblem => ({ severity: 'error', ...place(path), message });
  if (missing.includes(pathText(issue.path))) return [];
  if (issue.code === 'unrecognized_keys') {
    const known = knownKeys(schema, issue.path, tree);
    return issue.keys.map((key) => {
      const near = nearest(key, known);
      return problem([...issue.path, key], `unknown key${near ? `, did you mean ${near}?` : ''} Allowed: ${known.join(', ')}`);
    });
  }
  const given = valueAt(tree, issue.path);
  const shown = typeof given === 'string' && !isReferenced(given) ? ` "${stripReference(given)}"` : '';
  if (issue.code === 'invalid_value') {
    const allowed = issue.values.map(String);
    const near = typeof given === 'string' ? nearest(given, allowed) : undefined;
    return [problem(issue.path, `invalid value${shown}, allowed: ${allowed.join(', ')}${near ? `. Did you mean ${near}?` : ''}`)];
  }
  if (issue.code === 'invalid_union' && issue.discriminator !== undefined) {
    const allowed = (issue as { options?: unknown[] }).options?.map(String) ?? [];
    return [problem(issue.path, `unknown ${issue.discriminator}${shown}${allowed.length > 0 ? `, allowed: ${allowed.join(', ')}` : ''}`)];
  }
  if (issue.code === 'invalid_type' && given === undefined) return [problem(issue.path, `${REQUIRED}${issue.expected}`)];
  return [problem(issue.path, issue.message.replace(/^Invalid input: /, ''))];
}

/** Keys that the schema knows at a path; follows the member of a union that the file's own `kind` names. */
function knownKeys(schema: z.ZodType, path: Path, tree: unknown): string[] {
  let current: unknown = schema;
  let value = tree;
  const unwrap = (s: unknown): unknown => {
    const def = (s as { _zod?: { def?: { type?: string; innerType?: unknown; in?: unknown } } })?._zod?.def;
    if (def?.innerType !== undefined) return unwrap(def.innerType);
    return s;
  };
  const choose = (s: unknown, v: unknown): unknown => {
    const inner = unwrap(s) as { options?: unknown[]; shape?: Record<string, unknown> };
    if (inner.options === undefined) return inner;
    const kind = (v as Record<string, unknown> | undefined)?.['kind'];
    return (
      inner.options.find((option) => {
        const literal = (unwrap(option) as { shape?: { kind?: { value?: unknown } } }).shape?.kind;
        return literal?.value === kind;
      }) ?? inner.options[0]
    );
  };
  current = choose(current, value);
  for (const part of path) {
    const at = current as { shape?: Record<string, unknown>; element?: unknown };
    value = (value as Record<PropertyKey, unknown> | undefined)?.[part];
    current = choose(typeof part === 'number' ? at.element : at.shape?.[String(part)], value);
  }
  return Object.keys((current as { shape?: Record<string, unknown> })?.shape ?? {});
}

/** The nearest word within a distance of 3, by Levenshtein. */
function nearest(word: string, words: readonly string[]): string | undefined {
  let best: string | undefined;
  let least = 4;
  for (const candidate of words) {
    const distance = levenshtein(word.toLowerCase(), candidate.toLowerCase());
    if (distance < least) [best, least] = [candidate, distance];
  }
  return best;
}

function levenshtein(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++)
      next[j] = Math.min((next[j - 1] ?? 0) + 1, (row[j] ?? 0) + 1, (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1));
    row = next;
  }
  return row[b.length] ?? 0;
}

/** Values that make no sense beside each other. */
function checkServer(server: ServerConfig, place: Place): ConfigProblem[] {
  const problems: ConfigProblem[] = [];
  // An anchor that has come back is what proves the view of the ledger fresh.
  if (parseDurationMs(server.ledger.anchorEvery) >= parseDurationMs(server.consent.maxStaleness))
    problems.push({
      severity: 'error',
      ...place(['ledger', 'anchorEvery']),
      message: 'must be shorter than consent.maxStaleness, or every read is refused between two anchors',
    });
  if (server.outbox.lowWater > server.outbox.highWater)
    problems.push({ severity: 'error', ...place(['outbox', 'lowWater']), message: 'must not be above outbox.highWater' });
  for (const { path, message } of checkFabric(server)) problems.push({ severity: 'error', ...place(path), message });
  return problems;
}

/** What the schema cannot say alone: cross references, rules that can never be reached. */
function checkSource(source: SourceConfig, server: ServerConfig, place: Place): ConfigProblem[] {
  const problems: ConfigProblem[] = [];
  const categories = server.categories.map((category) => category.id);
  for (const [s, stream] of source.streams.entries()) {
    if (source.streams.findIndex((other) => other.id === stream.id) !== s)
      problems.push({ severity: 'error', ...place(['streams', s, 'id']), message: `another stream has the id ${stream.id} already` });
    if (stream.strategy === 'last-updated' && stream.search.length === 0)
      problems.push({ severity: 'error', ...place(['streams', s]), message: 'last-updated needs at least one search' });
    if (stream.strategy === 'patient-sweep' && stream.perPatient.length === 0)
      problems.push({ severity: 'error', ...place(['streams', s]), message: 'patient-sweep needs perPatient searches' });
    const seen = new Set<string>();
    for (const [r, rule] of stream.rules.entries()) {
      const outcomes = [rule.category, rule.skip, rule.quarantine].filter((o) => o !== undefined);
      if (outcomes.length !== 1)
        problems.push({
          severity: 'error',
          ...place(['streams', s, 'rules', r]),
          message: 'exactly one of category, skip, quarantine is needed',
        });
      if (rule.category !== undefined && !categories.includes(rule.category)) {
        const near = nearest(rule.category, categories);
        problems.push({
          severity: 'error',
          ...place(['streams', s, 'rules', r, 'category']),
          message: `no such category, allowed: ${categories.join(', ')}${near ? `. Did you mean ${near}?` : ''}`,
        });
      }
      const when = JSON.stringify(rule.when);
      if (seen.has(when) || seen.has('{}'))
        problems.push({
          severity: 'warning',
          ...place(['streams', s, 'rules', r]),
          message: `rule ${rule.id} can never match: an earlier rule takes all of it`,
        });
      seen.add(when);
    }
    for (const [d, type] of stream.documentTypes.entries())
      if (!categories.includes(type.category))
        problems.push({
          severity: 'error',
          ...place(['streams', s, 'documentTypes', d, 'category']),
          message: `no such category, allowed: ${categories.join(', ')}`,
        });
  }
  return problems;
}
