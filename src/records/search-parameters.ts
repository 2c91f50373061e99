/**
 * The one table of search parameters (architecture section 4): what each resource type is searched by and where the
 * value lies. The index, the search, the CapabilityStatement and docs/fhir.md all come from it; a test holds the paths
 * against the FHIRPath expressions of the R4 SearchParameters.
 *
 * Class: `clear` lies readable in the index; `blind` only as an HMAC, equality alone; `sealed` is in no index and is
 * matched after the resource is opened.
 */
export type ParameterClass = 'clear' | 'blind' | 'sealed';
export type ParameterType = 'token' | 'reference' | 'date' | 'string' | 'quantity' | 'uri' | 'composite';

export interface SearchParameter {
  name: string;
  type: ParameterType;
  class: ParameterClass;
  /** Element paths below the resource, `effective[x]` for a choice. */
  paths: readonly (readonly string[])[];
  /** Types that a reference is kept for; empty: all. */
  targets: readonly string[];
  /** Elements of a list that count: `system=phone`. */
  where?: { member: string; is: string };
  /** Of a composite: each base element and the two values compared inside it. */
  parts?: { bases: readonly (readonly string[])[]; values: readonly [CompositePart, CompositePart] };
}
export interface CompositePart {
  type: ParameterType;
  paths: readonly (readonly string[])[];
}

/** Types of a choice element `x[x]` that search looks at. */
export const CHOICES: Readonly<Record<string, readonly string[]>> = {
  effective: ['effectiveDateTime', 'effectivePeriod', 'effectiveTiming', 'effectiveInstant'],
  performed: ['performedDateTime', 'performedPeriod', 'performedString', 'performedAge', 'performedRange'],
  occurrence: ['occurrenceDateTime', 'occurrencePeriod', 'occurrenceTiming'],
  occurred: ['occurredDateTime'],
  deceased: ['deceasedDateTime'],
};

type Row = readonly [
  name: string,
  type: ParameterType,
  paths: string,
  options?: { class?: ParameterClass; targets?: string; where?: string },
];
const SEALED = { class: 'sealed' } as const;
const BLIND = { class: 'blind' } as const;
const PATIENT = { targets: 'Patient' } as const;

const SUBJECT: readonly Row[] = [
  ['patient', 'reference', 'subject', PATIENT],
  ['subject', 'reference', 'subject'],
];
const ADDRESS: readonly Row[] = [
  ['address', 'string', 'address'],
  ['address-city', 'string', 'address.city'],
  ['address-state', 'string', 'address.state'],
  ['address-postalcode', 'string', 'address.postalCode'],
  ['address-country', 'string', 'address.country'],
];
const NAME: readonly Row[] = [
  ['name', 'string', 'name'],
  ['family', 'string', 'name.family'],
  ['given', 'string', 'name.given'],
];
const TELECOM: readonly Row[] = [
  ['telecom', 'token', 'telecom'],
  ['phone', 'token', 'telecom', { where: 'system=phone' }],
  ['email', 'token', 'telecom', { where: 'system=email' }],
];
const sealed = (rows: readonly Row[]): readonly Row[] =>
  rows.map(([name, type, paths, options]) => [name, type, paths, { ...options, class: 'sealed' }]);

const COMMON: readonly Row[] = [
  ['_profile', 'uri', 'meta.profile'],
  ['_tag', 'token', 'meta.tag'],
  ['_security', 'token', 'meta.security'],
];

