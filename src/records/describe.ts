import { codingsOf, identifierTargetOf, objectOf, objectsOf, stringOf, targetOf, token } from './elements.ts';
import { type JsonObject, textOf } from './lossless-json.ts';
import { CODEX, isVolume, levelOf, MCODE, type RadiotherapyLevel } from './radiotherapy-codes.ts';

/** What a record is, without a judgement about whether it becomes a document: that is `classify`. */
export type Role =
  | 'patient'
  | 'directory'
  | 'laboratory-report'
  | 'laboratory-result'
  | 'note'
  | 'course'
  | 'phase'
  | 'plan'
  | 'radiotherapy-request'
  | 'volume'
  | 'appointment'
  | 'other';

/** `withdrawn`: entered in error, or cancelled. `draft`: nothing that may be shown yet, unless a setting says so. */
export type StatusClass = 'active' | 'withdrawn' | 'draft';

/**
 * A directed link. `target` is `Type/id` at the same source, `urn:uuid:…`, or for `identity` `identifier:<system>|<value>`,
 * which no record is but several may share. It may hold a serial or an MRN: look it up by HMAC, never log it.
 */
export interface Link {
  relation: Relation;
  target: string;
}
export type Relation =
  | 'result'
  | 'member'
  | 'partOf'
  | 'basedOn'
  | 'replaces'
  | 'appends'
  | 'identity'
  | 'volume'
  | 'reason'
  | 'performer'
  | 'specimen'
  | 'encounter';

/** Links that gather records into one subject; the others name what a document only draws or looks up. */
export const ASSEMBLING: ReadonlySet<Relation> = new Set([
  'result',
  'member',
  'partOf',
  'basedOn',
  'replaces',
  'appends',
  'identity',
  'volume',
]);

export interface Description {
  type: string;
  id: string;
  /** `Type/id`. */
  ref: string;
  versionId: string;
  lastUpdated?: string;
  role: Role;
  level?: RadiotherapyLevel;
  status: StatusClass;
  /** `status` (notes: `docStatus` after it, `current/final`) as the source says it. */
  sourceStatus: string;
  /** `Type/id` of the patient at the source. */
  patient?: string;
  /** `system|value` where the subject is given by identifier only. */
  patientIdentifier?: string;
  /** When it happened to the patient: collection, service, treatment. As precise as the source. */
  clinicalTime?: string;
  /** What orders versions of one fact: issued, OBR-22, else lastUpdated; never the time of arrival. */
  orderTime?: string;
  links: readonly Link[];
  /** Laboratory results: specimen and collection time, the subject of a result that no report claims. */
  orphanKey?: string;
  /** Results and components' own codes, `system|code`, for trends. */
  codes: readonly string[];
}

const DIRECTORY = new Set(['Practitioner', 'PractitionerRole', 'Organization', 'Location', 'HealthcareService', 'Device', 'CareTeam']);
const LAB_SECTIONS = new Set(['LAB', 'CH', 'HM', 'MB', 'BLB', 'IMM', 'SR', 'TX', 'URN', 'GE']);
const OBSERVATION_CATEGORY = 'http://terminology.hl7.org/CodeSystem/observation-category';
const V2_0074 = 'http://terminology.hl7.org/CodeSystem/v2-0074';
const WITHDRAWN = new Set(['entered-in-error', 'cancelled']);
const DRAFT = new Set(['registered', 'draft', 'preparation']);

