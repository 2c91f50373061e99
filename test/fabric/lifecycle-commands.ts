import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { fabricBinaries } from '../../network/binaries.ts';
import type { FabricNetwork } from '../../network/network.ts';
import { ordererCrypto, peerCrypto } from '../../network/node-config.ts';
import { readTopology } from '../../network/record.ts';
import { domainOf, type Institution, placesIn } from '../../network/topology.ts';

export interface DefinitionCommands {
  /** `peer lifecycle chaincode approveformyorg`, as this institution's administrator. */
  approve(institution: string): Promise<void>;
  /** Puts it into force, endorsed by these: a majority need not be everybody. */
  commit(...institutions: string[]): Promise<void>;
}

/** The next definition of the contract, of the same package, approved and committed one by one, as institutions do it. */
export async function nextDefinition(network: FabricNetwork, sequence: number): Promise<DefinitionCommands> {
  const places = placesIn(network.folder);
  const topology = (await readTopology(places)) ?? assert.fail('no network');
  const [chaincode] = topology.chaincodes;
  const [orderer] = topology.orderers;
  assert.ok(chaincode !== undefined && orderer !== undefined);
  const { peer: command } = await fabricBinaries();
  const policy = `OutOf(2,${topology.institutions.map(({ msp }) => `'${msp}.peer'`).join(',')})`;
  const definition = ['--channelID', topology.channel, '--name', chaincode.name, '--version', String(sequence)];
  definition.push('--sequence', String(sequence), '--signature-policy', policy, '-o', `localhost:${orderer.port}`);
  definition.push('--tls', '--cafile', join(ordererCrypto(places, orderer).tls, 'ca.crt'));
  const named = (name: string): Institution => topology.institutions.find((one) => one.name === name) ?? assert.fail(name);
  const peerOf = (institution: Institution) => institution.peers[0] ?? assert.fail('no peer');

  async function run(institution: Institution, step: string, extra: readonly string[]): Promise<void> {
    const peer = peerOf(institution);
    await promisify(execFile)(command, ['lifecycle', 'chaincode', step, ...definition, ...extra], {
      env: {
        PATH: process.env['PATH'],
        FABRIC_CFG_PATH: places.node(peer.name),
        FABRIC_LOGGING_SPEC: 'error',
        CORE_PEER_LOCALMSPID: institution.msp,
        CORE_PEER_MSPCONFIGPATH: join(places.organisation(institution.name), 'users', `Admin@${domainOf(institution.name)}`, 'msp'),
        CORE_PEER_ADDRESS: `localhost:${peer.port}`,
        CORE_PEER_TLS_ENABLED: 'true',
        CORE_PEER_TLS_ROOTCERT_FILE: join(peerCrypto(places, institution, peer).tls, 'ca.crt'),
      },
    });
  }

  return {
    approve: (name) => run(named(name), 'approveformyorg', ['--package-id', chaincode.packageId]),
    async commit(...names) {
      const addresses = names.map(named).flatMap((one) => {
        const peer = peerOf(one);
        return ['--peerAddresses', `localhost:${peer.port}`, '--tlsRootCertFiles', join(peerCrypto(places, one, peer).tls, 'ca.crt')];
      });
      await run(named(names[0] ?? ''), 'commit', addresses);
    },
  };
}