const ROWS: Readonly<Record<string, readonly Row[]>> = {
  Patient: [
    ['identifier', 'token', 'identifier', BLIND],
    ['active', 'token', 'active'],
    ['general-practitioner', 'reference', 'generalPractitioner'],
    ['organization', 'reference', 'managingOrganization'],
    ...sealed(NAME),
    ['birthdate', 'date', 'birthDate', SEALED],
    ['death-date', 'date', 'deceased[x]', SEALED],
    ['gender', 'token', 'gender', SEALED],
    ['language', 'token', 'communication.language', SEALED],
    ...sealed(ADDRESS),
    ...sealed(TELECOM),
  ],
  Practitioner: [
    ['identifier', 'token', 'identifier'],
    ['active', 'token', 'active'],
    ['gender', 'token', 'gender'],
    ...NAME,
    ...TELECOM,
    ...ADDRESS,
  ],
  Organization: [
    ['identifier', 'token', 'identifier'],
    ['active', 'token', 'active'],
    ['type', 'token', 'type'],
    ['name', 'string', 'name|alias'],
    ['partof', 'reference', 'partOf'],
    ...ADDRESS,
  ],
  Observation: [
    ['identifier', 'token', 'identifier', BLIND],
    ['status', 'token', 'status'],
    ['category', 'token', 'category'],
    ['code', 'token', 'code'],
    ['combo-code', 'token', 'code|component.code'],
    ['component-code', 'token', 'component.code'],
    ['date', 'date', 'effective[x]'],
    ...SUBJECT,
    ['encounter', 'reference', 'encounter'],
    ['performer', 'reference', 'performer'],
    ['based-on', 'reference', 'basedOn'],
    ['part-of', 'reference', 'partOf'],
    ['has-member', 'reference', 'hasMember'],
    ['derived-from', 'reference', 'derivedFrom'],
    ['specimen', 'reference', 'specimen'],
    ['device', 'reference', 'device'],
    ['focus', 'reference', 'focus'],
    ['method', 'token', 'method'],
    ['data-absent-reason', 'token', 'dataAbsentReason'],
    ['component-data-absent-reason', 'token', 'component.dataAbsentReason'],
    ['value-quantity', 'quantity', 'valueQuantity', SEALED],
    ['value-concept', 'token', 'valueCodeableConcept', SEALED],
    ['value-string', 'string', 'valueString|valueCodeableConcept.text', SEALED],
    ['value-date', 'date', 'valueDateTime|valuePeriod', SEALED],
    ['component-value-quantity', 'quantity', 'component.valueQuantity', SEALED],
    ['component-value-concept', 'token', 'component.valueCodeableConcept', SEALED],
    ['combo-value-quantity', 'quantity', 'valueQuantity|component.valueQuantity', SEALED],
    ['combo-value-concept', 'token', 'valueCodeableConcept|component.valueCodeableConcept', SEALED],
  ],
  DiagnosticReport: [
    ['identifier', 'token', 'identifier', BLIND],
    ['status', 'token', 'status'],
    ['category', 'token', 'category'],
    ['code', 'token', 'code'],
    ['conclusion', 'token', 'conclusionCode'],
    ['date', 'date', 'effective[x]'],
    ['issued', 'date', 'issued'],
    ...SUBJECT,
    ['encounter', 'reference', 'encounter'],
    ['performer', 'reference', 'performer'],
    ['results-interpreter', 'reference', 'resultsInterpreter'],
    ['based-on', 'reference', 'basedOn'],
    ['result', 'reference', 'result'],
    ['specimen', 'reference', 'specimen'],
  ],
  Procedure: [
    ['identifier', 'token', 'identifier', BLIND],
    ['status', 'token', 'status'],
    ['category', 'token', 'category'],
    ['code', 'token', 'code'],
    ['reason-code', 'token', 'reasonCode'],
    ['date', 'date', 'performed[x]'],
    ...SUBJECT,
    ['encounter', 'reference', 'encounter'],
    ['performer', 'reference', 'performer.actor'],
    ['based-on', 'reference', 'basedOn'],
    ['part-of', 'reference', 'partOf'],
    ['reason-reference', 'reference', 'reasonReference'],
    ['location', 'reference', 'location'],
    ['instantiates-uri', 'uri', 'instantiatesUri'],
  ],
  ServiceRequest: [
    ['identifier', 'token', 'identifier', BLIND],
    ['requisition', 'token', 'requisition', BLIND],
    ['status', 'token', 'status'],
    ['intent', 'token', 'intent'],
    ['priority', 'token', 'priority'],
    ['category', 'token', 'category'],
    ['code', 'token', 'code'],
    ['body-site', 'token', 'bodySite'],
    ['performer-type', 'token', 'performerType'],
    ['authored', 'date', 'authoredOn'],
    ['occurrence', 'date', 'occurrence[x]'],
    ...SUBJECT,
    ['encounter', 'reference', 'encounter'],
    ['requester', 'reference', 'requester'],
    ['performer', 'reference', 'performer'],
    ['based-on', 'reference', 'basedOn'],
    ['replaces', 'reference', 'replaces'],
    ['specimen', 'reference', 'specimen'],
  ],
  BodyStructure: [
    ['identifier', 'token', 'identifier', BLIND],
    ['location', 'token', 'location'],
    ['morphology', 'token', 'morphology'],
    ['patient', 'reference', 'patient', PATIENT],
  ],
  DocumentReference: [
    ['identifier', 'token', 'masterIdentifier|identifier', BLIND],
    ['status', 'token', 'status'],
    ['type', 'token', 'type'],
    ['category', 'token', 'category'],
    ['date', 'date', 'date'],
    ['period', 'date', 'context.period'],
    ...SUBJECT,
    ['encounter', 'reference', 'context.encounter'],
    ['author', 'reference', 'author'],
    ['authenticator', 'reference', 'authenticator'],
    ['custodian', 'reference', 'custodian'],
    ['related', 'reference', 'context.related'],
    ['relatesto', 'reference', 'relatesTo.target'],
    ['relation', 'token', 'relatesTo.code'],
    ['event', 'token', 'context.event'],
    ['facility', 'token', 'context.facilityType'],
    ['setting', 'token', 'context.practiceSetting'],
    ['format', 'token', 'content.format'],
    ['contenttype', 'token', 'content.attachment.contentType'],
    ['language', 'token', 'content.attachment.language'],
    ['location', 'uri', 'content.attachment.url'],
    ['security-label', 'token', 'securityLabel'],
    ['description', 'string', 'description', SEALED],
  ],
  Provenance: [
    ['patient', 'reference', 'target', PATIENT],
    ['target', 'reference', 'target'],
    ['agent', 'reference', 'agent.who'],
    ['agent-type', 'token', 'agent.type'],
    ['agent-role', 'token', 'agent.role'],
    ['entity', 'reference', 'entity.what'],
    ['location', 'reference', 'location'],
    ['recorded', 'date', 'recorded'],
    ['when', 'date', 'occurred[x]'],
    ['signature-type', 'token', 'signature.type'],
  ],
  Consent: [
    ['identifier', 'token', 'identifier'],
    ['status', 'token', 'status'],
    ['scope', 'token', 'scope'],
    ['category', 'token', 'category'],
    ['patient', 'reference', 'patient', PATIENT],
    ['consentor', 'reference', 'performer'],
    ['organization', 'reference', 'organization'],
    ['actor', 'reference', 'provision.actor.reference'],
    ['action', 'token', 'provision.action'],
    ['purpose', 'token', 'provision.purpose'],
    ['security-label', 'token', 'provision.securityLabel'],
    ['date', 'date', 'dateTime'],
    ['period', 'date', 'provision.period'],
  ],
  AuditEvent: [
    ['patient', 'reference', 'agent.who|entity.what', PATIENT],
    ['date', 'date', 'recorded'],
  ],
};

