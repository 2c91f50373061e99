import type { CodeableConcept, Coding, Consent, ConsentProvision, ConsentProvisionActor, Narrative, Period } from 'fhir/r4.js';
import { CodedError } from '../errors.ts';
import { clause as openClause } from '../ledger/contract/payloads.ts';
import { type Clause, RIGHTS, type Right, ROLES } from '../ledger/contract/shapes.ts';
import { periodRange } from '../records/fhir-time.ts';
import { isPlainNarrative } from './narrative.ts';

/**
 * FHIR R4 Consent <-> permissions (fhir-facade.md 2.5, "our own form"; docs/consent.md). What permissions cannot say is refused
 * with UNPROCESSABLE and the element at fault, so nothing is widened or dropped in silence. Pure.
 */
export interface ConsentPermission {
  grantee: string;
  category: string;
  /** Of this Consent only. */
  clauses: Clause[];
}

export const CATEGORY_SYSTEM = 'urn:oncobridge:category';
export const ROLE_SYSTEM = 'urn:oncobridge:role';
/** A member of any institution: `<inst>/<mem>`. */
export const MEMBER_SYSTEM = 'urn:oncobridge:member';
const ACTION_SYSTEM = 'http://terminology.hl7.org/CodeSystem/consentaction';
const SCOPE_SYSTEM = 'http://terminology.hl7.org/CodeSystem/consentscope';
const PURPOSE_SYSTEM = 'http://terminology.hl7.org/CodeSystem/v3-ActReason';
const PARTICIPATION_SYSTEM = 'http://terminology.hl7.org/CodeSystem/v3-ParticipationType';
const ACTIONS: Readonly<Record<string, Right>> = { access: 'read', collect: 'upload', disclose: 'share' };
/** A purpose covers those below it in v3 ActReason; only these of ours have any. */
const BELOW: Readonly<Record<string, readonly string[]>> = { TREAT: ['ETREAT', 'BTG'], ETREAT: ['BTG'] };
const PURPOSES = ['TREAT', 'HPAYMT', 'HOPERAT', 'HRESCH', 'ETREAT', 'BTG', 'PATRQT'] as const;
const EMERGENCY_PURPOSES: readonly string[] = ['ETREAT', 'BTG'];
/** Limits of the contract's schema. */
const MAX_PERMISSIONS = 32;
const MAX_CLAUSES = 16;

const CONSENT_MEMBERS = new Set([
  'resourceType',
  'id',
  'meta',
  'language',
  'text',
  'extension',
  'identifier',
  'status',
  'scope',
  'category',
  'patient',
  'dateTime',
  'performer',
  'organization',
  'sourceAttachment',
  'sourceReference',
  'policy',
  'policyRule',
  'provision',
]);
const META_MEMBERS = new Set(['id', 'extension', 'versionId', 'lastUpdated', 'source', 'profile', 'security', 'tag']);
const ROOT_MEMBERS = new Set(['id', 'type', 'provision']);
const PROVISION_MEMBERS = new Set(['id', 'type', 'actor', 'action', 'class', 'purpose', 'period', 'dataPeriod', 'provision']);

export interface MappingContext {
  institution: string;
  /** The id under which the clauses stand on the ledger. */
  consent: string;
  /** Configured categories; no other can be granted. */
  categories: readonly string[];
}

/** The permissions that this Consent's provisions ask for, in the order of the Consent. Throws UNPROCESSABLE. */
export function permissionsOf(resource: Consent, context: MappingContext): ConsentPermission[] {
  try {
    return readConsent(resource, context);
  } catch (error) {
    // The resource comes from outside: a text where R4 has a list ends here.
    if (error instanceof TypeError) throw refuse('Consent', 'The resource is no Consent of FHIR R4.');
    throw error;
  }
}

