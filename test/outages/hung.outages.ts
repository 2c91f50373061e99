import { after, before, describe, test } from 'node:test';
import { fabricTest } from '../fabric/test-network.ts';
import { until } from '../queue/conformance.ts';
import { openSite, outage, outageNetwork, type Site } from './site.ts';

/** Processes that hang (SIGSTOP) hold their connections open: nothing is refused, nothing answers. Only in `npm run test:outages`. */
describe('hung', fabricTest(), () => {
  let site: Site;
  const pause = (...names: string[]) => Promise.all(names.map((name) => site.network.node(name).pause()));
  const resume = (...names: string[]) => Promise.all(names.map((name) => site.network.node(name).resume()));
  before(async () => {
    site = await openSite(await outageNetwork('raft', 2));
  });
  after(() => site?.close());

  test('our gateway peer: the second one takes over', () =>
    outage(site, 'gateway peer', {
      begin: () => pause('peer1.home'),
      during: () => site.revoke('pat-1'),
      lastsMs: 2000,
      end: () => resume('peer1.home'),
    }));

  test('one other institution, then both', async () => {
    await outage(site, 'one other peer', {
      begin: () => pause('peer1.away'),
      during: () => site.revoke('pat-2'),
      lastsMs: 2000,
      end: () => resume('peer1.away'),
    });
    await outage(site, 'both other peers', {
      begin: () => pause('peer1.away', 'peer1.third'),
      during: () => until('documents wait', async () => (await site.depth()) > 20, 30_000),
      lastsMs: 3000,
      end: () => resume('peer1.away', 'peer1.third'),
    });
  });

  test('our chaincode server', () =>
    outage(site, 'chaincode server', { begin: () => pause('chaincode.home'), lastsMs: 4000, end: () => resume('chaincode.home') }));

  test('the only orderer', () => outage(site, 'orderer', { begin: () => pause('orderer1'), lastsMs: 6000, end: () => resume('orderer1') }));

  test('all our own peers: answers stop when stale', async () => {
    await outage(site, 'own peers', {
      begin: () => pause('peer1.home', 'peer2.home'),
      during: () => until('stale', async () => !(await site.projection.freshness(3000)).fresh, 30_000),
      lastsMs: 500,
      end: () => resume('peer1.home', 'peer2.home'),
    });
    await until('fresh again', async () => (await site.projection.freshness(60_000)).fresh, 30_000);
  });
});

test('BFT: the leader killed', fabricTest(), async (t) => {
  const site = await openSite(await outageNetwork('bft', 1));
  t.after(() => site.close());
  // The first leader of a new channel is the consenter with the lowest id.
  const leader = site.network.node('orderer1');
  await outage(site, 'BFT leader', {
    begin: () => leader.kill(),
    during: () => site.revoke('pat-1'),
    lastsMs: 2000,
    end: () => leader.start(),
  });
});
