import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { CodedError } from '../src/errors.ts';
import type { FabricConnection } from '../src/ledger/fabric/connection.ts';
import { type FabricBinaries, fabricBinaries } from './binaries.ts';
import { packageChaincode } from './chaincode-package.ts';
import { gatewayIdentity } from './identities.ts';
import { approveAndCommit, install, joinChannel, makeCrypto, makeGenesis, type Site } from './lifecycle.ts';
import { peerCrypto } from './node-config.ts';
import { chaincodeSpecs, type NodeSpec, nodeSpecs, writeChaincodeFiles, writeNodeFiles } from './nodes.ts';
import { type Probe, waitEndorsed, waitLeader } from './probe.ts';
import {
  findProcess,
  forgetPid,
  isReady,
  killProcess,
  processesUnder,
  processState,
  signal,
  startProcess,
  stopProcesses,
  waitReady,
} from './processes.ts';
import { exclusively, isEmpty, readTopology, removeNetwork, writeTopology } from './record.ts';
import {
  allPeers,
  freePorts,
  type InstalledChaincode,
  type Institution,
  isSame,
  placesIn,
  planTopology,
  type Topology,
  type TopologyOptions,
} from './topology.ts';

export interface ChaincodeOption {
  /** Name on the channel. */
  name: string;
  /** Folder with `main.ts`, started as `node main.ts --address host:port --id <package id> --tls-key … --tls-cert … --tls-client-ca …`. */
  folder: string;
  /** Default `<name>_<sequence>`. */
  label?: string;
  version?: string;
}

/** The contract, and the barest chaincode to hold it against. */
export const ONCOBRIDGE_CHAINCODE: ChaincodeOption = {
  name: 'oncobridge',
  folder: fileURLToPath(new URL('../chaincode', import.meta.url)),
};
export const BARE_CHAINCODE: ChaincodeOption = { name: 'bare', folder: fileURLToPath(new URL('./bare-chaincode', import.meta.url)) };

/** What each chaincode answers in any state. */
const PROBES: Readonly<Record<string, Probe>> = {
  oncobridge: { function: 'member', args: ['inst-none', 'mbr-none'] },
  bare: { function: 'get', args: ['none'] },
};

export interface NetworkEvent {
  kind: 'binaries' | 'keys' | 'started' | 'adopted' | 'joined' | 'installed' | 'committed' | 'ready' | 'stopped' | 'removed';
  detail: string;
}

export interface NetworkOptions extends TopologyOptions {
  /** Everything lies here: keys, configuration, ledgers, logs, pids. */
  folder: string;
  chaincode?: readonly ChaincodeOption[];
  onEvent?: (event: NetworkEvent) => void;
}

export interface NodeStatus {
  name: string;
  kind: 'orderer' | 'peer' | 'chaincode';
  institution?: string;
  pid: number | undefined;
  /** `down` with a pid: it runs and does not answer (yet). */
  state: 'up' | 'down' | 'paused';
  address: string;
}

export interface NodeControl {
  /** SIGKILL; returns when the process is gone. */
  kill(): Promise<void>;
  /** SIGSTOP: it hangs. */
  pause(): Promise<void>;
  resume(): Promise<void>;
  /** Starts it where it does not run; returns when it answers. */
  start(): Promise<void>;
}

export interface UpgradeOptions {
  /** Name on the channel; default the first chaincode. */
  name?: string;
  folder?: string;
  label?: string;
  version?: string;
}

export interface FabricNetwork {
  readonly folder: string;
  /** From nothing, or from whatever stands and runs, to a network that endorses and orders. Repeats are harmless. */
  up(): Promise<void>;
  /** Ends every process, and removes the folder unless `keepData`. */
  down(options?: { keepData?: boolean }): Promise<void>;
  /** Empty where nothing was brought up yet. */
  status(): Promise<NodeStatus[]>;
  /** By short name or id; `chaincode` by name on the channel, default the first. */
  connection(institution: string, chaincode?: string): Promise<FabricConnection>;
  /** orderer1.., peer1.<name>, peer2.<name>, chaincode.<name>[.2]. */
  node(name: string): NodeControl;
  /** A new package, approved by all and committed with the next sequence; state is kept. */
  upgrade(options?: UpgradeOptions): Promise<void>;
  packageId(chaincode?: string): Promise<string>;
}

