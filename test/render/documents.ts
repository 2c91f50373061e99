/** Documents for the tests and the bench: people and values of our own invention. */
import type {
  ClinicalDocument,
  DocumentHeader,
  DosePhase,
  HistoryAndPhysicalDocument,
  LaboratoryAnalyte,
  LaboratoryDocument,
  RadiationDoseDocument,
} from '../../src/records/model.ts';

const BASE: Omit<DocumentHeader, 'category' | 'title' | 'status'> = {
  documentId: 'doc-7k2q4xn6zv3m5h2rw6pt3yb4ce',
  version: 1,
  facility: 'Harborview Cancer Center, Radiation Oncology',
  patient: {
    name: 'Eleanor Whitcombe',
    birthDate: '1958-03-14',
    sex: 'female',
    identifiers: [
      { value: '00417233', authority: 'Harborview Hospital' },
      { value: 'HV-352', authority: 'ARIA ID1' },
    ],
  },
  dateOfService: '2026-03-12T09:30:00-04:00',
  author: 'Maria Lindqvist, MD',
  signer: 'Maria Lindqvist, MD',
  asOf: '2026-03-12T15:02:11Z',
  zone: 'America/New_York',
  sources: [{ source: 'ehr', type: 'DiagnosticReport', id: 'dr-20260312-0417', versionId: '3' }],
  manifestHash: '8f1c2ad07be94c53a6ee10c4d5b27f90813e6a4cbb2f59d17c03ae88f4d6e215',
};

const TIMES = [
  '2026-02-26T08:55:00-05:00',
  '2026-02-12T09:10:00-05:00',
  '2026-01-29T09:02:00-05:00',
  '2026-01-08T10:40:00-05:00',
  '2025-12-11T09:15:00-05:00',
];

function analyte(
  name: string,
  unit: string,
  low: number | undefined,
  high: number | undefined,
  values: readonly string[],
  flags: readonly (string | undefined)[],
  more: Partial<LaboratoryAnalyte> = {},
): LaboratoryAnalyte {
  const range = low === undefined ? (high === undefined ? undefined : `<= ${high}`) : high === undefined ? `>= ${low}` : `${low} - ${high}`;
  const results = values.map((value, index) => ({
    value,
    ...(Number.isNaN(Number(value)) ? {} : { number: Number(value) }),
    unit,
    ...(range === undefined ? {} : { range }),
    ...(low === undefined ? {} : { rangeLow: low }),
    ...(high === undefined ? {} : { rangeHigh: high }),
    ...(flags[index] === undefined ? {} : { flag: flags[index] }),
    status: 'final',
    collected: index === 0 ? '2026-03-12T08:45:00-04:00' : (TIMES[index - 1] ?? ''),
  }));
  const [current, ...earlier] = results;
  if (current === undefined) throw new RangeError('an analyte needs a value');
  return { name, current, earlier, notes: [], components: [], ...more };
}

/** A panel of eight analytes with five earlier draws. */
export const panelReport: LaboratoryDocument = {
  kind: 'laboratory',
  header: { ...BASE, category: 'laboratory', title: 'Complete blood count', status: 'final' },
  reportName: 'CBC W Auto Differential panel - Blood',
  specimen: 'Venous blood',
  collected: '2026-03-12T08:45:00-04:00',
  received: '2026-03-12T09:05:00-04:00',
  reported: '2026-03-12T10:58:00-04:00',
  orderedBy: 'Maria Lindqvist, MD',
  performer: { name: 'Harborview Clinical Laboratory', director: 'Tomas Okafor, MD, PhD', identifiers: ['CLIA 50D0987654'] },
  panels: [
    {
      name: 'Complete blood count',
      analytes: [
        analyte('Leukocytes', '10*3/uL', 4, 11, ['3.42', '3.90', '4.71', '5.60', '6.18', '6.40'], ['L', 'L', undefined, 'N', 'N', 'N']),
        analyte(
          'Neutrophils, absolute',
          '10*3/uL',
          1.8,
          7.7,
          ['0.94', '1.62', '2.40', '3.11', '3.58', '3.80'],
          ['LL', 'L', 'N', 'N', 'N', 'N'],
        ),
        analyte('Hemoglobin', 'g/dL', 12, 16, ['10.8', '11.4', '12.1', '12.6', '13.0', '13.2'], ['L', 'L', 'N', 'N', 'N', 'N']),
        analyte('Hematocrit', '%', 36, 46, ['32.9', '34.8', '36.7', '38.0', '39.2', '39.9'], ['L', 'L', 'N', 'N', 'N', 'N']),
        analyte('Erythrocytes', '10*6/uL', 4, 5.2, ['3.71', '3.92', '4.15', '4.30', '4.41', '4.47'], ['L', 'L', 'N', 'N', 'N', 'N']),
        analyte('Mean corpuscular volume', 'fL', 80, 100, ['88.7', '88.8', '88.4', '88.4', '88.9', '89.3'], ['N', 'N', 'N', 'N', 'N', 'N']),
        analyte('Platelets', '10*3/uL', 150, 400, ['118', '141', '176', '203', '229', '241'], ['L', 'L', 'N', 'N', 'N', 'N']),
        analyte(
          'Carcinoembryonic antigen',
          'ng/mL',
          undefined,
          5,
          ['12.40', '9.85', '8.10', '6.00', '4.9', '4.2'],
          ['HH', 'H', 'H', 'H', 'N', 'N'],
        ),
      ],
    },
  ],
  cancelled: [],
  comments: [],
  conclusion: 'Leukopenia with neutropenia and mild thrombocytopenia, consistent with therapy in progress.',
};

