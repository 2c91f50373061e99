import type { peer as peers } from '@hyperledger/fabric-protos';
import type { ChannelConfig } from './channel-config.ts';
import type { FabricConnection } from './connection.ts';
import { readEndorsementPolicy } from './endorsement-policy.ts';
import { type Finding, validity } from './finding.ts';

/** What is thought of a channel's configuration and of the committed definition: judgements over what was read, without I/O. */

const WANTED = { application: 'V2_5', orderer: 'V2_0' };

export function organisations(config: ChannelConfig, { msp }: FabricConnection): Finding {
  const names = config.organisations.map((one) => one.msp);
  const found = `${names.length} on the channel: ${names.join(', ')}`;
  if (!names.includes(msp))
    return {
      check: 'organisations',
      state: 'failed',
      found: `${msp} is not one of the ${found}`,
      todo: 'Check ledger.msp, or have the organisation added to the channel.',
    };
  if (names.length < 3)
    return {
      check: 'organisations',
      state: 'warning',
      found,
      todo: 'With fewer than three institutions either one alone can write, or one that is away stops all. Three or more are meant.',
    };
  return { check: 'organisations', state: 'ok', found };
}

/** The authorities that the channel trusts for the own organisation: past their end every certificate of theirs is worth nothing. */
export function roots(config: ChannelConfig, { msp }: FabricConnection, now: Date): Finding[] {
  const own = config.organisations.find((one) => one.msp === msp);
  const todo = "Add the new authority to the organisation's MSP by an update of the channel's configuration before the old one ends.";
  return [
    ...(own?.roots ?? []).map((root) => validity("organisation's authority", root, now, todo)),
    ...(own?.tlsRoots ?? []).map((root) => validity("organisation's TLS authority", root, now, todo)),
  ];
}

export function capabilities({ capabilities: has, ordering }: ChannelConfig): Finding {
  const found = `channel ${has.channel.join(' ')}, orderer ${has.orderer.join(' ')}, application ${has.application.join(' ')}`;
  const check = 'capabilities';
  if (!has.application.some((one) => one >= WANTED.application) || !has.orderer.some((one) => one >= WANTED.orderer))
    return {
      check,
      state: 'warning',
      found,
      todo: `Raise them to at least ${WANTED.application} (application) and ${WANTED.orderer} (orderer).`,
    };
  const isBft = has.channel.some((one) => one >= 'V3_0');
  if (isBft !== (ordering.type === 'BFT'))
    return {
      check,
      state: 'warning',
      found: `${found}, with ${ordering.type}`,
      todo: isBft
        ? 'Under channel capability V3_0 gateways send to every orderer: with raft each transaction is ordered several times. Use V2_0 with raft.'
        : 'BFT ordering needs channel capability V3_0.',
    };
  return { check, state: 'ok', found };
}

export function ordering({ ordering: { type, consenters, batchTimeoutMs, maxMessageCount } }: ChannelConfig): Finding {
  const found = `${type}, ${consenters ?? '?'} ${consenters === 1 ? 'orderer' : 'orderers'}, a block after ${batchTimeoutMs ?? '?'} ms or ${maxMessageCount} transactions`;
  const check = 'ordering';
  const needed = type === 'BFT' ? 4 : 3;
  if (consenters !== undefined && consenters < needed)
    return {
      check,
      state: 'warning',
      found,
      todo: `One orderer that is away stops every institution. Run at least ${needed}, by different institutions.`,
    };
  if (batchTimeoutMs !== undefined && batchTimeoutMs > 5000)
    return { check, state: 'warning', found, todo: 'A lone revocation waits this long for its block. 0.5 to 2 s are usual.' };
  return { check, state: 'ok', found };
}

export function approvals(definition: peers.lifecycle.QueryChaincodeDefinitionResult, { chaincode, msp }: FabricConnection): Finding[] {
  const entries = [...definition.getApprovalsMap().entries()];
  const missing = entries.filter(([, approved]) => !approved).map(([name]) => name);
  const found = `${chaincode}, version ${definition.getVersion()}, sequence ${definition.getSequence()}, approved by ${entries.length - missing.length} of ${entries.length}`;
  if (missing.includes(msp))
    return [
      {
        check: 'chaincode',
        state: 'failed',
        found: `${found}, and not by ${msp}`,
        todo: 'The view of the ledger stops at a definition that the own institution has not approved. Check the package, then approve it (peer lifecycle chaincode approveformyorg).',
      },
    ];
  if (missing.length > 0)
    return [
      {
        check: 'chaincode',
        state: 'warning',
        found: `${found}; not by ${missing.join(', ')}`,
        todo: 'Peers of these organisations cannot endorse until they approve.',
      },
    ];
  return [{ check: 'chaincode', state: 'ok', found }];
}

export function endorsement(validationParameter: Uint8Array, config: ChannelConfig): Finding {
  const check = 'endorsement policy';
  const policy = readEndorsementPolicy(validationParameter, config.root);
  const { text, fewest, indispensable } = policy;
  const absent = config.organisations.map((one) => one.msp).filter((name) => !policy.organisations.includes(name));
  const warn = (found: string, todo: string): Finding => ({ check, state: 'warning', found: `${text}: ${found}`, todo });
  const want = `OutOf(2, ${config.organisations.map((one) => `'${one.msp}.peer'`).join(', ')})`;
  if (fewest === undefined)
    return policy.organisations.length > 0
      ? { check, state: 'unknown', found: text }
      : { check, state: 'failed', found: `${text}: nobody can satisfy it`, todo: `Commit a definition with ${want}.` };
  if (fewest < 2) return warn('one institution alone can write what it likes', `Commit a definition with ${want}.`);
  if (indispensable.length > 0)
    return warn(
      `while ${indispensable.join(' or ')} is away nobody can write`,
      `Commit a definition with ${want}; three or more institutions are needed for it.`,
    );
  if (absent.length > 0) return warn(`${absent.join(', ')} cannot endorse`, `Commit a definition with ${want}.`);
  if (fewest > 2)
    return warn(`it takes ${fewest} institutions for every transaction`, `Two suffice for every projection checks everything: ${want}.`);
  return { check, state: 'ok', found: text };
}
