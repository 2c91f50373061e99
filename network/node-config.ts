import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { stringify } from 'yaml';
import { domainOf, type Institution, ORDERER_MSP, type OrdererNode, type PeerNode, type Places, type Topology } from './topology.ts';

/*
 * Every configuration file of the network, written from nothing: Fabric's sample configuration is not copied. Each node has
 * a file of its own, for environment variables cannot set lists, and an unknown key stops an orderer.
 */
const builder = fileURLToPath(new URL('./builder', import.meta.url));
const ENVIRONMENT_OF_BUILDER = 'ONCOBRIDGE_SERVERS';

const BCCSP = { Default: 'SW', SW: { Hash: 'SHA2', Security: 256 } };
const yaml = (value: unknown): string => stringify(value, { aliasDuplicateObjects: false });

export function cryptoConfig(topology: Topology): string {
  const SANS = ['localhost', '127.0.0.1'];
  return yaml({
    OrdererOrgs: [
      {
        Name: 'Orderers',
        Domain: domainOf('orderers'),
        EnableNodeOUs: true,
        Specs: topology.orderers.map(({ name }) => ({ Hostname: name, SANS })),
      },
    ],
    PeerOrgs: topology.institutions.map(({ name, peers }) => ({
      Name: name,
      Domain: domainOf(name),
      EnableNodeOUs: true,
      Specs: peers.map(({ number }) => ({ Hostname: `peer${number}`, SANS })),
      Users: { Count: 0 },
    })),
  });
}

/** MSP and TLS folders of a node, as cryptogen lays them out. */
export function ordererCrypto(places: Places, node: OrdererNode): { msp: string; tls: string } {
  const base = join(places.ordererOrganisation, 'orderers', `${node.name}.${domainOf('orderers')}`);
  return { msp: join(base, 'msp'), tls: join(base, 'tls') };
}

export function peerCrypto(places: Places, institution: Institution, node: PeerNode): { msp: string; tls: string } {
  const base = join(places.organisation(institution.name), 'peers', `peer${node.number}.${domainOf(institution.name)}`);
  return { msp: join(base, 'msp'), tls: join(base, 'tls') };
}

