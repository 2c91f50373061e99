import { decimal, type JsonObject, type Resource } from '../json.ts';
import type { Draft, Expectation } from '../record-store.ts';
import { ARIA_HOSPITAL, ariaClinician, ariaPatient, CLINICIANS, type Person } from './people.ts';

const SNOMED = 'http://snomed.info/sct';
const CODEX = 'http://hl7.org/fhir/us/codex-radiation-therapy/StructureDefinition/';
const MCODE = 'http://hl7.org/fhir/us/mcode/StructureDefinition/';
const VARIAN = 'http://varian.com/fhir/v1/StructureDefinition/';
const NAMED = 'http://varian.com/fhir/identifier/';

/** STU1 and ARIA so far; STU2 (aria-and-oncology.md section 5.4 item 1). */
type Category = '108290001' | '1287742003';
type ModalityName = keyof typeof MODALITIES;
const MODALITIES = {
  photons: { code: '1156506007', display: 'External beam radiation therapy using photons (procedure)' },
  electrons: { code: '45643008', display: 'External beam radiation therapy using electrons (procedure)' },
} as const;
type TechniqueName = keyof typeof TECHNIQUES;
const TECHNIQUES = {
  conformal: { code: '1162782007', display: 'Three dimensional external beam radiation therapy (procedure)' },
  vmat: { code: '1156530009', display: 'Volumetric modulated arc therapy (procedure)' },
  imrt: { code: '441799006', display: 'Intensity modulated radiation therapy (procedure)' },
  /** A pick-list entry of the site that nobody has mapped. */
  enFace: undefined,
} as const;

const INTENTS = {
  curative: { system: SNOMED, code: '373808002', display: 'Curative - procedure intent' },
  palliative: { system: SNOMED, code: '363676003', display: 'Palliative - procedure intent' },
  /** Local pick list without a SNOMED code. */
  radical: { system: 'http://varian.com/fhir/CodeSystem/radiotherapy-therapeutic-intent', code: 'Radical', display: 'Radical' },
} as const;

/** A reference point; ARIA makes a BodyStructure of each. */
export interface Volume {
  serial: number;
  name: string;
  type: 'PTV' | 'CTV' | 'GTV' | 'POINT';
}
/** cGy, digits as the server writes them. */
export interface Delivered {
  volume: Volume;
  totalCGy: string;
  fractions: number;
  uniform?: boolean;
  /** False: the plan's dose to a reference point that is not its primary one. */
  primary?: boolean;
  /** Dose at one located point, not to a volume. */
  point?: boolean;
}
export interface Planned {
  volume: Volume;
  fractionCGy: string;
  totalCGy: string;
  fractions: number;
}
type RequestStatus = 'active' | 'completed' | 'revoked' | 'on-hold';
type TreatmentStatus = 'in-progress' | 'completed' | 'stopped' | 'entered-in-error';

interface Phase {
  serial: number;
  name: string;
  phaseId: string;
  requestStatus: RequestStatus;
  /** Absent: planned only. */
  status?: TreatmentStatus;
  modality: ModalityName;
  technique: TechniqueName;
  fractionsPrescribed: number;
  fractionsDelivered: number;
  prescribed: readonly { target: string; fractionCGy: string; totalCGy: string }[];
  planned: readonly Planned[];
  delivered: readonly Delivered[];
  start?: string;
  end?: string;
  /** Serial of the phase that this one replaces. */
  replaces?: number;
  revisionReason?: string;
}
export interface Plan {
  serial: number;
  name: string;
  phase: number;
  requestStatus: RequestStatus;
  status?: TreatmentStatus;
  modality: ModalityName;
  technique: TechniqueName;
  fractionsPlanned: number;
  fractionsDelivered: number;
  planned: readonly Planned[];
  delivered: readonly Delivered[];
  start?: string;
  end?: string;
  replaces?: number;
  revisionReason?: string;
}
export interface Course {
  person: Person;
  serial: number;
  name: string;
  category: Category;
  intent: keyof typeof INTENTS;
  status: TreatmentStatus;
  requestStatus: RequestStatus;
  sessions: number;
  diagnosis: { code: string; display: string };
  sites: readonly { local: string; snomed?: string; display?: string }[];
  reirradiation?: boolean;
  volumes: readonly Volume[];
  delivered: readonly Delivered[];
  planned: readonly Planned[];
  phases: readonly Phase[];
  plans: readonly Plan[];
  start?: string;
  end?: string;
  /** lastUpdated of requests and volumes, and of treatments. */
  recorded: string;
  recordedTreatment: string;
  outcome?: Extract<Expectation, { why: string }>;
}

