import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { X509Certificate } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, readFile, readlink, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { BARE_CHAINCODE, createNetwork, type NodeStatus, openNetwork } from '../../network/network.ts';
import { codeOf } from '../../src/errors.ts';
import { callerOf } from '../../src/ledger/fabric/caller.ts';
import { fabricTest, networkFolder, withTestNetwork } from '../fabric/test-network.ts';
import { bareClient, putSoon } from './bare-client.ts';

const root = fileURLToPath(new URL('../../', import.meta.url));
const scratch = await mkdtemp(join(tmpdir(), 'oncobridge-network-test-'));
after(() => rm(scratch, { recursive: true, force: true }));

const bare = { chaincode: [BARE_CHAINCODE] };
const states = (nodes: readonly NodeStatus[]): string[] => [...new Set(nodes.map((one) => one.state))];
const pids = (nodes: readonly NodeStatus[]): (number | undefined)[] => nodes.map((one) => one.pid);

/** Every process whose working directory lies below, asked of the system and not of the code under test. */
async function processesBelow(folder: string): Promise<number[]> {
  const found: number[] = [];
  for (const entry of await readdir('/proc')) {
    const cwd = /^\d+$/.test(entry) ? await readlink(`/proc/${entry}/cwd`).catch(() => '') : '';
    if (cwd.startsWith(folder)) found.push(Number(entry));
  }
  return found;
}

/** `npm run fabric -- …` */
function fabric(...args: string[]): { code: number | null; out: string; err: string } {
  const run = spawnSync(process.execPath, ['network/main.ts', ...args], { cwd: root, encoding: 'utf8' });
  return { code: run.status, out: run.stdout, err: run.stderr };
}

test('a network lives through the death of each of its parts, and leaves nothing', fabricTest(), async (t) => {
  const network = await withTestNetwork(bare);
  const nodes = await network.status();

  await t.test('it is up, and takes a transaction', async () => {
    assert.deepEqual(states(nodes), ['up']);
    assert.deepEqual(nodes.map((one) => one.kind).join(' '), 'orderer peer peer peer chaincode chaincode chaincode');
    const client = await bareClient(network, 'alpha');
    await client.put('first', 'one');
    client.close();
    const other = await bareClient(network, 'gamma');
    assert.equal(await other.get('first'), 'one');
    other.close();
  });

  await t.test('identities: opaque, of their own organisation, naming the institution; secrets readable by their owner only', async () => {
    for (const { name, institution, msp } of network.institutions) {
      const connection = await network.connection(institution);
      assert.deepEqual(callerOf(connection.msp, connection.certificatePem), { msp, institution });
      const certificate = new X509Certificate(connection.certificatePem);
      assert.match(certificate.subject, /^CN=gw-[0-9a-f]{20}\nOU=client$/);
      const authority = join(network.folder, 'crypto', 'peerOrganizations', `${name}.test`, 'ca', `ca.${name}.test-cert.pem`);
      assert.ok(certificate.verify(new X509Certificate(await readFile(authority)).publicKey));
      const file = join(network.folder, name, 'connection.json');
      assert.deepEqual(JSON.parse(await readFile(file, 'utf8')), connection);
      for (const secret of [file, join(network.folder, name, 'gateway', 'key.pem')])
        assert.equal((await stat(secret)).mode & 0o077, 0, secret);
    }
  });

  await t.test('a second up changes nothing', async () => {
    await network.up();
    assert.deepEqual(pids(await network.status()), pids(nodes));
  });

  await t.test('each node killed in turn, and brought back by up', async () => {
    for (const { name, pid } of nodes) {
      await network.node(name).kill();
      const down = (await network.status()).filter((one) => one.state !== 'up');
      assert.deepEqual([down.map((one) => one.name), pids(down)], [[name], [undefined]]);
      await network.up();
      const back = await network.status();
      assert.deepEqual(states(back), ['up'], name);
      assert.notEqual(back.find((one) => one.name === name)?.pid, pid);
      assert.equal(await putSoon(network, 'alpha', `after ${name}`, 'held'), 'held');
    }
  });

  await t.test('all killed at once; what was written stands', async () => {
    for (const { name } of nodes) await network.node(name).kill();
    assert.deepEqual(states(await network.status()), ['down']);
    await network.up();
    const client = await bareClient(network, 'beta');
    assert.equal(await client.get('first'), 'one');
    client.close();
  });

  await t.test('a node that hangs is seen, and woken by up', async () => {
    await network.node('peer1.beta').pause();
    assert.equal((await network.status()).find((one) => one.name === 'peer1.beta')?.state, 'paused');
    await network.up();
    assert.deepEqual(states(await network.status()), ['up']);
  });

  await t.test('a pid that was given out again is not taken for ours', async () => {
    await network.node('orderer1').kill();
    await writeFile(join(network.folder, 'nodes', 'orderer1', 'pid'), `${process.pid}\n`);
    assert.equal((await network.status())[0]?.pid, undefined);
    await network.node('orderer1').start();
    assert.equal((await network.status())[0]?.state, 'up');
  });

  await t.test('an upgrade keeps state and ends the servers of the version before', async () => {
    const before = await network.packageId();
    await network.upgrade();
    assert.match(await network.packageId(), /^bare_2:[0-9a-f]{64}$/);
    assert.notEqual(await network.packageId(), before);
    assert.equal(await putSoon(network, 'alpha', 'upgraded', 'yes'), 'yes');
    const client = await bareClient(network, 'gamma');
    assert.equal(await client.get('first'), 'one');
    client.close();
    assert.equal((await processesBelow(network.folder)).length, nodes.length);
  });

  await t.test('down with its data kept, and up again', async () => {
    await network.node('peer1.gamma').pause();
    await network.down({ keepData: true });
    assert.deepEqual(await processesBelow(network.folder), []);
    await network.up();
    assert.equal(await putSoon(network, 'gamma', 'again', 'here'), 'here');
    const client = await bareClient(network, 'alpha');
    assert.equal(await client.get('first'), 'one');
    client.close();
  });

  await t.test('down leaves no process and no file, and may be said twice', async () => {
    await network.down();
    assert.deepEqual(await processesBelow(network.folder), []);
    assert.equal(existsSync(network.folder), false);
    await network.down();
    assert.deepEqual(await network.status(), []);
  });
});

