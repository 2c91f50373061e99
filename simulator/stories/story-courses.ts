import type { Course, Delivered, Planned, Volume } from './courses.ts';
import { PEOPLE } from './people.ts';

/** Doses as the server writes them: cGy with one decimal at least. */
const tenths = (cGy: number): string => cGy.toFixed(1);

/** Left breast: 3 phases, 4 plans, three volumes and a point; the boost volume has dose of the first phase that is not its primary plan's. */
export function breastCourse(): Course {
  const breast: Volume = { serial: 9101, name: 'PTV_Breast_L', type: 'PTV' };
  const nodes: Volume = { serial: 9102, name: 'PTV_SCV_L', type: 'PTV' };
  const boost: Volume = { serial: 9103, name: 'PTV_Boost_L', type: 'PTV' };
  const scar: Volume = { serial: 9104, name: 'CalcPt_Scar', type: 'POINT' };
  const photons = { modality: 'photons', technique: 'conformal' } as const;
  const arc = { modality: 'photons', technique: 'vmat' } as const;
  const electrons = { modality: 'electrons', technique: 'enFace' } as const;
  const first = { start: '2026-01-12T07:34:00-05:00', end: '2026-02-13T07:41:00-05:00' };
  const done = { requestStatus: 'completed', status: 'completed' } as const;
  return {
    person: PEOPLE.seoyeon,
    serial: 7311,
    name: 'C1_Breast_L',
    category: '108290001',
    intent: 'curative',
    status: 'completed',
    requestStatus: 'completed',
    sessions: 30,
    diagnosis: { code: 'C50.412', display: 'Malignant neoplasm of upper-outer quadrant of left female breast' },
    sites: [{ local: 'Breast, Left', snomed: '80248007', display: 'Left breast structure (body structure)' }],
    reirradiation: false,
    volumes: [breast, nodes, boost, scar],
    delivered: [
      { volume: breast, totalCGy: '5000.0', fractions: 25 },
      { volume: nodes, totalCGy: '4500.0', fractions: 25 },
      { volume: boost, totalCGy: '6003.75', fractions: 30, uniform: false },
      { volume: scar, totalCGy: '812.50', fractions: 25, point: true, primary: false },
    ],
    planned: [
      { volume: breast, fractionCGy: '200.0', totalCGy: '5000.0', fractions: 25 },
      { volume: nodes, fractionCGy: '180.0', totalCGy: '4500.0', fractions: 25 },
      { volume: boost, fractionCGy: '200.0', totalCGy: '6000.0', fractions: 30 },
    ],
    phases: [
      {
        serial: 8201,
        name: 'Breast L tangents',
        phaseId: 'Initial',
        ...done,
        ...photons,
        ...first,
        fractionsPrescribed: 25,
        fractionsDelivered: 25,
        prescribed: [{ target: 'PTV_Breast_L', fractionCGy: '200.0', totalCGy: '5000.0' }],
        planned: [{ volume: breast, fractionCGy: '200.0', totalCGy: '5000.0', fractions: 25 }],
        delivered: [
          { volume: breast, totalCGy: '5000.0', fractions: 25 },
          { volume: boost, totalCGy: '5003.75', fractions: 25, primary: false },
          { volume: scar, totalCGy: '812.50', fractions: 25, point: true, primary: false },
        ],
      },
      {
        serial: 8202,
        name: 'SCV L',
        phaseId: 'Nodes',
        ...done,
        ...arc,
        ...first,
        fractionsPrescribed: 25,
        fractionsDelivered: 25,
        prescribed: [{ target: 'PTV_SCV_L', fractionCGy: '180.0', totalCGy: '4500.0' }],
        planned: [{ volume: nodes, fractionCGy: '180.0', totalCGy: '4500.0', fractions: 25 }],
        delivered: [{ volume: nodes, totalCGy: '4500.0', fractions: 25 }],
      },
      {
        serial: 8203,
        name: 'Boost L',
        phaseId: 'Boost',
        ...done,
        ...electrons,
        start: '2026-02-16T07:33:00-05:00',
        end: '2026-02-20T07:39:00-05:00',
        fractionsPrescribed: 5,
        fractionsDelivered: 5,
        prescribed: [{ target: 'PTV_Boost_L', fractionCGy: '200.0', totalCGy: '1000.0' }],
        planned: [{ volume: boost, fractionCGy: '200.0', totalCGy: '1000.0', fractions: 5 }],
        delivered: [{ volume: boost, totalCGy: '1000.0', fractions: 5 }],
      },
    ],
    plans: [
      {
        serial: 8401,
        name: 'Breast_L_Tang',
        phase: 8201,
        ...done,
        ...photons,
        start: first.start,
        end: '2026-01-28T07:40:00-05:00',
        fractionsPlanned: 13,
        fractionsDelivered: 13,
        planned: [{ volume: breast, fractionCGy: '200.0', totalCGy: '2600.0', fractions: 13 }],
        delivered: [
          { volume: breast, totalCGy: '2600.0', fractions: 13 },
          { volume: boost, totalCGy: '2601.95', fractions: 13, primary: false },
          { volume: scar, totalCGy: '422.50', fractions: 13, point: true, primary: false },
        ],
      },
      {
        serial: 8402,
        name: 'Breast_L_TangBol',
        phase: 8201,
        ...done,
        ...photons,
        start: '2026-01-29T07:32:00-05:00',
        end: first.end,
        fractionsPlanned: 12,
        fractionsDelivered: 12,
        planned: [{ volume: breast, fractionCGy: '200.0', totalCGy: '2400.0', fractions: 12 }],
        delivered: [
          { volume: breast, totalCGy: '2400.0', fractions: 12 },
          { volume: boost, totalCGy: '2401.80', fractions: 12, primary: false },
          { volume: scar, totalCGy: '390.00', fractions: 12, point: true, primary: false },
        ],
      },
      {
        serial: 8403,
        name: 'SCV_L_Arc',
        phase: 8202,
        ...done,
        ...arc,
        ...first,
        fractionsPlanned: 25,
        fractionsDelivered: 25,
        planned: [{ volume: nodes, fractionCGy: '180.0', totalCGy: '4500.0', fractions: 25 }],
        delivered: [{ volume: nodes, totalCGy: '4500.0', fractions: 25 }],
      },
      {
        serial: 8404,
        name: 'Boost_L_9MeV',
        phase: 8203,
        ...done,
        ...electrons,
        start: '2026-02-16T07:33:00-05:00',
        end: '2026-02-20T07:39:00-05:00',
        fractionsPlanned: 5,
        fractionsDelivered: 5,
        planned: [{ volume: boost, fractionCGy: '200.0', totalCGy: '1000.0', fractions: 5 }],
        delivered: [{ volume: boost, totalCGy: '1000.0', fractions: 5 }],
      },
    ],
    ...first,
    end: '2026-02-20T07:39:00-05:00',
    recorded: '2026-01-09T16:20:11.147-05:00',
    recordedTreatment: '2026-02-20T07:39:00.000-05:00',
  };
}