/** The name of a course's subject. */
function courseSubject(course: { person: Person; serial: number }): string {
  return `radiation-dose:aria:course/${course.person.ariaSerial}-${course.serial}`;
}

/** Everything that ARIA tells of one course: requests of three levels, treatments of three levels, volumes. */
export function courseDrafts(course: Course): Draft[] {
  const expect: Expectation = course.outcome ?? {
    outcome: 'own',
    subject: courseSubject(course),
    category: 'radiation-dose',
    patient: course.person.key,
    ...(course.status === 'entered-in-error' ? { withdraws: true as const } : {}),
  };
  const drafts: Draft[] = [];
  const add = (resource: Resource, profiles: readonly string[], recorded: string) =>
    drafts.push({ source: 'aria', stream: 'aria/courses', resource, meta: { profile: profiles }, recorded, expect });
  const asked = (level: string, varian: string) => [`${CODEX}codexrt-radiotherapy-${level}`, `${VARIAN}${varian}`];

  for (const volume of course.volumes) {
    add(
      volumeResource(course.person, volume),
      [`${CODEX}codexrt-radiotherapy-volume`, `${MCODE}mcode-radiotherapy-volume`, `${VARIAN}RadiotherapyVolume`],
      course.recorded,
    );
  }
  add(coursePrescription(course), asked('course-prescription', 'RadiotherapyCoursePrescription'), course.recorded);
  add(plannedCourse(course), asked('planned-course', 'RadiotherapyPlannedCourse'), course.recorded);
  add(
    courseSummary(course),
    [`${MCODE}mcode-radiotherapy-course-summary`, ...asked('course-summary', 'RadiotherapyCourseSummary')],
    course.recordedTreatment,
  );
  for (const phase of course.phases) {
    add(phasePrescription(course, phase), asked('phase-prescription', 'RadiotherapyPhasePrescription'), course.recorded);
    add(plannedPhase(course, phase), asked('planned-phase', 'RadiotherapyPlannedPhase'), course.recorded);
    if (phase.status)
      add(treatedPhase(course, phase, phase.status), asked('treated-phase', 'RadiotherapyTreatedPhase'), course.recordedTreatment);
  }
  for (const plan of course.plans) {
    add(treatmentPlan(course, plan), asked('treatment-plan', 'RadiotherapyTreatmentPlan'), course.recorded);
    if (plan.status)
      add(treatedPlan(course, plan, plan.status), asked('treated-plan', 'RadiotherapyTreatedPlan'), course.recordedTreatment);
  }
  return drafts;
}

// -- references ------------------------------------------------------------------------------------------------------

function link(course: Course, kind: string, serial: number, display: string): JsonObject {
  const type = /Summary|Treated/.test(kind) ? 'Procedure' : 'ServiceRequest';
  return { reference: `${type}/Radiotherapy${kind}-${course.person.ariaSerial}-${serial}`, display };
}
function phaseOf(course: Course, plan: Plan): Phase {
  const phase = course.phases.find((one) => one.serial === plan.phase);
  if (!phase) throw new Error(`plan ${plan.serial} of no phase`);
  return phase;
}
const cGy = (text: string): JsonObject => ({ value: decimal(text), system: 'http://unitsofmeasure.org', code: 'cGy' });
const volumeReference = (volume: Volume): JsonObject => ({
  reference: `BodyStructure/BodyStructure-PV-${volume.serial}`,
  display: volume.name,
});
const snomed = (code: string, display: string): JsonObject => ({ coding: [{ system: SNOMED, code, display }] });

// -- extensions (aria-and-oncology.md section 5.2) -------------------------------------------------------------------

