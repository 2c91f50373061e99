import { randomInt } from 'node:crypto';
import { createServer } from 'node:net';
import { basename, join } from 'node:path';
import { CodedError } from '../src/errors.ts';

export type Ordering = 'raft' | 'raft3' | 'bft';

export interface InstitutionOption {
  /** Short name, of folders and nodes: lower case, digits, `-`. */
  name: string;
  /** `inst-…`, as it stands on the ledger. */
  institution: string;
  msp: string;
  peers?: 1 | 2;
}

/** A node of the network; its folder is `nodes/<name>`. Ports are on 127.0.0.1. */
export interface OrdererNode {
  readonly kind: 'orderer';
  readonly name: string;
  readonly port: number;
  readonly adminPort: number;
  readonly operationsPort: number;
}

export interface PeerNode {
  readonly kind: 'peer';
  readonly name: string;
  readonly port: number;
  readonly chaincodePort: number;
  readonly operationsPort: number;
  /** 1 or 2 within its institution. */
  readonly number: number;
}

export interface Institution {
  readonly name: string;
  readonly institution: string;
  readonly msp: string;
  readonly peers: readonly PeerNode[];
}

/** One version of a chaincode, with a server process of its own for each peer. */
export interface InstalledChaincode {
  readonly name: string;
  readonly label: string;
  readonly version: string;
  /** Folder with `main.ts`. */
  readonly folder: string;
  readonly packageId: string;
  readonly sequence: number;
  /** Server ports by peer. */
  readonly ports: Readonly<Record<string, number>>;
  /** Whether the channel has this definition. Written after the fact: where it is missing, the steps are gone through again. */
  readonly committed: boolean;
}

/** What `network.json` holds: everything that must be the same when the network is brought up again. */
export interface Topology {
  readonly version: 1;
  readonly channel: string;
  readonly ordering: Ordering;
  readonly batchTimeoutMs: number;
  readonly maxMessages: number;
  readonly orderers: readonly OrdererNode[];
  readonly institutions: readonly Institution[];
  /** Whether every node has joined the channel. */
  readonly joined: boolean;
  /** Newest last; while an upgrade is under way the version before stands in it too. */
  readonly chaincodes: readonly InstalledChaincode[];
}

export interface TopologyOptions {
  institutions: readonly InstitutionOption[];
  ordering?: Ordering;
  batchTimeoutMs?: number;
  maxMessages?: number;
}

export const ORDERER_MSP = 'OrderersMSP';
const CHANNEL = 'oncobridge';

/** A topology with ports that are free now. Throws FABRIC_FOLDER for institutions that cannot be. */
export async function planTopology(options: TopologyOptions): Promise<Topology> {
  const { institutions } = options;
  const problem = problemOf(institutions);
  if (problem !== undefined) throw new CodedError('FABRIC_FOLDER', { diagnostics: problem });
  const ordering = options.ordering ?? 'raft';
  const orderers = { raft: 1, raft3: 3, bft: 4 }[ordering];
  const peers = institutions.reduce((sum, one) => sum + (one.peers ?? 1), 0);
  const ports = await freePorts(3 * (orderers + peers));
  // As many as are taken below.
  const port = (): number => ports.pop() ?? 0;
  return {
    version: 1,
    channel: CHANNEL,
    ordering,
    batchTimeoutMs: options.batchTimeoutMs ?? 100,
    maxMessages: options.maxMessages ?? 100,
    orderers: Array.from({ length: orderers }, (_, i) => ({
      kind: 'orderer' as const,
      name: `orderer${i + 1}`,
      port: port(),
      adminPort: port(),
      operationsPort: port(),
    })),
    institutions: institutions.map(({ name, institution, msp, peers = 1 }) => ({
      name,
      institution,
      msp,
      peers: Array.from({ length: peers }, (_, i) => ({
        kind: 'peer' as const,
        name: `peer${i + 1}.${name}`,
        port: port(),
        chaincodePort: port(),
        operationsPort: port(),
        number: i + 1,
      })),
    })),
    joined: false,
    chaincodes: [],
  };
}

