import { isIP } from 'node:net';
import type { AuditEvent, AuditEventAgent, AuditEventEntity, Coding, Reference } from 'fhir/r4.js';
import type { StoredActor, StoredEvent } from './stored-event.ts';

/**
 * A stored event as a FHIR AuditEvent by IHE Basic Audit Log Patterns 1.1.5 (fhir-facade.md section 2.9). Only what succeeded
 * claims a BALP profile of its kind, for those fix outcome 0; the minimal token use is claimed wherever there was a token.
 */
export const BALP = 'https://profiles.ihe.net/ITI/BALP';
const DCM = 'http://dicom.nema.org/resources/ontology/DCM';
const PARTICIPATION = 'http://terminology.hl7.org/CodeSystem/v3-ParticipationType';
const ENTITY_TYPE = 'http://terminology.hl7.org/CodeSystem/audit-entity-type';
const OBJECT_ROLE = 'http://terminology.hl7.org/CodeSystem/object-role';
const ACT_REASON = 'http://terminology.hl7.org/CodeSystem/v3-ActReason';

const SOURCE: Coding = { system: DCM, code: '110153', display: 'Source Role ID' };
const DESTINATION: Coding = { system: DCM, code: '110152', display: 'Destination Role ID' };
const OAUTH_USER: Coding = { system: `${BALP}/CodeSystem/UserAgentTypes`, code: 'UserOauthAgent' };
const SYSTEM_OBJECT: Coding = { system: ENTITY_TYPE, code: '2', display: 'System Object' };

interface Kind {
  action: 'C' | 'R' | 'U' | 'E';
  /** Name of the profile, which has a twin for events about a patient. */
  profile?: 'Create' | 'Read' | 'Update' | 'Query';
  /** Data flows to the client only in a read; a query counts as flowing to the server. */
  toClient: boolean;
}
const KINDS: Record<StoredEvent['interaction'], Kind> = {
  read: { action: 'R', profile: 'Read', toClient: true },
  vread: { action: 'R', profile: 'Read', toClient: true },
  'history-instance': { action: 'R', toClient: true },
  'search-type': { action: 'E', profile: 'Query', toClient: false },
  create: { action: 'C', profile: 'Create', toClient: false },
  update: { action: 'U', profile: 'Update', toClient: false },
  operation: { action: 'E', toClient: false },
};
const OUTCOME = { permitted: '0', failed: '4', denied: '8' } as const;

export interface AuditFacts {
  /** The institution whose server this is. */
  institution: string;
  /** Public address of the FHIR base; without it the institution's id stands for the server. */
  baseUrl?: string;
  /** Names of this institution's members. */
  names?: ReadonlyMap<string, string>;
}

export function toAuditEvent(event: StoredEvent, facts: AuditFacts): AuditEvent {
  const kind = KINDS[event.interaction];
  const profiles = profilesOf(event, kind);
  return {
    resourceType: 'AuditEvent',
    id: event.id,
    meta: {
      versionId: '1',
      lastUpdated: event.recorded,
      ...(profiles.length > 0 ? { profile: profiles.map((name) => `${BALP}/StructureDefinition/IHE.BasicAudit.${name}`) } : {}),
    },
    type: { system: 'http://terminology.hl7.org/CodeSystem/audit-event-type', code: 'rest', display: 'Restful Operation' },
    subtype: [{ system: 'http://hl7.org/fhir/restful-interaction', code: event.interaction, display: event.interaction }],
    action: kind.action,
    recorded: event.recorded,
    outcome: OUTCOME[event.outcome],
    ...(event.reason !== undefined ? { outcomeDesc: event.reason } : {}),
    ...(event.purpose !== undefined ? { purposeOfEvent: [{ coding: [{ system: ACT_REASON, code: event.purpose }] }] } : {}),
    agent: agents(event, kind, facts),
    source: {
      site: facts.institution,
      observer: organization(facts.institution),
      type: [{ system: 'http://terminology.hl7.org/CodeSystem/security-source-type', code: '4', display: 'Application Server' }],
    },
    entity: entities(event),
  };
}

function profilesOf(event: StoredEvent, { profile }: Kind): string[] {
  const token = event.actor === undefined ? [] : ['OAUTHaccessTokenUse.Minimal'];
  if (profile === undefined || event.outcome !== 'permitted') return token;
  return [event.patient === undefined ? profile : `Patient${profile}`, ...token];
}

function agents(event: StoredEvent, kind: Kind, facts: AuditFacts): AuditEventAgent[] {
  const { actor } = event;
  const serverNetwork =
    facts.baseUrl === undefined ? { address: facts.institution, type: '1' as const } : { address: facts.baseUrl, type: '5' as const };
  const server: AuditEventAgent = {
    type: { coding: [kind.toClient ? SOURCE : DESTINATION] },
    who: { ...organization(facts.institution), display: 'oncobridge' },
    // A command of the operator has no client: the server itself asks.
    requestor: event.interaction === 'operation' && actor === undefined,
    network: serverNetwork,
  };
  if (server.requestor) return [server];
  const client: AuditEventAgent = {
    type: { coding: [kind.toClient ? DESTINATION : SOURCE] },
    who: actor === undefined ? { display: 'not signed in' } : { identifier: { value: actor.system ?? actor.client } },
    requestor: actor === undefined,
    network: networkOf(event.address),
  };
  return actor === undefined ? [client, server] : [client, server, user(actor, kind, event.purpose ?? actor.purpose, facts)];
}