test('an up that is killed anywhere is taken over by the next', fabricTest(), async () => {
  const folder = await networkFolder();
  for (const afterMs of [250, 900, 1700, 2600, 3500]) {
    const child = spawn(process.execPath, ['network/main.ts', 'up', '--folder', folder], { cwd: root, stdio: 'ignore' });
    const gone = new Promise((done) => child.once('exit', done));
    await new Promise((done) => setTimeout(done, afterMs));
    child.kill('SIGKILL');
    await gone;
  }
  const network = await createNetwork({ folder, institutions: await institutionsOf(folder) });
  await network.up();
  const nodes = await network.status();
  assert.deepEqual(states(nodes), ['up']);
  // None twice, none forgotten.
  assert.deepEqual(new Set(await processesBelow(folder)), new Set(pids(nodes)));

  // A removal cut short is taken up again.
  const child = spawn(process.execPath, ['network/main.ts', 'down', '--folder', folder], { cwd: root, stdio: 'ignore' });
  const gone = new Promise((done) => child.once('exit', done));
  while (child.exitCode === null && existsSync(join(folder, 'crypto'))) await new Promise((done) => setTimeout(done, 5));
  child.kill('SIGKILL');
  await gone;
  await network.down();
  assert.deepEqual(await processesBelow(folder), []);
  assert.equal(existsSync(folder), false);
});

test('the commands, and what their exit codes say', fabricTest(), async () => {
  const folder = await networkFolder();
  assert.equal(fabric('status', '--folder', folder).code, 3);
  assert.equal(fabric('down', '--folder', folder).code, 0);
  const up = fabric('up', '--folder', folder);
  assert.equal(up.code, 0, up.err);
  assert.match(up.out, /alpha\/connection\.json\n.*beta\/connection\.json\n.*gamma\/connection\.json\n$/);
  const status = fabric('status', '--folder', folder, '--json');
  assert.equal(status.code, 0);
  const nodes = JSON.parse(status.out) as NodeStatus[];
  assert.deepEqual([nodes.length, states(nodes)], [7, ['up']]);
  assert.equal(nodes.find((one) => one.name === 'peer1.alpha')?.kind, 'peer');

  // The network that is asked for is not the one that is there.
  assert.equal(fabric('up', '--folder', folder, '--ordering', 'bft').code, 3);
  assert.match(fabric('logs', 'chaincode.alpha', '--folder', folder).out, /chaincode oncobridge_1:[0-9a-f]{64} at /);
  await (await openNetwork(folder)).node('chaincode.beta').kill();
  const hurt = fabric('status', '--folder', folder);
  assert.deepEqual([hurt.code, /^chaincode\.beta +down/m.test(hurt.out)], [1, true]);

  const upgrade = fabric('upgrade', '--folder', folder, '--label', 'another');
  assert.deepEqual([upgrade.code, /^another:[0-9a-f]{64}\n$/.test(upgrade.out)], [0, true], upgrade.err);
  assert.equal(fabric('down', '--folder', folder).code, 0);
  assert.equal(existsSync(folder), false);
});

test("without Fabric's commands: says what to install, and leaves nothing", fabricTest(), async () => {
  const folder = await networkFolder();
  const env = { ...process.env, FABRIC_BIN: join(scratch, 'nowhere') };
  const up = spawnSync(process.execPath, ['network/main.ts', 'up', '--folder', folder], { cwd: root, encoding: 'utf8', env });
  assert.equal(up.status, 69);
  assert.match(up.stderr, /^FABRIC_MISSING: .*Install Go.*FABRIC_BIN lacks: peer, [^\n]*\n$/);
  assert.deepEqual(await readdir(folder).catch(() => []), []);
  const output = join(scratch, 'demo');
  const demo = spawnSync(process.execPath, ['simulator/demo.ts', '--fabric', '--output', output], { cwd: root, encoding: 'utf8', env });
  assert.equal(demo.status, 69);
  assert.match(demo.stderr, /^FABRIC_MISSING: [^\n]*\n$/);
  assert.equal(existsSync(output), false);
});

test('a folder that holds something else is left alone', fabricTest(), async () => {
  const folder = join(scratch, 'else');
  await mkdir(folder);
  await writeFile(join(folder, 'thesis.txt'), 'years of work');
  const institutions = ['a', 'b', 'c'].map((name) => ({ name, institution: `inst-${name}`, msp: `${name}MSP` }));
  const network = await createNetwork({ folder, institutions });
  for (const work of [network.up(), network.down()]) await assert.rejects(work, (error) => codeOf(error) === 'FABRIC_FOLDER');
  assert.deepEqual(await readdir(folder), ['thesis.txt']);
});

type Institutions = { name: string; institution: string; msp: string }[];

async function institutionsOf(folder: string): Promise<Institutions> {
  const { institutions } = JSON.parse(await readFile(join(folder, 'network.json'), 'utf8')) as { institutions: Institutions };
  return institutions.map(({ name, institution, msp }) => ({ name, institution, msp }));
}
