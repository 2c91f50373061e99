import type { JsonObject, Resource } from '../json.ts';
import type { Draft } from '../record-store.ts';

/** Identifier system of the EHR's medical record numbers; ARIA carries the same number as ARIAID1. */
const MRN_SYSTEM = 'urn:oid:2.16.840.1.113883.19.5';
const ARIA_ID1_SYSTEM = 'http://varian.com/fhir/identifier/Patient/ARIAID1';

export interface Person {
  /** Names the person in truth() and in tests; never on the wire. */
  key: string;
  mrn?: string;
  ehrId: string;
  /** Database serial at ARIA: `Patient-<serial>`. */
  ariaSerial: number;
  family: string;
  given: readonly string[];
  /** The family name stands first where the name is written out. */
  familyFirst?: true;
  /** A second name in Latin letters. */
  latin?: { family: string; given: readonly string[] };
  gender?: 'female' | 'male' | 'other' | 'unknown';
  birthDate?: string;
  deceased?: string;
  test?: true;
}

/** The people of the stories. All invented. */
export const PEOPLE = {
  seoyeon: {
    key: 'seoyeon',
    mrn: '00417733',
    ehrId: 'pt-k4m9x2',
    ariaSerial: 2101,
    family: '김',
    given: ['서연'],
    familyFirst: true,
    latin: { family: 'Kim', given: ['Seo-yeon'] },
    gender: 'female',
    birthDate: '1971-04-23',
  },
  phuong: {
    key: 'phuong',
    mrn: '00820915',
    ehrId: 'pt-w7c3h8',
    ariaSerial: 2102,
    family: 'Nguyễn',
    given: ['Thị', 'Minh', 'Phượng'],
    familyFirst: true,
    gender: 'female',
    birthDate: '1964-11-08',
  },
  volkov: {
    key: 'volkov',
    mrn: 'A-0093317',
    ehrId: 'pt-t2b6q1',
    ariaSerial: 2103,
    family: 'Волков',
    given: ['Пётр', 'Сергеевич'],
    familyFirst: true,
    latin: { family: 'Volkov', given: ['Pyotr'] },
    gender: 'male',
    birthDate: '1956-02-17',
  },
  okafor: {
    key: 'okafor',
    mrn: '00551208',
    ehrId: 'pt-n9d5v4',
    ariaSerial: 2104,
    family: 'Okafor-Lindqvist',
    given: ['Adaeze', 'Wilhelmina'],
    gender: 'female',
    birthDate: '1949-07-30',
  },
  brennan: {
    key: 'brennan',
    mrn: '00739461',
    ehrId: 'pt-j6f8r7',
    ariaSerial: 2105,
    family: 'Brennan',
    given: ['Tomás'],
    gender: 'male',
    birthDate: '1961-12-05',
  },
  whitcombe: {
    key: 'whitcombe',
    mrn: '00064482',
    ehrId: 'pt-z3g1l5',
    ariaSerial: 2106,
    family: 'Featherstonehaugh-Whitcombe',
    given: ['Eleanor', 'Marguerite', 'Anne-Sophie'],
    gender: 'unknown',
    birthDate: '1938-09',
    deceased: '2026-02-20T04:10:00-05:00',
  },
  /** A test patient of the ARIA administrators: to be left out. */
  phantom: {
    key: 'phantom',
    mrn: 'QA-PHANTOM-7',
    ehrId: 'pt-qa0007',
    ariaSerial: 2190,
    family: 'Zztest',
    given: ['Phantom'],
    gender: 'other',
    birthDate: '2000-01-01',
    test: true,
  },
  /** Registered in an emergency room: no medical record number of a configured system yet. */
  unnumbered: {
    key: 'unnumbered',
    ehrId: 'pt-u8s4y9',
    ariaSerial: 2191,
    family: 'Delacroix-Moreau',
    given: ['Théophile'],
    gender: 'male',
    birthDate: '1983-06-14',
  },
} as const satisfies Record<string, Person>;

export interface Clinician {
  ehrId: string;
  ariaSerial: number;
  family: string;
  given: string;
  npi: string;
}
export const CLINICIANS = {
  oncologist: { ehrId: 'pr-r5k2a8', ariaSerial: 1201, family: 'Castellanos', given: 'Inés', npi: '1994000010' },
  pathologist: { ehrId: 'pr-h1m7e3', ariaSerial: 1202, family: 'Abernathy', given: 'Desmond', npi: '1994000028' },
  internist: { ehrId: 'pr-c9t4w6', ariaSerial: 1203, family: 'Haddad', given: 'Leïla', npi: '1994000036' },
} as const satisfies Record<string, Clinician>;