function networkOf(address: string | undefined): { address: string; type?: '1' | '2' } {
  if (address === undefined) return { address: 'unknown' };
  return { address, type: isIP(address) === 0 ? '1' : '2' };
}

function user(actor: StoredActor, { action }: Kind, purpose: string, facts: AuditFacts): AuditEventAgent {
  // Who writes is the author where it is the patient themself, else an informant for them.
  const role: Coding =
    action === 'C' || action === 'U'
      ? actor.kind === 'patient'
        ? { system: PARTICIPATION, code: 'AUT', display: 'author (originator)' }
        : { system: PARTICIPATION, code: 'INF', display: 'informant' }
      : { system: PARTICIPATION, code: 'IRCP', display: 'information recipient' };
  return {
    type: { coding: [role, OAUTH_USER] },
    ...(actor.role !== undefined ? { role: [{ text: actor.role }] } : {}),
    who: person(actor, facts),
    requestor: true,
    policy: [`urn:ietf:params:oauth:jti:${actor.tokenId}`],
    purposeOfUse: [{ coding: [{ system: ACT_REASON, code: purpose }] }],
  };
}

function person({ kind, person: id, institution }: StoredActor, facts: AuditFacts): Reference {
  if (kind === 'system' || id === undefined) return organization(institution);
  const name = institution === facts.institution ? facts.names?.get(id) : undefined;
  return { reference: `${kind === 'patient' ? 'Patient' : 'Practitioner'}/${id}`, ...(name !== undefined ? { display: name } : {}) };
}

function organization(institution: string): Reference {
  return { reference: `Organization/${institution}` };
}

function entities(event: StoredEvent): AuditEventEntity[] {
  const found: AuditEventEntity[] = [];
  const { resource, query, patient, decision } = event;
  if (event.interaction === 'search-type' || event.interaction === 'operation') {
    found.push({
      type: SYSTEM_OBJECT,
      role: { system: OBJECT_ROLE, code: '24', display: 'Query' },
      description: cleanQuery(query ?? '', patient?.patient),
      query: Buffer.from(query ?? '').toString('base64'),
    });
  } else if (resource !== undefined) {
    const version = resource.versionId === undefined || event.interaction !== 'vread' ? '' : `/_history/${resource.versionId}`;
    found.push({
      // A resource that was not made yet has no id.
      what: resource.id === undefined ? { display: resource.type } : { reference: `${resource.type}/${resource.id}${version}` },
      type: SYSTEM_OBJECT,
      role: { system: OBJECT_ROLE, code: '4', display: 'Domain Resource' },
    });
  }
  if (patient !== undefined) {
    found.push({
      what: { reference: `Patient/${patient.patient}` },
      type: { system: ENTITY_TYPE, code: '1', display: 'Person' },
      role: { system: OBJECT_ROLE, code: '1', display: 'Patient' },
    });
  }
  if (decision?.consent !== undefined) {
    found.push({
      what: { reference: `Consent/${decision.consent}` },
      type: { system: 'http://hl7.org/fhir/resource-types', code: 'Consent' },
    });
  }
  found.push({
    what: { identifier: { value: event.requestId } },
    type: { system: `${BALP}/CodeSystem/BasicAuditEntityType`, code: 'XrequestId' },
    ...(decision === undefined ? {} : { detail: [{ type: 'ledger-height', valueString: String(decision.height) }] }),
  });
  return found;
}

/** Parameters whose values say how one searched and nothing of whom. */
const PLAIN = new Set(
  '_count _sort _total _summary _elements _format _pretty _include _revinclude _lastUpdated category code status type date period'.split(
    ' ',
  ),
);

/**
 * The request without values that may name a person: of the rest of a query only the names stay, but for the one patient that
 * the event is about. What a patient is shown must not tell of others who were asked for in the same breath.
 */
export function cleanQuery(request: string, patient: string | undefined): string {
  const [, head = '', mark = '', rest = ''] = /^([A-Z]+ [^ ?]*|[^ ?]*)([ ?]?)(.*)$/s.exec(request) ?? [];
  if (rest === '') return head;
  const own = patient === undefined ? [] : [patient, `Patient/${patient}`, `Patient%2F${patient}`];
  const pairs = rest.split(/[&? ]+/).map((pair) => {
    const cut = pair.indexOf('=');
    const name = cut < 0 ? pair : pair.slice(0, cut);
    const value = cut < 0 ? '' : pair.slice(cut + 1);
    if (!/^[A-Za-z_][A-Za-z:._-]{0,40}$/.test(name)) return '…';
    return PLAIN.has(name.split(':')[0] ?? '') || own.includes(value) ? `${name}=${value}` : `${name}=…`;
  });
  return `${head}${mark}${pairs.join('&')}`;
}