function readConsent(resource: Consent, context: MappingContext): ConsentPermission[] {
  only(resource, CONSENT_MEMBERS, 'Consent');
  if (resource.meta !== undefined) only(resource.meta, META_MEMBERS, 'Consent.meta');
  if (resource.text !== undefined) readNarrative(resource.text);
  if (!codings(resource.scope).some(({ system, code }) => system === SCOPE_SYSTEM && code === 'patient-privacy')) {
    throw refuse('Consent.scope', 'Only the scope patient-privacy is enforced.');
  }
  const root = resource.provision;
  if (root === undefined) throw refuse('Consent.provision', 'A Consent without provisions says nothing that can be enforced.');
  only(root, ROOT_MEMBERS, 'Consent.provision');
  if (root.type !== 'deny') throw refuse('Consent.provision.type', 'The root must deny; what is allowed is permitted below it.');
  const found = new Map<string, ConsentPermission>();
  for (const [i, permit] of (root.provision ?? []).entries()) {
    const where = `Consent.provision.provision[${i}]`;
    const parent = readProvision(permit, where, 'permit', context);
    add(found, parent);
    for (const [n, exception] of (permit.provision ?? []).entries()) {
      const below = `${where}.provision[${n}]`;
      if (exception.provision !== undefined) throw refuse(`${below}.provision`, 'A third level of provisions is not enforced.');
      const deny = readProvision(exception, below, 'deny', context);
      checkException(parent, deny, below);
      add(found, deny);
    }
  }
  if (found.size === 0)
    throw refuse('Consent.provision.provision', 'A Consent that only denies everything changes nothing: no permission is the default.');
  if (found.size > MAX_PERMISSIONS)
    throw refuse('Consent.provision.provision', `More than ${MAX_PERMISSIONS} pairs of grantee and category.`);
  for (const { clauses } of found.values()) {
    if (clauses.length > MAX_CLAUSES)
      throw refuse('Consent.provision.provision', `More than ${MAX_CLAUSES} provisions for one grantee and category.`);
  }
  return [...found.values()];
}

interface ReadProvision {
  grantees: readonly string[];
  categories: readonly string[];
  clause: Clause;
}

function add(found: Map<string, ConsentPermission>, { grantees, categories, clause }: ReadProvision): void {
  for (const grantee of grantees) {
    for (const category of categories) {
      const key = `${grantee}/${category}`;
      const permission = found.get(key) ?? { grantee, category, clauses: [] };
      found.set(key, permission);
      const text = JSON.stringify(clause);
      if (!permission.clauses.some((one) => JSON.stringify(one) === text)) permission.clauses.push(clause);
    }
  }
}

function readProvision(provision: ConsentProvision, where: string, effect: 'permit' | 'deny', context: MappingContext): ReadProvision {
  only(provision, PROVISION_MEMBERS, where);
  if (provision.type !== effect) {
    throw refuse(
      `${where}.type`,
      effect === 'permit' ? 'Below the root stand permits.' : 'Below a permit stand denies, which are exceptions to it.',
    );
  }
  const grantees = list(provision.actor, `${where}.actor`, 'Who is meant must be said.').map((actor, i) =>
    granteeOf(actor, `${where}.actor[${i}]`, context.institution),
  );
  const rights = list(provision.action, `${where}.action`, 'access, collect or disclose must be said.').map((action, i) =>
    rightOf(action, `${where}.action[${i}]`),
  );
  const categories = list(provision.class, `${where}.class`, 'The category must be said.').map((coding, i) => {
    const { code } = coding;
    if (coding.system !== CATEGORY_SYSTEM || code === undefined || !context.categories.includes(code)) {
      throw refuse(`${where}.class[${i}]`, `The class must be a configured category of ${CATEGORY_SYSTEM}.`);
    }
    return code;
  });
  const purposes = provision.purpose?.map((coding, i) => {
    const code = PURPOSES.find((purpose) => purpose === coding.code);
    if (coding.system !== PURPOSE_SYSTEM || code === undefined)
      throw refuse(`${where}.purpose[${i}]`, `The purpose must be one of ${PURPOSES.join(', ')}.`);
    return code;
  });
  if (purposes?.length === 0) throw refuse(`${where}.purpose`, 'An empty list has no meaning.');
  if (provision.period === undefined) throw refuse(`${where}.period`, 'The period must be said.');
  const [periodStart, periodEnd] = bounds(provision.period, `${where}.period`);
  const [dataStart, dataEnd] = provision.dataPeriod === undefined ? [null, null] : bounds(provision.dataPeriod, `${where}.dataPeriod`);
  return {
    grantees: [...new Set(grantees)],
    categories: [...new Set(categories)],
    clause: openClause({
      consent: context.consent,
      effect,
      // A deny that names an emergency purpose holds against break-glass too; any other lets it through.
      emergency: effect === 'deny' && purposes !== undefined && purposes.some((purpose) => EMERGENCY_PURPOSES.includes(purpose)),
      rights: RIGHTS.filter((right) => rights.includes(right)),
      purposes: purposes === undefined ? null : withBelow(purposes),
      periodStart,
      periodEnd,
      dataStart,
      dataEnd,
    }),
  };
}