/** Corrected, with everything odd that a laboratory sends. */
export const oddReport: LaboratoryDocument = {
  ...panelReport,
  header: {
    ...BASE,
    category: 'laboratory',
    title: 'Chemistry and microbiology',
    status: 'corrected',
    version: 2,
    facility: '서울중앙병원 방사선종양학과',
    zone: 'Asia/Seoul',
    patient: {
      name: '김민준 (KIM Min-jun)',
      birthDate: '1971',
      sex: 'male',
      identifiers: [{ value: '00098812', authority: '서울중앙병원' }],
    },
    asOf: '2026-03-12T15:02:11Z',
    author: '박서연',
    signer: '박서연',
  },
  reportName: 'Chemistry and microbiology',
  collected: '2026-03-12T08:45:00+09:00',
  performer: { name: '서울중앙병원 진단검사의학과', identifiers: [] },
  panels: [
    {
      name: 'Chemistry',
      analytes: [
        analyte('Creatinine', 'mg/dL', 0.6, 1.2, ['1.94', '1.1'], ['HH', 'N'], {
          notes: ['Corrected: was 1.49 mg/dL, reported 12 Mar 2026, 10:58 UTC+09:00.'],
        }),
        analyte('Potassium', 'mmol/L', 3.5, 5.1, ['>10.0', '4.4'], ['HH', 'N'], { notes: ['Specimen hemolysed.'] }),
        {
          name: 'eGFR (CKD-EPI 2021)',
          current: { value: '38', number: 38, unit: 'mL/min/{1.73_m2}', range: '>= 60', rangeLow: 60, flag: 'N', status: 'final' },
          earlier: [],
          notes: ["The source's flag (N) does not agree with its range."],
          components: [],
        },
        { name: 'pH', current: { value: '7.31', number: 7.31, flag: 'L', status: 'preliminary' }, earlier: [], notes: [], components: [] },
        {
          name: 'Blood pressure',
          current: { value: 'see below', status: 'final' },
          earlier: [],
          notes: [],
          components: [
            { name: 'Systolic', current: { value: '142', number: 142, unit: 'mm[Hg]', flag: 'H', status: 'final' } },
            { name: 'Diastolic', current: { value: '85', number: 85, unit: 'mm[Hg]', status: 'final' } },
          ],
        },
        {
          name: 'Antinuclear antibody titre',
          current: { value: '1:80', range: '<1:40', flag: 'A', status: 'final' },
          earlier: [],
          notes: [],
          components: [],
        },
        {
          name: 'Prostate specific antigen',
          current: { value: '<0.01', unit: 'ng/mL', range: '0 - 4', status: 'final' },
          earlier: [],
          notes: [],
          components: [],
        },
      ],
    },
    {
      name: 'Blood culture',
      analytes: [
        {
          name: 'Culture, aerobic',
          current: {
            value:
              'Growth of Staphylococcus epidermidis in one of two bottles after 31 hours; contamination is likely, clinical correlation advised.',
            flag: 'POS',
            status: 'final',
          },
          earlier: [],
          notes: [],
          components: [
            { name: 'Oxacillin', current: { value: 'Resistant', flag: 'R', status: 'final' } },
            { name: 'Vancomycin', current: { value: 'Susceptible', flag: 'S', status: 'final' } },
          ],
        },
      ],
    },
  ],
  cancelled: [{ name: 'Lactate', reason: 'specimen not on ice' }, { name: 'Ammonia' }],
  comments: ['검체가 용혈되어 칼륨 수치가 높게 측정될 수 있습니다.', 'Critical values were called to the ward at 11:02.'],
};
delete oddReport.conclusion;

