import assert from 'node:assert/strict';
import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, relative, resolve } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { Command } from 'commander';
import { parseDocument } from 'yaml';
import { createProgram } from '../../src/cli/program.ts';
import { ConfigError, formatProblem, loadConfig } from '../../src/config/load.ts';

const root = fileURLToPath(new URL('../../', import.meta.url));
const pages = [
  ...readdirSync(root).filter((name) => name.endsWith('.md')),
  ...readdirSync(join(root, 'docs'))
    .filter((name) => name.endsWith('.md'))
    .map((name) => `docs/${name}`),
];
const textOf = (page: string): string => readFileSync(join(root, page), 'utf8');

interface Fence {
  language: string;
  text: string;
}

/** Fenced blocks, and the text without them. */
function split(markdown: string): { fences: Fence[]; prose: string } {
  const fences: Fence[] = [];
  const prose = markdown.replace(/^```(\w*)[^\n]*\n([\s\S]*?)^```$/gm, (_all, language: string, text: string) => {
    fences.push({ language, text });
    return '';
  });
  return { fences, prose };
}

/** Anchors of a page's headings, as repository hosts make them. */
function anchorsOf(markdown: string): Set<string> {
  const anchors = new Set<string>();
  for (const [, heading = ''] of split(markdown).prose.matchAll(/^#{1,6} +(.+?) *$/gm)) {
    const plain = heading.replace(/\[([^\]]*)\]\([^)]*\)/g, '$1').replace(/[`*]/g, '');
    const slug = plain
      .toLowerCase()
      .replace(/[^\p{L}\p{N}\s_-]/gu, '')
      .replace(/\s/g, '-');
    let name = slug;
    for (let n = 1; anchors.has(name); n++) name = `${slug}-${n}`;
    anchors.add(name);
  }
  return anchors;
}

/** Relative links and anchors of a page that lead nowhere. */
function brokenLinks(page: string, markdown: string): string[] {
  const { prose } = split(markdown);
  const plain = prose.replace(/`[^`\n]*`/g, '');
  const broken: string[] = [];
  for (const [, target = ''] of plain.matchAll(/\]\(([^)\s]+)(?: "[^"]*")?\)/g)) {
    if (/^(https?|mailto):/.test(target)) continue;
    const [path = '', anchor] = target.split('#');
    const file = path === '' ? join(root, page) : resolve(root, dirname(page), path);
    if (relative(root, file).startsWith('..') || !existsSync(file)) broken.push(target);
    else if (anchor !== undefined && !anchorsOf(path === '' ? markdown : readFileSync(file, 'utf8')).has(anchor)) broken.push(target);
  }
  return broken;
}

/** Files of ours that a page names in code spans and that are not there. */
function missingFiles(markdown: string): string[] {
  const spans = [...split(markdown).prose.matchAll(/`([^`\n]+)`/g)].map(([, span = '']) => span);
  return spans
    .filter((span) => /^(src|test|docs|config|simulator|bench|scripts|bin|\.ci)\/[\w./-]*$/.test(span))
    .filter((span) => !existsSync(join(root, span)));
}

/** Commands that a page shows: the words after `oncobridge` in code spans, and in lines of shell. */
function shownCommands(markdown: string): string[][] {
  const { fences, prose } = split(markdown);
  const spans = [...prose.matchAll(/`(?:bin\/)?oncobridge ([^`\n]+)`/g)].map(([, rest = '']) => rest);
  const lines = fences
    .filter(({ language }) => language === 'sh')
    .flatMap(({ text }) => [...text.matchAll(/(?:^|\$ |\$\()(?:bin\/)?oncobridge +([^\n)#]+)/gm)].map(([, rest = '']) => rest));
  return [...spans, ...lines].map((rest) =>
    rest
      .replace(/"[^"]*"/g, 'quoted')
      .trim()
      .split(/\s+/),
  );
}

/** What is wrong with a shown command: no such command, no such option. */
function commandProblem(program: Command, words: readonly string[]): string | undefined {
  const rest = [...words];
  let command = program;
  const flags = new Set(['--help', '--config', '-c']);
  while (rest[0] === '--config' || rest[0] === '-c') rest.splice(0, 2);
  while (rest[0] !== undefined && command.commands.length > 0) {
    const next = command.commands.find((one) => one.name() === rest[0]);
    if (next === undefined) break;
    command = next;
    rest.shift();
  }
  if (command === program && !(rest[0] ?? '').startsWith('--')) return `no command ${words.join(' ')}`;
  if (command.commands.length > 0 && command !== program && rest[0] !== undefined && !rest[0].startsWith('-'))
    return `no command ${words.join(' ')}`;
  for (const option of command.options) for (const flag of [option.long, option.short]) if (flag) flags.add(flag);
  const unknown = rest.filter((word) => /^--?[a-z]/.test(word) && !flags.has(word.split('=')[0] ?? ''));
  return unknown.length > 0 ? `${words.join(' ')}: no option ${unknown.join(' ')}` : undefined;
}

/** Keys of the configuration, as the page that is generated from its schema has them: `ledger.anchorEvery`, `streams.rules.when`. */
const keys = new Set(
  [...textOf('docs/configuration.md').matchAll(/^\| `([^`]+)` \|/gm)].map(([, key = '']) => key.replace(/\(.*?\)|\[\]/g, '')),
);
const roots = new Set([...keys].filter((key) => key.includes('.')).map((key) => key.split('.')[0]));
const lastWords = new Set([...keys].map((key) => key.split('.').at(-1) ?? ''));
/** What FHIR calls so. */
const NO_KEYS = new Set(['fullUrl']);

/**
 * Keys in code spans that no configuration has: paths that begin at the top of a file; with `words` also single words in camel
 * case, on a page that has no other use for them.
 */
function missingKeys(markdown: string, words: boolean): string[] {
  const spans = [...split(markdown).prose.matchAll(/`([^`\n]+)`/g)].map(([, span = '']) => span);
  return spans.filter((span) => {
    if (words && /^[a-z]+([A-Z][a-z]+)+$/.test(span)) return !lastWords.has(span) && !NO_KEYS.has(span);
    const path = /^([a-z][A-Za-z]*)(\.[a-z][A-Za-z]*)+$/.exec(span);
    return path !== null && roots.has(path[1]) && !/\.(ts|md|yaml|json|sql)$/.test(span) && !keys.has(span);
  });
}

/** Scripts of package.json that a page names. */
function shownScripts(markdown: string): string[] {
  const named = [...markdown.matchAll(/\bnpm run (?:-s )?([\w:-]+)/g)].map(([, name = '']) => name);
  const short = [...markdown.matchAll(/\bnpm (test|start)\b/g)].map(([, name = '']) => name);
  return [...named, ...short];
}

test('every relative link and anchor leads somewhere', () => {
  assert.ok(pages.length > 10, `only ${pages.length} pages were found`);
  const broken = pages.flatMap((page) => brokenLinks(page, textOf(page)).map((target) => `${page}: ${target}`));
  assert.deepEqual(broken, []);
});

test('the index names every page', () => {
  const index = textOf('docs/README.md');
  const missing = pages.filter((page) => page.startsWith('docs/') && page !== 'docs/README.md' && !index.includes(`(${page.slice(5)})`));
  assert.deepEqual(missing, []);
});

test('files that the pages name are there', () => {
  const missing = pages.flatMap((page) => missingFiles(textOf(page)).map((file) => `${page}: ${file}`));
  assert.deepEqual(missing, []);
});

test('keys of the configuration that the pages name exist', () => {
  assert.ok(keys.size > 80 && keys.has('streams.rules.when.fhirpath') && keys.has('ledger.peers.endpoint'), `${keys.size} keys`);
  const missing = pages.flatMap((page) => missingKeys(textOf(page), page === 'docs/sources.md').map((key) => `${page}: ${key}`));
  assert.deepEqual(missing, []);
});

test('commands that the pages show exist, with their options', () => {
  const program = createProgram();
  assert.ok(program.commands.length > 8, 'the command line was not read');
  const shown = pages.flatMap((page) => shownCommands(textOf(page)).map((words) => ({ page, words })));
  assert.ok(shown.length > 20, `only ${shown.length} commands were found`);
  const problems = shown.flatMap(({ page, words }) => {
    const problem = commandProblem(program, words);
    return problem === undefined ? [] : [`${page}: ${problem}`];
  });
  assert.deepEqual(problems, []);
});

test('every command is described for operators', () => {
  const program = createProgram();
  const text = textOf('docs/operations.md') + textOf('README.md');
  for (const command of program.commands)
    assert.match(text, new RegExp(`oncobridge (--config \\S+ )?${command.name()}\\b`), command.name());
});

test('npm scripts that the pages name exist', () => {
  const { scripts } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { scripts: Record<string, string> };
  const missing = pages.flatMap((page) =>
    shownScripts(textOf(page))
      .filter((name) => !Object.hasOwn(scripts, name))
      .map((name) => `${page}: ${name}`),
  );
  assert.deepEqual(missing, []);
});

test('JSON and YAML in the pages parse', () => {
  for (const page of pages) {
    for (const { language, text } of split(textOf(page)).fences) {
      if (language === 'json') assert.doesNotThrow(() => JSON.parse(text), `${page}: ${text.slice(0, 60)}`);
      if (language === 'yaml') assert.deepEqual(parseDocument(text).errors, [], page);
    }
  }
});

test("the README's configuration has 20 lines and loads", () => {
  const fence = split(textOf('README.md')).fences.find(({ text }) => text.startsWith('schemaVersion:'));
  assert.ok(fence, 'the README shows no configuration');
  assert.ok(fence.text.trim().split('\n').length <= 20);
  const folder = mkdtempSync(join(tmpdir(), 'oncobridge-readme-'));
  try {
    cpSync(join(root, 'config/sources'), join(folder, 'sources'), { recursive: true });
    const file = join(folder, 'mine.yaml');
    writeFileSync(file, fence.text);
    const env = {
      CUSTODIAN_PASSPHRASE: 'forty trees stand by the river',
      EHR_CLIENT_KEY: '{"kty":"EC"}',
      ARIA_CLIENT_SECRET: 'a secret of sixteen',
    };
    const loaded = loadConfig({ file, env });
    assert.deepEqual(loaded.warnings, []);
    assert.deepEqual(
      loaded.sources.map((source) => source.config.id),
      ['ehr', 'aria'],
    );
    assert.throws(() => loadConfig({ file, env: {} }), ConfigError);
  } catch (error) {
    throw error instanceof ConfigError ? new Error(error.problems.map(formatProblem).join('\n')) : error;
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('variables that the README sets are those of the production sample and its sources', () => {
  const files = ['config/production.yaml', 'config/sources/ehr.yaml', 'config/sources/aria.yaml'].map(textOf).join('\n');
  const needed = [...files.matchAll(/\$\{env:(\w+)\}/g)].map(([, name]) => name);
  const exported =
    textOf('README.md')
      .match(/^export .*$/gm)
      ?.join(' ') ?? '';
  assert.deepEqual(new Set([...exported.matchAll(/(\w+)=/g)].map(([, name]) => name)), new Set(needed));
});

test('planted faults are found', () => {
  const program = createProgram();
  const page = [
    '# One `title`, here',
    'See [a](nowhere.md), [b](#two), [c](#one-title-here), [d](docs/ledger.md#nothing), [e](../outside.md), [f](https://example.org/x).',
    'Files `src/nothing.ts`, `src/main.ts`. Run `oncobridge surgeon`, `oncobridge pull --fast`, `oncobridge ledger repair`, `bin/oncobridge --config x.yaml status --json`.',
    '```sh',
    '$ oncobridge invent',
    'TOKEN=$(bin/oncobridge token --as mem-…)',
    'npm run nothing && npm test',
    '```',
  ].join('\n');
  assert.deepEqual(brokenLinks('README.md', page), ['nowhere.md', '#two', 'docs/ledger.md#nothing', '../outside.md']);
  assert.deepEqual(missingFiles(page), ['src/nothing.ts']);
  const problems = shownCommands(page).map((words) => commandProblem(program, words));
  assert.deepEqual(problems, [
    'no command surgeon',
    'pull --fast: no option --fast',
    'no command ledger repair',
    undefined,
    'no command invent',
    undefined,
  ]);
  assert.deepEqual(shownScripts(page), ['nothing', 'test']);
  const named =
    'Set `consent.maxStale`, `limits.timeoutMs`, `consent.maxStaleness`, `retryCapMs`, `allowedOrigins`, `consent.ts`, `fullUrl`.';
  assert.deepEqual(missingKeys(named, true), ['consent.maxStale', 'limits.timeoutMs', 'retryCapMs']);
  assert.deepEqual(missingKeys(named, false), ['consent.maxStale', 'limits.timeoutMs']);
});
