import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { createSimulator, type Simulator } from '../../simulator/simulator.ts';

const root = fileURLToPath(new URL('../../', import.meta.url));
const launcher = join(root, 'bin/oncobridge');
let simulator: Simulator;
let folder: string;
let config: string;
let env: NodeJS.ProcessEnv;

interface Run {
  code: number;
  out: string;
  err: string;
}

function run(args: readonly string[], environment: NodeJS.ProcessEnv = env): Promise<Run> {
  return new Promise((resolve) => {
    execFile(launcher, [...args], { env: environment, maxBuffer: 16 * 1024 * 1024 }, (error, out, err) => {
      resolve({ code: error === null ? 0 : Number(error.code), out, err });
    });
  });
}
const cli = (...args: string[]): Promise<Run> => run(['--config', config, ...args]);
async function json<T>(...args: string[]): Promise<T> {
  const { code, out, err } = await cli(...args, '--json');
  assert.equal(code, 0, err);
  return JSON.parse(out) as T;
}

before(async () => {
  simulator = await createSimulator();
  folder = mkdtempSync(join(tmpdir(), 'oncobridge-cli-'));
  cpSync(join(root, 'config'), join(folder, 'config'), { recursive: true });
  config = join(folder, 'config/embedded.yaml');
  writeFileSync(config, readFileSync(config, 'utf8').replace('port: 8480', 'port: 0').replace('port: 8481', 'port: 0'));
  env = {
    ...process.env,
    EHR_FHIR_URL: simulator.ehr.baseUrl,
    EHR_CLIENT_ID: simulator.ehr.clientId,
    EHR_CLIENT_KEY: JSON.stringify(simulator.ehr.privateKeyJwk),
    ARIA_FHIR_URL: simulator.aria.baseUrl,
    ARIA_TOKEN_URL: simulator.aria.tokenUrl,
    ARIA_CLIENT_ID: simulator.aria.clientId,
    ARIA_CLIENT_SECRET: simulator.aria.clientSecret,
  };
});
after(async () => {
  await simulator.close();
  rmSync(folder, { recursive: true, force: true });
});

test('every command has help with an example', async () => {
  const { out } = await run(['--help']);
  const commands = [...out.matchAll(/^ {2}([a-z]+)(?: |$)/gm)]
    .map((match) => match[1] ?? '')
    .filter((name) => name !== 'help' && name !== '');
  assert.ok(commands.length >= 12, `found ${commands.join(' ')}`);
  const nested: Record<string, string[]> = {
    quarantine: ['list', 'show'],
    config: ['check', 'print', 'schema'],
    member: ['add', 'list'],
    ledger: ['verify'],
    client: ['add'],
  };
  for (const name of commands)
    for (const words of nested[name]?.map((sub) => [name, sub]) ?? [[name]]) {
      const help = await run([...words, '--help']);
      assert.match(help.out, /Example:\n {2}\$ .*oncobridge/, `${words.join(' ')} shows no example`);
    }
});

test('bad configuration: exit 78 and the place', async () => {
  const broken = join(folder, 'config/broken.yaml');
  writeFileSync(broken, readFileSync(config, 'utf8').replace('queue:', 'queu:'));
  const checked = await run(['--config', broken, 'config', 'check']);
  assert.equal(checked.code, 78);
  assert.match(checked.err, /CONFIG_INVALID[\s\S]*broken\.yaml:\d+:1 queu: unknown key, did you mean queue/);
  assert.equal((await run(['--config', join(folder, 'nothing.yaml'), 'status'])).code, 78);
  assert.equal((await cli('config', 'check')).code, 0);
  const printed = await cli('config', 'print');
  assert.ok(!printed.out.includes(simulator.aria.clientSecret), 'a secret is printed');
  assert.match((await cli('config', 'schema', 'source')).out, /"http:\/\/json-schema.org\/draft-07\/schema#"/);
});