const HISTORY =
  'The patient is a 61-year-old man who noticed a painless swelling below the left jaw in October of last year. Ultrasound showed a 3.2 cm level II node; fine needle aspiration was positive for p16-positive squamous cell carcinoma. PET/CT found an FDG-avid primary of the left base of tongue (2.6 cm, SUVmax 14.1) with two ipsilateral nodes and no distant disease. He reports mild odynophagia, no trismus, no otalgia and a weight loss of 3 kg over three months. He stopped smoking 22 years ago (10 pack-years).';
const PLAN =
  'Definitive chemoradiation with curative intent: 7000 cGy in 35 fractions to the gross disease, 5600 cGy to the elective neck, with weekly cisplatin 40 mg/m². Risks and alternatives were discussed at length with the patient and his wife, including xerostomia, dysphagia, mucositis, hypothyroidism and the small risk of osteoradionecrosis. They wish to proceed.';

/** A narrative over three pages, with an addendum. */
export const longNote: HistoryAndPhysicalDocument = {
  kind: 'history-and-physical',
  header: {
    ...BASE,
    category: 'history-and-physical',
    title: 'History and physical examination',
    status: 'amended',
    version: 2,
    patient: {
      name: 'Nguyễn Thị Thu Hương',
      birthDate: '1964-11-02',
      sex: 'female',
      identifiers: [{ value: '00523311', authority: 'Harborview Hospital' }],
    },
    sources: [
      { source: 'aria', type: 'DocumentReference', id: 'DocumentReference-20000000000000000002-3-2', versionId: '1773324131000' },
      { source: 'ehr', type: 'DocumentReference', id: 'note-88213', versionId: '2' },
    ],
  },
  noteType: 'Consultation, radiation oncology',
  encounter: 'Outpatient consultation, Building C',
  sections: [
    { title: 'Reason for visit', paragraphs: ['Referred by Dr. Phạm Văn Đức for consideration of definitive radiotherapy.'] },
    {
      title: 'Cancer diagnosis and stage',
      paragraphs: ['Squamous cell carcinoma of the left base of tongue, p16 positive. cT2 cN1 M0, stage I (AJCC 8th edition).'],
    },
    { title: 'History of present illness', paragraphs: [HISTORY, HISTORY.replace('The patient is', 'On review, the patient is'), HISTORY] },
    {
      title: 'Past medical and surgical history',
      paragraphs: [
        'Hypertension, since 2011.\nHyperlipidaemia.\nAppendectomy 1984.\nNo prior radiation. No pacemaker. No collagen vascular disease.',
      ],
    },
    {
      title: 'Medications',
      paragraphs: [
        '  - amlodipine 5 mg by mouth once a day\n  - atorvastatin 20 mg by mouth at night\n  - paracetamol 500 mg as needed for pain, at most four times a day; takes it about twice a week, mostly in the evening after work',
      ],
    },
    { title: 'Allergies', paragraphs: ['No known drug allergies (asked on 12 March 2026).'] },
    { title: 'Family history', paragraphs: ['Father: lung cancer at 71. No other malignancy known.'] },
    {
      title: 'Social history',
      paragraphs: ['Lives with spouse. Tobacco: stopped 2004, 10 pack-years. Alcohol: two to three units a week.'],
    },
    { title: 'Review of systems', paragraphs: [HISTORY.slice(240), 'All other systems were reviewed and are negative.'] },
    { title: 'Performance status', paragraphs: ['ECOG 1, KPS 80.'] },
    {
      title: 'Physical examination',
      paragraphs: [
        'Weight 71.4 kg, blood pressure 134/82 mmHg, pulse 76/min, temperature 36.7 °C.',
        'General: well, in no distress. Oral cavity: moist, no trismus, dentition in fair repair. Oropharynx: firm, 2.5 cm mass of the left base of tongue that does not cross the midline. Neck: mobile 3 cm node in left level II; no other adenopathy. Lungs clear. Heart regular, no murmur. Abdomen soft. No focal neurological deficit.',
      ],
    },
    {
      title: 'Labs, imaging, pathology',
      paragraphs: [HISTORY.slice(120), 'Hemoglobin 13.2 g/dL, creatinine 0.9 mg/dL → cisplatin dose not reduced.'],
    },
    {
      title: 'Assessment and plan',
      paragraphs: [
        PLAN,
        PLAN.replace('Definitive', 'In short: definitive'),
        'Dental evaluation and PEG counselling before simulation. CT simulation with mask on 18 March 2026.',
      ],
    },
  ],
  attachments: [],
  addenda: [
    {
      date: '2026-03-13T14:20:00-04:00',
      author: 'Maria Lindqvist, MD',
      text: 'Dental clearance received: no extractions needed.\n\nTumour board of 13 March 2026 agrees with chemoradiation.',
    },
  ],
};

