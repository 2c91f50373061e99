import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ledger, peer } from '@hyperledger/fabric-protos';
import { base64url } from '../../src/ledger/contract/bytes.ts';
import { createChain, type Forged, makeBlock, makeEnvelope, newGateway, writeSet } from '../ledger/block-maker.ts';
import { cast, HOME, LEDGER, statements } from '../ledger/world.ts';
import { createBlockLinter } from './block-linter.ts';

const CANARIES = ['Featherstonehaugh-Whitcombe', 'Phượng', '1949-07-30', 'Ølgaard'];
const linter = createBlockLinter(CANARIES);
const gateway = await newGateway(`${HOME}-msp`, HOME);
const honest: Forged = { gateway, name: 'anchorAudit', args: ['{"number":1}'], writes: [[`anchor/${HOME}`, '{}']] };

test('honest blocks hold none', async () => {
  const chain = createChain();
  const keys = cast();
  const say = statements(keys, LEDGER);
  await chain.submit(gateway, 'init', say.init([HOME, keys.home]));
  await chain.submit(gateway, 'enrollPatient', say.enroll('pat-1'));
  for (const block of chain.raw) assert.deepEqual(linter.fabric(block), []);
});

test('a canary is found wherever it stands in a block, and however deep', async () => {
  const planted = async (canary: string): Promise<Record<string, Uint8Array>> => {
    const statement = `e30.${base64url(Buffer.from(JSON.stringify({ reason: canary })))}.c2ln`;
    const read = new ledger.rwset.kvrwset.KVRead();
    read.setKey(`pat/${canary}/core`);
    const reads = new ledger.rwset.kvrwset.KVRWSet();
    reads.addReads(read);
    const readSet = new ledger.rwset.NsReadWriteSet();
    readSet.setNamespace('lscc');
    readSet.setRwset(reads.serializeBinary());
    const named = await newGateway(`${HOME}-msp`, HOME, { attribute: JSON.stringify({ attrs: { name: canary } }) });
    return {
      argument: makeEnvelope({ ...honest, args: [`{"reason":"${canary}"}`] }),
      'argument, percent': makeEnvelope({ ...honest, args: [encodeURIComponent(`x ${canary}`)] }),
      statement: makeEnvelope({ ...honest, args: [statement] }),
      'statement in an envelope of its own': makeEnvelope({ ...honest, args: [base64url(Buffer.from(JSON.stringify({ statement })))] }),
      name: makeEnvelope({ ...honest, name: canary }),
      value: makeEnvelope({ ...honest, writes: [['a', `{"clinician":"${canary}"}`]] }),
      key: makeEnvelope({ ...honest, writes: [[`pat/${canary}`, '{}']] }),
      'read set': makeEnvelope({ ...honest, sets: [readSet] }),
      'private data of another chaincode': makeEnvelope({
        ...honest,
        sets: [writeSet('other', [], { collections: [{ name: canary, writes: [] }] })],
      }),
      certificate: makeEnvelope({ ...honest, gateway: named }),
      event: makeEnvelope({
        ...honest,
        spoil: ({ payload, envelope }) => {
          const event = new peer.ChaincodeEvent();
          event.setPayload(Buffer.from(canary));
          payload.setData(Buffer.concat([payload.getData_asU8(), event.serializeBinary()]));
          envelope.setPayload(payload.serializeBinary());
        },
      }),
      'no message at all': Buffer.from(`\0\0${canary}`),
    };
  };
  for (const canary of CANARIES) {
    for (const [place, bytes] of Object.entries(await planted(canary))) {
      const block = makeBlock(5, '', [{ bytes: makeEnvelope(honest) }, { bytes, validation: 'ENDORSEMENT_POLICY_FAILURE' }]);
      const found = linter.fabric(block);
      assert.ok(
        found.some((one) => one.canary === canary && one.place === 'block 5'),
        `${canary} in ${place}`,
      );
    }
    const metadata = makeBlock(6, '', [{ bytes: makeEnvelope(honest) }]);
    metadata.getMetadata()?.addMetadata(Buffer.from(canary));
    assert.equal(linter.fabric(metadata)[0]?.canary, canary);
  }
});

test('and in the blocks of the embedded ledger', () => {
  const row = { number: 3, previous_hash: '', hash: '', header: '{}', signature: '', body: '' };
  assert.deepEqual(linter.embedded({ ...row, body: 'VALID c2ln.{"args":["plain"]}' }), []);
  const statement = base64url(Buffer.from(JSON.stringify({ note: 'Ølgaard' })));
  assert.equal(linter.embedded({ ...row, body: `MVCC_READ_CONFLICT c2ln.{"args":["e30.${statement}.c2ln"]}` })[0]?.canary, 'Ølgaard');
});