/**
 * A Fabric network of native processes on loopback, in one folder. Processes outlive the one that started them; the folder's
 * record says what there is to be, the system what runs, so that any process may be killed at any moment and the next `up`
 * or `down` goes on from there. Throws FABRIC_FOLDER where the folder holds another network.
 */
export async function createNetwork(options: NetworkOptions): Promise<FabricNetwork> {
  const places = placesIn(resolve(options.folder));
  const recorded = await readTopology(places);
  if (recorded !== undefined && !isSame(recorded, options)) throw new CodedError('FABRIC_FOLDER');
  return network(options.folder, options.onEvent, async () => {
    const chaincodes = options.chaincode ?? [ONCOBRIDGE_CHAINCODE];
    const topology = await planTopology(options);
    return { ...topology, chaincodes: await Promise.all(chaincodes.map((one) => planChaincode(topology, one, 1))) };
  });
}

/** The network that a folder holds. Throws FABRIC_FOLDER where it holds none. */
export async function openNetwork(folder: string, onEvent?: (event: NetworkEvent) => void): Promise<FabricNetwork> {
  if ((await readTopology(placesIn(resolve(folder)))) === undefined)
    throw new CodedError('FABRIC_FOLDER', { diagnostics: 'No network is there; `npm run fabric -- up` makes one.' });
  return network(folder, onEvent, () => Promise.reject(new CodedError('FABRIC_FOLDER', { diagnostics: 'The network is gone.' })));
}

async function planChaincode(topology: Topology, option: ChaincodeOption, sequence: number): Promise<InstalledChaincode> {
  const label = option.label ?? `${option.name}_${sequence}`;
  const folder = resolve(option.folder);
  const { id } = await packageChaincode(folder, label);
  const peers = allPeers(topology);
  const ports = await freePorts(peers.length);
  return {
    name: option.name,
    label,
    version: option.version ?? String(sequence),
    folder,
    packageId: id,
    sequence,
    ports: Object.fromEntries(peers.map((peer, i) => [peer.name, ports[i] ?? 0])),
    committed: false,
  };
}

/** The version before gives its place to the one that is committed now: the first chaincode stays the first. */
function withCommitted(topology: Topology, chaincode: InstalledChaincode): Topology {
  const committed = { ...chaincode, committed: true };
  const rest = topology.chaincodes.filter((one) => one.name !== chaincode.name || one.sequence < chaincode.sequence);
  const before = rest.findIndex((one) => one.name === chaincode.name);
  const chaincodes =
    before >= 0 ? rest.with(before, committed) : topology.chaincodes.map((one) => (one.name === chaincode.name ? committed : one));
  return { ...topology, chaincodes };
}

