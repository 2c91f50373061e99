import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { fabricTest } from '../fabric/test-network.ts';
import { until } from '../queue/conformance.ts';
import { openSite, outage, outageNetwork, type Site } from './site.ts';

/** Processes of a Fabric network killed while documents are filed; `npm run test:outages` hangs them too. fabric.md section 6. */
describe('killed', fabricTest(), () => {
  let site: Site;
  const kill = (...names: string[]) => Promise.all(names.map((name) => site.network.node(name).kill()));
  const start = (...names: string[]) => Promise.all(names.map((name) => site.network.node(name).start()));
  before(async () => {
    site = await openSite(await outageNetwork('raft', 2));
  });
  after(() => site?.close());

  test('the only orderer, with what it had accepted', () =>
    outage(site, 'orderer', { begin: () => kill('orderer1'), lastsMs: 2000, end: () => start('orderer1') }));

  test('our gateway peer: the second one takes over at once', () =>
    outage(site, 'gateway peer', {
      begin: () => kill('peer1.home'),
      during: async () => {
        const before = await site.projection.height();
        assert.ok((await site.revoke('pat-1')) >= before - 1, 'a revocation goes out beside it');
        await until('the projection follows the second peer', async () => (await site.projection.height()) > before, 20_000);
      },
      lastsMs: 1000,
      end: () => start('peer1.home'),
    }));

  test('one other institution costs nothing; both stop the ledger until one is back', async () => {
    await outage(site, 'one other peer', {
      begin: () => kill('peer1.away'),
      during: () => site.revoke('pat-2'),
      lastsMs: 1000,
      end: () => start('peer1.away'),
    });
    await outage(site, 'both other peers', {
      begin: () => kill('peer1.away', 'peer1.third'),
      during: () => until('documents wait', async () => (await site.depth()) > 20, 30_000),
      lastsMs: 500,
      end: () => start('peer1.third'),
    });
    await start('peer1.away');
  });

  test('our chaincode server', () =>
    outage(site, 'chaincode server', { begin: () => kill('chaincode.home'), lastsMs: 1500, end: () => start('chaincode.home') }));

  test('everything, for a while: the outbox grows, answers stop when stale, all drains', async () => {
    const names = (await site.network.status()).map((node) => node.name);
    await outage(site, 'everything', {
      begin: () => kill(...names),
      during: () => until('stale', async () => !(await site.projection.freshness(3000)).fresh, 30_000),
      lastsMs: 3000,
      end: () => site.network.up(),
    });
    await until('fresh again', async () => (await site.projection.freshness(60_000)).fresh, 30_000);
  });
});

test('killed: one of three raft orderers', fabricTest(), async (t) => {
  const site = await openSite(await outageNetwork('raft3', 1));
  t.after(() => site.close());
  for (const name of ['orderer1', 'orderer2', 'orderer3']) {
    const node = site.network.node(name);
    // One of the three is the leader.
    await outage(site, name, { begin: () => node.kill(), during: () => site.revoke('pat-1'), lastsMs: 1000, end: () => node.start() });
  }
});