export const PELVIS_FRACTIONS = 25;
/** Pelvis with a simultaneous boost to the nodes; `given` fractions so far, `closed` once somebody clicked Completed. */
export function pelvisCourse(given: number, closed: boolean): Course {
  const pelvis: Volume = { serial: 9111, name: 'PTV_4500', type: 'PTV' };
  const nodes: Volume = { serial: 9112, name: 'PTV_N_5500', type: 'PTV' };
  const last = fractionTime(given);
  const delivered: Delivered[] = [
    { volume: pelvis, totalCGy: tenths(180 * given), fractions: given },
    { volume: nodes, totalCGy: tenths(220 * given), fractions: given },
  ];
  const planned: Planned[] = [
    { volume: pelvis, fractionCGy: '180.0', totalCGy: '4500.0', fractions: PELVIS_FRACTIONS },
    { volume: nodes, fractionCGy: '220.0', totalCGy: '5500.0', fractions: PELVIS_FRACTIONS },
  ];
  const status = closed ? 'completed' : 'in-progress';
  const common = {
    modality: 'photons',
    technique: 'vmat',
    requestStatus: closed ? 'completed' : 'active',
    status,
    fractionsDelivered: given,
    delivered,
    planned,
    start: fractionTime(1),
    end: last,
  } as const;
  return {
    person: PEOPLE.phuong,
    serial: 7322,
    name: 'C1_Pelvis',
    category: '108290001',
    intent: 'radical',
    status,
    requestStatus: closed ? 'completed' : 'active',
    sessions: given,
    diagnosis: { code: 'C53.9', display: 'Malignant neoplasm of cervix uteri, unspecified' },
    sites: [{ local: 'Pelvis', snomed: '12921003', display: 'Pelvic structure (body structure)' }],
    volumes: [pelvis, nodes],
    delivered,
    planned,
    phases: [
      {
        ...common,
        serial: 8211,
        name: 'Pelvis SIB',
        phaseId: 'Primary',
        fractionsPrescribed: PELVIS_FRACTIONS,
        prescribed: [
          { target: 'PTV_4500', fractionCGy: '180.0', totalCGy: '4500.0' },
          { target: 'PTV_N_5500', fractionCGy: '220.0', totalCGy: '5500.0' },
        ],
      },
    ],
    plans: [{ ...common, serial: 8411, name: 'Pelvis_Arc', phase: 8211, fractionsPlanned: PELVIS_FRACTIONS }],
    start: fractionTime(1),
    end: last,
    recorded: '2026-02-06T14:02:55.003-05:00',
    recordedTreatment: '2026-02-27T08:09:30.000-05:00',
  };
}

