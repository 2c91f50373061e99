import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BARE_CHAINCODE, ONCOBRIDGE_CHAINCODE } from '../../network/network.ts';
import { fabricTest, withTestNetwork } from '../fabric/test-network.ts';
import { putSoon } from './bare-client.ts';

for (const ordering of ['raft3', 'bft'] as const) {
  test(`ordering ${ordering}: takes transactions, also with one orderer away`, fabricTest(), async () => {
    const network = await withTestNetwork({ chaincode: [BARE_CHAINCODE], ordering });
    assert.equal(await putSoon(network, 'alpha', 'first', 'one'), 'one');
    await network.node('orderer1').kill();
    assert.equal(await putSoon(network, 'alpha', 'second', 'two'), 'two');
    await network.up();
    assert.equal(await putSoon(network, 'beta', 'third', 'three'), 'three');
    await network.down();
  });
}

test('a second peer serves its institution while the first is away, and a chaincode stands beside another', fabricTest(), async () => {
  const network = await withTestNetwork({
    firstPeers: 2,
    chaincode: [BARE_CHAINCODE, ONCOBRIDGE_CHAINCODE],
  });
  const names = (await network.status()).map((one) => one.name);
  for (const name of ['peer2.alpha', 'chaincode.alpha.2', 'chaincode-bare.alpha.2'])
    assert.ok(names.includes(name), `${name} of ${names.join()}`);
  await network.node('peer1.alpha').kill();
  assert.equal(await putSoon(network, 'alpha', 'kept', 'on', 1), 'on');
  // Brings the first one back, as up does.
  await network.upgrade({ name: 'oncobridge' });
  assert.match(await network.packageId(), /^bare_1:/);
  assert.match(await network.packageId('oncobridge'), /^oncobridge_2:/);
  await network.down();
});
