import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { canHaveBinaries } from '../../network/binaries.ts';
import { type FabricSite, pinLedger, startFabricSite } from '../../simulator/demo-fabric.ts';
import { type Story, tellStory } from '../../simulator/demo-story.ts';
import { createSimulator, type Simulator } from '../../simulator/simulator.ts';
import { examineLedger } from '../../src/app/examine-ledger.ts';
import { foundFabricLedger, joinFabricLedger } from '../../src/app/ledger-identity.ts';
import { verifyAlone } from '../../src/app/verify-alone.ts';
import { type App, createApp } from '../../src/app.ts';
import { readSettings, type Settings } from '../../src/cli/settings.ts';
import { CodedError, codeOf } from '../../src/errors.ts';
import { newLedgerId } from '../../src/ledger/founding.ts';

const present = await canHaveBinaries();
test('Fabric is present where it is required', () => {
  assert.ok(present || process.env['REQUIRE_FABRIC'] !== '1', 'neither Go nor FABRIC_BIN');
});

const silent: Story = { title() {}, line() {}, table() {}, request() {} };
const refused =
  (code: string, words = /./) =>
  (error: unknown): boolean =>
    error instanceof CodedError && error.code === code && words.test(error.message);

describe(
  'config/production.yaml on a Fabric network of three institutions',
  present ? {} : { skip: 'SKIPPED: neither Go nor FABRIC_BIN; the pipeline on Fabric is NOT tested. REQUIRE_FABRIC=1 makes this fail.' },
  () => {
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
    const settings = (config = site.config): Promise<Settings> => readSettings(config);
    let ledgerId: string;
    let home: App;

    test('a start says what is missing: an id, a founding', async () => {
      await assert.rejects(start(await settings()), refused('LEDGER_UNPINNED', /oncobridge ledger found/));
      await assert.rejects(joinFabricLedger(await settings()), refused('LEDGER_UNPINNED'));
      pinLedger(site.config, newLedgerId());
      await assert.rejects(start(await settings()), refused('LEDGER_NOT_FOUNDED', /oncobridge ledger found/));
      const findings = await examineLedger((await settings()).config.server);
      assert.deepEqual(
        findings.filter((one) => one.state === 'failed').map((one) => one.check),
        ['ledger'],
      );
    });

    test('one institution founds the ledger, once, under the id that it pins', async () => {
      const pinned = await settings();
      const founded = await foundFabricLedger(pinned);
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
      const file = await joinFabricLedger(theirs);
      await assert.rejects(home.operations.ledgerSubmit({ file }), (error) => codeOf(error) === 'LEDGER_REFUSED');
      const signed = await home.operations.ledgerCosign({ file, thumbprint: file.thumbprint });
      const { block } = await home.operations.ledgerSubmit({ file: signed });
      assert.ok(block > 0);
      const joined = await start(theirs);
      const { ledger } = await joined.operations.status({});
      assert.deepEqual([ledger.kind, ledger.fresh, ledger.alarms], ['fabric', true, 0]);
      assert.ok((await joined.operations.verify({})).ok);
      await stop(joined);
      const findings = await examineLedger(theirs.config.server);
      assert.deepEqual(
        findings.filter((one) => one.state === 'failed'),
        [],
      );
      assert.equal(findings.find((one) => one.check === 'endorsement policy')?.state, 'ok');
      assert.equal(findings.find((one) => one.check === 'clocks')?.state, 'ok');
    });

    test('while the own peer is away: a start comes up without it, says so, and recovers by itself', async () => {
      await stop(home);
      const peer = site.network.node('peer1.home');
      await peer.kill();
      const [failed] = (await examineLedger((await settings()).config.server)).filter((one) => one.state === 'failed');
      assert.match(failed?.found ?? '', /ECONNREFUSED/);
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

    test('data of one ledger is not taken to another', async () => {
      const original = readFileSync(site.config, 'utf8');
      pinLedger(site.config, newLedgerId());
      await assert.rejects(start(await settings()), refused('LEDGER_OTHER', new RegExp(ledgerId)));
      writeFileSync(site.config, original);
    });
  },
);
