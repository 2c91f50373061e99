import { X509Certificate } from 'node:crypto';
import { isIP } from 'node:net';
import { connect } from 'node:tls';
import { common, peer as peers } from '@hyperledger/fabric-protos';
import { decodeBlock, type FabricBlock } from './block-decoder.ts';
import { callerOf } from './caller.ts';
import { type ChannelConfig, readChannelConfig } from './channel-config.ts';
import type { FabricConnection, FabricPeer } from './connection.ts';
import { approvals, capabilities, endorsement, ordering, organisations, roots } from './doctor-channel.ts';
import { type Finding, validity } from './finding.ts';

/** Asks one peer a query of a chaincode, its system chaincodes included; rejects with a text for the operator. */
export type AskPeer = (peer: FabricPeer, chaincode: string, query: string, args: readonly (string | Uint8Array)[]) => Promise<Uint8Array>;

export interface DoctorOptions {
  connection: FabricConnection;
  /** As pinned in the configuration. */
  ledgerId: string | undefined;
  ask: AskPeer;
  now?: () => Date;
}

/** Blocks that are searched for the founding from the channel's beginning, and for clocks at its end. */
const FIRST_BLOCKS = 500;
const LAST_BLOCKS = 30;
const CLOCK_WARNING_MS = 5000;
/** Past it the contract refuses grants (protocol section 1). */
const CLOCK_FAILED_MS = 600_000;
const TLS_TIMEOUT_MS = 5000;

/**
 * Looks at what a client may look at of an operator's network, from the configuration outwards: identity, TLS, channel,
 * chaincode definition, endorsement policy, clocks, ledger. Never rejects: what cannot be asked is a finding.
 */
export async function examineFabric(options: DoctorOptions): Promise<readonly Finding[]> {
  const { connection } = options;
  const now = (options.now ?? (() => new Date()))();
  const findings: Finding[] = [...identity(connection, now)];
  let answering: FabricPeer | undefined;
  for (const peer of connection.peers) {
    const [transport, ...certificates] = await secureTransport(peer, now);
    findings.push(transport, ...certificates);
    if (transport.state === 'failed') continue;
    const height = await heightAt(options, peer);
    findings.push(height);
    if (height.state === 'ok') answering ??= peer;
  }
  if (connection.peers.length === 1)
    findings.push({
      check: 'peers',
      state: 'warning',
      found: 'one peer of the own organisation is configured: while it is away nothing is read or written',
      todo: 'Run a second peer, join it to the channel, and name it in ledger.peers.',
    });
  if (answering === undefined) {
    findings.push({ check: 'channel', state: 'unknown', found: 'no peer answered, so nothing of the channel can be looked at' });
    return findings;
  }
  findings.push(...(await channel(options, answering, now)));
  findings.push(...(await ledger(options, answering, now)));
  return findings;
}

function identity({ certificatePem, msp, institution }: FabricConnection, now: Date): Finding[] {
  const named = callerOf(msp, certificatePem).institution;
  return [
    named === institution
      ? { check: 'identity', state: 'ok', found: `${msp}, and the certificate names ${institution}` }
      : {
          check: 'identity',
          state: 'failed',
          found:
            named === '' ? 'the certificate has no attribute oncobridge.institution' : `the certificate names ${named}, not ${institution}`,
          todo: `Have it issued with --id.attrs "oncobridge.institution=${institution}:ecert".`,
        },
    validity(
      'gateway certificate',
      new X509Certificate(certificatePem),
      now,
      'Enrol again (fabric-ca-client reenroll) and replace ledger.certificate and ledger.privateKey.',
    ),
  ];
}