function network(folder: string, onEvent: ((event: NetworkEvent) => void) | undefined, plan: () => Promise<Topology>): FabricNetwork {
  const places = placesIn(resolve(folder));
  const tell = (kind: NetworkEvent['kind'], detail: string): void => onEvent?.({ kind, detail });

  const recorded = async (): Promise<Topology> => {
    const topology = await readTopology(places);
    if (topology === undefined) throw new CodedError('FABRIC_FOLDER', { diagnostics: 'No network is there; bring it up first.' });
    return topology;
  };
  const binaries = (): Promise<FabricBinaries> => fabricBinaries({ onProgress: (line) => tell('binaries', line) });
  const specsOf = (topology: Topology, commands: FabricBinaries): NodeSpec[] => [
    ...nodeSpecs(topology, places, commands),
    ...chaincodeSpecs(topology, places),
  ];

  async function bringUp(): Promise<void> {
    let topology = await readTopology(places);
    if (topology === undefined && !(await isEmpty(places.root)))
      throw new CodedError('FABRIC_FOLDER', { diagnostics: 'The folder holds something else.' });
    // Before anything is recorded: without them there is to be no network.
    const commands = await binaries();
    if (topology === undefined) {
      topology = await plan();
      await writeTopology(places, topology);
    }
    const site = (): Site => ({ binaries: commands, places, topology: recordedTopology });
    let recordedTopology = topology;
    const record = async (changed: Topology): Promise<void> => {
      recordedTopology = changed;
      await writeTopology(places, changed);
    };

    await makeCrypto(site());
    await Promise.all([makeGenesis(site()), writeNodeFiles(topology, places)]);
    await writeConnections(topology);
    for (const chaincode of topology.chaincodes) await writeChaincodeFiles(topology, places, chaincode);
    tell('keys', 'keys, certificates and the first block');

    const specs = specsOf(topology, commands);
    await endStrangers(specs);
    const nodes = specs.filter((spec) => spec.kind !== 'chaincode');
    const servers = specs.filter((spec) => spec.kind === 'chaincode');
    // Chaincode servers take a second to load; nobody asks for them before the definition is committed.
    const serving = Promise.all(servers.map(ensureRunning));
    serving.catch(() => {});
    await Promise.all(nodes.map(ensureRunning));
    if (!topology.joined) {
      await joinChannel(site());
      await record({ ...recordedTopology, joined: true });
      tell('joined', topology.channel);
    }
    for (const chaincode of topology.chaincodes.filter((one) => !one.committed)) {
      await establish(site(), chaincode, serving);
      await record(withCommitted(recordedTopology, chaincode));
    }
    await serving;
    await endStrangers(specsOf(recordedTopology, commands));
    await waitReadyToUse(recordedTopology);
    tell('ready', recordedTopology.chaincodes.map((one) => one.packageId).join(', '));
  }

  async function establish(site: Site, chaincode: InstalledChaincode, serving: Promise<unknown>): Promise<void> {
    const { id, bytes } = await packageChaincode(chaincode.folder, chaincode.label);
    if (id !== chaincode.packageId) {
      throw new CodedError('FABRIC_STEP', {
        diagnostics: `The sources of ${chaincode.name} changed while ${chaincode.label} was being installed.`,
      });
    }
    await install(site, bytes, chaincode.label);
    tell('installed', chaincode.label);
    await serving;
    await approveAndCommit(site, chaincode);
    tell('committed', `${chaincode.name}, sequence ${chaincode.sequence}`);
  }

  async function waitReadyToUse(topology: Topology): Promise<void> {
    await waitLeader(topology, 30_000);
    for (const { name } of topology.chaincodes) {
      const connections = await Promise.all(topology.institutions.map((one) => connectionOf(topology, one, name)));
      const probe = PROBES[name];
      if (probe !== undefined) await waitEndorsed(connections, probe, 60_000);
    }
  }

  async function ensureRunning(spec: NodeSpec): Promise<void> {
    const running = await findProcess(spec.folder);
    if (running === undefined) {
      await startProcess(spec);
      tell('started', spec.name);
    } else {
      signal(running, 'SIGCONT');
      tell('adopted', spec.name);
    }
    await waitReady(spec, 60_000);
  }

  /** Processes of this folder that are not to be: servers of a version before, or left by whoever was killed in between. */
  async function endStrangers(specs: readonly NodeSpec[]): Promise<void> {
    const wanted = new Set(await Promise.all(specs.map((spec) => findProcess(spec.folder))));
    const strangers = (await processesUnder(places.root)).filter(({ pid }) => !wanted.has(pid));
    await stopProcesses(strangers.map(({ pid }) => pid));
  }

  async function writeConnections(topology: Topology): Promise<void> {
    for (const institution of topology.institutions) {
      const folder = places.institution(institution.name);
      await mkdir(folder, { recursive: true });
      const connection = await connectionOf(topology, institution);
      await writeFile(join(folder, 'connection.json'), `${JSON.stringify(connection, null, 2)}\n`, { mode: 0o600 });
    }
  }

  async function connectionOf(
    topology: Topology,
    institution: Institution,
    chaincode = topology.chaincodes[0]?.name ?? '',
  ): Promise<FabricConnection> {
    const identity = await gatewayIdentity(places, institution);
    return {
      msp: institution.msp,
      institution: institution.institution,
      channel: topology.channel,
      chaincode,
      ...identity,
      peers: await Promise.all(
        institution.peers.map(async (peer) => ({
          name: peer.name,
          endpoint: `localhost:${peer.port}`,
          tlsRootPem: await readFile(join(peerCrypto(places, institution, peer).tls, 'ca.crt'), 'utf8'),
        })),
      ),
    };
  }

  async function specNamed(name: string): Promise<NodeSpec> {
    const spec = specsOf(await recorded(), await binaries()).find((one) => one.name === name && one.current);
    if (spec === undefined) throw new CodedError('FABRIC_FOLDER', { diagnostics: `It has no node ${name}.` });
    return spec;
  }
  const pidNamed = async (name: string): Promise<number | undefined> => findProcess((await specNamed(name)).folder);

  return {
    folder: places.root,
    up: () => exclusively(places, bringUp),
    down: async ({ keepData = false } = {}) => {
      // Nothing to take down, and no folder to make for the lock.
      if ((await readdir(places.root).catch(() => undefined)) === undefined) return;
      await exclusively(places, async () => {
        const known = (await readTopology(places)) !== undefined;
        if (!known && !(await isEmpty(places.root)))
          throw new CodedError('FABRIC_FOLDER', { diagnostics: 'The folder holds something else.' });
        const running = await processesUnder(places.root);
        await stopProcesses(running.map(({ pid }) => pid));
        tell('stopped', `${running.length} processes`);
        if (keepData) {
          for (const { folder: place } of running) await forgetPid(place);
          return;
        }
        await removeNetwork(places);
        tell('removed', places.root);
      });
    },
    status: async () => {
      const topology = await readTopology(places);
      if (topology === undefined) return [];
      const specs = specsOf(topology, await binaries()).filter((spec) => spec.current);
      return await Promise.all(specs.map(statusOf));
    },
    connection: async (name, chaincode) => {
      const topology = await recorded();
      const institution = topology.institutions.find((one) => one.name === name || one.institution === name);
      if (institution === undefined) throw new CodedError('FABRIC_FOLDER', { diagnostics: 'It has no such institution.' });
      return await connectionOf(topology, institution, chaincode);
    },
    node: (name) => ({
      kill: async () => {
        const pid = await pidNamed(name);
        if (pid !== undefined) await killProcess(pid);
      },
      pause: async () => {
        const pid = await pidNamed(name);
        if (pid !== undefined) signal(pid, 'SIGSTOP');
      },
      resume: async () => {
        const pid = await pidNamed(name);
        if (pid !== undefined) signal(pid, 'SIGCONT');
      },
      start: async () => ensureRunning(await specNamed(name)),
    }),
    upgrade: (options = {}) =>
      exclusively(places, async () => {
        const topology = await recorded();
        const name = options.name ?? topology.chaincodes[0]?.name;
        const before = topology.chaincodes.findLast((one) => one.name === name);
        if (before === undefined) throw new CodedError('FABRIC_FOLDER', { diagnostics: `It has no chaincode ${name}.` });
        // One that was cut short is finished first, and is then the one that is upgraded.
        if (!before.committed) await bringUp();
        const current = await recorded();
        const base = current.chaincodes.findLast((one) => one.name === name) ?? before;
        const { label, version } = options;
        const option = { name: base.name, folder: options.folder ?? base.folder, ...(label && { label }), ...(version && { version }) };
        const next = await planChaincode(current, option, base.sequence + 1);
        await writeTopology(places, { ...current, chaincodes: [...current.chaincodes, next] });
        await bringUp();
      }),
    packageId: async (name) => {
      const { chaincodes } = await recorded();
      const found = chaincodes.findLast((one) => one.name === (name ?? chaincodes[0]?.name));
      if (found === undefined) throw new CodedError('FABRIC_FOLDER', { diagnostics: `It has no chaincode ${name}.` });
      return found.packageId;
    },
  };
}

async function statusOf(spec: NodeSpec): Promise<NodeStatus> {
  const { name, kind, address, institution } = spec;
  const pid = await findProcess(spec.folder);
  const paused = pid !== undefined && (await processState(pid)) === 'paused';
  const state = paused ? 'paused' : pid !== undefined && (await isReady(spec)) ? 'up' : 'down';
  return { name, kind, ...(institution === undefined ? {} : { institution }), pid, state, address };
}