function parsePaths(paths: string): string[][] {
  return paths.split('|').map((path) => path.split('.'));
}

function parameter([name, type, paths, options]: Row): SearchParameter {
  const [member, is] = options?.where?.split('=') ?? [];
  return {
    name,
    type,
    class: options?.class ?? 'clear',
    paths: parsePaths(paths),
    targets: options?.targets?.split(',') ?? [],
    ...(member !== undefined && is !== undefined ? { where: { member, is } } : {}),
  };
}

/** Composites of Observation: code and value of one element, `code$value`. All sealed, for they compare values. */
function composites(): SearchParameter[] {
  const made: SearchParameter[] = [];
  const kinds: readonly (readonly [string, ParameterType, string])[] = [
    ['quantity', 'quantity', 'valueQuantity'],
    ['concept', 'token', 'valueCodeableConcept'],
    ['string', 'string', 'valueString|valueCodeableConcept.text'],
    ['date', 'date', 'valueDateTime|valuePeriod'],
  ];
  for (const [prefix, bases] of [
    ['code-value', [[]]],
    ['component-code-value', [['component']]],
    ['combo-code-value', [[], ['component']]],
  ] as const) {
    for (const [suffix, type, paths] of kinds) {
      if (prefix !== 'code-value' && (suffix === 'string' || suffix === 'date')) continue;
      const values: [CompositePart, CompositePart] = [
        { type: 'token', paths: [['code']] },
        { type, paths: parsePaths(paths) },
      ];
      made.push({ name: `${prefix}-${suffix}`, type: 'composite', class: 'sealed', paths: [], targets: [], parts: { bases, values } });
    }
  }
  return made;
}

/** Resource type -> parameter name -> parameter. `_id` and `_lastUpdated` hold for every type and are not listed. */
export const SEARCH_PARAMETERS: ReadonlyMap<string, ReadonlyMap<string, SearchParameter>> = new Map(
  Object.entries(ROWS).map(([type, rows]) => {
    // Audit events lie in no index of ours: the audit room finds them by these alone.
    const all = [...(type === 'AuditEvent' ? [] : COMMON), ...rows].map(parameter);
    if (type === 'Observation') all.push(...composites());
    return [type, new Map(all.map((p) => [p.name, p]))];
  }),
);

/** Where the clinical time of a resource lies, for the data period of a permission. First that is present counts. */
export const CLINICAL_TIME: Readonly<Record<string, readonly string[]>> = {
  Observation: ['effective[x]', 'issued'],
  DiagnosticReport: ['effective[x]', 'issued'],
  Procedure: ['performed[x]'],
  ServiceRequest: ['occurrence[x]', 'authoredOn'],
  DocumentReference: ['context.period', 'date'],
};
