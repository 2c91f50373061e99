import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { ConfigError, loadConfig } from '../../src/config/load.ts';
import { generatedFiles } from '../../src/config/reference.ts';
import { newId } from '../../src/ids.ts';
import { fabricEnvironment, gatewayIdentity } from './production-sample.ts';

const root = fileURLToPath(new URL('../../', import.meta.url));
const env = {
  EHR_CLIENT_KEY: '{"kty":"EC"}',
  ARIA_CLIENT_SECRET: 'secret-of-aria-1234',
  ONCOBRIDGE_DATA: '/var/lib/oncobridge',
  ONCOBRIDGE_INSTITUTION: 'Hospital',
  DATABASE_URL: 'postgres://db',
  REDIS_URL: 'redis://r',
  CUSTODIAN_PASSPHRASE: 'pass phrase pass phrase',
  ONCOBRIDGE_URL: 'https://fhir.example.org',
  ...(await fabricEnvironment()),
};

/** Loads a changed copy of a sample and returns the problems as they are printed. */
function problemsOf(change: (text: string) => string, file = 'embedded.yaml', environment: NodeJS.ProcessEnv = env): string[] {
  const folder = mkdtempSync(join(tmpdir(), 'oncobridge-config-'));
  const text = readFileSync(join(root, 'config', file), 'utf8').replaceAll('sources/', `${join(root, 'config')}/sources/`);
  const path = join(folder, 'config.yaml');
  writeFileSync(path, change(text));
  try {
    loadConfig({ file: path, env: environment, generate: () => 'a passphrase made now' });
    return [];
  } catch (error) {
    assert.ok(error instanceof ConfigError, String(error));
    return error.problems.map(({ line, column, path: at, message }) => `${line}:${column} ${at}: ${message}`);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

test('the samples load, with defaults filled in and secrets resolved', () => {
  for (const file of ['embedded.yaml', 'production.yaml'])
    assert.deepEqual(
      problemsOf((text) => text, file),
      [],
    );
  const loaded = loadConfig({ file: join(root, 'config/embedded.yaml'), env, generate: () => 'a passphrase made now' });
  assert.equal(loaded.server.outbox.batch, 50);
  assert.equal(loaded.sources.length, 2);
  const aria = loaded.sources.find((source) => source.config.id === 'aria');
  assert.deepEqual(aria?.config.auth.kind === 'client-credentials' && aria.config.auth.secret, 'secret-of-aria-1234');
});

test('printed values hold origins and no secret', () => {
  const loaded = loadConfig({ file: join(root, 'config/production.yaml'), env });
  const printed = JSON.stringify(loaded.values);
  const keyText = env.FABRIC_KEY.split('\n')[1] ?? assert.fail('no key');
  for (const secret of [env.ARIA_CLIENT_SECRET, env.CUSTODIAN_PASSPHRASE, env.DATABASE_URL, env.REDIS_URL, env.EHR_CLIENT_KEY, keyText])
    assert.ok(!printed.includes(secret), 'a secret is printed');
  const value = (path: string) => loaded.values.find((v) => v.path.endsWith(`#${path}`));
  assert.equal(value('database.url')?.origin, 'env:DATABASE_URL');
  assert.equal(value('outbox.batch')?.origin, 'default');
  assert.match(String(value('ledger.certificate')?.value), /^\(certificate of .*gw-1.*, to \d{4}-\d{2}-\d{2}\)$/);
  assert.match(value('institution.zone')?.origin ?? '', /production\.yaml:\d+:\d+$/);
});

test('a problem says file, line, column, path, what is allowed and what was meant', () => {
  const cases: [(text: string) => string, RegExp][] = [
    [(t) => t.replace('queue:', 'queu:'), /^9:1 queu: unknown key, did you mean queue\?/],
    [(t) => t.replace('{ kind: postgres }', '{ kind: rediss }'), /^9:16 queue\.kind: unknown kind "rediss", allowed: postgres, redis/],
    [(t) => t.replace('port: 8480', 'prot: 8480'), /http\.prot: unknown key, did you mean port\?/],
    [(t) => t.replace('port: 8481', 'port: "8481"'), /^\d+:21 operations\.port: expected (int|number), received string/],
    [(t) => t.replace('maxStaleness: 150s', 'maxStaleness: soon'), /consent\.maxStaleness: a duration such as/],
    [(t) => t.replace('anchorEvery: 60s', 'anchorEvery: 0s'), /ledger\.anchorEvery: between "1s" and "24d"/],
    [(t) => t.replace('anchorEvery: 60s', 'anchorEvery: 40d'), /ledger\.anchorEvery: between "1s" and "24d"/],
    [(t) => t.replace('anchorEvery: 60s', 'anchorEvery: 150s'), /ledger\.anchorEvery: must be shorter than consent\.maxStaleness/],
    [(t) => `${t}\noutbox: { lowWater: 6000 }\n`, /outbox\.lowWater: must not be above outbox\.highWater/],
    [(t) => t.replace('"${file:../.oncobridge/custodian.passphrase}"', 'changeme'), /custodian\.passphrase: a secret must be a reference/],
    [(t) => t.replace('sources/aria.yaml', 'sources/missing.yaml'), /sources\[1\]: the file .*missing\.yaml does not exist/],
    [(t) => `${t}\nhttp: {}\n`, /keys must be unique/i],
    [(t) => t.replace('data:', 'data: ['), /^\d+:\d+ : /],
  ];
  for (const [change, expected] of cases) {
    const problems = problemsOf(change);
    assert.ok(
      problems.some((problem) => expected.test(problem)),
      `${expected} not in ${JSON.stringify(problems)}`,
    );
  }
});

test('one run shows the problems of every file, and a misspelled key once', () => {
  const problems = problemsOf((text) => text.replace('institution:', 'instituton:'), 'embedded.yaml', {});
  assert.deepEqual(
    problems
      .filter((problem) => /institut/.test(problem))
      .map((problem) => /^(\d+:\d+ \S+: unknown key, did you mean \w+)/.exec(problem)?.[1]),
    ['5:1 instituton: unknown key, did you mean institution'],
  );
  for (const secret of ['auth.key', 'auth.secret'])
    assert.ok(
      problems.some((problem) => problem.includes(`${secret}: the environment variable`)),
      `${secret} of a source is not among ${JSON.stringify(problems)}`,
    );
});

test('a Fabric identity that does not fit is said with its place', async () => {
  const institution = newId('inst');
  const [own, other] = await Promise.all([gatewayIdentity(institution), gatewayIdentity(newId('inst'))]);
  const good = { ...env, ONCOBRIDGE_INSTITUTION_ID: institution, FABRIC_CERTIFICATE: own.certificate, FABRIC_KEY: own.key };
  const same = (text: string): string => text;
  const mutual = (text: string): string =>
    text.replace('tlsRootCertificate:', 'clientCertificate: "${env:FABRIC_CERTIFICATE}", tlsRootCertificate:');
  const pinned = (id: string) => (text: string) => text.replace(/# id: .*/, `id: ${id}`);
  const cases: [(text: string) => string, NodeJS.ProcessEnv, RegExp | undefined][] = [
    [same, good, undefined],
    [pinned('ledger-ew2nqk3pmbo5g7s6yxqf4jzh3a'), good, undefined],
    [pinned('Ledger'), good, /^\d+:\d+ ledger\.id: a ledger id/],
    [(t) => t.replace(/^ {2}id: .*\n/m, ''), good, /^\d+:\d+ institution\.id: required with a Fabric ledger/],
    [same, { ...good, FABRIC_KEY: other.key }, /ledger\.privateKey: does not belong to certificate/],
    [same, { ...good, FABRIC_KEY: 'no key' }, /ledger\.privateKey: cannot be read as a private key/],
    [
      same,
      { ...good, FABRIC_CERTIFICATE: other.certificate, FABRIC_KEY: other.key },
      /ledger\.certificate: its attribute oncobridge\.institution is inst-/,
    ],
    [same, { ...good, FABRIC_CERTIFICATE: 'x' }, /ledger\.certificate: a certificate in PEM/],
    [same, { ...good, FABRIC_PEER: 'https://peer:7051' }, /ledger\.peers\[0\]\.endpoint: host:port/],
    [mutual, good, /ledger\.peers\[0\]: clientCertificate and clientKey belong together/],
    [(t) => t.replace('"${env:FABRIC_KEY}"', 'literal'), good, /ledger\.privateKey: a secret must be a reference/],
  ];
  for (const [change, environment, expected] of cases) {
    const problems = problemsOf(change, 'production.yaml', environment);
    if (expected === undefined) assert.deepEqual(problems, []);
    else
      assert.ok(
        problems.some((problem) => expected.test(problem)),
        `${expected} not in ${JSON.stringify(problems)}`,
      );
    for (const problem of problems) assert.ok(!problem.includes('BEGIN'), 'a key or certificate is quoted');
  }
});

test('the shared store of the production sample loads as it stands in the comment, and never without TLS', () => {
  const shared = (text: string): string => text.replace(/^blobs: \{ kind: files \}.*\n/m, '').replace(/^# (blobs:.*| {2}.*)$/gm, '$1');
  const store = {
    S3_REGION: 'us-east-1',
    S3_BUCKET: 'oncobridge',
    S3_ACCESS_KEY_ID: 'AKEXAMPLE',
    S3_SECRET_ACCESS_KEY: 'a-secret-of-the-store',
  };
  const problems = (endpoint: string, change = shared): readonly string[] =>
    problemsOf(change, 'production.yaml', { ...env, ...store, S3_ENDPOINT: endpoint });
  const good = [
    'https://s3.example.org',
    'https://s3.example.org:9000/',
    'http://127.0.0.1:9000',
    'http://localhost:9000',
    'http://[::1]:9000',
  ];
  for (const one of good) assert.deepEqual(problems(one), [], one);
  const bad = [
    'http://s3.example.org',
    'http://127.0.0.1.example.org',
    'https://s3.example.org/bucket',
    'https://key:secret@s3.example.org',
  ];
  for (const one of bad) assert.match(problems(one).join(), /blobs\.endpoint: https, or http to loopback/, one);
  const literal = problems('https://s3.example.org', (text) => shared(text).replace('"${env:S3_SECRET_ACCESS_KEY}"', 'literal'));
  assert.match(literal.join(), /blobs\.secretAccessKey: a secret must be a reference/);
});

test('a secret cannot come from a default, and a missing variable is named without a value', () => {
  const problems = problemsOf((t) => t.replace('${file:../.oncobridge/custodian.passphrase}', '${env:PASS:-changeme}'));
  assert.ok(
    problems.some((p) => /must be a reference/.test(p)),
    String(problems),
  );
  const { ARIA_CLIENT_SECRET: _gone, ...without } = env;
  assert.ok(problemsOf((t) => t, 'embedded.yaml', without).some((p) => /ARIA_CLIENT_SECRET is not set/.test(p)));
});

test('generated schema and pages are current: npm run generate', () => {
  for (const [path, content] of generatedFiles()) assert.equal(readFileSync(join(root, path), 'utf8'), content, `${path} is out of date`);
});