/** Describes one resource of a source. Total: whatever the JSON, it answers (type and id may be empty strings). */
export function describe(resource: JsonObject): Description {
  const type = stringOf(resource['resourceType']) ?? '';
  const id = stringOf(resource['id']) ?? '';
  const meta = objectOf(resource['meta']);
  const lastUpdated = stringOf(meta?.['lastUpdated']);
  const role = roleOf(type, resource);
  const level = type === 'Procedure' || type === 'ServiceRequest' ? levelOf(resource) : undefined;
  const subject = resource['subject'] ?? resource['patient'];
  const patient = targetOf(subject);
  const patientIdentifier = identifierTargetOf(subject);
  const clinicalTime = clinicalTimeOf(type, resource);
  const orderTime = orderTimeOf(type, resource) ?? lastUpdated;
  const orphanKey = role === 'laboratory-result' ? orphanKeyOf(resource, patient ?? patientIdentifier) : undefined;
  return {
    type,
    id,
    ref: `${type}/${id}`,
    versionId: textOf(meta?.['versionId']) ?? '',
    role,
    status: statusOf(type, resource),
    sourceStatus: [stringOf(resource['status']), type === 'DocumentReference' ? stringOf(resource['docStatus']) : undefined]
      .filter((part) => part !== undefined)
      .join('/'),
    links: linksOf(role, resource),
    codes: codingsOf(resource['code']).map(token),
    ...(lastUpdated === undefined ? {} : { lastUpdated }),
    ...(level === undefined ? {} : { level }),
    ...(patient === undefined ? {} : { patient }),
    ...(patientIdentifier === undefined ? {} : { patientIdentifier }),
    ...(clinicalTime === undefined ? {} : { clinicalTime }),
    ...(orderTime === undefined ? {} : { orderTime }),
    ...(orphanKey === undefined ? {} : { orphanKey }),
  };
}

function roleOf(type: string, resource: JsonObject): Role {
  if (DIRECTORY.has(type)) return 'directory';
  switch (type) {
    case 'Patient':
      return 'patient';
    case 'Appointment':
      return 'appointment';
    case 'DiagnosticReport':
      return isLaboratory(resource) ? 'laboratory-report' : 'other';
    case 'Observation':
      return isLaboratory(resource) ? 'laboratory-result' : 'other';
    case 'DocumentReference':
    case 'Composition':
      return 'note';
    case 'Procedure':
      return levelOf(resource) ?? 'other';
    case 'ServiceRequest':
      return levelOf(resource) === undefined ? 'other' : 'radiotherapy-request';
    case 'BodyStructure':
      return isVolume(resource) ? 'volume' : 'other';
    default:
      return 'other';
  }
}

/** By category; where a server sends none, a report or result with a profile of US Core's laboratory counts. */
function isLaboratory(resource: JsonObject): boolean {
  for (const coding of codingsOf(resource['category'])) {
    if (coding.system === OBSERVATION_CATEGORY && coding.code === 'laboratory') return true;
    if (coding.system === V2_0074 && LAB_SECTIONS.has(coding.code)) return true;
    if (coding.code === '26436-6') return true;
  }
  const profiles = objectOf(resource['meta'])?.['profile'];
  return (
    Array.isArray(profiles) &&
    profiles.some((profile) => typeof profile === 'string' && /us-core-(observation|diagnosticreport)-lab\b/.test(profile))
  );
}

function statusOf(type: string, resource: JsonObject): StatusClass {
  const status = stringOf(resource['status']) ?? '';
  const docStatus = type === 'DocumentReference' ? stringOf(resource['docStatus']) : undefined;
  if (docStatus === 'entered-in-error') return 'withdrawn';
  if (WITHDRAWN.has(status)) return 'withdrawn';
  if (codingsOf(resource['verificationStatus']).some((coding) => coding.code === 'entered-in-error')) return 'withdrawn';
  if (docStatus === 'preliminary' || (type === 'Composition' && status === 'preliminary')) return 'draft';
  return DRAFT.has(status) && type !== 'Patient' ? 'draft' : 'active';
}

function clinicalTimeOf(type: string, resource: JsonObject): string | undefined {
  const period = (name: string): string | undefined => {
    const value = objectOf(resource[name]);
    return stringOf(value?.['start']) ?? stringOf(value?.['end']);
  };
  switch (type) {
    case 'Observation':
    case 'DiagnosticReport':
      return (
        stringOf(resource['effectiveDateTime']) ??
        stringOf(resource['effectiveInstant']) ??
        period('effectivePeriod') ??
        stringOf(resource['issued'])
      );
    case 'Procedure':
      return stringOf(resource['performedDateTime']) ?? period('performedPeriod');
    case 'ServiceRequest':
      return stringOf(resource['occurrenceDateTime']) ?? period('occurrencePeriod') ?? stringOf(resource['authoredOn']);
    case 'DocumentReference': {
      const service = objectOf(objectOf(resource['context'])?.['period']);
      return stringOf(service?.['start']) ?? stringOf(service?.['end']) ?? stringOf(resource['date']);
    }
    case 'Composition':
      return stringOf(resource['date']);
    case 'Appointment':
      return stringOf(resource['start']);
    case 'Condition':
      return stringOf(resource['onsetDateTime']) ?? stringOf(resource['recordedDate']);
    default:
      return undefined;
  }
}

