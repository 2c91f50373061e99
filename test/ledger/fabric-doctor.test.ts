import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { common, msp, orderer, peer } from '@hyperledger/fabric-protos';
import { readChannelConfig } from '../../src/ledger/fabric/channel-config.ts';
import { approvals, capabilities, endorsement, ordering, organisations } from '../../src/ledger/fabric/doctor-channel.ts';
import { readEndorsementPolicy } from '../../src/ledger/fabric/endorsement-policy.ts';
import { gatewayIdentity } from '../config/production-sample.ts';

const { certificate } = await gatewayIdentity('inst-aaaaaaaaaaaaaaaaaaaaaaaaaa');

function principal(name: string): msp.MSPPrincipal {
  const role = new msp.MSPRole();
  role.setMspIdentifier(name);
  role.setRole(msp.MSPRole.MSPRoleType.PEER);
  const made = new msp.MSPPrincipal();
  made.setPrincipalClassification(msp.MSPPrincipal.Classification.ROLE);
  made.setPrincipal(role.serializeBinary());
  return made;
}
type Tree = number | { n: number; of: Tree[] };
function rule(tree: Tree): common.SignaturePolicy {
  const made = new common.SignaturePolicy();
  if (typeof tree === 'number') made.setSignedBy(tree);
  else {
    const several = new common.SignaturePolicy.NOutOf();
    several.setN(tree.n);
    several.setRulesList(tree.of.map(rule));
    made.setNOutOf(several);
  }
  return made;
}
function signaturePolicy(names: readonly string[], tree: Tree): common.SignaturePolicyEnvelope {
  const made = new common.SignaturePolicyEnvelope();
  made.setIdentitiesList(names.map(principal));
  made.setRule(rule(tree));
  return made;
}
function validationParameter(names: readonly string[], tree: Tree): Uint8Array {
  const made = new peer.ApplicationPolicy();
  made.setSignaturePolicy(signaturePolicy(names, tree));
  return made.serializeBinary();
}
const reference = (path: string): Uint8Array => {
  const made = new peer.ApplicationPolicy();
  made.setChannelConfigPolicyReference(path);
  return made.serializeBinary();
};

function configPolicy(type: number, value: Uint8Array): common.ConfigPolicy {
  const policy = new common.Policy();
  policy.setType(type);
  policy.setValue(value);
  const made = new common.ConfigPolicy();
  made.setPolicy(policy);
  return made;
}
function value(bytes: Uint8Array): common.ConfigValue {
  const made = new common.ConfigValue();
  made.setValue(bytes);
  return made;
}
function capabilityValue(...names: string[]): common.ConfigValue {
  const made = new common.Capabilities();
  for (const name of names) made.getCapabilitiesMap().set(name, new common.Capability());
  return value(made.serializeBinary());
}