function technique(name: TechniqueName): JsonObject {
  const known = TECHNIQUES[name];
  if (known) return snomed(known.code, known.display);
  const local = { system: 'http://varian.com/fhir/CodeSystem/radiotherapy-prescription-technique', code: 'En face', display: 'En face' };
  return {
    coding: [local, { system: 'http://terminology.hl7.org/CodeSystem/v3-NullFlavor', code: 'UNC', display: 'un-encoded' }],
    text: 'En face',
  };
}
function modalityAndTechnique(modality: ModalityName, techniqueName: TechniqueName): JsonObject {
  const { code, display } = MODALITIES[modality];
  return {
    extension: [
      { url: `${MCODE}mcode-radiotherapy-modality`, valueCodeableConcept: snomed(code, display) },
      { url: `${MCODE}mcode-radiotherapy-technique`, valueCodeableConcept: technique(techniqueName) },
    ],
    url: `${MCODE}mcode-radiotherapy-modality-and-technique`,
  };
}
/** `fractionsDelivered` and uniform fractionation belong to the course level only. */
function deliveredToVolume(dose: Delivered, level: 'course' | 'below'): JsonObject {
  const ofCourse: JsonObject[] =
    level === 'course'
      ? [
          { url: 'fractionsDelivered', valueUnsignedInt: dose.fractions },
          { url: `${CODEX}codexrt-radiotherapy-uniform-fractionation`, valueBoolean: dose.uniform ?? true },
        ]
      : [];
  return {
    extension: [
      { url: 'volume', valueReference: volumeReference(dose.volume) },
      { url: 'totalDoseDelivered', valueQuantity: cGy(dose.totalCGy) },
      ...ofCourse,
      { url: `${CODEX}codexrt-radiotherapy-primary-plan-dose`, valueBoolean: dose.primary ?? true },
      { url: `${CODEX}codexrt-radiotherapy-point-dose`, valueBoolean: dose.point ?? false },
    ],
    url: `${MCODE}mcode-radiotherapy-dose-delivered-to-volume`,
  };
}
function plannedToVolume(dose: Planned, withFraction: boolean): JsonObject {
  return {
    extension: [
      { url: 'volume', valueReference: volumeReference(dose.volume) },
      ...(withFraction ? [{ url: 'fractionDose', valueQuantity: cGy(dose.fractionCGy) }] : []),
      { url: 'totalDose', valueQuantity: cGy(dose.totalCGy) },
      { url: 'fractions', valuePositiveInt: dose.fractions },
    ],
    url: `${CODEX}codexrt-radiotherapy-dose-planned-to-volume`,
  };
}
function fractionsDelivered(count: number): JsonObject {
  return { url: `${CODEX}codexrt-radiotherapy-fractions-delivered`, valueUnsignedInt: count };
}
function revision(reason: string | undefined): JsonObject[] {
  return reason === undefined
    ? []
    : [{ url: `${CODEX}codexrt-radiotherapy-reason-for-revision-or-adaptation`, valueCodeableConcept: { text: reason } }];
}
function courseModalities(course: Course): JsonObject[] {
  const pairs = new Map(course.plans.map((plan) => [`${plan.modality} ${plan.technique}`, plan]));
  return [...pairs.values()].map((plan) => modalityAndTechnique(plan.modality, plan.technique));
}

// -- resources -------------------------------------------------------------------------------------------------------

const CODES = {
  course: snomed('1217123003', 'Radiotherapy course of treatment (regime/therapy)'),
  phase: snomed('1222565005', 'Radiotherapy treatment phase (regime/therapy)'),
  plan: snomed('1255724003', 'Radiotherapy treatment plan (regime/therapy)'),
} as const;

function common(course: Course, level: keyof typeof CODES, kind: string, serial: number): Resource {
  const type = /Summary|Treated/.test(kind) ? 'Procedure' : 'ServiceRequest';
  const category = { coding: [{ system: SNOMED, code: course.category, display: 'Radiation oncology AND/OR radiotherapy' }] };
  return {
    resourceType: type,
    id: `Radiotherapy${kind}-${course.person.ariaSerial}-${serial}`,
    category: type === 'Procedure' ? category : [category],
    code: CODES[level],
    subject: ariaPatient(course.person),
  };
}
const identifiers = (named: string, name: string, keyed: string, serial: number): JsonObject[] => [
  { use: 'usual', system: `${NAMED}${named}`, value: name },
  { use: 'official', system: `${NAMED}${keyed}/RadOnc-Id`, value: String(serial) },
];
const courseIdentifiers = (course: Course): JsonObject[] =>
  identifiers('radiotherapyCourseId', course.name, 'RadiotherapyCourse', course.serial);
const intent = (course: Course): JsonObject => ({
  url: `${MCODE}mcode-procedure-intent`,
  valueCodeableConcept: { coding: [INTENTS[course.intent]], text: INTENTS[course.intent].display },
});
const reason = (course: Course): JsonObject[] => [
  { coding: [{ system: 'http://hl7.org/fhir/sid/icd-10', code: course.diagnosis.code, display: course.diagnosis.display }] },
];
const bodySites = (course: Course): JsonObject[] =>
  course.sites.map((site) => ({
    coding: [
      { system: 'http://varian.com/fhir/CodeSystem/radiotherapy-prescription-site', code: site.local, display: site.local },
      ...(site.snomed === undefined ? [] : [{ system: SNOMED, code: site.snomed, display: site.display ?? site.local }]),
    ],
    text: site.local,
  }));
function performed(start: string | undefined, end: string | undefined): JsonObject {
  return start === undefined ? {} : { performedPeriod: { start, end } };
}