/** A note that is a PDF of the source: this document is its cover. `sha256` is of the bytes that the test attaches. */
export function coverNote(sha256: string, sizeBytes: number): HistoryAndPhysicalDocument {
  return {
    kind: 'history-and-physical',
    header: {
      ...BASE,
      category: 'history-and-physical',
      title: 'Initial consultation',
      status: 'final',
      patient: {
        name: 'Ярослава Володимирівна Щербаченко-Ґалаґан',
        birthDate: '1949-07-30',
        sex: 'female',
        identifiers: [{ value: '0031', authority: 'Обласна лікарня' }],
      },
    },
    noteType: 'History and physical note',
    sections: [],
    attachments: [{ title: 'Consultation letter, signed', mediaType: 'application/pdf', sizeBytes, sha256 }],
    addenda: [],
  };
}

function plan(name: string, parent: string, more: Partial<DosePhase>): DosePhase {
  return {
    level: 'plan',
    name,
    parent,
    status: 'completed',
    modality: 'Photons',
    techniques: ['VMAT'],
    energy: '6 MV',
    machine: 'TrueBeam 2',
    imageGuidance: 'Cone beam CT, daily',
    volumes: [],
    notes: [],
    ...more,
  };
}

/** A course in progress with three phases and four plans, one of them revised. */
export const course: RadiationDoseDocument = {
  kind: 'radiation-dose',
  header: {
    ...BASE,
    category: 'radiation-dose',
    title: 'Radiation treatment summary',
    status: 'in-progress',
    version: 14,
    facility: '서울중앙병원 방사선종양학과',
    zone: 'Asia/Seoul',
    patient: {
      name: '이서연 (LEE Seo-yeon)',
      birthDate: '1983-05-09',
      sex: 'female',
      identifiers: [
        { value: '00311942', authority: '서울중앙병원' },
        { value: '352', authority: 'ARIA ID1' },
      ],
    },
    sources: [
      { source: 'aria', type: 'Procedure', id: 'RadiotherapyCourseSummary-352-634', versionId: '1773324131000' },
      { source: 'aria', type: 'Procedure', id: 'RadiotherapyTreatedPhase-352-50', versionId: '1773324131000' },
      { source: 'aria', type: 'BodyStructure', id: 'BodyStructure-PV-681', versionId: '202144' },
    ],
  },
  course: {
    name: 'C1 Breast L',
    diagnoses: [
      'C50.412 Malignant neoplasm of upper-outer quadrant of left female breast',
      'C77.3 Secondary malignant neoplasm of axillary lymph nodes',
    ],
    stage: 'pT2 pN1a M0, stage IIB (AJCC 8)',
    intent: 'Curative (adjuvant)',
    sites: ['Left breast', 'Left axilla and supraclavicular nodes'],
    modalities: ['Photons', 'Electrons'],
    techniques: ['VMAT', '3D conformal', 'Deep inspiration breath hold'],
    start: '2026-02-02',
    end: '2026-03-12',
    sessionsGiven: 28,
    sessionsPlanned: 33,
    status: 'in-progress',
    physician: '최지훈, MD',
    reirradiation: false,
    concurrentTherapy: 'Trastuzumab',
    notes: [],
  },
  volumes: [
    {
      name: 'PTV_Breast_L',
      type: 'PTV',
      site: 'Breast',
      laterality: 'left',
      deliveredCGy: '5000',
      plannedCGy: '5000',
      prescribedCGy: '5000',
      fractionsDelivered: 25,
      fractionsPlanned: 25,
      uniformFractionation: true,
      notes: [],
    },
    {
      name: 'PTV_SCV_Ax_L',
      type: 'PTV',
      site: 'Supraclavicular and axillary nodes',
      laterality: 'left',
      deliveredCGy: '4500.5',
      plannedCGy: '4500',
      prescribedCGy: '4500',
      fractionsDelivered: 25,
      fractionsPlanned: 25,
      uniformFractionation: true,
      notes: [],
    },
    {
      name: 'PTV_Boost',
      type: 'PTV',
      site: 'Tumour bed',
      laterality: 'left',
      deliveredCGy: '600',
      plannedCGy: '1600',
      prescribedCGy: '1600',
      fractionsDelivered: 3,
      fractionsPlanned: 8,
      uniformFractionation: true,
      notes: ['Lies inside PTV_Breast_L: both doses were given there.'],
    },
    { name: 'Chestwall_Scar', type: 'CTV', deliveredCGy: '0', uniformFractionation: false, notes: [] },
  ],
  points: [
    {
      name: 'Calc point L breast',
      site: 'Breast',
      laterality: 'left',
      deliveredCGy: '5012',
      plannedCGy: '5000',
      fractionsDelivered: 25,
      notes: [],
    },
  ],
  phases: [
    {
      level: 'phase',
      name: 'Breast + nodes',
      status: 'completed',
      modality: 'Photons',
      techniques: ['VMAT', 'DIBH'],
      energy: '6 MV',
      machine: 'TrueBeam 2',
      imageGuidance: 'Surface guidance; cone beam CT weekly',
      motionManagement: 'Deep inspiration breath hold',
      start: '2026-02-02',
      end: '2026-03-09',
      fractionsDelivered: 25,
      fractionsPlanned: 25,
      fractionDoseCGy: '200',
      volumes: [
        { name: 'PTV_Breast_L', deliveredCGy: '5000', plannedCGy: '5000', prescribedCGy: '5000', notes: [] },
        { name: 'PTV_SCV_Ax_L', deliveredCGy: '4500.5', plannedCGy: '4500', prescribedCGy: '4500', notes: [] },
      ],
      notes: [],
    },
    plan('Breast_L_v1', 'Breast + nodes', {
      status: 'stopped',
      start: '2026-02-02',
      end: '2026-02-13',
      fractionsDelivered: 10,
      fractionsPlanned: 25,
      fractionDoseCGy: '200',
      volumes: [{ name: 'PTV_Breast_L', deliveredCGy: '2000', plannedCGy: '5000', notes: [] }],
      revision: 'Replaced by Breast_L_v2: anatomy changed (seroma)',
    }),
    plan('Breast_L_v2', 'Breast + nodes', {
      start: '2026-02-16',
      end: '2026-03-09',
      fractionsDelivered: 15,
      fractionsPlanned: 15,
      fractionDoseCGy: '200',
      volumes: [{ name: 'PTV_Breast_L', deliveredCGy: '3000', plannedCGy: '3000', notes: [] }],
      revision: 'Replaces Breast_L_v1; carries the remaining dose',
    }),
    {
      level: 'phase',
      name: 'Boost',
      status: 'in-progress',
      modality: 'Electrons',
      techniques: ['En face electrons'],
      energy: '12 MeV',
      machine: 'TrueBeam 1',
      start: '2026-03-10',
      end: '2026-03-12',
      fractionsDelivered: 3,
      fractionsPlanned: 8,
      fractionDoseCGy: '200',
      volumes: [{ name: 'PTV_Boost', deliveredCGy: '600', plannedCGy: '1600', prescribedCGy: '1600', notes: [] }],
      notes: [],
    },
    plan('Boost_e12', 'Boost', {
      status: 'in-progress',
      modality: 'Electrons',
      techniques: ['En face electrons'],
      energy: '12 MeV',
      machine: 'TrueBeam 1',
      start: '2026-03-10',
      end: '2026-03-12',
      fractionsDelivered: 3,
      fractionsPlanned: 8,
      fractionDoseCGy: '200',
      volumes: [{ name: 'PTV_Boost', deliveredCGy: '600', plannedCGy: '1600', metric: '6.5 EQD2Gy(a/b = 4)', notes: [] }],
    }),
    {
      level: 'phase',
      name: 'Scar',
      status: 'preparation',
      techniques: [],
      fractionsDelivered: 0,
      fractionsPlanned: 2,
      fractionDoseCGy: '200',
      volumes: [],
      notes: [],
    },
    {
      level: 'plan',
      name: 'Scar_e6',
      parent: 'Scar',
      status: 'preparation',
      techniques: [],
      fractionsDelivered: 0,
      fractionsPlanned: 2,
      volumes: [],
      notes: ['Not yet approved.'],
    },
  ],
};

