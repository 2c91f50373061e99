/**
 * PDF/A-3b validation of a list of PDFs with veraPDF: `node test/render/pdfa/check.ts file.pdf…` (or folders of them). Exit 0 if all
 * conform, 1 if one does not, 0 with a loud line where there is no JDK or Maven, unless REQUIRE_JAVA=1. The jars are copied
 * once into ONCOBRIDGE_CACHE (default ~/.cache/oncobridge), outside the tree.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync, statSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const HERE = fileURLToPath(new URL('.', import.meta.url));
const VERSION = '1.30.2';

export type PdfaOutcome = { kind: 'checked'; ok: boolean; lines: string[] } | { kind: 'skipped'; why: string };

/** Validates `files`, all in one Java run. `skipped` where Java, Maven or the jars cannot be had. */
export function checkPdfA(files: readonly string[]): PdfaOutcome {
  if (spawnSync('java', ['-version']).status !== 0) return { kind: 'skipped', why: 'no java on the PATH' };
  const jars = provideJars();
  if ('why' in jars) return { kind: 'skipped', why: jars.why };
  const run = spawnSync(
    'java',
    ['-Xshare:auto', '-XX:TieredStopAtLevel=1', '-cp', `${jars.folder}/*`, join(HERE, 'PdfaCheck.java'), '3b', ...files],
    {
      encoding: 'utf8',
      maxBuffer: 64 * 1024 * 1024,
    },
  );
  const lines = run.stdout.split('\n').filter((line) => /^(ok|fail) /.test(line));
  if (lines.length !== files.length)
    return { kind: 'checked', ok: false, lines: [...lines, `fail the check did not finish: ${run.stderr.trim().slice(-500)}`] };
  return { kind: 'checked', ok: run.status === 0, lines };
}

function provideJars(): { folder: string } | { why: string } {
  const cache = process.env['ONCOBRIDGE_CACHE'] ?? join(homedir(), '.cache', 'oncobridge');
  const folder = join(cache, `verapdf-${VERSION}`);
  if (existsSync(folder)) return { folder };
  if (spawnSync('mvn', ['-v']).status !== 0) return { why: 'no mvn on the PATH, and no jars in the cache' };
  // Into a folder of its own first: a run that is cut off must not leave half a set behind.
  const fresh = `${folder}.${process.pid}`;
  mkdirSync(fresh, { recursive: true });
  const copy = spawnSync('mvn', ['-q', '-B', '-f', join(HERE, 'pom.xml'), 'dependency:copy-dependencies', `-DoutputDirectory=${fresh}`], {
    encoding: 'utf8',
  });
  if (copy.status !== 0 || !readdirSync(fresh).some((name) => name.startsWith('validation-model'))) {
    rmSync(fresh, { recursive: true, force: true });
    return { why: `Maven could not copy the jars: ${copy.stdout.trim().slice(-300)}` };
  }
  try {
    renameSync(fresh, folder);
  } catch {
    rmSync(fresh, { recursive: true, force: true });
  }
  return { folder };
}

function pdfsOf(path: string): string[] {
  if (!statSync(path).isDirectory()) return [path];
  return readdirSync(path, { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.pdf'))
    .sort()
    .map((name) => join(path, name));
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const files = process.argv.slice(2).flatMap(pdfsOf);
  if (files.length === 0) {
    process.stderr.write('usage: node test/render/pdfa/check.ts <pdf or folder>...\n');
    process.exit(2);
  }
  const outcome = checkPdfA(files);
  if (outcome.kind === 'skipped') {
    process.stderr.write(`SKIPPED: PDF/A was NOT checked: ${outcome.why}\n`);
    process.exit(process.env['REQUIRE_JAVA'] === '1' ? 1 : 0);
  }
  process.stdout.write(`${outcome.lines.join('\n')}\n`);
  process.exit(outcome.ok ? 0 : 1);
}
