import assert from 'node:assert/strict';
import { type ChildProcess, execFile, fork, spawn } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { Command } from 'commander';
import { createSimulator, type Simulator } from '../../simulator/simulator.ts';
import { PEOPLE } from '../../simulator/stories/people.ts';
import { createProgram } from '../../src/cli/program.ts';
import { createProgress } from '../../src/cli/progress.ts';
import { parseLinkCode } from '../../src/sharing/link-code.ts';
import { linkQrForTerminal, linkQrSvg } from '../../src/sharing/link-picture.ts';
import { createDatabase } from '../../src/store/database.ts';
import { createEmbeddedPostgres } from '../../src/store/embedded-postgres.ts';
import { type SqlFragment, sql } from '../../src/store/sql.ts';
import { fabricEnvironment } from '../config/production-sample.ts';
import { until } from '../queue/conformance.ts';
import { simulatorEnvironment } from '../simulator/environment.ts';
import type { Asked, Ran } from './command-host.ts';

const root = fileURLToPath(new URL('../../', import.meta.url));
const launcher = join(root, 'bin/oncobridge');
const host = fork(join(root, 'test/cli/command-host.ts'), { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
const hostEnded = once(host, 'exit').then(() => assert.fail('the process that runs the commands ended'));
hostEnded.catch(() => {}); // heard by the command under way
let simulator: Simulator;
let folder: string;
let config: string;
let env: Record<string, string>;
let server: ChildProcess | undefined;

/** A command of its own, as a user starts it. */
function launch(args: readonly string[]): Promise<Ran> {
  return new Promise((resolve) => {
    execFile(launcher, [...args], { env: { ...process.env, ...env }, maxBuffer: 16 * 1024 * 1024 }, (error, out, err) => {
      resolve({ code: error === null ? 0 : Number(error.code), out, err });
    });
  });
}
/** The same in the process that has run the commands before: one at a time. */
async function run(args: readonly string[], environment = env, terminal = false): Promise<Ran> {
  const answered = Promise.race([once(host, 'message'), hostEnded]);
  host.send({ args, env: environment, terminal } satisfies Asked);
  const [ran] = (await answered) as [Ran];
  return ran;
}
const cli = (...args: string[]): Promise<Ran> => run(['--config', config, ...args]);
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
  env = simulatorEnvironment(simulator);
});
after(async () => {
  host.kill();
  if (server?.exitCode === null && server.signalCode === null) {
    // A test failed: it must not outlive its folder.
    const ended = once(server, 'exit');
    server.kill();
    await ended;
  }
  await simulator.close();
  rmSync(folder, { recursive: true, force: true });
});

test('every command has help with an example', () => {
  const leaves = (command: Command): Command[] => (command.commands.length === 0 ? [command] : command.commands.flatMap(leaves));
  const commands = leaves(createProgram());
  assert.ok(commands.length >= 19, `found ${commands.length}`);
  for (const command of commands) {
    let help = '';
    command.configureOutput({ writeOut: (text) => (help += text) });
    command.outputHelp();
    assert.match(help, /Example:\n {2}\$ .*oncobridge/, `${command.parent?.name()} ${command.name()} shows no example`);
  }
});

test('the launcher: a result, a wrong configuration, a wrong word', async () => {
  const [checked, nothing, wrong] = await Promise.all([
    launch(['--config', config, 'config', 'check', '--json']),
    launch(['--config', join(folder, 'nothing.yaml'), 'status']),
    launch(['quarantin']),
  ]);
  assert.equal(checked.code, 0, checked.err);
  assert.equal((JSON.parse(checked.out) as { ok: boolean }).ok, true);
  assert.deepEqual([nothing.code, nothing.err.startsWith('CONFIG_NOT_FOUND')], [78, true]);
  assert.deepEqual([wrong.code, /unknown command 'quarantin'[\s\S]*Usage:/.test(wrong.err)], [64, true]);
});

