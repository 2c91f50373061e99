import { common, msp, peer } from '@hyperledger/fabric-protos';

/** Who must endorse, as far as it matters to us: which organisations, not how many peers of one. */
export interface EndorsementPolicy {
  /** As a person would write it, e.g. `OutOf(2, 'AMSP.peer', 'BMSP.peer', 'CMSP.peer')` or `/Channel/Application/Endorsement (MAJORITY …)`. */
  text: string;
  /** MSP ids that the policy can count. */
  organisations: readonly string[];
  /** Fewest organisations that satisfy it; undefined where none do. */
  fewest: number | undefined;
  /** Organisations without which the others cannot satisfy it. */
  indispensable: readonly string[];
}

interface Rule {
  text: string;
  satisfiedBy(organisations: ReadonlySet<string>): boolean;
}

/** Sets of organisations are tried one by one; a policy over more is described and not weighed. */
const MOST = 16;
const NEVER: Rule = { text: 'none', satisfiedBy: () => false };

/** Decodes the validation parameter of a chaincode definition; `channel` is the channel's root group, to which it may refer. */
export function readEndorsementPolicy(validationParameter: Uint8Array, channel: common.ConfigGroup): EndorsementPolicy {
  const policy = peer.ApplicationPolicy.deserializeBinary(validationParameter);
  const organisations = new Set<string>();
  const signature = policy.getSignaturePolicy();
  const reference = policy.getChannelConfigPolicyReference();
  let rule = NEVER;
  if (signature !== undefined) rule = signatureRule(signature, organisations);
  else if (reference !== '') {
    const found = referredRule(reference, channel, organisations);
    rule = { ...found, text: `${reference} (${found.text})` };
  }
  const names = [...organisations].sort();
  return { text: rule.text, organisations: names, ...weigh(names, rule) };
}

function weigh(names: readonly string[], rule: Rule): Pick<EndorsementPolicy, 'fewest' | 'indispensable'> {
  const indispensable = names.filter((name) => !rule.satisfiedBy(new Set(names.filter((other) => other !== name))));
  if (names.length > MOST) return { fewest: undefined, indispensable };
  let fewest: number | undefined;
  for (let bits = 0; bits < 2 ** names.length; bits++) {
    const chosen = new Set(names.filter((_, n) => (bits >> n) & 1));
    if ((fewest === undefined || chosen.size < fewest) && rule.satisfiedBy(chosen)) fewest = chosen.size;
  }
  return { fewest, indispensable };
}

/** `/Channel/Application/Endorsement`: a policy of the channel, by its path. */
function referredRule(path: string, channel: common.ConfigGroup, organisations: Set<string>): Rule {
  const [, root, ...groups] = path.split('/');
  const name = groups.pop();
  let group: common.ConfigGroup | undefined = root === 'Channel' ? channel : undefined;
  for (const part of groups) group = group?.getGroupsMap().get(part);
  return group === undefined || name === undefined ? NEVER : policyRule(group, name, organisations);
}

function policyRule(group: common.ConfigGroup, name: string, organisations: Set<string>): Rule {
  const policy = group.getPoliciesMap().get(name)?.getPolicy();
  if (policy === undefined) return NEVER;
  const bytes = policy.getValue_asU8();
  switch (policy.getType()) {
    case common.Policy.PolicyType.SIGNATURE:
      return signatureRule(common.SignaturePolicyEnvelope.deserializeBinary(bytes), organisations);
    case common.Policy.PolicyType.IMPLICIT_META: {
      const meta = common.ImplicitMetaPolicy.deserializeBinary(bytes);
      const rules: Rule[] = [];
      for (const [, inner] of group.getGroupsMap().entries()) rules.push(policyRule(inner, meta.getSubPolicy(), organisations));
      const { ANY, ALL } = common.ImplicitMetaPolicy.Rule;
      const kind = meta.getRule();
      const needed = kind === ANY ? 1 : kind === ALL ? rules.length : Math.floor(rules.length / 2) + 1;
      const word = kind === ANY ? 'ANY' : kind === ALL ? 'ALL' : 'MAJORITY';
      return {
        text: `${word} ${meta.getSubPolicy()} of ${rules.length}`,
        satisfiedBy: (chosen) => rules.filter((rule) => rule.satisfiedBy(chosen)).length >= needed,
      };
    }
    default:
      return NEVER;
  }
}

function signatureRule(envelope: common.SignaturePolicyEnvelope, organisations: Set<string>): Rule {
  const principals = envelope.getIdentitiesList().map(readPrincipal);
  for (const { organisation } of principals) if (organisation !== undefined) organisations.add(organisation);
  const read = (policy: common.SignaturePolicy): Rule => {
    const several = policy.getNOutOf();
    if (several !== undefined) {
      const rules = several.getRulesList().map(read);
      const n = several.getN();
      const inner = rules.map((rule) => rule.text).join(', ');
      const word = n === rules.length ? 'AND' : n === 1 ? 'OR' : undefined;
      return {
        text: word === undefined || rules.length === 1 ? `OutOf(${n}, ${inner})` : `${word}(${inner})`,
        satisfiedBy: (chosen) => rules.filter((rule) => rule.satisfiedBy(chosen)).length >= n,
      };
    }
    const principal = principals[policy.getSignedBy()];
    const { organisation } = principal ?? {};
    return { text: principal?.text ?? '?', satisfiedBy: (chosen) => organisation !== undefined && chosen.has(organisation) };
  };
  const rule = envelope.getRule();
  return rule === undefined ? NEVER : read(rule);
}

function readPrincipal(principal: msp.MSPPrincipal): { text: string; organisation?: string } {
  const bytes = principal.getPrincipal_asU8();
  const kind = msp.MSPPrincipal.Classification;
  switch (principal.getPrincipalClassification()) {
    case kind.ROLE: {
      const role = msp.MSPRole.deserializeBinary(bytes);
      const name = Object.entries(msp.MSPRole.MSPRoleType).find(([, value]) => value === role.getRole())?.[0] ?? '?';
      const organisation = role.getMspIdentifier();
      return { text: `'${organisation}.${name.toLowerCase()}'`, organisation };
    }
    case kind.ORGANIZATION_UNIT: {
      const unit = msp.OrganizationUnit.deserializeBinary(bytes);
      const organisation = unit.getMspIdentifier();
      return { text: `'${organisation}' unit ${unit.getOrganizationalUnitIdentifier()}`, organisation };
    }
    case kind.IDENTITY: {
      const organisation = msp.SerializedIdentity.deserializeBinary(bytes).getMspid();
      return { text: `one identity of '${organisation}'`, organisation };
    }
    default:
      return { text: 'a principal of another kind' };
  }
}