/** Weekdays from 9 February 2026 on. */
function fractionTime(fraction: number): string {
  const days = (fraction - 1) % 5;
  const weeks = Math.floor((fraction - 1) / 5);
  const day = new Date(Date.UTC(2026, 1, 9) + (weeks * 7 + days) * 86_400_000);
  const offset = day.getTime() < Date.UTC(2026, 2, 8) ? '-05:00' : '-04:00';
  return `${day.toISOString().slice(0, 10)}T08:09:30${offset}`;
}

/**
 * Prostate bed, revised after 12 of 28 fractions: the old requests are revoked with their full dose, the new ones replace them
 * and carry only what remained (aria-and-oncology.md section 2.3).
 */
export function revisedCourse(): Course {
  const bed: Volume = { serial: 9121, name: 'PTV_ProstBed', type: 'PTV' };
  const arc = { modality: 'photons', technique: 'vmat' } as const;
  const reason = 'Bladder filling changed: new planning CT';
  const before = {
    ...arc,
    requestStatus: 'revoked',
    status: 'stopped',
    fractionsDelivered: 12,
    planned: [{ volume: bed, fractionCGy: '250.0', totalCGy: '7000.0', fractions: 28 }],
    delivered: [{ volume: bed, totalCGy: '3000.0', fractions: 12 }],
    start: '2025-11-03T09:12:00-05:00',
    end: '2025-11-18T09:20:00-05:00',
  } as const;
  const after = {
    ...arc,
    requestStatus: 'completed',
    status: 'completed',
    fractionsDelivered: 16,
    planned: [{ volume: bed, fractionCGy: '250.0', totalCGy: '4000.0', fractions: 16 }],
    delivered: [{ volume: bed, totalCGy: '4000.0', fractions: 16 }],
    start: '2025-11-20T09:05:00-05:00',
    end: '2025-12-12T09:16:00-05:00',
    revisionReason: reason,
  } as const;
  return {
    person: PEOPLE.volkov,
    serial: 7333,
    name: 'C1_ProstBed',
    category: '108290001',
    intent: 'curative',
    status: 'completed',
    requestStatus: 'completed',
    sessions: 28,
    diagnosis: { code: 'C61', display: 'Malignant neoplasm of prostate' },
    sites: [{ local: 'Prostate bed' }],
    volumes: [bed],
    delivered: [{ volume: bed, totalCGy: '7000.0', fractions: 28 }],
    planned: [{ volume: bed, fractionCGy: '250.0', totalCGy: '7000.0', fractions: 28 }],
    phases: [
      {
        ...before,
        serial: 8221,
        name: 'Prostate bed',
        phaseId: 'Primary',
        fractionsPrescribed: 28,
        prescribed: [{ target: 'PTV_ProstBed', fractionCGy: '250.0', totalCGy: '7000.0' }],
      },
      {
        ...after,
        serial: 8222,
        name: 'Prostate bed rev',
        phaseId: 'Primary rev',
        fractionsPrescribed: 16,
        prescribed: [{ target: 'PTV_ProstBed', fractionCGy: '250.0', totalCGy: '4000.0' }],
        replaces: 8221,
      },
    ],
    plans: [
      { ...before, serial: 8421, name: 'ProstBed_A', phase: 8221, fractionsPlanned: 28 },
      { ...after, serial: 8422, name: 'ProstBed_B', phase: 8222, fractionsPlanned: 16, replaces: 8421 },
    ],
    start: '2025-11-03T09:12:00-05:00',
    end: '2025-12-12T09:16:00-05:00',
    recorded: '2025-11-19T17:45:02.550-05:00',
    recordedTreatment: '2025-12-12T09:16:00.000-05:00',
  };
}