/** Stopped early, with as little as a source may give. */
export const bareCourse: RadiationDoseDocument = {
  kind: 'radiation-dose',
  header: {
    category: 'radiation-dose',
    title: 'Radiation treatment summary',
    documentId: 'doc-2222222222222222222222222a',
    version: 1,
    status: 'stopped',
    facility: 'Harborview Cancer Center',
    patient: { name: 'Doe', identifiers: [] },
    asOf: '2026-03-12',
    zone: 'UTC',
    sources: [],
    manifestHash: '00000000000000000000000000000000000000000000000000000000000000aa',
  },
  course: { name: '1', diagnoses: [], sites: [], modalities: [], techniques: [], status: 'stopped', notes: [] },
  volumes: [{ name: 'PTV', notes: ['The source does not say which structure this is: its display name is shown.'] }],
  points: [],
  phases: [],
};

/** Names that are hard to print: very long, and in a script that no typeface here has. */
export const longNames: LaboratoryDocument = {
  ...panelReport,
  header: {
    ...BASE,
    category: 'laboratory',
    title: 'Комплексне метаболічне обстеження з визначенням швидкості клубочкової фільтрації та електролітів',
    status: 'preliminary',
    facility: 'Fakultní nemocnice Královské Vinohrady, Radioterapeutická a onkologická klinika, pracoviště Šrobárova',
    patient: {
      name: 'Wolfeschlegelsteinhausenbergerdorffwelchevoralternwarengewissenhaftschaferswessenschafewarenwohlgepflege Hubert Blaine สมชาย 👩‍⚕️ Đặng-Trần Ngọc Quỳnh Như',
      sex: 'unknown',
      deceased: '2026-03-01',
      identifiers: [
        { value: '00000000000000000000000000000000000417233', authority: 'Fakultní nemocnice Královské Vinohrady' },
        { value: 'HV-352', authority: 'ARIA ID1' },
        { value: '1.2.840.113619.2.62.994044785528.114289542805', authority: 'DICOM' },
      ],
    },
  },
  panels: panelReport.panels.map((panel) => ({ ...panel, analytes: panel.analytes.slice(0, 2) })),
};