function orderTimeOf(type: string, resource: JsonObject): string | undefined {
  return type === 'Observation' || type === 'DiagnosticReport' ? stringOf(resource['issued']) : undefined;
}

/** Specimen and collection time (architecture.md, "subject"); undefined where neither is known: such a result stands alone. */
function orphanKeyOf(resource: JsonObject, patient: string | undefined): string | undefined {
  const specimen = targetOf(resource['specimen']) ?? identifierTargetOf(resource['specimen']);
  const collected = stringOf(resource['effectiveDateTime']) ?? stringOf(objectOf(resource['effectivePeriod'])?.['start']);
  if (specimen === undefined && collected === undefined) return undefined;
  return `collection:${patient ?? ''}|${specimen ?? ''}|${collected ?? ''}`;
}

const DOSE_EXTENSIONS = new Set([
  `${MCODE}mcode-radiotherapy-dose-delivered-to-volume`,
  `${CODEX}codexrt-radiotherapy-dose-planned-to-volume`,
  `${CODEX}codexrt-radiotherapy-dose-prescribed-to-volume`,
]);
/** Identifiers that name a course at its source for good. A shown name ("C1") repeats between patients, so it is none. */
const COURSE_IDENTITY = /\/RadiotherapyCourse\/RadOnc-Id$|^urn:dicom:uid$/;

function linksOf(role: Role, resource: JsonObject): readonly Link[] {
  const links: Link[] = [];
  const add = (relation: Relation, target: string | undefined): void => {
    if (target === undefined || target.startsWith('#') || target === '') return;
    if (!links.some((link) => link.relation === relation && link.target === target)) links.push({ relation, target });
  };
  const each = (relation: Relation, name: string): void => {
    for (const reference of objectsOf(resource[name])) add(relation, targetOf(reference));
  };
  switch (role) {
    case 'laboratory-report':
      each('result', 'result');
      each('specimen', 'specimen');
      each('performer', 'performer');
      break;
    case 'laboratory-result':
      each('member', 'hasMember');
      each('specimen', 'specimen');
      each('performer', 'performer');
      break;
    case 'note':
      for (const related of objectsOf(resource['relatesTo'])) {
        const code = stringOf(related['code']);
        const target = targetOf(related['target'] ?? related['targetReference']);
        if (code === 'replaces') add('replaces', target);
        // A signature or a transform is about the same note; it joins the chain as an addition.
        else if (code === 'appends' || code === 'signs' || code === 'transforms') add('appends', target);
      }
      addIdentity(resource['masterIdentifier'], /./, add);
      each('performer', 'author');
      add('performer', targetOf(resource['authenticator']));
      break;
    case 'course':
    case 'phase':
    case 'plan':
    case 'radiotherapy-request':
      each('partOf', 'partOf');
      each('basedOn', 'basedOn');
      each('replaces', 'replaces');
      each('reason', 'reasonReference');
      if (levelOf(resource) === 'course')
        for (const identifier of objectsOf(resource['identifier'])) addIdentity(identifier, COURSE_IDENTITY, add);
      for (const extension of objectsOf(resource['extension'])) {
        if (!DOSE_EXTENSIONS.has(stringOf(extension['url']) ?? '')) continue;
        for (const part of objectsOf(extension['extension'])) if (part['url'] === 'volume') add('volume', targetOf(part['valueReference']));
      }
      for (const performer of objectsOf(resource['performer'])) add('performer', targetOf(performer['actor'] ?? performer));
      add('performer', targetOf(resource['asserter']));
      add('performer', targetOf(resource['requester']));
      break;
    default:
      break;
  }
  for (const encounter of objectsOf(resource['encounter'])) add('encounter', targetOf(encounter));
  return links;
}

function addIdentity(identifier: JsonObject[string], wanted: RegExp, add: (relation: Relation, target: string) => void): void {
  const system = stringOf(objectOf(identifier)?.['system']) ?? '';
  const value = textOf(objectOf(identifier)?.['value']);
  if (value !== undefined && wanted.test(system)) add('identity', `identifier:${system}|${value}`);
}
