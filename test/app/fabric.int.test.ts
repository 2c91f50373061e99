import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { type FabricSite, pinLedger, startFabricSite } from '../../simulator/demo-fabric.ts';
import { type Story, tellStory } from '../../simulator/demo-story.ts';
import { createSimulator, type Simulator } from '../../simulator/simulator.ts';
import { examineLedger } from '../../src/app/examine-ledger.ts';
import { foundFabricLedger, joinFabricLedger } from '../../src/app/ledger-identity.ts';
import { verifyAlone } from '../../src/app/verify-alone.ts';
import { type App, createApp } from '../../src/app.ts';
import { startControlServer } from '../../src/cli/control-server.ts';
import { controlFile } from '../../src/cli/run.ts';
import { readSettings, type Settings } from '../../src/cli/settings.ts';
import { CodedError, codeOf } from '../../src/errors.ts';
import type { Finding } from '../../src/ledger/fabric/finding.ts';
import { newLedgerId } from '../../src/ledger/founding.ts';
import type { CosignedFile } from '../../src/membership/cosigned-file.ts';
import { projectedInstitution, type RotatedKeys } from '../../src/membership/institution-keys.ts';
import { jwkThumbprint } from '../../src/vault/thumbprint.ts';
import { rawBlocks } from '../fabric/raw-blocks.ts';
import { fabricTest } from '../fabric/test-network.ts';
import { createBlockLinter } from '../privacy/block-linter.ts';

const root = fileURLToPath(new URL('../../', import.meta.url));
const silent: Story = { title() {}, line() {}, table() {}, request() {} };
const refused =
  (code: string, words = /./) =>
  (error: unknown): boolean =>
    error instanceof CodedError && error.code === code && words.test(error.message);