/** An exception lies within what it is an exception to: the ledger's deny knows no parent and would reach further. */
function checkException(parent: ReadProvision, deny: ReadProvision, where: string): void {
  if (!deny.categories.every((category) => parent.categories.includes(category)))
    throw refuse(`${where}.class`, 'An exception names categories of its permit.');
  if (!deny.clause.rights.every((right) => parent.clause.rights.includes(right)))
    throw refuse(`${where}.action`, 'An exception names actions of its permit.');
  const wide = parent.clause.purposes;
  const emergencies = new Set(EMERGENCY_PURPOSES);
  if (wide !== null && !(deny.clause.purposes?.every((purpose) => wide.includes(purpose) || emergencies.has(purpose)) ?? false)) {
    throw refuse(`${where}.purpose`, 'An exception names purposes of its permit.');
  }
}

function granteeOf(actor: ConsentProvisionActor, where: string, institution: string): string {
  only(actor, new Set(['id', 'role', 'reference']), where);
  if (!codings(actor.role).some(({ system, code }) => system === PARTICIPATION_SYSTEM && code === 'IRCP')) {
    throw refuse(`${where}.role`, 'The role must be IRCP, the recipient of the information.');
  }
  const { reference, identifier } = actor.reference;
  only(actor.reference, new Set(['id', 'reference', 'identifier', 'type', 'display']), `${where}.reference`);
  if (reference !== undefined && identifier === undefined) {
    const [, type, id] = /^(Practitioner|Organization)\/([a-z][a-z0-9-]{0,62})$/.exec(reference) ?? [];
    // Members of other institutions are not named by their bare id, for two institutions could give the same one, but as below.
    if (type === 'Practitioner' && id?.startsWith('mem-')) return `member:${institution}:${id}`;
    if (type === 'Organization' && id?.startsWith('inst-')) return `organization:${id}`;
  } else if (identifier?.system === ROLE_SYSTEM && reference === undefined) {
    const role = ROLES.find((one) => one === identifier.value);
    if (role !== undefined) return `role:${role}`;
  } else if (identifier?.system === MEMBER_SYSTEM && reference === undefined) {
    const [, inst, member] = /^(inst-[a-z0-9-]{1,58})\/(mem-[a-z0-9-]{1,59})$/.exec(identifier.value ?? '') ?? [];
    if (inst !== undefined && member !== undefined) return `member:${inst}:${member}`;
  }
  throw refuse(
    `${where}.reference`,
    `Practitioner/mem-…, Organization/inst-…, or an identifier: of ${ROLE_SYSTEM} with a role, of ${MEMBER_SYSTEM} with inst-…/mem-….`,
  );
}

function rightOf(action: CodeableConcept, where: string): Right {
  const rights = new Set(
    codings(action).map(({ system, code }) => (system === ACTION_SYSTEM && code !== undefined ? ACTIONS[code] : undefined)),
  );
  const [right, ...others] = rights;
  if (right === undefined || others.length > 0) throw refuse(where, 'The action must be access, collect or disclose.');
  return right;
}

function withBelow(purposes: readonly string[]): string[] {
  const all = new Set(purposes.flatMap((purpose) => [purpose, ...(BELOW[purpose] ?? [])]));
  return PURPOSES.filter((purpose) => all.has(purpose));
}

/** Bounds as instants, both inclusive. A day counts whole; without a zone it is taken as UTC. */
function bounds(period: Period, where: string): [string | null, string | null] {
  only(period, new Set(['id', 'start', 'end']), where);
  const range = periodRange(period.start, period.end);
  if (range === undefined) throw refuse(where, 'A start or an end, each a FHIR date or time.');
  const instant = /^\d{4}-/;
  const start = range.start === '-infinity' ? null : range.start;
  const end = range.end === 'infinity' ? null : range.end;
  if ((start !== null && !instant.test(start)) || (end !== null && !instant.test(end)))
    throw refuse(where, 'The year must have four digits.');
  if (start !== null && end !== null && start > end) throw refuse(where, 'The end lies before the start.');
  return [start, end];
}

/**
 * The provisions that say these permissions; `permissionsOf` reads them back the same. Throws UNPROCESSABLE for what a Consent cannot
 * say; as `recorded`, of what a device signed and the ledger enforces, even that is said, as near as a Consent comes to it.
 */
export function provisionOf(
  permissions: readonly ConsentPermission[],
  context: MappingContext,
  form: 'enforced' | 'recorded' = 'enforced',
): ConsentProvision {
  const all = permissions.flatMap(({ grantee, category, clauses }) => clauses.map((clause) => ({ grantee, category, clause })));
  const said = form === 'recorded' ? plainProvision : provisionOfClause;
  const permits = all
    .filter(({ clause }) => clause.effect === 'permit')
    .map((one) => ({ ...one, provision: { ...said(one, context), provision: [] as ConsentProvision[] } }));
  const alone: ConsentProvision[] = [];
  for (const deny of all.filter(({ clause }) => clause.effect === 'deny')) {
    const below = said(deny, context);
    const parent = permits.find((permit) => {
      try {
        checkException(asRead(permit), asRead(deny), '');
        return true;
      } catch {
        return false;
      }
    });
    if (parent !== undefined) parent.provision.provision.push(below);
    else if (form === 'recorded') alone.push(below);
    else throw refuse('Consent.provision', 'A denial on the ledger is no exception to any permit of this Consent.');
  }
  const nested = permits.map(({ provision: { provision: below, ...own } }) => (below.length === 0 ? own : { ...own, provision: below }));
  return { type: 'deny', provision: [...nested, ...alone] };
}