/** One phase, one plan, one volume. */
export function simpleCourse(
  parts: Pick<
    Course,
    'person' | 'serial' | 'name' | 'category' | 'intent' | 'status' | 'diagnosis' | 'sites' | 'recorded' | 'recordedTreatment'
  > & {
    volume: Volume;
    /** The volume came with an earlier course. */
    shared?: boolean;
    point?: boolean;
    fractions: number;
    given: number;
    fractionCGy: number;
    technique: Course['plans'][number]['technique'];
    start?: string;
    end?: string;
    reirradiation?: boolean;
    outcome?: NonNullable<Course['outcome']>;
  },
): Course {
  const { volume, fractions, given, fractionCGy, status } = parts;
  const delivered: Delivered[] = [
    { volume, totalCGy: tenths(fractionCGy * given), fractions: given, ...(parts.point ? { point: true } : {}) },
  ];
  const planned: Planned[] = [{ volume, fractionCGy: tenths(fractionCGy), totalCGy: tenths(fractionCGy * fractions), fractions }];
  const requestStatus = status === 'completed' ? 'completed' : 'active';
  const period = parts.start === undefined ? {} : { start: parts.start, ...(parts.end === undefined ? {} : { end: parts.end }) };
  const common = {
    requestStatus,
    modality: 'photons',
    technique: parts.technique,
    fractionsDelivered: given,
    planned,
    delivered,
    ...period,
  } as const;
  const treated = given > 0 ? { status } : {};
  return {
    ...parts,
    requestStatus,
    sessions: given,
    volumes: parts.shared ? [] : [volume],
    delivered,
    planned,
    phases: [
      {
        ...common,
        ...treated,
        serial: parts.serial + 900,
        name: `${parts.name} Rx`,
        phaseId: 'Primary',
        fractionsPrescribed: fractions,
        prescribed: [{ target: volume.name, fractionCGy: tenths(fractionCGy), totalCGy: tenths(fractionCGy * fractions) }],
      },
    ],
    plans: [
      {
        ...common,
        ...treated,
        serial: parts.serial + 1100,
        name: `${parts.name}_P1`,
        phase: parts.serial + 900,
        fractionsPlanned: fractions,
      },
    ],
    ...period,
  };
}

/** Lung, stopped after 17 of 30; ARIA never says why. Its category is the newer code. */
export function stoppedCourse(): Course {
  return simpleCourse({
    person: PEOPLE.okafor,
    serial: 7344,
    name: 'C1_Lung_R',
    category: '1287742003',
    intent: 'curative',
    status: 'stopped',
    diagnosis: { code: 'C34.11', display: 'Malignant neoplasm of upper lobe, right bronchus or lung' },
    sites: [{ local: 'Lung, Right', snomed: '3341006', display: 'Right lung structure (body structure)' }],
    volume: { serial: 9131, name: 'PTV_6000', type: 'PTV' },
    fractions: 30,
    given: 17,
    fractionCGy: 200,
    technique: 'imrt',
    start: '2026-01-05T10:40:00-05:00',
    end: '2026-01-28T10:51:00-05:00',
    recorded: '2025-12-29T11:11:11.111-05:00',
    recordedTreatment: '2026-01-29T15:30:00.870-05:00',
  });
}