/** A channel as configtxgen makes it, as far as it is looked at. */
function channelConfig(options: {
  names: string[];
  type?: 'etcdraft' | 'BFT';
  consenters?: number;
  channel?: string;
  application?: string;
  timeout?: string;
}) {
  const { names, type = 'etcdraft', consenters = 3, channel = 'V2_0', application = 'V2_5', timeout = '2s' } = options;
  const root = new common.ConfigGroup();
  root.getValuesMap().set('Capabilities', capabilityValue(channel));
  const app = new common.ConfigGroup();
  app.getValuesMap().set('Capabilities', capabilityValue(application));
  const meta = new common.ImplicitMetaPolicy();
  meta.setSubPolicy('Endorsement');
  meta.setRule(common.ImplicitMetaPolicy.Rule.MAJORITY);
  app.getPoliciesMap().set('Endorsement', configPolicy(common.Policy.PolicyType.IMPLICIT_META, meta.serializeBinary()));
  for (const name of names) {
    const config = new msp.FabricMSPConfig();
    config.setName(name);
    config.setRootCertsList([Buffer.from(certificate)]);
    const outer = new msp.MSPConfig();
    outer.setConfig(config.serializeBinary());
    const group = new common.ConfigGroup();
    group.getValuesMap().set('MSP', value(outer.serializeBinary()));
    const own = signaturePolicy([name], { n: 1, of: [0] });
    group.getPoliciesMap().set('Endorsement', configPolicy(common.Policy.PolicyType.SIGNATURE, own.serializeBinary()));
    app.getGroupsMap().set(name, group);
  }
  root.getGroupsMap().set('Application', app);
  const orderers = new common.ConfigGroup();
  orderers.getValuesMap().set('Capabilities', capabilityValue('V2_0'));
  const consensus = new orderer.ConsensusType();
  consensus.setType(type);
  if (type === 'etcdraft') {
    const metadata = new orderer.etcdraft.ConfigMetadata();
    metadata.setConsentersList(Array.from({ length: consenters }, () => new orderer.etcdraft.Consenter()));
    consensus.setMetadata(metadata.serializeBinary());
  } else {
    const mapping = new common.Orderers();
    mapping.setConsenterMappingList(Array.from({ length: consenters }, () => new common.Consenter()));
    orderers.getValuesMap().set('Orderers', value(mapping.serializeBinary()));
  }
  orderers.getValuesMap().set('ConsensusType', value(consensus.serializeBinary()));
  const batch = new orderer.BatchTimeout();
  batch.setTimeout(timeout);
  orderers.getValuesMap().set('BatchTimeout', value(batch.serializeBinary()));
  const size = new orderer.BatchSize();
  size.setMaxMessageCount(500);
  orderers.getValuesMap().set('BatchSize', value(size.serializeBinary()));
  root.getGroupsMap().set('Orderer', orderers);
  const config = new common.Config();
  config.setSequence(3);
  config.setChannelGroup(root);
  return readChannelConfig(config.serializeBinary());
}

const ABC = ['AMSP', 'BMSP', 'CMSP'];
const two: Tree = { n: 2, of: [0, 1, 2] };

describe('endorsement policies', () => {
  const { root } = channelConfig({ names: ABC });
  const cases: [string, Uint8Array, { text: string; fewest: number | undefined; indispensable: string[] }][] = [
    [
      'two of three',
      validationParameter(ABC, two),
      { text: "OutOf(2, 'AMSP.peer', 'BMSP.peer', 'CMSP.peer')", fewest: 2, indispensable: [] },
    ],
    [
      'any',
      validationParameter(ABC, { n: 1, of: [0, 1, 2] }),
      { text: "OR('AMSP.peer', 'BMSP.peer', 'CMSP.peer')", fewest: 1, indispensable: [] },
    ],
    [
      'all',
      validationParameter(ABC, { n: 3, of: [0, 1, 2] }),
      { text: "AND('AMSP.peer', 'BMSP.peer', 'CMSP.peer')", fewest: 3, indispensable: ABC },
    ],
    [
      'nested: A and one of the others',
      validationParameter(ABC, { n: 2, of: [0, { n: 1, of: [1, 2] }] }),
      { text: "AND('AMSP.peer', OR('BMSP.peer', 'CMSP.peer'))", fewest: 2, indispensable: ['AMSP'] },
    ],
    [
      'the same institution twice',
      validationParameter(['AMSP', 'AMSP'], { n: 2, of: [0, 1] }),
      { text: "AND('AMSP.peer', 'AMSP.peer')", fewest: 1, indispensable: ['AMSP'] },
    ],
    [
      "the channel's own",
      reference('/Channel/Application/Endorsement'),
      { text: '/Channel/Application/Endorsement (MAJORITY Endorsement of 3)', fewest: 2, indispensable: [] },
    ],
    [
      'one that is not there',
      reference('/Channel/Application/Nothing'),
      { text: '/Channel/Application/Nothing (none)', fewest: undefined, indispensable: [] },
    ],
    ['nothing', new Uint8Array(), { text: 'none', fewest: undefined, indispensable: [] }],
  ];
  for (const [name, parameter, expected] of cases)
    test(name, () => {
      const { text, fewest, indispensable } = readEndorsementPolicy(parameter, root);
      assert.deepEqual({ text, fewest, indispensable }, expected);
    });
});