function coursePrescription(course: Course): Resource {
  return {
    ...common(course, 'course', 'CoursePrescription', course.serial),
    extension: [intent(course)],
    identifier: courseIdentifiers(course),
    status: course.requestStatus,
    intent: 'original-order',
    requester: ariaClinician(CLINICIANS.oncologist),
    reasonCode: reason(course),
    bodySite: bodySites(course),
  };
}

function plannedCourse(course: Course): Resource {
  return {
    ...common(course, 'course', 'PlannedCourse', course.serial),
    extension: [intent(course), ...courseModalities(course), ...course.planned.map((dose) => plannedToVolume(dose, false))],
    identifier: courseIdentifiers(course),
    basedOn: [link(course, 'CoursePrescription', course.serial, course.name)],
    status: course.requestStatus,
    intent: 'filler-order',
    reasonCode: reason(course),
  };
}

function courseSummary(course: Course): Resource {
  return {
    ...common(course, 'course', 'CourseSummary', course.serial),
    extension: [
      intent(course),
      { url: `${MCODE}mcode-radiotherapy-sessions`, valueUnsignedInt: course.sessions },
      ...(course.reirradiation === undefined
        ? []
        : [{ url: `${CODEX}codexrt-radiotherapy-course-involves-reirradiation`, valueBoolean: course.reirradiation }]),
      ...courseModalities(course),
      ...course.delivered.map((dose) => deliveredToVolume(dose, 'course')),
    ],
    identifier: courseIdentifiers(course),
    basedOn: [link(course, 'PlannedCourse', course.serial, course.name), link(course, 'CoursePrescription', course.serial, course.name)],
    status: course.status,
    ...performed(course.start, course.end),
    asserter: ariaClinician(CLINICIANS.oncologist),
    performer: [{ actor: { reference: `Organization/${ARIA_HOSPITAL.id}`, display: ARIA_HOSPITAL.name } }],
    reasonCode: reason(course),
    bodySite: bodySites(course),
  };
}

function phasePrescription(course: Course, phase: Phase): Resource {
  return {
    ...common(course, 'phase', 'PhasePrescription', phase.serial),
    extension: [
      intent(course),
      modalityAndTechnique(phase.modality, phase.technique),
      { url: `${CODEX}codexrt-radiotherapy-fractions-prescribed`, valuePositiveInt: phase.fractionsPrescribed },
      // ARIA names a prescription's target; it does not refer to the reference point's BodyStructure.
      ...phase.prescribed.map((dose) => ({
        extension: [
          {
            url: 'volume',
            valueReference: {
              identifier: {
                use: 'official',
                system: `${NAMED}radiotherapyDoseReferenceId`,
                value: `RadiotherapyPhasePrescription-${course.person.ariaSerial}-${phase.serial}-${dose.target}`,
              },
              display: dose.target,
            },
          },
          { url: 'fractionDose', valueQuantity: cGy(dose.fractionCGy) },
          { url: 'totalDose', valueQuantity: cGy(dose.totalCGy) },
        ],
        url: `${CODEX}codexrt-radiotherapy-dose-prescribed-to-volume`,
      })),
    ],
    identifier: [
      ...identifiers('radiotherapyPrescriptionId', phase.name, 'RadiotherapyPhase', phase.serial),
      { use: 'secondary', system: `${NAMED}radiotherapyPhaseId`, value: phase.phaseId },
    ],
    basedOn: [link(course, 'CoursePrescription', course.serial, course.name)],
    status: phase.requestStatus,
    intent: 'original-order',
    requester: ariaClinician(CLINICIANS.oncologist),
    bodySite: bodySites(course),
    ...replaces(course, 'PhasePrescription', phase),
  };
}

function replaces(course: Course, kind: string, one: { replaces?: number; name: string }): JsonObject {
  return one.replaces === undefined ? {} : { replaces: [link(course, kind, one.replaces, one.name)] };
}

function plannedPhase(course: Course, phase: Phase): Resource {
  return {
    ...common(course, 'phase', 'PlannedPhase', phase.serial),
    extension: [
      modalityAndTechnique(phase.modality, phase.technique),
      { url: `${CODEX}codexrt-radiotherapy-fractions-planned`, valuePositiveInt: phase.fractionsPrescribed },
      ...revision(phase.revisionReason),
      ...phase.planned.map((dose) => plannedToVolume(dose, true)),
    ],
    identifier: identifiers('radiotherapyPrescriptionId', phase.name, 'RadiotherapyPhase', phase.serial),
    basedOn: [link(course, 'PhasePrescription', phase.serial, phase.name), link(course, 'PlannedCourse', course.serial, course.name)],
    ...replaces(course, 'PlannedPhase', phase),
    status: phase.requestStatus,
    intent: 'filler-order',
  };
}