/** Reachability and TLS apart from gRPC, whose errors say less. */
async function secureTransport(peer: FabricPeer, now: Date): Promise<[Finding, ...Finding[]]> {
  const check = `peer ${peer.name}`;
  const separator = peer.endpoint.lastIndexOf(':');
  const host = peer.endpoint.slice(0, separator);
  const outcome = await new Promise<X509Certificate | Error>((resolve) => {
    const socket = connect(
      {
        host,
        port: Number(peer.endpoint.slice(separator + 1)),
        ca: peer.tlsRootPem,
        ...(peer.serverName === undefined && isIP(host) !== 0 ? {} : { servername: peer.serverName ?? host }),
        ALPNProtocols: ['h2'],
        ...(peer.clientCertificatePem === undefined ? {} : { cert: peer.clientCertificatePem }),
        ...(peer.clientKeyPem === undefined ? {} : { key: peer.clientKeyPem }),
      },
      () => {
        resolve(socket.getPeerX509Certificate() ?? new Error('no certificate'));
        socket.destroy();
      },
    );
    socket.setTimeout(TLS_TIMEOUT_MS, () => socket.destroy(new Error(`no answer within ${TLS_TIMEOUT_MS / 1000} s`)));
    socket.once('error', resolve);
  });
  const roots = validity(
    `${check}, TLS root`,
    new X509Certificate(peer.tlsRootPem),
    now,
    'Take the new root into tlsRootCertificate before the old one ends.',
  );
  if (!(outcome instanceof X509Certificate)) {
    const code = (outcome as NodeJS.ErrnoException).code ?? '';
    const isTrust = /CERT|ALTNAME|SELF_SIGNED|ISSUER|VERIFY/.test(code);
    const todo = isTrust
      ? 'tlsRootCertificate must be the root of the peer, and serverName the name in its certificate.'
      : 'Check endpoint, firewall, and that the peer runs (its /healthz on the operations address).';
    return [{ check, state: 'failed', found: `${peer.endpoint}: ${[code, outcome.message.split(';')[0]].join(' ').trim()}`, todo }, roots];
  }
  return [
    { check, state: 'ok', found: `${peer.endpoint} answers with TLS` },
    validity(`${check}, TLS certificate`, outcome, now, 'Renew the TLS certificate of the peer.'),
    roots,
  ];
}

async function heightAt({ connection, ask }: DoctorOptions, peer: FabricPeer): Promise<Finding> {
  const check = `peer ${peer.name}, channel`;
  try {
    const info = common.BlockchainInfo.deserializeBinary(await ask(peer, 'qscc', 'GetChainInfo', [connection.channel]));
    return { check, state: 'ok', found: `${connection.channel} joined, ${info.getHeight()} blocks` };
  } catch (error) {
    const { message } = error as Error;
    return { check, state: 'failed', found: `${connection.channel}: ${message}`, todo: todoOf(message) };
  }
}

function todoOf(message: string): string {
  if (/access denied|creator|signature|identity/i.test(message))
    return "Check ledger.msp, and that the gateway certificate is of that organisation's authority, not expired, not revoked.";
  if (/UNAVAILABLE|DEADLINE|dropped|closed/i.test(message) && !/config for channel/.test(message))
    return 'TLS answers and the peer does not: where it asks for client certificates, set clientCertificate and clientKey; else look at its log.';
  return 'Check ledger.channel and ledger.msp; join the peer to the channel (peer channel join).';
}

async function channel(options: DoctorOptions, peer: FabricPeer, now: Date): Promise<Finding[]> {
  const { connection, ask } = options;
  let config: ChannelConfig;
  try {
    config = readChannelConfig(await ask(peer, 'cscc', 'GetChannelConfig', [connection.channel]));
  } catch (error) {
    return [{ check: 'channel configuration', state: 'unknown', found: (error as Error).message }];
  }
  const findings: Finding[] = [
    organisations(config, connection),
    ...roots(config, connection, now),
    capabilities(config),
    ordering(config),
  ];
  try {
    const args = new peers.lifecycle.QueryChaincodeDefinitionArgs();
    args.setName(connection.chaincode);
    const answer = await ask(peer, '_lifecycle', 'QueryChaincodeDefinition', [args.serializeBinary()]);
    const definition = peers.lifecycle.QueryChaincodeDefinitionResult.deserializeBinary(answer);
    findings.push(...approvals(definition, connection), await approvedPackage(options, peer, definition.getSequence()));
    findings.push(endorsement(definition.getValidationParameter_asU8(), config));
  } catch (error) {
    findings.push({
      check: 'chaincode',
      state: 'failed',
      found: `${connection.chaincode}: ${(error as Error).message}`,
      todo: 'Install the package, approve the definition for the own organisation, and commit it; check ledger.chaincode.',
    });
    return findings;
  }
  findings.push(await contractAnswers(options, peer));
  return findings;
}

/** Which package the own organisation approved; peers tell that to administrators only, by default. */
async function approvedPackage({ connection, ask }: DoctorOptions, peer: FabricPeer, sequence: number): Promise<Finding> {
  const check = 'package';
  try {
    const args = new peers.lifecycle.QueryApprovedChaincodeDefinitionArgs();
    args.setName(connection.chaincode);
    args.setSequence(sequence);
    const answer = await ask(peer, '_lifecycle', 'QueryApprovedChaincodeDefinition', [args.serializeBinary()]);
    const source = peers.lifecycle.QueryApprovedChaincodeDefinitionResult.deserializeBinary(answer).getSource();
    const id = source?.getLocalPackage()?.getPackageId();
    if (id === undefined)
      return {
        check,
        state: 'failed',
        found: 'approved without a package',
        todo: 'Install the package on the peer and approve again with its package id.',
      };
    return { check, state: 'ok', found: id };
  } catch {
    return {
      check,
      state: 'unknown',
      found: 'the package id is told to administrators of the organisation only',
      todo: `As one: peer lifecycle chaincode queryapproved -C ${connection.channel} -n ${connection.chaincode}`,
    };
  }
}

