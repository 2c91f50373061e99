import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../../', import.meta.url));

function cruise(paths: readonly string[]): { modules: number; rules: string[] } {
  const run = spawnSync(
    process.execPath,
    [
      join(root, 'node_modules/dependency-cruiser/bin/dependency-cruiser.mjs'),
      '--config',
      '.dependency-cruiser.cjs',
      '-T',
      'json',
      ...paths,
    ],
    { cwd: root, encoding: 'utf8', maxBuffer: 256 * 1024 * 1024 },
  );
  const { summary } = JSON.parse(run.stdout) as { summary: { totalCruised: number; violations: { rule: { name: string } }[] } };
  return { modules: summary.totalCruised, rules: [...new Set(summary.violations.map((violation) => violation.rule.name))].sort() };
}

test('rooms import only what the map allows', () => {
  const { modules, rules } = cruise(['src', 'simulator', 'network', 'chaincode']);
  // Without TypeScript 6 beside TypeScript 7 the tool is green on nothing, so the count matters.
  assert.ok(modules > 60, `only ${modules} modules were read`);
  assert.deepEqual(rules, []);
});

test('a planted violation is found', () => {
  const planted = [
    {
      path: 'src/ledger/contract/planted-violation.ts',
      text: "import { newId } from '../../ids.ts';\nexport const planted = newId('pat');\n",
    },
    { path: 'src/records/planted-violation.ts', text: "import { readFileSync } from 'node:fs';\nexport const planted = readFileSync;\n" },
  ];
  try {
    for (const { path, text } of planted) writeFileSync(join(root, path), text);
    assert.deepEqual(cruise(planted.map((p) => p.path)).rules, ['contract-imports-nothing', 'records-do-no-io']);
  } finally {
    for (const { path } of planted) rmSync(join(root, path));
  }
});
