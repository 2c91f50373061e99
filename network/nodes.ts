import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { FabricBinaries } from './binaries.ts';
import { chaincodeTlsFiles, makeChaincodeTls } from './identities.ts';
import { writeServerFile } from './lifecycle.ts';
import { coreYaml, ordererYaml, peerCrypto, peerEnvironment } from './node-config.ts';
import type { ProcessSpec } from './processes.ts';
import { chaincodeNodeName, type InstalledChaincode, type Places, type Topology } from './topology.ts';

/** A node of the network as it is to run. */
export interface NodeSpec extends ProcessSpec {
  kind: 'orderer' | 'peer' | 'chaincode';
  /** Institution id; an orderer is of none. */
  institution?: string;
  address: string;
  /** The one that `name` means where an upgrade has two of that name. */
  current: boolean;
}

/** No colours: logs are files. */
const LOGGING = {
  FABRIC_LOGGING_SPEC: 'warn',
  FABRIC_LOGGING_FORMAT: '%{time:2006-01-02T15:04:05.000Z07:00} %{level:.4s} [%{module}] %{message}',
};

/** Orderers and peers. */
export function nodeSpecs(topology: Topology, places: Places, binaries: FabricBinaries): NodeSpec[] {
  const log = (name: string): string => join(places.logs, `${name}.log`);
  const orderers = topology.orderers.map(
    (node): NodeSpec => ({
      kind: 'orderer',
      name: node.name,
      current: true,
      address: `localhost:${node.port}`,
      folder: places.node(node.name),
      log: log(node.name),
      file: binaries.orderer,
      args: [],
      env: { FABRIC_CFG_PATH: places.node(node.name), ...LOGGING },
      ports: [node.port, node.adminPort],
      healthPort: node.operationsPort,
    }),
  );
  const peers = topology.institutions.flatMap(({ institution, peers }) =>
    peers.map(
      (node): NodeSpec => ({
        kind: 'peer',
        name: node.name,
        institution,
        current: true,
        address: `localhost:${node.port}`,
        folder: places.node(node.name),
        log: log(node.name),
        file: binaries.peer,
        args: ['node', 'start'],
        env: { FABRIC_CFG_PATH: places.node(node.name), ...LOGGING, ...peerEnvironment(places, node) },
        ports: [node.port],
        healthPort: node.operationsPort,
      }),
    ),
  );
  return [...orderers, ...peers];
}

/** One server process per peer and version of a chaincode. */
export function chaincodeSpecs(topology: Topology, places: Places): NodeSpec[] {
  return topology.chaincodes.flatMap((chaincode) =>
    topology.institutions.flatMap((institution) =>
      institution.peers.map((peer): NodeSpec => {
        const name = chaincodeNodeName(chaincode, institution, peer);
        const tls = chaincodeTlsFiles(places, institution.name, peer.name);
        const address = `127.0.0.1:${chaincode.ports[peer.name]}`;
        return {
          kind: 'chaincode',
          name,
          institution: institution.institution,
          current: isCurrent(topology, chaincode),
          address,
          folder: `${places.node(name)}@${chaincode.sequence}`,
          log: join(places.logs, `${name}.log`),
          file: process.execPath,
          args: [
            join(chaincode.folder, 'main.ts'),
            '--address',
            address,
            '--id',
            chaincode.packageId,
            '--tls-key',
            tls.key,
            '--tls-cert',
            tls.cert,
            '--tls-client-ca',
            tls.authority,
          ],
          env: { CORE_CHAINCODE_LOGGING_LEVEL: 'ERROR', CORE_CHAINCODE_LOGGING_SHIM: 'ERROR' },
          ports: [chaincode.ports[peer.name] ?? 0],
        };
      }),
    ),
  );
}

/** The newest of its name. */
export function isCurrent(topology: Topology, chaincode: InstalledChaincode): boolean {
  return topology.chaincodes.findLast((one) => one.name === chaincode.name) === chaincode;
}

/** Writes each node's configuration anew: it follows from the topology alone. */
export async function writeNodeFiles(topology: Topology, places: Places): Promise<void> {
  await mkdir(places.logs, { recursive: true });
  for (const node of topology.orderers) {
    await mkdir(places.node(node.name), { recursive: true });
    await writeFile(join(places.node(node.name), 'orderer.yaml'), ordererYaml(topology, places, node));
  }
  for (const institution of topology.institutions) {
    for (const peer of institution.peers) {
      await mkdir(places.node(peer.name), { recursive: true });
      await writeFile(join(places.node(peer.name), 'core.yaml'), coreYaml(topology, places, institution, peer));
    }
  }
}

/** What the peers' builder needs when they install this chaincode, and the TLS identities of its servers. */
export async function writeChaincodeFiles(topology: Topology, places: Places, chaincode: InstalledChaincode): Promise<void> {
  for (const institution of topology.institutions) {
    for (const peer of institution.peers) {
      await makeChaincodeTls(places, institution.name, peer.name);
      const { authority } = chaincodeTlsFiles(places, institution.name, peer.name);
      const { tls } = peerCrypto(places, institution, peer);
      await writeServerFile(places, peer, chaincode, {
        rootPem: await readFile(authority, 'utf8'),
        clientCertificatePem: await readFile(join(tls, 'server.crt'), 'utf8'),
        clientKeyPem: await readFile(join(tls, 'server.key'), 'utf8'),
      });
    }
  }
}
