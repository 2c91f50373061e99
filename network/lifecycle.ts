import { execFile } from 'node:child_process';
import { access, mkdir, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { CodedError } from '../src/errors.ts';
import type { FabricBinaries } from './binaries.ts';
import { configtx, cryptoConfig, ordererCrypto, peerCrypto } from './node-config.ts';
import { pause } from './processes.ts';
import { domainOf, type InstalledChaincode, type Institution, type PeerNode, type Places, type Topology } from './topology.ts';

/** What a step works on. */
export interface Site {
  readonly binaries: FabricBinaries;
  readonly places: Places;
  readonly topology: Topology;
}

interface Outcome {
  code: number;
  /** Both streams: Fabric's commands say on either what went wrong. */
  said: string;
}

/** Keys and certificates of every organisation; the folder appears whole or not at all. */
export async function makeCrypto({ binaries, places, topology }: Site): Promise<void> {
  if (await exists(places.crypto)) return;
  const half = `${places.crypto}.new`;
  await rm(half, { recursive: true, force: true });
  const config = join(places.root, 'crypto-config.yaml');
  await writeFile(config, cryptoConfig(topology));
  must('cryptogen', await run(binaries.cryptogen, ['generate', '--config', config, '--output', half], {}));
  await rename(half, places.crypto);
}

/** The channel's first block. */
export async function makeGenesis({ binaries, places, topology }: Site): Promise<void> {
  if (await exists(places.genesis)) return;
  const folder = join(places.root, 'configtx');
  await mkdir(folder, { recursive: true });
  await writeFile(join(folder, 'configtx.yaml'), configtx(topology, places));
  const half = `${places.genesis}.new`;
  const args = ['-configPath', folder, '-profile', 'Oncobridge', '-channelID', topology.channel, '-outputBlock', half];
  must('configtxgen', await run(binaries.configtxgen, args, { FABRIC_CFG_PATH: folder }));
  await rename(half, places.genesis);
}

/** Every orderer and every peer joins the channel; those that have joined are left alone. */
export async function joinChannel(site: Site): Promise<void> {
  const { binaries, places, topology } = site;
  await Promise.all(
    topology.orderers.map(async (node) => {
      const { tls } = ordererCrypto(places, node);
      const crt = join(tls, 'server.crt');
      const credentials = ['--ca-file', join(tls, 'ca.crt'), '--client-cert', crt, '--client-key', join(tls, 'server.key')];
      const args = [
        'channel',
        'join',
        '--channelID',
        topology.channel,
        '--config-block',
        places.genesis,
        '-o',
        `localhost:${node.adminPort}`,
      ];
      const outcome = await run(binaries.osnadmin, [...args, ...credentials], {});
      // osnadmin ends with 0 whatever the orderer answered.
      if (!/Status: 201/.test(outcome.said) && !/already exists/.test(outcome.said))
        throw stepFailed(`${node.name}: channel join`, outcome);
    }),
  );
  await eachPeer(site, async (institution, peer) => {
    const outcome = await peerCommand(site, institution, peer, ['channel', 'join', '-b', places.genesis]);
    if (outcome.code !== 0 && !/already exists|LedgerID already exists/i.test(outcome.said))
      throw stepFailed(`${peer.name}: channel join`, outcome);
  });
}

export async function install(site: Site, bytes: Uint8Array, label: string): Promise<void> {
  const folder = join(site.places.root, 'packages');
  await mkdir(folder, { recursive: true });
  const file = join(folder, `${label}.tar.gz`);
  await writeFile(file, bytes);
  await eachPeer(site, async (institution, peer) => {
    const outcome = await peerCommand(site, institution, peer, ['lifecycle', 'chaincode', 'install', file]);
    if (outcome.code !== 0 && !/already successfully installed/.test(outcome.said)) throw stepFailed(`${peer.name}: install`, outcome);
  });
}

/** Approved by every institution, then committed: two of all institutions endorse. Repeats are harmless. */
export async function approveAndCommit(site: Site, chaincode: InstalledChaincode): Promise<void> {
  const { topology, places } = site;
  if ((await committedSequence(site, chaincode.name)) >= chaincode.sequence) return;
  const [orderer] = topology.orderers;
  if (orderer === undefined) throw new Error('a network has an orderer');
  const policy = `OutOf(2,${topology.institutions.map(({ msp }) => `'${msp}.peer'`).join(',')})`;
  const definition = ['--channelID', topology.channel, '--name', chaincode.name, '--version', chaincode.version];
  definition.push('--sequence', String(chaincode.sequence), '--signature-policy', policy);
  definition.push('-o', `localhost:${orderer.port}`, '--tls', '--cafile', join(ordererCrypto(places, orderer).tls, 'ca.crt'));
  const command = (institution: Institution, step: string, extra: readonly string[], done: RegExp): Promise<void> => {
    const peer = institution.peers[0];
    if (peer === undefined) throw new Error('an institution has a peer');
    return patiently(`${institution.name}: ${step}`, done, () =>
      peerCommand(site, institution, peer, ['lifecycle', 'chaincode', step, ...definition, ...extra]),
    );
  };
  await Promise.all(
    topology.institutions.map((one) => command(one, 'approveformyorg', ['--package-id', chaincode.packageId], /unchanged content/)),
  );
  const endorsers = topology.institutions.flatMap((one) => one.peers.slice(0, 1).map((peer) => [one, peer] as const));
  const addresses = endorsers.flatMap(([one, peer]) => [
    '--peerAddresses',
    `localhost:${peer.port}`,
    '--tlsRootCertFiles',
    join(peerCrypto(places, one, peer).tls, 'ca.crt'),
  ]);
  const [first] = topology.institutions;
  if (first === undefined) throw new Error('a network has institutions');
  await command(first, 'commit', addresses, new RegExp(`new definition must be sequence ${chaincode.sequence + 1}`));
}

/** 0 where the chaincode has no definition on the channel. */
async function committedSequence(site: Site, name: string): Promise<number> {
  const [institution] = site.topology.institutions;
  const peer = institution?.peers[0];
  if (institution === undefined || peer === undefined) return 0;
  const args = ['lifecycle', 'chaincode', 'querycommitted', '--channelID', site.topology.channel, '--name', name, '--output', 'json'];
  const outcome = await peerCommand(site, institution, peer, args);
  if (outcome.code !== 0) return 0;
  return Number(/"sequence": *(\d+)/.exec(outcome.said)?.[1] ?? 0);
}

/** Again and again until it is done: after a start the orderers have no leader yet, and peers have not met. */
async function patiently(step: string, done: RegExp, attempt: () => Promise<Outcome>): Promise<void> {
  const until = Date.now() + 60_000;
  for (;;) {
    const outcome = await attempt();
    if (outcome.code === 0 || done.test(outcome.said)) return;
    if (Date.now() > until) throw stepFailed(step, outcome);
    await pause(150);
  }
}

/** Peers beside each other within the bounds of a small machine: an organisation's after one another. */
async function eachPeer(site: Site, work: (institution: Institution, peer: PeerNode) => Promise<void>): Promise<void> {
  await Promise.all(
    site.topology.institutions.map(async (one) => {
      for (const peer of one.peers) await work(one, peer);
    }),
  );
}

/** The `peer` command as the administrator of an institution. */
function peerCommand(site: Site, institution: Institution, peer: PeerNode, args: readonly string[]): Promise<Outcome> {
  const { places, binaries } = site;
  const admin = join(places.organisation(institution.name), 'users', `Admin@${domainOf(institution.name)}`);
  return run(binaries.peer, args, {
    FABRIC_CFG_PATH: places.node(peer.name),
    FABRIC_LOGGING_SPEC: 'error',
    CORE_PEER_LOCALMSPID: institution.msp,
    CORE_PEER_MSPCONFIGPATH: join(admin, 'msp'),
    CORE_PEER_ADDRESS: `localhost:${peer.port}`,
    CORE_PEER_TLS_ENABLED: 'true',
    CORE_PEER_TLS_ROOTCERT_FILE: join(peerCrypto(places, institution, peer).tls, 'ca.crt'),
  });
}

function run(file: string, args: readonly string[], env: Readonly<Record<string, string>>): Promise<Outcome> {
  return new Promise((done) => {
    const options = {
      env: { PATH: process.env['PATH'] ?? '/usr/bin:/bin', LC_ALL: 'C', ...env },
      timeout: 60_000,
      maxBuffer: 16 * 1024 * 1024,
    };
    execFile(file, [...args], options, (error, stdout, stderr) => {
      const code = error === null ? 0 : typeof error.code === 'number' ? error.code : -1;
      done({ code, said: `${stdout}${stderr}` || (error?.message ?? '') });
    });
  });
}

function must(step: string, outcome: Outcome): void {
  if (outcome.code !== 0) throw stepFailed(step, outcome);
}

function stepFailed(step: string, outcome: Outcome): CodedError {
  const lines = outcome.said.trim().split('\n');
  // After its error `peer` prints its whole help.
  const error = lines.findLast((line) => line.startsWith('Error: '));
  const said = (error === undefined ? lines.slice(-4) : [error]).join(' | ').slice(-800);
  return new CodedError('FABRIC_STEP', { diagnostics: `${step}: ${said}` });
}

async function exists(path: string): Promise<boolean> {
  return await access(path).then(
    () => true,
    () => false,
  );
}

/** Files that a peer's builder copies from: which server of this package the peer is to dial. */
export async function writeServerFile(
  places: Places,
  peer: PeerNode,
  chaincode: InstalledChaincode,
  tls: { rootPem: string; clientCertificatePem: string; clientKeyPem: string },
): Promise<void> {
  const folder = places.servers(peer.name);
  await mkdir(folder, { recursive: true, mode: 0o700 });
  const content = {
    address: `127.0.0.1:${chaincode.ports[peer.name]}`,
    domain: 'localhost',
    dial_timeout: '10s',
    tls_required: true,
    client_auth_required: true,
    root_cert: tls.rootPem,
    client_cert: tls.clientCertificatePem,
    client_key: tls.clientKeyPem,
  };
  await writeFile(join(folder, `${chaincode.label}.json`), JSON.stringify(content), { mode: 0o600 });
}