/** Planned and never begun: zero fractions is legal. */
export function unstartedCourse(): Course {
  return simpleCourse({
    person: PEOPLE.brennan,
    serial: 7355,
    name: 'C1_Brain',
    category: '108290001',
    intent: 'curative',
    status: 'in-progress',
    diagnosis: { code: 'C79.31', display: 'Secondary malignant neoplasm of brain' },
    sites: [{ local: 'Brain', snomed: '12738006', display: 'Brain structure (body structure)' }],
    volume: { serial: 9141, name: 'PTV_Cavity', type: 'PTV' },
    fractions: 5,
    given: 0,
    fractionCGy: 600,
    technique: 'vmat',
    recorded: '2026-02-03T13:00:00.999-05:00',
    recordedTreatment: '2026-02-03T13:00:00.999-05:00',
  });
}

/** The spine, treated once in 2025 and again in 2026 to the same reference point. */
export function spineCourses(): Course[] {
  const spine: Volume = { serial: 9151, name: 'PTV_T7_T9', type: 'PTV' };
  const femur: Volume = { serial: 9152, name: 'RefPt_Femur_R', type: 'POINT' };
  const myeloma = { code: 'C90.00', display: 'Multiple myeloma not having achieved remission' };
  const common = {
    person: PEOPLE.whitcombe,
    category: '108290001',
    intent: 'palliative',
    status: 'completed',
    diagnosis: myeloma,
  } as const;
  const site = [{ local: 'Spine, thoracic', snomed: '122495006', display: 'Thoracic spine structure (body structure)' }];
  return [
    simpleCourse({
      ...common,
      serial: 7366,
      name: 'C1',
      sites: site,
      volume: spine,
      fractions: 5,
      given: 5,
      fractionCGy: 400,
      technique: 'conformal',
      start: '2025-04-07T13:10:00-04:00',
      end: '2025-04-11T13:22:00-04:00',
      recorded: '2025-09-02T08:00:00.000-04:00',
      recordedTreatment: '2025-09-02T08:00:00.000-04:00',
    }),
    simpleCourse({
      ...common,
      serial: 7377,
      name: 'C2',
      sites: site,
      volume: spine,
      shared: true,
      reirradiation: true,
      fractions: 1,
      given: 1,
      fractionCGy: 800,
      technique: 'vmat',
      start: '2026-02-11T11:02:00-05:00',
      end: '2026-02-11T11:02:00-05:00',
      recorded: '2026-02-10T10:00:00.420-05:00',
      recordedTreatment: '2026-02-11T11:02:00.000-05:00',
    }),
    simpleCourse({
      ...common,
      serial: 7388,
      name: 'C3_Femur_R',
      sites: [{ local: 'Femur, Right' }],
      volume: femur,
      point: true,
      fractions: 1,
      given: 1,
      fractionCGy: 800,
      technique: 'conformal',
      start: '2026-02-12T11:32:00-05:00',
      end: '2026-02-12T11:32:00-05:00',
      recorded: '2026-02-11T16:40:00.007-05:00',
      recordedTreatment: '2026-02-12T11:32:00.000-05:00',
    }),
  ];
}

/** Of the test patient; of the patient without a number. */
export function leftOutCourses(): Course[] {
  const common = {
    category: '108290001',
    intent: 'palliative',
    status: 'completed',
    diagnosis: { code: 'Z00.00', display: 'Test' },
    sites: [{ local: 'Test' }],
    fractions: 1,
    given: 1,
    fractionCGy: 100,
    technique: 'conformal',
    start: '2026-01-15T12:00:00-05:00',
    end: '2026-01-15T12:00:00-05:00',
    recorded: '2026-01-15T11:00:00.000-05:00',
    recordedTreatment: '2026-01-15T12:00:00.000-05:00',
  } as const;
  return [
    simpleCourse({
      ...common,
      person: PEOPLE.phantom,
      serial: 7901,
      name: 'C1_QA',
      volume: { serial: 9901, name: 'QA_Cube', type: 'PTV' },
      outcome: { outcome: 'skip', why: 'TEST_PATIENT' },
    }),
    simpleCourse({
      ...common,
      person: PEOPLE.unnumbered,
      serial: 7902,
      name: 'C1_Emergency',
      volume: { serial: 9902, name: 'PTV_Cord', type: 'PTV' },
      outcome: { outcome: 'quarantine', why: 'PATIENT_UNKNOWN' },
    }),
  ];
}