/** Whether a recorded topology is the one asked for. */
export function isSame(topology: Topology, options: TopologyOptions): boolean {
  const { institutions } = topology;
  return (
    (options.ordering ?? 'raft') === topology.ordering &&
    (options.batchTimeoutMs ?? 100) === topology.batchTimeoutMs &&
    (options.maxMessages ?? 100) === topology.maxMessages &&
    institutions.length === options.institutions.length &&
    institutions.every((one, i) => {
      const asked = options.institutions[i];
      return (
        asked?.name === one.name &&
        asked.institution === one.institution &&
        asked.msp === one.msp &&
        (asked.peers ?? 1) === one.peers.length
      );
    })
  );
}

export function allPeers(topology: Topology): PeerNode[] {
  return topology.institutions.flatMap((one) => one.peers);
}

/** `chaincode.alpha`, `chaincode.alpha.2`; of a chaincode beside the main one `<chaincode>.alpha`. */
export function chaincodeNodeName(chaincode: { name: string }, institution: Institution, peer: PeerNode): string {
  const prefix = chaincode.name === CHANNEL ? 'chaincode' : `chaincode-${chaincode.name}`;
  return `${prefix}.${institution.name}${peer.number === 1 ? '' : `.${peer.number}`}`;
}

/** Domain of an organisation in cryptogen's folders. */
export function domainOf(name: string): string {
  return `${name}.test`;
}

export interface Places {
  readonly root: string;
  readonly topology: string;
  readonly crypto: string;
  readonly genesis: string;
  readonly logs: string;
  node(name: string): string;
  institution(name: string): string;
  organisation(name: string): string;
  ordererOrganisation: string;
  servers(peer: string): string;
}

/** Where what lies in the folder of a network. */
export function placesIn(root: string): Places {
  const crypto = join(root, 'crypto');
  return {
    root,
    topology: join(root, 'network.json'),
    crypto,
    genesis: join(root, 'channel.block'),
    logs: join(root, 'logs'),
    node: (name) => join(root, 'nodes', name),
    institution: (name) => join(root, name),
    organisation: (name) => join(crypto, 'peerOrganizations', domainOf(name)),
    ordererOrganisation: join(crypto, 'ordererOrganizations', domainOf('orderers')),
    servers: (peer) => join(root, 'nodes', peer, 'servers'),
  };
}

const RESERVED = new Set(['crypto', 'logs', 'nodes', 'network', 'orderers', 'packages']);

function problemOf(institutions: readonly InstitutionOption[]): string | undefined {
  if (institutions.length < 3) return 'A network needs three institutions: two of all endorse, so that one may be away.';
  const names = institutions.map((one) => one.name);
  for (const name of names) {
    if (!/^[a-z][a-z0-9-]{0,30}$/.test(name) || basename(name) !== name || RESERVED.has(name))
      return `${name} cannot be the name of an institution here.`;
  }
  for (const { msp } of institutions) {
    if (!/^[A-Za-z][A-Za-z0-9.-]{0,60}$/.test(msp) || msp === ORDERER_MSP) return `${msp} cannot be an MSP id.`;
  }
  for (const column of [names, institutions.map((one) => one.msp), institutions.map((one) => one.institution)]) {
    if (new Set(column).size !== column.length) return 'Names, institutions and MSP ids must differ.';
  }
  return undefined;
}

/**
 * Ports below the range from which systems take the ports of outgoing connections: one that is free now is not taken by a
 * passing connection before its node binds it, nor while its node is away.
 */
export async function freePorts(count: number): Promise<number[]> {
  const found = new Set<number>();
  for (let attempt = 0; found.size < count && attempt < count * 50; attempt++) {
    const port = randomInt(20_000, 32_000);
    if (!found.has(port) && (await isFree(port))) found.add(port);
  }
  if (found.size < count) throw new CodedError('FABRIC_NODE', { diagnostics: 'No free ports between 20000 and 32000.' });
  return [...found];
}

async function isFree(port: number): Promise<boolean> {
  return await new Promise((done) => {
    const server = createServer();
    server.once('error', () => done(false));
    server.listen({ port, host: '127.0.0.1', exclusive: true }, () => server.close(() => done(true)));
  });
}