function asRead({ grantee, category, clause }: { grantee: string; category: string; clause: Clause }): ReadProvision {
  return { grantees: [grantee], categories: [category], clause };
}

interface SaidClause {
  grantee: string;
  category: string;
  clause: Clause;
}

function provisionOfClause(said: SaidClause, context: MappingContext): ConsentProvision {
  const provision = plainProvision(said, context);
  const again = readProvision(provision, 'Consent.provision', said.clause.effect, context);
  if (JSON.stringify(again.clause) !== JSON.stringify(said.clause))
    throw refuse('Consent.provision', 'A clause on the ledger says what a Consent cannot.');
  return provision;
}

function plainProvision({ grantee, category, clause }: SaidClause, context: MappingContext): ConsentProvision {
  // Null is any purpose; a denial that holds in emergencies has to name them.
  const purposes = clause.purposes === null ? (clause.emergency ? PURPOSES : undefined) : spoken(clause);
  return {
    type: clause.effect,
    actor: [{ role: { coding: [{ system: PARTICIPATION_SYSTEM, code: 'IRCP' }] }, reference: referenceOf(grantee, context.institution) }],
    action: clause.rights.map((right) => ({
      coding: [{ system: ACTION_SYSTEM, code: Object.keys(ACTIONS).find((code) => ACTIONS[code] === right) ?? '' }],
    })),
    class: [{ system: CATEGORY_SYSTEM, code: category }],
    ...(purposes === undefined ? {} : { purpose: purposes.map((code) => ({ system: PURPOSE_SYSTEM, code })) }),
    ...(clause.periodStart === null && clause.periodEnd === null ? {} : { period: periodOf(clause.periodStart, clause.periodEnd) }),
    ...(clause.dataStart === null && clause.dataEnd === null ? {} : { dataPeriod: periodOf(clause.dataStart, clause.dataEnd) }),
  };
}

/** Purposes without those that another one covers; with an emergency flag the emergency purposes are named. */
function spoken(clause: Clause): string[] {
  const purposes = clause.purposes ?? [];
  const covered = new Set(purposes.flatMap((purpose) => BELOW[purpose] ?? []));
  const short = purposes.filter((purpose) => !covered.has(purpose));
  return clause.emergency && !short.some((purpose) => EMERGENCY_PURPOSES.includes(purpose)) ? [...short, 'BTG'] : short;
}

function referenceOf(grantee: string, institution: string): ConsentProvisionActor['reference'] {
  const [kind, first = '', member = ''] = grantee.split(':');
  if (kind === 'role') return { identifier: { system: ROLE_SYSTEM, value: first } };
  if (kind === 'organization') return { reference: `Organization/${first}` };
  if (first !== institution) return { type: 'Practitioner', identifier: { system: MEMBER_SYSTEM, value: `${first}/${member}` } };
  return { reference: `Practitioner/${member}` };
}

function periodOf(start: string | null, end: string | null): Period {
  return { ...(start === null ? {} : { start }), ...(end === null ? {} : { end }) };
}

function readNarrative(text: Narrative): void {
  only(text, new Set(['id', 'extension', 'status', 'div']), 'Consent.text');
  if (typeof text.div !== 'string' || !isPlainNarrative(text.div))
    throw refuse('Consent.text.div', 'The narrative must be plain formatted text.');
}

function codings(concept: CodeableConcept | undefined): Coding[] {
  return concept?.coding ?? [];
}

function list<T>(items: T[] | undefined, where: string, diagnostics: string): T[] {
  if (!Array.isArray(items) || items.length === 0) throw refuse(where, diagnostics);
  return items;
}

function only(value: unknown, members: ReadonlySet<string>, where: string): void {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw refuse(where, 'An object is expected.');
  for (const name of Object.keys(value)) {
    if (!members.has(name)) throw refuse(`${where}.${/^[A-Za-z_]{1,40}$/.test(name) ? name : '…'}`, 'This element is not enforced here.');
  }
}

function refuse(expression: string, diagnostics: string): CodedError {
  return new CodedError('UNPROCESSABLE', { diagnostics, expression: [expression] });
}