test('the endorsement policy that is meant passes, every other one is named with what to do', () => {
  const config = channelConfig({ names: ABC });
  const judged = (parameter: Uint8Array, of = config) => endorsement(parameter, of);
  assert.deepEqual(judged(validationParameter(ABC, two)).state, 'ok');
  assert.deepEqual(judged(reference('/Channel/Application/Endorsement')).state, 'ok');
  for (const [parameter, words] of [
    [validationParameter(ABC, { n: 1, of: [0, 1, 2] }), /one institution alone can write/],
    [validationParameter(['AMSP', 'AMSP'], { n: 2, of: [0, 1] }), /one institution alone can write/],
    [validationParameter(['AMSP', 'BMSP'], { n: 2, of: [0, 1] }), /while AMSP or BMSP is away nobody can write/],
    [validationParameter(ABC, { n: 3, of: [0, 1, 2] }), /is away nobody can write/],
  ] as const) {
    const finding = judged(parameter);
    assert.equal(finding.state, 'warning');
    assert.match(finding.found, words);
    assert.match(finding.todo ?? '', /OutOf\(2, 'AMSP\.peer', 'BMSP\.peer', 'CMSP\.peer'\)/);
  }
  const four = channelConfig({ names: [...ABC, 'DMSP'] });
  assert.match(judged(validationParameter(ABC, two), four).found, /DMSP cannot endorse/);
  assert.match(judged(validationParameter([...ABC, 'DMSP'], { n: 3, of: [0, 1, 2, 3] }), four).found, /takes 3 institutions/);
  assert.equal(judged(new Uint8Array()).state, 'failed');
});

test('organisations, capabilities, ordering', () => {
  const connection = { msp: 'AMSP' } as Parameters<typeof organisations>[1];
  assert.equal(organisations(channelConfig({ names: ABC }), connection).state, 'ok');
  assert.equal(organisations(channelConfig({ names: ['AMSP', 'BMSP'] }), connection).state, 'warning');
  assert.equal(organisations(channelConfig({ names: ['BMSP', 'CMSP', 'DMSP'] }), connection).state, 'failed');

  assert.equal(capabilities(channelConfig({ names: ABC })).state, 'ok');
  assert.match(capabilities(channelConfig({ names: ABC, application: 'V2_0' })).todo ?? '', /V2_5/);
  assert.match(capabilities(channelConfig({ names: ABC, channel: 'V3_0' })).todo ?? '', /ordered several times/);
  assert.match(capabilities(channelConfig({ names: ABC, type: 'BFT' })).todo ?? '', /needs channel capability V3_0/);
  assert.equal(capabilities(channelConfig({ names: ABC, type: 'BFT', channel: 'V3_0' })).state, 'ok');

  const raft = ordering(channelConfig({ names: ABC }));
  assert.deepEqual([raft.state, raft.found], ['ok', 'etcdraft, 3 orderers, a block after 2000 ms or 500 transactions']);
  assert.equal(ordering(channelConfig({ names: ABC, consenters: 1 })).state, 'warning');
  assert.equal(ordering(channelConfig({ names: ABC, type: 'BFT', consenters: 3 })).state, 'warning');
  assert.equal(ordering(channelConfig({ names: ABC, type: 'BFT', consenters: 4 })).state, 'ok');
  assert.match(ordering(channelConfig({ names: ABC, timeout: '1m30s' })).found, /after 90000 ms/);
});

test('a definition that the own organisation has not approved fails; another one that has not is a warning', () => {
  const definition = (approved: Record<string, boolean>) => {
    const made = new peer.lifecycle.QueryChaincodeDefinitionResult();
    made.setSequence(2);
    made.setVersion('2.0');
    for (const [name, yes] of Object.entries(approved)) made.getApprovalsMap().set(name, yes);
    return made;
  };
  const connection = { msp: 'AMSP', chaincode: 'oncobridge' } as Parameters<typeof approvals>[1];
  const state = (approved: Record<string, boolean>) => approvals(definition(approved), connection).map((one) => one.state);
  assert.deepEqual(state({ AMSP: true, BMSP: true }), ['ok']);
  assert.deepEqual(state({ AMSP: true, BMSP: false }), ['warning']);
  assert.deepEqual(state({ AMSP: false, BMSP: true }), ['failed']);
});