describe('config/production.yaml on a Fabric network of three institutions', fabricTest(), () => {
  let folder: string;
  let simulator: Simulator;
  let site: FabricSite;
  let second: string;
  const apps = new Set<App>();

  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'oncobridge-app-fabric-'));
    simulator = await createSimulator();
    const run = (name: string): string => {
      mkdirSync(join(folder, name), { mode: 0o711 });
      return join(folder, name);
    };
    site = await startFabricSite({ run: run('home'), simulator });
    second = await site.configOf('second', run('second'));
    // No test waits for limits that protect a real department's servers.
    for (const config of [site.config, second])
      for (const name of ['ehr', 'aria']) {
        const file = join(config, '../sources', `${name}.yaml`);
        writeFileSync(file, `${readFileSync(file, 'utf8')}\nlimits: { requestsPerSecond: 10000 }\n`);
      }
  });
  after(async () => {
    for (const app of apps) await app.close();
    await site?.close();
    await simulator?.close();
    rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
  });

  async function start(settings: Settings): Promise<App> {
    const app = await createApp({ settings, serve: true, logLevel: 'silent', schedule: false });
    apps.add(app);
    return app;
  }
  async function stop(app: App): Promise<void> {
    apps.delete(app);
    await app.close();
  }
  /** A command, as an operator runs it. */
  function cli(config: string, ...args: string[]): Promise<{ code: number; result: unknown; err: string }> {
    return new Promise((resolve) => {
      execFile(join(root, 'bin/oncobridge'), ['--config', config, ...args, '--json'], (error, out, err) => {
        resolve({ code: error === null ? 0 : Number(error.code), result: out === '' ? undefined : JSON.parse(out), err });
      });
    });
  }
  const settings = (config = site.config): Promise<Settings> => readSettings(config);
  let ledgerId: string;
  let home: App;

  test('a start says what is missing: an id, a founding', async () => {
    await assert.rejects(start(await settings()), refused('LEDGER_UNPINNED', /oncobridge ledger found/));
    await assert.rejects(joinFabricLedger(await settings()), refused('LEDGER_UNPINNED'));
    pinLedger(site.config, newLedgerId());
    await assert.rejects(start(await settings()), refused('LEDGER_NOT_FOUNDED', /oncobridge ledger found/));
    const { code, result } = await cli(site.config, 'doctor', 'ledger');
    const { findings } = result as { findings: Finding[] };
    assert.deepEqual([code, findings.filter((one) => one.state === 'failed').map((one) => one.check)], [1, ['ledger']]);
  });

  test('one institution founds the ledger, once, under the id that it pins', async () => {
    const pinned = await settings();
    const { result, code, err } = await cli(site.config, 'ledger', 'found');
    const founded = result as Awaited<ReturnType<typeof foundFabricLedger>>;
    assert.equal(code, 0, err);
    ledgerId = founded.ledgerId;
    assert.deepEqual([founded.isNew, pinned.config.server.ledger.kind === 'fabric' && pinned.config.server.ledger.id], [true, ledgerId]);
    assert.deepEqual({ ...(await foundFabricLedger(pinned)), isNew: true }, founded);
    // Another institution, with no id of its own or with a wrong one.
    await assert.rejects(foundFabricLedger(await settings(second)), refused('LEDGER_OTHER', new RegExp(ledgerId)));
    pinLedger(second, newLedgerId());
    await assert.rejects(start(await settings(second)), refused('LEDGER_OTHER', new RegExp(ledgerId)));
  });

  test('the whole main job: pull, receipts, grant, read, revoke, an altered object, reconcile, verify', async () => {
    home = await start(await settings());
    const pulled = await home.operations.pull({}, () => {});
    assert.ok(pulled.filed > 20 && !pulled.failed);
    await home.settled();
    await tellStory({ app: home, story: silent });
    const status = await home.operations.status({});
    assert.deepEqual(
      [
        status.ledger.kind,
        status.ledger.reachable,
        status.ledger.consensus,
        status.ledger.alarms,
        status.ledger.fresh,
        status.outbox.depth,
      ],
      ['fabric', true, 'Raft, 1 orderer', 0, true, 0],
    );
    const [peer] = status.ledger.peers;
    assert.equal(peer?.state, 'closed');
    const metrics = await (await fetch(`${home.operationsUrl}/metrics`)).text();
    assert.match(metrics, /oncobridge_ledger_info\{kind="fabric"\} 1/);
    assert.match(metrics, new RegExp(`oncobridge_ledger_peer_up\\{peer="${peer?.name}"\\} 1`));
    assert.equal((await fetch(`${home.operationsUrl}/readyz`)).status, 200);
  });

  test('another institution joins by a co-signed statement, and follows the same ledger', async () => {
    pinLedger(second, ledgerId);
    const theirs = await settings(second);
    await assert.rejects(start(theirs), refused('INSTITUTION_NOT_REGISTERED', /oncobridge ledger join/));
    const path = join(folder, 'join.json');
    const { result: made, code } = await cli(second, 'ledger', 'join', '--out', path);
    assert.equal(code, 0);
    const file = made as CosignedFile;
    const { data } = await settings();
    const operations = { ...home.operations, stop: async () => ({ pid: 0 }) };
    const control = await startControlServer({ file: controlFile(data), facade: home.facadeUrl, operations, onError() {} });
    const early = await cli(site.config, 'ledger', 'submit', path);
    assert.deepEqual([early.code, /LEDGER_REFUSED/.test(early.err)], [1, true], early.err);
    assert.equal((await cli(site.config, 'ledger', 'cosign', path, '--thumbprint', 'x'.repeat(43))).code, 1);
    const running = await cli(site.config, 'ledger', 'found');
    assert.match(running.err, /CONFLICT.*A server runs/);
    assert.equal((await cli(site.config, 'ledger', 'cosign', path, '--thumbprint', file.thumbprint)).code, 0);
    const submitted = await cli(site.config, 'ledger', 'submit', path);
    assert.deepEqual(
      [submitted.code, (submitted.result as { institution?: string } | undefined)?.institution],
      [0, theirs.config.server.institution.id],
      submitted.err,
    );
    await control.close();
    const joined = await start(theirs);
    const { ledger } = await joined.operations.status({});
    assert.deepEqual([ledger.kind, ledger.fresh, ledger.alarms], ['fabric', true, 0]);
    assert.ok((await joined.operations.verify({})).ok);
    await stop(joined);
    const { code: examined, result } = await cli(second, 'doctor', 'ledger');
    const { findings } = result as { findings: Finding[] };
    assert.equal(examined, 0, JSON.stringify(findings));
    assert.equal(findings.find((one) => one.check === 'endorsement policy')?.state, 'ok');
    assert.equal(findings.find((one) => one.check === 'clocks')?.state, 'ok');
  });

  test('an institution turns to new keys: everybody sees them, and it goes on; a lost key takes two others', async () => {
    const { data } = await settings();
    const operations = { ...home.operations, stop: async () => ({ pid: 0 }) };
    const control = await startControlServer({ file: controlFile(data), facade: home.facadeUrl, operations, onError() {} });
    const { member } = await home.operations.memberAdd({ name: 'Dr. Leaving', role: 'clinician' });
    const before = await home.core.custodian.institutionKeys();
    const rotated = await cli(site.config, 'institution', 'rotate-key');
    assert.equal(rotated.code, 0, rotated.err);
    const { version, thumbprint } = rotated.result as RotatedKeys;
    const now = await home.core.custodian.institutionKeys();
    assert.deepEqual([version, thumbprint === jwkThumbprint(now.signing), now.version], [2, true, before.version + 1]);
    // A statement of the institution, by its new key.
    const suspended = await cli(site.config, 'member', 'suspend', member);
    assert.equal(suspended.code, 0, suspended.err);

    const path = join(folder, 'rotation.json');
    const exported = await cli(second, 'institution', 'rotate-key', '--export', path);
    assert.equal(exported.code, 0, exported.err);
    const file = exported.result as CosignedFile;
    assert.equal((await cli(site.config, 'ledger', 'cosign', path, '--thumbprint', file.thumbprint)).code, 0);
    const alone = await cli(site.config, 'ledger', 'submit', path);
    assert.deepEqual([alone.code, /SIGNERS_MISSING/.test(alone.err)], [1, true], alone.err);
    await control.close();

    // The other one's server, whose next keys are made and not used, and whose view has the first one's.
    const theirs = await start(await settings(second));
    const seen = await projectedInstitution(theirs.core.database, home.core.institution);
    assert.deepEqual([seen?.version, seen && jwkThumbprint(seen.signing)], [2, thumbprint]);
    assert.equal((await theirs.core.custodian.institutionKeys()).version, 1);
    assert.ok((await theirs.operations.verify({})).ok);
    await stop(theirs);
    await stop(home);
    home = await start(await settings());
    assert.equal(jwkThumbprint((await home.core.custodian.institutionKeys()).signing), thumbprint);
  });

  test('while the own peer is away: a start comes up without it, says so, and recovers by itself', async () => {
    await stop(home);
    const peer = site.network.node('peer1.home');
    await peer.kill();
    const [failed] = (await examineLedger((await settings()).config.server)).filter((one) => one.state === 'failed');
    assert.match(failed?.found ?? '', /ECONN(REFUSED|RESET)/);
    await assert.rejects(verifyAlone(await settings()), (error) => codeOf(error) === 'LEDGER_UNAVAILABLE');
    home = await start(await settings());
    const away = await home.operations.status({});
    assert.deepEqual([away.ledger.reachable, away.ledger.peers[0]?.state], [false, 'open']);
    const added = home.operations.memberAdd({ name: 'Dr. Waiting', role: 'clinician' });
    await peer.start();
    await added;
    await home.settled();
    assert.deepEqual((await home.operations.reconcile({}, () => {})).differences, []);
    const back = await home.operations.status({});
    assert.deepEqual([back.ledger.reachable, back.ledger.fresh, back.outbox.depth], [true, true, 0]);
    await stop(home);
    assert.deepEqual((await verifyAlone(await settings())).problems, []);
  });

  test('no block of the channel holds anything of a patient, in whatever form', async () => {
    const { canaries } = simulator.truth();
    const linter = createBlockLinter(canaries);
    const blocks = await rawBlocks(await site.network.connection('home'), (await verifyAlone(await settings())).blocks);
    const found = blocks.flatMap((block) => linter.fabric(block));
    assert.ok(canaries.length > 50 && blocks.length > 10);
    assert.deepEqual([...new Set(found.map(({ canary, form, place }) => `${canary} as ${form} in ${place}`))], []);
  });

  test('data of one ledger is not taken to another', async () => {
    const original = readFileSync(site.config, 'utf8');
    pinLedger(site.config, newLedgerId());
    await assert.rejects(start(await settings()), refused('LEDGER_OTHER', new RegExp(ledgerId)));
    writeFileSync(site.config, original);
  });
});