/** The chaincode's own process, which no definition vouches for. */
async function contractAnswers({ connection, ask }: DoctorOptions, peer: FabricPeer): Promise<Finding> {
  const check = 'contract';
  try {
    await ask(peer, connection.chaincode, 'member', [connection.institution, 'mem-none']);
  } catch (error) {
    const { message } = error as Error;
    if (!message.includes('REFUSED'))
      return {
        check,
        state: 'failed',
        found: message,
        todo: "Start the chaincode server of this peer; its address and package id must be those of the peer's package.",
      };
  }
  return { check, state: 'ok', found: 'answers on the own peer' };
}

async function ledger({ connection, ledgerId, ask }: DoctorOptions, peer: FabricPeer, now: Date): Promise<Finding[]> {
  const blockAt = async (number: number): Promise<FabricBlock> =>
    decodeBlock(await ask(peer, 'qscc', 'GetBlockByNumber', [connection.channel, String(number)]), connection.chaincode);
  try {
    const info = common.BlockchainInfo.deserializeBinary(await ask(peer, 'qscc', 'GetChainInfo', [connection.channel]));
    const height = info.getHeight();
    let founded: { id: string; block: number } | undefined;
    for (let number = 0; founded === undefined && number < Math.min(height, FIRST_BLOCKS); number++) {
      const init = (await blockAt(number)).transactions.find((one) => one.name === 'init' && one.validation === 'VALID');
      if (init?.args[0] !== undefined) founded = { id: init.args[0], block: number };
    }
    const last: FabricBlock[] = [];
    for (let number = Math.max(0, height - LAST_BLOCKS); number < height; number++) last.push(await blockAt(number));
    return [pinned(founded, ledgerId), clock(last, connection, now)];
  } catch (error) {
    return [{ check: 'ledger', state: 'failed', found: (error as Error).message, todo: 'Run `oncobridge ledger verify`.' }];
  }
}

function pinned(founded: { id: string; block: number } | undefined, ledgerId: string | undefined): Finding {
  const check = 'ledger';
  if (founded === undefined)
    return {
      check,
      state: 'failed',
      found: `the contract is not founded in the first ${FIRST_BLOCKS} blocks`,
      todo: 'One institution runs `oncobridge ledger found`.',
    };
  const found = `${founded.id}, founded in block ${founded.block}`;
  if (ledgerId === undefined)
    return {
      check,
      state: 'failed',
      found: `${found}; none is pinned`,
      todo: 'Ask the founder for the id, compare, and write it into ledger.id.',
    };
  if (ledgerId !== founded.id)
    return {
      check,
      state: 'failed',
      found: `${found}, not ${ledgerId}`,
      todo: 'This is another channel than the one meant, or a wrong ledger.id. Nothing signed for the one counts on the other.',
    };
  return { check, state: 'ok', found };
}

/**
 * Nothing in Fabric tells a client the time of a peer. What counts for us are the times in transactions: those of others must not
 * lie in our future.
 */
function clock(blocks: readonly FabricBlock[], { institution }: FabricConnection, now: Date): Finding {
  const check = 'clocks';
  const ahead = new Map<string, number>();
  for (const { transactions } of blocks)
    for (const { caller, time } of transactions) {
      if (caller.institution === institution) continue;
      const by = Date.parse(time) - now.getTime();
      ahead.set(caller.institution, Math.max(ahead.get(caller.institution) ?? by, by));
    }
  if (ahead.size === 0) return { check, state: 'unknown', found: `no other institution has written in the last ${blocks.length} blocks` };
  const [[who, most] = ['', 0]] = [...ahead].sort(([, a], [, b]) => b - a);
  const todo = 'Keep the clocks of all gateways with NTP: grants are refused where they are ten minutes apart.';
  if (most > CLOCK_FAILED_MS)
    return { check, state: 'failed', found: `${who} is ${Math.round(most / 1000)} s ahead of this machine`, todo };
  if (most > CLOCK_WARNING_MS)
    return { check, state: 'warning', found: `${who} is ${Math.round(most / 1000)} s ahead of this machine`, todo };
  return {
    check,
    state: 'ok',
    found: `no transaction of ${ahead.size} other institution${ahead.size === 1 ? '' : 's'} lies in the future of this machine`,
  };
}