export const LABORATORY = { id: 'org-lab-5q8', name: 'Cedar Hollow Clinical Laboratory' };
export const HOSPITAL = { id: 'org-hosp-2f1', name: 'Cedar Hollow Medical Center' };
export const ARIA_DEPARTMENT = { id: 'Organization-Dept-10031', name: 'Cedar Hollow Radiation Oncology' };
export const ARIA_HOSPITAL = { id: 'Organization-Prov-7', name: 'Cedar Hollow Medical Center' };

/** `Patient/…` at the EHR; the display is the name, as servers put it there. */
export function ehrPatient(person: Person): JsonObject {
  return { reference: `Patient/${person.ehrId}`, display: displayName(person) };
}
/** `Patient/Patient-…` at ARIA. */
export function ariaPatient(person: Person): JsonObject {
  return { reference: `Patient/${ariaPatientId(person)}`, display: `${person.family}, ${person.given.join(' ')}` };
}
export function ariaPatientId(person: Person): string {
  return `Patient-${person.ariaSerial}`;
}
function displayName(person: Person): string {
  return person.familyFirst ? `${person.family} ${person.given.join(' ')}` : `${person.given.join(' ')} ${person.family}`;
}
export function ehrClinician(clinician: Clinician): JsonObject {
  return { reference: `Practitioner/${clinician.ehrId}`, display: `${clinician.given} ${clinician.family}, MD` };
}
export function ariaClinician(clinician: Clinician): JsonObject {
  return { reference: `Practitioner/Practitioner-${clinician.ariaSerial}`, display: `${clinician.family}, ${clinician.given}` };
}

function names(person: Person): JsonObject[] {
  const official = { use: 'official', text: displayName(person), family: person.family, given: person.given };
  return person.latin ? [official, { use: 'usual', family: person.latin.family, given: person.latin.given }] : [official];
}

/** The Patient resource of the EHR. */
export function ehrPatientResource(person: Person): Resource {
  return {
    resourceType: 'Patient',
    id: person.ehrId,
    identifier: [
      ...(person.mrn === undefined
        ? []
        : [
            {
              use: 'usual',
              type: { coding: [{ system: 'http://terminology.hl7.org/CodeSystem/v2-0203', code: 'MR' }], text: 'Medical Record Number' },
              system: MRN_SYSTEM,
              value: person.mrn,
              assigner: { display: HOSPITAL.name },
            },
          ]),
      { use: 'secondary', system: 'urn:oid:2.16.840.1.113883.19.5.99.7', value: `V${person.ehrId.slice(3).toUpperCase()}` },
    ],
    active: true,
    name: names(person),
    gender: person.gender,
    birthDate: person.birthDate,
    deceasedDateTime: person.deceased,
  };
}

/** The Patient resource of ARIA, which calls the medical record number ARIAID1. */
export function ariaPatientResource(person: Person): Resource {
  const uid = `1.2.826.0.1.3680043.10.999.${person.ariaSerial}`;
  return {
    resourceType: 'Patient',
    id: ariaPatientId(person),
    extension: person.test
      ? [{ url: 'http://varian.com/fhir/v1/StructureDefinition/patient-isTestPatient', valueBoolean: true }]
      : [
          {
            url: 'http://varian.com/fhir/v1/StructureDefinition/patient-status',
            valueCodeableConcept: { coding: [{ system: 'http://varian.com/fhir/CodeSystem/patient-status', code: 'On Treatment' }] },
          },
        ],
    identifier: [
      ...(person.mrn === undefined ? [] : [{ use: 'usual', system: ARIA_ID1_SYSTEM, value: person.mrn }]),
      { system: 'http://varian.com/fhir/identifier/Patient/patient-uid', value: uid },
      { use: 'official', system: 'urn:dicom:uid', value: `urn:oid:${uid}` },
    ],
    active: true,
    name: names(person),
    gender: person.gender,
    birthDate: person.birthDate,
    deceasedDateTime: person.deceased,
  };
}