/** The channel's profile. There is no system channel; `OutOf(2, …)` is the chaincode's own policy, not the channel's. */
export function configtx(topology: Topology, places: Places): string {
  const bft = topology.ordering === 'bft';
  const signature = (Rule: string) => ({ Type: 'Signature', Rule });
  const implicit = (Rule: string) => ({ Type: 'ImplicitMeta', Rule });
  const standard = { Readers: implicit('ANY Readers'), Writers: implicit('ANY Writers'), Admins: implicit('MAJORITY Admins') };
  const organisation = (msp: string, folder: string) => ({
    Name: msp,
    ID: msp,
    MSPDir: join(folder, 'msp'),
    Policies: {
      Readers: signature(`OR('${msp}.member')`),
      Writers: signature(`OR('${msp}.member')`),
      Admins: signature(`OR('${msp}.admin')`),
      Endorsement: signature(`OR('${msp}.peer')`),
    },
  });
  const certificates = (node: OrdererNode) => {
    const { msp, tls } = ordererCrypto(places, node);
    const server = join(tls, 'server.crt');
    return {
      identity: join(msp, 'signcerts', `${node.name}.${domainOf('orderers')}-cert.pem`),
      ClientTLSCert: server,
      ServerTLSCert: server,
    };
  };
  const timeout = `${topology.batchTimeoutMs}ms`;
  const orderer = {
    OrdererType: bft ? 'BFT' : 'etcdraft',
    BatchTimeout: timeout,
    BatchSize: { MaxMessageCount: topology.maxMessages, AbsoluteMaxBytes: '10 MB', PreferredMaxBytes: '2 MB' },
    Organizations: [
      {
        ...organisation(ORDERER_MSP, places.ordererOrganisation),
        OrdererEndpoints: topology.orderers.map(({ port }) => `localhost:${port}`),
      },
    ],
    Policies: { ...standard, BlockValidation: implicit('ANY Writers') },
    Capabilities: { V2_0: true },
    ...(bft
      ? {
          ConsenterMapping: topology.orderers.map((node, i) => {
            const { identity, ...tls } = certificates(node);
            return { ID: i + 1, Host: 'localhost', Port: node.port, MSPID: ORDERER_MSP, Identity: identity, ...tls };
          }),
          // All of the options or none: a block with some of them is refused ("invalid duration").
          SmartBFT: {
            RequestBatchMaxCount: topology.maxMessages,
            RequestBatchMaxBytes: 10 * 1024 * 1024,
            RequestBatchMaxInterval: timeout,
            IncomingMessageBufferSize: 200,
            RequestPoolSize: 400,
            RequestForwardTimeout: '2s',
            RequestComplainTimeout: '5s',
            RequestAutoRemoveTimeout: '3m0s',
            RequestMaxBytes: 10 * 1024 * 1024,
            ViewChangeResendInterval: '5s',
            ViewChangeTimeout: '20s',
            LeaderHeartbeatTimeout: '5s',
            LeaderHeartbeatCount: 10,
            CollectTimeout: '1s',
            SyncOnStart: false,
            SpeedUpViewChange: false,
          },
        }
      : {
          EtcdRaft: {
            Consenters: topology.orderers.map((node) => {
              const { identity: _, ...tls } = certificates(node);
              return { Host: 'localhost', Port: node.port, ...tls };
            }),
            // Elections within a second instead of five. Snapshots before the log outgrows PreferredMaxBytes: an orderer of the
            // pinned version that reads more than that again at its start, members included, can block for good (Fabric issue 4199).
            Options: { TickInterval: '100ms', ElectionTick: 10, HeartbeatTick: 1, MaxInflightBlocks: 5, SnapshotIntervalSize: '1 MB' },
          },
        }),
  };
  return yaml({
    Profiles: {
      Oncobridge: {
        Policies: standard,
        // V3_0 makes the gateway send every transaction to every orderer: for BFT only.
        Capabilities: { [bft ? 'V3_0' : 'V2_0']: true },
        Orderer: orderer,
        Application: {
          Organizations: topology.institutions.map((one) => ({
            ...organisation(one.msp, places.organisation(one.name)),
            AnchorPeers: one.peers.slice(0, 1).map(({ port }) => ({ Host: 'localhost', Port: port })),
          })),
          Policies: { ...standard, LifecycleEndorsement: implicit('MAJORITY Endorsement'), Endorsement: implicit('MAJORITY Endorsement') },
          Capabilities: { V2_5: true },
        },
      },
    },
  });
}

export function ordererYaml(topology: Topology, places: Places, node: OrdererNode): string {
  const folder = places.node(node.name);
  const { msp, tls } = ordererCrypto(places, node);
  const [Certificate, PrivateKey, authority] = [join(tls, 'server.crt'), join(tls, 'server.key'), join(tls, 'ca.crt')];
  return yaml({
    General: {
      ListenAddress: '127.0.0.1',
      ListenPort: node.port,
      LocalMSPDir: msp,
      LocalMSPID: ORDERER_MSP,
      TLS: { Enabled: true, PrivateKey, Certificate, RootCAs: [authority] },
      // A hung orderer is given up after a second, not seven. Peers ask often whether it lives (core.yaml).
      Cluster: { ClientCertificate: Certificate, ClientPrivateKey: PrivateKey, RPCTimeout: '1s', DialTimeout: '1s', SendBufferSize: 100 },
      Keepalive: { ServerMinInterval: '1s', ServerInterval: '7200s', ServerTimeout: '20s' },
      BCCSP,
      Authentication: { TimeWindow: '15m' },
    },
    FileLedger: { Location: join(folder, 'data') },
    Consensus: { ...(topology.ordering === 'bft' ? { Type: 'BFT' } : {}), WALDir: join(folder, 'wal'), SnapDir: join(folder, 'snapshots') },
    ChannelParticipation: { Enabled: true, MaxRequestBodySize: '1 MB' },
    Admin: {
      ListenAddress: `127.0.0.1:${node.adminPort}`,
      TLS: { Enabled: true, Certificate, PrivateKey, ClientAuthRequired: true, ClientRootCAs: [authority] },
    },
    Operations: { ListenAddress: `127.0.0.1:${node.operationsPort}` },
    // Says which orderer leads.
    Metrics: { Provider: 'prometheus' },
  });
}

