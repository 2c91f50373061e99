import { X509Certificate } from 'node:crypto';
import { common, msp, orderer } from '@hyperledger/fabric-protos';

/** What a channel's configuration says, as far as an operator must know it. */
export interface ChannelConfig {
  sequence: number;
  capabilities: { channel: readonly string[]; orderer: readonly string[]; application: readonly string[] };
  /** MSP ids of the application organisations, with their root certificates. */
  organisations: readonly ChannelOrganisation[];
  ordering: {
    type: string;
    consenters: number | undefined;
    batchTimeoutMs: number | undefined;
    maxMessageCount: number;
    preferredMaxBytes: number;
  };
  /** For policies that refer to it. */
  root: common.ConfigGroup;
}
export interface ChannelOrganisation {
  msp: string;
  roots: readonly X509Certificate[];
  tlsRoots: readonly X509Certificate[];
}

/** Decodes `common.Config`, as `cscc GetChannelConfig` answers. */
export function readChannelConfig(bytes: Uint8Array): ChannelConfig {
  const config = common.Config.deserializeBinary(bytes);
  const root = config.getChannelGroup() ?? new common.ConfigGroup();
  const application = root.getGroupsMap().get('Application') ?? new common.ConfigGroup();
  const orderers = root.getGroupsMap().get('Orderer') ?? new common.ConfigGroup();
  const organisations = [...application.getGroupsMap().entries()].map(([, group]) => readOrganisation(group));
  const type = orderer.ConsensusType.deserializeBinary(valueOf(orderers, 'ConsensusType'));
  const size = orderer.BatchSize.deserializeBinary(valueOf(orderers, 'BatchSize'));
  return {
    sequence: config.getSequence(),
    capabilities: { channel: capabilitiesOf(root), orderer: capabilitiesOf(orderers), application: capabilitiesOf(application) },
    organisations: organisations.sort((a, b) => (a.msp < b.msp ? -1 : 1)),
    ordering: {
      type: type.getType(),
      consenters: consentersOf(type, orderers),
      batchTimeoutMs: goDurationMs(orderer.BatchTimeout.deserializeBinary(valueOf(orderers, 'BatchTimeout')).getTimeout()),
      maxMessageCount: size.getMaxMessageCount(),
      preferredMaxBytes: size.getPreferredMaxBytes(),
    },
    root,
  };
}

function valueOf(group: common.ConfigGroup, name: string): Uint8Array {
  return group.getValuesMap().get(name)?.getValue_asU8() ?? new Uint8Array();
}

function capabilitiesOf(group: common.ConfigGroup): string[] {
  const map = common.Capabilities.deserializeBinary(valueOf(group, 'Capabilities')).getCapabilitiesMap();
  return [...map.keys()].sort((a, b) => (a < b ? -1 : 1));
}

function consentersOf(type: orderer.ConsensusType, orderers: common.ConfigGroup): number | undefined {
  if (type.getType() === 'BFT') return common.Orderers.deserializeBinary(valueOf(orderers, 'Orderers')).getConsenterMappingList().length;
  if (type.getType() === 'etcdraft')
    return orderer.etcdraft.ConfigMetadata.deserializeBinary(type.getMetadata_asU8()).getConsentersList().length;
  return undefined;
}

/** A duration as Go writes it (`100ms`, `2s`, `1m30s`). */
function goDurationMs(text: string): number | undefined {
  const units: Record<string, number> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 };
  const parts = [...text.matchAll(/([\d.]+)(ms|s|m|h)/g)];
  return parts.length === 0 ? undefined : parts.reduce((sum, [, value, unit]) => sum + Number(value) * (units[unit ?? ''] ?? 0), 0);
}

function readOrganisation(group: common.ConfigGroup): ChannelOrganisation {
  const config = msp.FabricMSPConfig.deserializeBinary(msp.MSPConfig.deserializeBinary(valueOf(group, 'MSP')).getConfig_asU8());
  const certificates = (list: readonly Uint8Array[]): X509Certificate[] => list.map((pem) => new X509Certificate(pem));
  return {
    msp: config.getName(),
    roots: certificates(config.getRootCertsList_asU8()),
    tlsRoots: certificates(config.getTlsRootCertsList_asU8()),
  };
}