test('progress: a line a stream at its end; on a terminal those under way on one line below, rewritten', () => {
  const written = (isTTY: boolean): string => {
    let text = '';
    const out = { isTTY, columns: 80, write: (part: string) => (text += part) } as unknown as NodeJS.WriteStream;
    const progress = createProgress(out);
    const of = (stream: string, records: number, done = false) =>
      progress({ source: 'ehr', stream, pages: 1, records, known: 0, outcomes: { taken: records }, warnings: [], done });
    of('labs', 5);
    of('notes', 2);
    of('labs', 9);
    of('labs', 9, true);
    of('notes', 2, true);
    return text;
  };
  assert.equal(written(false).split('\n').length, 3);
  const lines = written(true).split('\n');
  assert.equal(lines.length, 3);
  assert.match(lines[0] ?? '', /ehr\/labs 9 records, ehr\/notes 2 records …\r\u001b\[2Kehr\/labs .* done$/);
});

test('bad configuration: exit 78 and the place', async () => {
  const broken = join(folder, 'config/broken.yaml');
  writeFileSync(broken, readFileSync(config, 'utf8').replace('queue:', 'queu:'));
  const checked = await run(['--config', broken, 'config', 'check']);
  assert.equal(checked.code, 78);
  assert.match(checked.err, /CONFIG_INVALID[\s\S]*broken\.yaml:\d+:1 queu: unknown key, did you mean queue/);
  const printed = await cli('config', 'print');
  assert.ok(!printed.out.includes(simulator.aria.clientSecret), 'a secret is printed');
  assert.match((await cli('config', 'institution-id')).out, /^inst-[a-z2-7]{26}\n$/);
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
    ...(await fabricEnvironment()),
  };
  const beside = await run(['--config', production, 'status'], settings);
  assert.deepEqual([beside.code, /SECRET_WEAK.*beside the data/s.test(beside.err)], [78, true], beside.err);
  const weak = await run(['--config', join(root, 'config/production.yaml'), 'status'], { ...settings, CUSTODIAN_PASSPHRASE: 'changeme' });
  assert.deepEqual([weak.code, /SECRET_WEAK/.test(weak.err)], [78, true], weak.err);
});

test('without a server a command starts the parts, works and ends', async () => {
  const dry = await json<{ streams: { outcomes: Record<string, number> }[] }>('pull', '--dry-run');
  assert.ok(dry.streams.some((stream) => Object.keys(stream.outcomes).some((outcome) => outcome.startsWith('taken'))));
  const pulled = await json<{ filed: number; failed: boolean }>('pull');
  assert.ok(pulled.filed > 20 && !pulled.failed, JSON.stringify(pulled));
  assert.deepEqual((await json<{ differences: unknown[] }>('reconcile')).differences, []);
  // Over the database alone, for a ledger that was tampered with.
  assert.equal((await json<{ ok: boolean }>('ledger', 'verify')).ok, true);
  const missing = await cli('explain', 'rec-aaaaaaaaaaaaaaaaaaaaaaaaaa');
  assert.deepEqual([missing.code, missing.err.startsWith('NOT_FOUND')], [1, true]);
});