export function coreYaml(topology: Topology, places: Places, institution: Institution, node: PeerNode): string {
  const folder = places.node(node.name);
  const { msp, tls } = peerCrypto(places, institution, node);
  const address = `localhost:${node.port}`;
  const others = institution.peers.filter((one) => one !== node).map(({ port }) => `localhost:${port}`);
  return yaml({
    peer: {
      id: node.name,
      networkId: topology.channel,
      listenAddress: `127.0.0.1:${node.port}`,
      address,
      chaincodeListenAddress: `127.0.0.1:${node.chaincodePort}`,
      localMspId: institution.msp,
      mspConfigPath: msp,
      fileSystemPath: join(folder, 'data'),
      tls: {
        enabled: true,
        cert: { file: join(tls, 'server.crt') },
        key: { file: join(tls, 'server.key') },
        rootcert: { file: join(tls, 'ca.crt') },
      },
      BCCSP,
      // A hung peer of another institution costs one or two submits of 2 s; the next orderer is tried before the client gives up.
      gateway: { enabled: true, endorsementTimeout: '2s', broadcastTimeout: '5s', dialTimeout: '5s' },
      keepalive: { deliveryClient: { interval: '2s', timeout: '2s' } },
      discovery: { enabled: true, authCacheEnabled: true, authCacheMaxSize: 1000, authCachePurgeRetentionRatio: 0.75 },
      // The short intervals are what lets peers that missed each other at the start meet within seconds.
      gossip: {
        bootstrap: others[0] ?? address,
        endpoint: address,
        externalEndpoint: address,
        orgLeader: true,
        useLeaderElection: false,
        reconnectInterval: '1s',
        publishStateInfoInterval: '1s',
        requestStateInfoInterval: '1s',
        aliveTimeInterval: '1s',
        aliveExpirationTimeout: '5s',
        // What an institution approves goes to its own other peer as private data; without a time to wait for it, not at all.
        pvtData: {
          pullRetryThreshold: '5s',
          transientstoreMaxBlockRetention: 1000,
          pushAckTimeout: '3s',
          btlPullMargin: 10,
          reconcileBatchSize: 10,
          reconcileSleepInterval: '5s',
          reconciliationEnabled: true,
          skipPullingInvalidTransactionsDuringCommit: false,
          implicitCollectionDisseminationPolicy: { requiredPeerCount: 0, maxPeerCount: 1 },
        },
      },
      handlers: {
        authFilters: [{ name: 'DefaultAuth' }, { name: 'ExpirationCheck' }],
        decorators: [{ name: 'DefaultDecorator' }],
        endorsers: { escc: { name: 'DefaultEndorsement' } },
        validators: { vscc: { name: 'DefaultValidation' } },
      },
      authentication: { timewindow: '15m' },
      limits: { concurrency: { endorserService: 2500, deliverService: 2500, gatewayService: 500 } },
    },
    chaincode: {
      externalBuilders: [{ name: 'oncobridge', path: builder, propagateEnvironment: [ENVIRONMENT_OF_BUILDER] }],
      mode: 'net',
      startuptimeout: '60s',
      executetimeout: '30s',
      installTimeout: '60s',
      system: { _lifecycle: 'enable', cscc: 'enable', lscc: 'enable', qscc: 'enable' },
      logging: { level: 'warn', shim: 'warn' },
    },
    ledger: {
      state: { stateDatabase: 'goleveldb', totalQueryLimit: 100_000 },
      history: { enableHistoryDatabase: true },
      snapshots: { rootDir: join(folder, 'snapshots') },
      pvtdataStore: {
        collElgProcMaxDbBatchSize: 5000,
        collElgProcDbBatchesInterval: 1000,
        deprioritizedDataReconcilerInterval: '60m',
        purgeInterval: 100,
      },
    },
    operations: { listenAddress: `127.0.0.1:${node.operationsPort}` },
    metrics: { provider: 'disabled' },
    vm: { endpoint: '' },
  });
}

/** Environment of a peer's process: where its builder finds the address of the chaincode server that this peer is to use. */
export function peerEnvironment(places: Places, node: PeerNode): Record<string, string> {
  return { [ENVIRONMENT_OF_BUILDER]: places.servers(node.name) };
}