/** A large report: four panels of twelve analytes with ten earlier draws, for tables that break. */
export const largeReport: LaboratoryDocument = {
  ...panelReport,
  header: { ...panelReport.header, title: 'Comprehensive panels', status: 'final' },
  panels: ['Hematology', 'Chemistry', 'Endocrine', 'Tumour markers'].map((name, panel) => ({
    name,
    analytes: Array.from({ length: 12 }, (_, row) => ({
      name: `${name} analyte ${row + 1}`,
      current: {
        value: (panel * 7 + row * 1.5 + 0.25).toFixed(row % 3),
        number: panel * 7 + row * 1.5 + 0.25,
        unit: 'mmol/L',
        range: '1 - 20',
        rangeLow: 1,
        rangeHigh: 20,
        status: 'final',
      },
      earlier: Array.from({ length: 10 }, (_ignored, draw) => ({
        value: (panel * 7 + row * 1.5 + draw * 0.5).toFixed(1),
        number: panel * 7 + row * 1.5 + draw * 0.5,
        unit: 'mmol/L',
        status: 'final',
        collected: `2025-${String(12 - draw).padStart(2, '0')}-03T09:00:00-05:00`,
      })),
      notes: row === 5 ? ['A note that belongs to this analyte and must stay on its page.'] : [],
      components: [],
    })),
  })),
};

export const ALL: Record<string, ClinicalDocument> = { panelReport, oddReport, longNote, course, bareCourse, longNames, largeReport };

/** A FHIR Bundle of about `bytes` bytes. */
export function bundleOf(bytes: number): Uint8Array {
  const entry = (index: number): unknown => ({
    fullUrl: `urn:uuid:00000000-0000-4000-8000-${String(index).padStart(12, '0')}`,
    resource: {
      resourceType: 'Observation',
      id: `obs-${index}`,
      status: 'final',
      valueQuantity: { value: index * 1.25, unit: 'mmol/L', system: 'http://unitsofmeasure.org', code: 'mmol/L' },
    },
  });
  const entries: unknown[] = [];
  for (let index = 0; index * 270 < bytes; index += 1) entries.push(entry(index));
  return new TextEncoder().encode(JSON.stringify({ resourceType: 'Bundle', type: 'collection', entry: entries }));
}