test('beside a running server commands work in it; stop ends it', async () => {
  // A mapping that was missing at the first pull.
  const source = join(folder, 'config/sources/aria.yaml');
  const local = 'http://varian.com/fhir/CodeSystem/DocumentReference/documentreference-type';
  writeFileSync(
    source,
    readFileSync(source, 'utf8').replace(
      /^( *)- \{ code: "[^"]*\|572".*$/m,
      (line, indent: string) => `${line}\n${indent}- { code: "${local}|989", loinc: 34117-2, category: history-and-physical }`,
    ),
  );
  // Somebody writes to the view of the ledger and to a document's row while nobody looks; the server's check at its start finds it.
  await onDatabase(
    turnedHash,
    sql`insert into projection.emergency (inst, pat, id, member, from_time, until_time, block) values ('inst-x', 'pat-x', 'emg-x', 'm', now(), now(), 1)`,
  );
  server = spawn(launcher, ['--config', config, 'start', '--json', '--log-level', 'warn'], {
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const ended = once(server, 'exit') as Promise<[number | null]>;
  const line = await Promise.race([
    once(server.stdout ?? server, 'data').then(([chunk]) => String(chunk)),
    ended.then(([code]) => assert.fail(`the server ended with ${code}`)),
  ]);
  const { pid, facade, operations } = JSON.parse(line) as { pid: number; facade: string; operations: string };
  const second = await launch(['--config', config, 'start']);
  assert.deepEqual([second.code, /CONFLICT.*runs already/s.test(second.err)], [1, true], second.err);

  const { member } = await json<{ member: string }>('member', 'add', '--name', 'Dr. Test', '--role', 'clinician');
  assert.match(member, /^mem-/);
  const refused = await cli('member', 'add', '--name', 'X', '--role', 'wizard');
  assert.equal(refused.code, 1);
  const { token } = await json<{ token: string }>('token', '--as', member);
  const client = await json<{ clientId: string; privateKeyJwk: object }>('client', 'add', '--name', 'EHR', '--scope', 'system/Patient.rs');
  assert.ok(client.clientId.startsWith('cli-') && 'privateKeyJwk' in client);
  writeFileSync(join(folder, 'no-key.jwk'), 'secret words');
  const noKey = await cli('client', 'add', '--name', 'EHR', '--jwk', join(folder, 'no-key.jwk'));
  assert.deepEqual([noKey.code, noKey.err.startsWith('BAD_REQUEST'), noKey.err.includes('secret')], [1, true, false]);

  assert.equal((await fetch(`${facade}/metadata`)).status, 200);
  assert.equal((await fetch(`${facade}/Patient`)).status, 401);
  const found = await fetch(`${facade}/Patient`, { headers: { authorization: `Bearer ${token}` } });
  assert.deepEqual([found.status, ((await found.json()) as { entry?: unknown[] }).entry ?? []], [200, []]);
  for (const path of ['livez', 'readyz']) assert.equal((await fetch(`${operations}/${path}`)).status, 200, path);
  assert.match(await (await fetch(`${operations}/metrics`)).text(), /oncobridge_ledger_height \d+/);
  await alarmShown(operations);

  await quarantineCommands();
  await resolveCommand();
  await linkCommands(member, facade);
  assert.deepEqual((await json<{ differences: unknown[] }>('reconcile')).differences, []);
  await auditCommands();
  for (const unknown of ['--source', '--stream']) {
    const nothing = await cli('pull', unknown, 'nowhere');
    assert.deepEqual([nothing.code, nothing.err.startsWith('NOT_FOUND')], [1, true], nothing.err);
  }

  const stopped = await json<{ stopped: boolean; pid: number }>('stop');
  assert.deepEqual(stopped, { stopped: true, pid });
  assert.deepEqual(await ended, [0, null]);
  assert.equal((await json<{ stopped: boolean }>('stop')).stopped, false);
});

/** Statements beside the server, or without it; the rows of the last. */
async function onDatabase(...statements: SqlFragment[]): Promise<Record<string, unknown>[]> {
  const postgres = await createEmbeddedPostgres({ directory: join(folder, '.oncobridge/postgres') });
  const database = createDatabase({ url: postgres.url, maxConnections: 1 });
  try {
    let rows: Record<string, unknown>[] = [];
    for (const statement of statements) rows = await database.query(statement);
    return rows;
  } finally {
    await database.close();
    await postgres.stop();
  }
}

const turnedHash = sql`update document_version set ciphertext_hash = reverse(ciphertext_hash)
  where document = (select document from subject where version = 1 and withdrawn_at is null order by document limit 1)`;

/** The alarm of the check at the start: in status, in readiness (which it does not end) and in the metrics, until it is cleared. */
async function alarmShown(operations: string): Promise<void> {
  const open = async () => (await json<{ openAlarms: { kind: string; count: number }[] }>('status')).openAlarms;
  const total = async (kind: string): Promise<boolean> =>
    new RegExp(`^oncobridge_alarms_total\\{kind="${kind}"\\} 1$`, 'm').test(await (await fetch(`${operations}/metrics`)).text());
  await until('the check of the start', () => total('integrity'), 30_000);
  assert.deepEqual(
    (await open()).map(({ kind, count }) => [kind, count]),
    [['projection', 1]],
  );
  assert.match((await cli('status')).out, /^ALARM {5}projection, once, since \d{4}-/m);
  const ready = await fetch(`${operations}/readyz`);
  const { notes } = (await ready.json()) as { notes: { alarms?: string } };
  assert.deepEqual([ready.status, notes.alarms?.startsWith('projection: 1, since ')], [200, true]);
  assert.ok(await total('projection'));
  assert.match(await (await fetch(`${operations}/metrics`)).text(), /^oncobridge_ledger_alarms_open\{kind="projection"\} 1$/m);
  await onDatabase(
    sql`delete from projection.emergency where id = 'emg-x'`,
    turnedHash,
    sql`update ledger_alarm set cleared_at = now() where kind = 'projection'`,
  );
  assert.deepEqual(await open(), []);
  assert.doesNotMatch(await (await fetch(`${operations}/metrics`)).text(), /oncobridge_ledger_alarms_open\{/);
}

async function quarantineCommands(): Promise<void> {
  const groups = await json<{ example: string; reason: string }[]>('quarantine', 'list');
  const group = groups.find(({ reason }) => reason === 'DOCUMENT_TYPE_UNKNOWN') ?? assert.fail('no note of an unmapped type is held');
  const shown = await json<{ reason: string }>('quarantine', 'show', group.example);
  assert.equal(shown.reason, group.reason);
  const explained = await json<{ record: { rule: string } }>('explain', group.example);
  assert.ok('record' in explained);

  const replayed = await json<{ records: number; outcomes: Record<string, number>; filed: number }>(
    'quarantine',
    'replay',
    '--reason',
    'DOCUMENT_TYPE_UNKNOWN',
    '--source',
    'aria',
  );
  assert.ok(replayed.records > 0 && replayed.outcomes['taken'] === replayed.records && replayed.filed > 0, JSON.stringify(replayed));
  const left = await json<{ reason: string }[]>('quarantine', 'list');
  assert.ok(!left.some(({ reason }) => reason === 'DOCUMENT_TYPE_UNKNOWN'));
  const nothing = await cli('quarantine', 'replay', '--reason', 'DOCUMENT_TYPE_UNKNOWN');
  assert.deepEqual([nothing.code, nothing.out], [0, 'Nothing of that is in quarantine.\n']);
  for (const [option, value, code] of [
    ['--reason', 'NO_SUCH_REASON', 'BAD_REQUEST'],
    ['--source', 'nowhere', 'NOT_FOUND'],
    ['--record', 'rec-aaaaaaaaaaaaaaaaaaaaaaaaaa', 'NOT_FOUND'],
  ] as const) {
    const wrong = await cli('quarantine', 'replay', option, value);
    assert.deepEqual([wrong.code, wrong.err.split(':')[0]], [1, code], wrong.err);
  }
}

/** The simulator's patient without a number of a configured authority, whose records wait for a person. */
async function resolveCommand(): Promise<void> {
  const groups = await json<{ example: string; reason: string; source: string }[]>('quarantine', 'list');
  const unknown = groups.filter(({ reason, source }) => reason === 'PATIENT_UNKNOWN' && source === 'ehr');
  const record = unknown[0]?.example ?? assert.fail('no record without a known patient is held');
  const resolve = (...args: string[]): Promise<Ran> => cli('quarantine', 'resolve', record, ...args);
  const { family } = PEOPLE.unnumbered;

  const piped = await resolve();
  assert.equal(piped.code, 0, piped.err);
  assert.match(piped.out, /^PATIENT_UNKNOWN; \d+ records? held\.[\s\S]*on a terminal only/);
  const seen = /--seen ([0-9a-f]{8})/.exec(piped.out)?.[1] ?? assert.fail('no code');
  const onTerminal = await run(['--config', config, 'quarantine', 'resolve', record], env, true);
  assert.ok(onTerminal.out.includes(family) && onTerminal.out.includes(PEOPLE.unnumbered.birthDate), onTerminal.out);
  const machine = await run(['--config', config, 'quarantine', 'resolve', record, '--json'], env, true);
  for (const { out } of [piped, machine]) assert.ok(!out.includes(family), 'a name in a pipe');

  for (const [args, code] of [
    [['--new', '--seen', seen], 'BAD_REQUEST'],
    [['--new', '--reject', '--seen', seen, '--reason', 'both'], 'BAD_REQUEST'],
    [['--new', '--reason', 'not looked at'], 'CONFLICT'],
    [['--patient', 'pat-aaaaaaaaaaaaaaaaaaaaaaaaaa', '--seen', seen, '--reason', 'nobody'], 'NOT_FOUND'],
  ] as const) {
    const wrong = await resolve(...args);
    assert.deepEqual([wrong.code, wrong.err.split(':')[0]], [1, code], wrong.err);
  }
  const answer = ['--new', '--seen', seen, '--reason', 'a visitor from abroad'];
  const answered = await resolve(...answer);
  assert.match(answered.out, /^new patient pat-[a-z2-7]{26}\. [1-9]\d* documents? filed\.\n$/, answered.err);
  assert.match((await resolve(...answer)).out, /^Decided so before: new patient pat-/);
  const left = await json<{ reason: string; source: string }[]>('quarantine', 'list');
  assert.ok(!left.some(({ reason, source }) => reason === 'PATIENT_UNKNOWN' && source === 'ehr'));
}

/** A code for a patient of ours: shown once, a QR code on a terminal, a picture in a file; what became of it; a person's answer. */
async function linkCommands(member: string, facade: string): Promise<void> {
  assert.equal((await cli('link', 'list')).out, 'No codes were made.\n');
  const [row] = await onDatabase(sql`select pat from patient where demographics is not null order by pat limit 1`);
  const patient = String(row?.['pat']);
  const create = ['link', 'create', '--patient', patient, '--clinician', member];
  const picture = join(folder, 'code.svg');
  const { link, text, expires } = await json<{ link: string; text: string; expires: string }>(...create, '--svg', picture);
  const code = parseLinkCode(text);
  assert.deepEqual([code.link, code.clinician, code.expires], [link, member, expires]);
  assert.ok(Math.abs(Date.parse(expires) - Date.now() - 7 * 86_400_000) < 60_000);
  assert.deepEqual([readFileSync(picture, 'utf8'), statSync(picture).mode & 0o777], [linkQrSvg(text), 0o600]);

  // A file that is there already is not written over; the code was made and is shown all the same.
  const again = await cli(...create, '--expires', '12h', '--svg', picture);
  assert.deepEqual(
    [again.code, again.err.startsWith('BAD_REQUEST'), parseLinkCode(again.out.split('\n')[0] ?? '').clinician],
    [1, true, member],
  );
  const onTerminal = await run(['--config', config, ...create], env, true);
  const shown = /^ob1\..+$/m.exec(onTerminal.out)?.[0] ?? assert.fail(onTerminal.out);
  assert.ok(onTerminal.out.startsWith(linkQrForTerminal(shown, true)));
  for (const [args, refused] of [
    [['--expires', '31d'], 'UNPROCESSABLE'],
    [['--expires', 'soon'], 'BAD_REQUEST'],
    [['--by', 'mem-aaaaaaaaaaaaaaaaaaaaaaaaaa'], 'FORBIDDEN'],
    [['--by', text], 'FORBIDDEN'],
  ] as const) {
    const wrong = await cli(...create, ...args);
    assert.deepEqual([wrong.code, wrong.err.split(':')[0], wrong.out], [1, refused, ''], wrong.err);
    assert.ok(!wrong.err.includes(code.secret));
  }
  const listed = await cli('link', 'list');
  assert.equal(listed.out.match(/ open /g)?.length, 3);
  const closed = await cli('link', 'close', parseLinkCode(shown).link, '--by', member);
  assert.deepEqual([closed.code, closed.out.endsWith(': closed.\n')], [0, true], closed.err);

  // The patient at the door for devices: with a token of their own, for nobody else.
  const { token } = await json<{ token: string }>('token', '--as', patient);
  const post = (body: object, bearer?: string) =>
    fetch(new URL('/device/link', facade), {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...(bearer === undefined ? {} : { authorization: `Bearer ${bearer}` }) },
      body: JSON.stringify(body),
    });
  const answered = await post({ clinician: member, expiresInSeconds: 3600 }, token);
  const made = (await answered.json()) as { link: string; text: string; expires: string; svg: string };
  assert.deepEqual([answered.status, answered.headers.get('cache-control'), made.svg], [201, 'no-store', linkQrSvg(made.text)]);
  assert.deepEqual([parseLinkCode(made.text).link, parseLinkCode(made.text).expires], [made.link, made.expires]);
  const others = await json<{ token: string }>('token', '--as', member);
  for (const [body, bearer, status] of [
    [{ clinician: member }, undefined, 401],
    [{ clinician: member }, others.token, 403],
    [{ clinician: member, patient }, token, 400],
    [{ clinician: 'mem-aaaaaaaaaaaaaaaaaaaaaaaaaa' }, token, 422],
    [{ clinician: member, expiresInSeconds: 31 * 86_400 }, token, 400],
  ] as const)
    assert.equal((await post(body, bearer)).status, status);
  assert.equal((await cli('link', 'close', made.link, '--by', member)).code, 0);

  // As after a document in which the name differs, the keys of which are gone.
  await onDatabase(
    sql`insert into patient_link (inst, pat, link, own_pat, state) values ('inst-a', 'pat-theirs', ${link}, ${patient}, 'held')`,
  );
  assert.match((await cli('status')).out, /^links {5}0 confirmed, 0 not compared yet, 1 codes open, 0 rejected, 1 HELD for a person/m);
  const { seen, status } = await json<{ seen: string; status: string }>('link', 'show', link);
  assert.equal(status, 'held');
  assert.match((await cli('link', 'show', link)).out, /theirs +pat-theirs of inst-a/);
  assert.equal((await cli('link', 'show', 'lnk-aaaaaaaaaaaaaaaaaaaaaaaaaa')).err.split(':')[0], 'NOT_FOUND');
  const resolve = (...args: string[]) => cli('link', 'resolve', link, '--by', member, '--reason', 'asked her', ...args);
  for (const [args, refused] of [
    [[], 'BAD_REQUEST'],
    [['--accept'], 'BAD_REQUEST'],
    [['--accept', '--reject', '--seen', seen], 'BAD_REQUEST'],
    [['--accept', '--seen', '00000000'], 'CONFLICT'],
  ] as const)
    assert.equal((await resolve(...args)).err.split(':')[0], refused);
  assert.match((await resolve('--reject')).out, /: rejected; nothing of theirs is kept\.\n$/);
  assert.match((await resolve('--reject')).out, /Answered so before\.\n$/);
  assert.match((await cli('link', 'show', link)).out, /Answered on .* by mem-.*: reject, "asked her"/);
}

async function auditCommands(): Promise<void> {
  // The events of earlier starts, anchored by the later ones.
  const held = await json<{ ok: boolean; anchors: number; events: number; problems: string[] }>('audit', 'verify', '--contents');
  assert.ok(held.ok && held.anchors > 1 && held.events > 0, JSON.stringify(held));
  assert.match((await cli('audit', 'verify')).out, /^\d+ anchors over \d+ events hold\.\n$/);
  await onDatabase(sql`delete from audit_event where id = (select id from audit_event where anchor is not null order by seq limit 1)`);
  const broken = await cli('audit', 'verify');
  assert.equal(broken.code, 1);
  assert.match(broken.out, /^THE LOG OF ACCESSES DOES NOT HOLD\nanchor \d+: rows, \d+ expected, \d+ found\n$/);
}