function treatedPhase(course: Course, phase: Phase, status: TreatmentStatus): Resource {
  return {
    ...common(course, 'phase', 'TreatedPhase', phase.serial),
    extension: [
      modalityAndTechnique(phase.modality, phase.technique),
      ...phase.delivered.map((dose) => deliveredToVolume(dose, 'below')),
      fractionsDelivered(phase.fractionsDelivered),
      ...revision(phase.revisionReason),
    ],
    identifier: identifiers('radiotherapyPrescriptionId', phase.name, 'RadiotherapyPhase', phase.serial),
    basedOn: [link(course, 'PlannedPhase', phase.serial, phase.name), link(course, 'PhasePrescription', phase.serial, phase.name)],
    partOf: [link(course, 'CourseSummary', course.serial, course.name)],
    status,
    ...performed(phase.start, phase.end),
    reasonCode: reason(course),
  };
}

function treatmentPlan(course: Course, plan: Plan): Resource {
  const phase = phaseOf(course, plan);
  return {
    ...common(course, 'plan', 'TreatmentPlan', plan.serial),
    extension: [
      modalityAndTechnique(plan.modality, plan.technique),
      { url: `${CODEX}codexrt-radiotherapy-fractions-planned`, valuePositiveInt: plan.fractionsPlanned },
      ...revision(plan.revisionReason),
      ...plan.planned.map((dose) => plannedToVolume(dose, true)),
    ],
    identifier: identifiers('radiotherapyPlanId', plan.name, 'RadiotherapyPlan', plan.serial),
    basedOn: [
      link(course, 'PhasePrescription', phase.serial, phase.name),
      link(course, 'PlannedPhase', phase.serial, phase.name),
      link(course, 'PlannedCourse', course.serial, course.name),
    ],
    ...replaces(course, 'TreatmentPlan', plan),
    status: plan.requestStatus,
    intent: 'filler-order',
  };
}

function treatedPlan(course: Course, plan: Plan, status: TreatmentStatus): Resource {
  const phase = phaseOf(course, plan);
  return {
    ...common(course, 'plan', 'TreatedPlan', plan.serial),
    extension: [
      modalityAndTechnique(plan.modality, plan.technique),
      ...plan.delivered.map((dose) => deliveredToVolume(dose, 'below')),
      fractionsDelivered(plan.fractionsDelivered),
      ...revision(plan.revisionReason),
    ],
    identifier: identifiers('radiotherapyPlanId', plan.name, 'RadiotherapyPlan', plan.serial),
    basedOn: [link(course, 'PhasePrescription', phase.serial, phase.name), link(course, 'TreatmentPlan', plan.serial, plan.name)],
    // Two parents: the phase and, once more, the course.
    partOf: [link(course, 'TreatedPhase', phase.serial, phase.name), link(course, 'CourseSummary', course.serial, course.name)],
    status,
    ...performed(plan.start, plan.end),
  };
}

/** A reference point: a name and a type, no anatomy. */
function volumeResource(person: Person, volume: Volume): Resource {
  const uid = `urn:oid:1.2.826.0.1.3680043.10.999.${person.ariaSerial}.${volume.serial}`;
  const types = {
    PTV: { snomed: '228793007', display: 'Planning target volume (observable entity)' },
    CTV: { snomed: '228792002', display: 'Clinical target volume (observable entity)' },
    GTV: { snomed: '228791009', display: 'Gross tumor volume (observable entity)' },
    POINT: undefined,
  }[volume.type];
  const local = { system: 'http://varian.com/fhir/CodeSystem/radiotherapy-volume-type', code: volume.type, display: volume.type };
  return {
    resourceType: 'BodyStructure',
    id: `BodyStructure-PV-${volume.serial}`,
    extension: ['daily-dose-limit', 'session-dose-limit', 'total-dose-limit'].map((limit) => ({
      url: `${VARIAN}${limit}`,
      valueQuantity: cGy(limit === 'total-dose-limit' ? '100000.0' : '10000.0'),
    })),
    identifier: [
      { use: 'usual', system: `${NAMED}radiotherapyDoseReferenceId`, value: volume.name },
      { use: 'official', system: 'urn:dicom:uid', value: uid },
      { use: 'secondary', system: `${NAMED}RadiotherapyVolume/RadOnc-Id`, value: String(volume.serial) },
    ],
    morphology: { coding: [...(types ? [{ system: SNOMED, code: types.snomed, display: types.display }] : []), local] },
    patient: ariaPatient(person),
  };
}