const US_CORE = 'http://hl7.org/fhir/us/core/StructureDefinition/';
const DIRECTORY = { stream: 'directory', expect: { outcome: 'directory' } } as const;

/** Patients, practitioners, organisations and appointments of both servers. */
export function directoryDrafts(people: readonly Person[], visits: ReadonlyMap<string, number>): Draft[] {
  const recorded = '2025-09-01T08:00:00Z';
  const ariaRecorded = '2025-09-01T03:00:00.410-05:00';
  const drafts: Draft[] = [];
  const add = (source: 'aria' | 'ehr', profile: string, resource: Resource, at = source === 'ehr' ? recorded : ariaRecorded) =>
    drafts.push({ source, ...DIRECTORY, recorded: at, meta: { profile: [profile] }, resource });

  for (const person of people) {
    add('ehr', `${US_CORE}us-core-patient`, ehrPatientResource(person));
    add('aria', 'http://varian.com/fhir/v1/StructureDefinition/Patient', ariaPatientResource(person));
    // A visit more each time that something happens to the patient: the only thing at ARIA that can be asked for by time.
    for (let visit = 0; visit <= (visits.get(person.key) ?? 0); visit++) {
      add('aria', 'http://varian.com/fhir/v1/StructureDefinition/Appointment', appointment(person, visit), '2026-01-12T07:45:00.000-05:00');
    }
  }
  for (const clinician of Object.values(CLINICIANS)) {
    const name = [{ use: 'official', family: clinician.family, given: [clinician.given], suffix: ['MD'] }];
    const npi = { system: 'http://hl7.org/fhir/sid/us-npi', value: clinician.npi };
    add('ehr', `${US_CORE}us-core-practitioner`, {
      resourceType: 'Practitioner',
      id: clinician.ehrId,
      identifier: [npi],
      active: true,
      name,
    });
    add('aria', 'http://varian.com/fhir/v1/StructureDefinition/Practitioner', {
      resourceType: 'Practitioner',
      id: `Practitioner-${clinician.ariaSerial}`,
      identifier: [{ system: 'http://varian.com/fhir/identifier/Practitioner/Id', value: String(clinician.ariaSerial) }, npi],
      active: true,
      name,
    });
  }
  const type = [{ coding: [{ system: 'http://terminology.hl7.org/CodeSystem/organization-type', code: 'prov' }] }];
  const address = [{ line: ['4 Mill Race Road'], city: 'Cedar Hollow', state: 'VT', postalCode: '05999', country: 'US' }];
  add('ehr', `${US_CORE}us-core-organization`, {
    resourceType: 'Organization',
    id: LABORATORY.id,
    identifier: [
      { system: 'http://hl7.org/fhir/sid/us-npi', value: '1994000101' },
      { system: 'urn:oid:2.16.840.1.113883.4.7', value: '47D9990001' },
    ],
    active: true,
    type,
    name: LABORATORY.name,
    address,
    contact: [{ purpose: { text: 'Director' }, name: { text: 'Desmond Abernathy, MD' } }],
  });
  add('ehr', `${US_CORE}us-core-organization`, {
    resourceType: 'Organization',
    id: HOSPITAL.id,
    identifier: [{ system: 'http://hl7.org/fhir/sid/us-npi', value: '1994000119' }],
    active: true,
    type,
    name: HOSPITAL.name,
    address,
  });
  for (const organisation of [ARIA_DEPARTMENT, ARIA_HOSPITAL]) {
    add('aria', 'http://varian.com/fhir/v1/StructureDefinition/Organization', {
      resourceType: 'Organization',
      id: organisation.id,
      active: true,
      type,
      name: organisation.name,
      address,
    });
  }
  return drafts;
}

/** A machine appointment; its number counts the visits of the patient. */
export function appointment(person: Person, visit: number): Resource {
  return {
    resourceType: 'Appointment',
    id: `Appointment-${person.ariaSerial}-${visit + 1}`,
    status: visit === 0 ? 'fulfilled' : 'booked',
    start: visit === 0 ? '2026-01-12T07:30:00-05:00' : '2026-03-04T07:30:00-05:00',
    end: visit === 0 ? '2026-01-12T07:45:00-05:00' : '2026-03-04T07:45:00-05:00',
    participant: [
      { actor: ariaPatient(person), status: 'accepted' },
      { actor: ariaClinician(CLINICIANS.oncologist), status: 'accepted' },
    ],
  };
}