test('a passphrase beside the data is refused outside a trial, and a weak one always', async () => {
  const data = join(folder, 'production');
  mkdirSync(data, { recursive: true });
  writeFileSync(join(data, 'pass'), 'a long passphrase that nobody guesses 7391');
  const production = join(folder, 'config/beside.yaml');
  const text = readFileSync(join(root, 'config/production.yaml'), 'utf8');
  writeFileSync(production, text.replace('"${env:CUSTODIAN_PASSPHRASE}"', '"${file:../production/pass}"'));
  const settings = {
    ...env,
    ONCOBRIDGE_DATA: data,
    ONCOBRIDGE_INSTITUTION: 'Hospital',
    DATABASE_URL: 'postgres://127.0.0.1:1/none',
    REDIS_URL: 'redis://127.0.0.1:1',
    ONCOBRIDGE_URL: 'https://fhir.example.org',
  };
  const beside = await run(['--config', production, 'status'], settings);
  assert.deepEqual([beside.code, /SECRET_WEAK.*beside the data/s.test(beside.err)], [78, true], beside.err);
  const weak = await run(['--config', join(root, 'config/production.yaml'), 'status'], { ...settings, CUSTODIAN_PASSPHRASE: 'changeme' });
  assert.deepEqual([weak.code, /SECRET_WEAK/.test(weak.err)], [78, true], weak.err);
});

test('without a server: dry run, pull, questions, reconcile, verify', async () => {
  const dry = await json<{ streams: { outcomes: Record<string, number> }[] }>('pull', '--dry-run');
  assert.ok(dry.streams.some((stream) => Object.keys(stream.outcomes).some((outcome) => outcome.startsWith('taken'))));
  assert.equal((await json<{ documents: number }>('status')).documents, 0, 'a dry run stored something');

  const pulled = await json<{ filed: number; failed: boolean }>('pull');
  assert.ok(pulled.filed > 20 && !pulled.failed, JSON.stringify(pulled));
  const again = await json<{ filed: number }>('pull');
  assert.equal(again.filed, 0);
  const groups = await json<{ example: string; reason: string }[]>('quarantine', 'list');
  const shown = await json<{ reason: string }>('quarantine', 'show', groups[0]?.example ?? '');
  assert.equal(shown.reason, groups[0]?.reason);
  const explained = await json<{ record: { rule: string } }>('explain', groups[0]?.example ?? '');
  assert.ok('record' in explained);
  assert.deepEqual((await json<{ differences: unknown[] }>('reconcile')).differences, []);
  assert.equal((await json<{ ok: boolean }>('ledger', 'verify')).ok, true);
  const missing = await cli('explain', 'rec-aaaaaaaaaaaaaaaaaaaaaaaaaa');
  assert.deepEqual([missing.code, missing.err.startsWith('NOT_FOUND')], [1, true]);
});

test('beside a running server commands work in it; stop ends it', async () => {
  const server = spawn(launcher, ['--config', config, 'start', '--json', '--log-level', 'warn'], {
    env,
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const ended = new Promise<number | null>((resolve) => server.once('exit', resolve));
  const line = await new Promise<string>((resolve, reject) => {
    server.stdout.once('data', (chunk: Buffer) => resolve(chunk.toString()));
    server.once('exit', () => reject(new Error('the server ended')));
  });
  const { pid, facade, operations } = JSON.parse(line) as { pid: number; facade: string; operations: string };
  const second = await cli('start');
  assert.deepEqual([second.code, /CONFLICT.*runs already/s.test(second.err)], [1, true], second.err);

  const { member } = await json<{ member: string }>('member', 'add', '--name', 'Dr. Test', '--role', 'clinician');
  assert.match(member, /^mem-/);
  const refused = await cli('member', 'add', '--name', 'X', '--role', 'wizard');
  assert.equal(refused.code, 1);
  const { token } = await json<{ token: string }>('token', '--as', member);
  const client = await json<{ clientId: string; privateKeyJwk: object }>('client', 'add', '--name', 'EHR', '--scope', 'system/Patient.rs');
  assert.ok(client.clientId.startsWith('cli-') && 'privateKeyJwk' in client);

  assert.equal((await fetch(`${facade}/metadata`)).status, 200);
  assert.equal((await fetch(`${facade}/Patient`)).status, 401);
  const found = await fetch(`${facade}/Patient`, { headers: { authorization: `Bearer ${token}` } });
  assert.deepEqual([found.status, ((await found.json()) as { entry?: unknown[] }).entry ?? []], [200, []]);
  for (const path of ['livez', 'readyz']) assert.equal((await fetch(`${operations}/${path}`)).status, 200, path);
  assert.match(await (await fetch(`${operations}/metrics`)).text(), /oncobridge_ledger_height \d+/);

  const stopped = await json<{ stopped: boolean; pid: number }>('stop');
  assert.deepEqual(stopped, { stopped: true, pid });
  assert.equal(await ended, 0);
  assert.equal((await json<{ stopped: boolean }>('stop')).stopped, false);
});
