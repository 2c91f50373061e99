import type { Draft } from '../record-store.ts';
import { orphanDrafts, type Report, type Result, reportDrafts } from './labs.ts';
import { PEOPLE } from './people.ts';
import type { StepName } from './steps.ts';

/** The laboratory's side of all stories at one moment. */
export function labDrafts(done: ReadonlySet<StepName>): Draft[] {
  return [
    ...bloodCounts(),
    ...metabolic(done),
    ...prostateAntigen(done),
    ...cancellations(done),
    ...oddValues(done),
    ...leftOut(),
    ...orphanDrafts({
      specimen: 'S26-0211-ABG',
      person: PEOPLE.okafor,
      collected: '2026-02-02T05:51:00-05:00',
      recorded: '2026-02-02T10:53:20Z',
      results: [
        { analyte: 'ph', value: '7.31', flag: 'L' },
        { analyte: 'lactate', value: '3.80', flag: 'HH', note: 'Read back by ward 4 West at 05:55.' },
      ],
    }),
  ].flatMap((one) => ('results' in one ? reportDrafts(one) : [one]));
}

/** Three blood counts of eight analytes; MCV's range is the wrong way round at the source. */
function bloodCounts(): Report[] {
  const count = (day: string, id: string, values: readonly [string, string, string, string, string, string, string, string]): Report => {
    const [wbc, rbc, hgb, hct, mcv, mch, mchc, plt] = values;
    const low = Number(wbc) < 4;
    return {
      id,
      person: PEOPLE.seoyeon,
      panel: 'cbc',
      collected: `${day}T08:05:00-05:00`,
      issued: `${day}T10:41:00-05:00`,
      recorded: `${day}T15:41:07Z`,
      status: 'final',
      results: [
        { analyte: 'wbc', value: wbc, ...(low ? { flag: 'L' } : {}) },
        { analyte: 'rbc', value: rbc },
        { analyte: 'hgb', value: hgb, ...(Number(hgb) < 12 ? { flag: 'L' } : {}) },
        { analyte: 'hct', value: hct, ...(Number(hct) < 35 ? { flag: 'L' } : {}) },
        { analyte: 'mcv', value: mcv, flag: 'N' },
        { analyte: 'mch', value: mch },
        { analyte: 'mchc', value: mchc },
        { analyte: 'plt', value: plt },
      ],
    };
  };
  return [
    count('2026-01-08', 'rpt-cbc-1041', ['5.10', '4.12', '12.40', '37.20', '90.3', '30.1', '33.3', '261']),
    count('2026-01-22', 'rpt-cbc-1042', ['4.35', '4.02', '12.00', '36.10', '89.8', '29.9', '33.2', '238']),
    count('2026-02-12', 'rpt-cbc-1043', ['3.62', '3.88', '11.60', '34.70', '89.4', '29.9', '33.4', '197']),
  ];
}

/** A metabolic panel whose potassium is corrected: the first tube was haemolysed. */
function metabolic(done: ReadonlySet<StepName>): Report[] {
  const corrected = done.has('lab-corrected');
  const potassium: Result = corrected
    ? {
        analyte: 'k',
        value: '4.1',
        status: 'corrected',
        issued: '2026-03-02T07:58:00-05:00',
        note: 'Corrected: first reported as 6.3 on a haemolysed specimen (QX-HEMOLYSATE-88).',
      }
    : { analyte: 'k', value: '6.3', flag: 'HH', note: 'Critical value called to 5 East, 09:20.' };
  return [
    {
      id: 'rpt-cmp-2051',
      person: PEOPLE.phuong,
      panel: 'cmp',
      collected: '2026-02-16T07:20:00-05:00',
      issued: corrected ? '2026-03-02T07:58:00-05:00' : '2026-02-16T09:14:00-05:00',
      resultsIssued: '2026-02-16T09:14:00-05:00',
      recorded: '2026-02-16T14:14:31.250Z',
      status: corrected ? 'corrected' : 'final',
      results: [
        { analyte: 'na', value: '138' },
        potassium,
        { analyte: 'cl', value: '104' },
        { analyte: 'co2', value: '24' },
        { analyte: 'glucose', value: '112', flag: 'H' },
        { analyte: 'bun', value: '14' },
        { analyte: 'creatinine', value: '0.80' },
        { analyte: 'egfr', value: '84' },
        { analyte: 'calcium', value: '9.10' },
        { analyte: 'albumin', value: '3.40', flag: 'L' },
        { analyte: 'alt', value: '29' },
        { analyte: 'ast', value: '31' },
        { analyte: 'alp', value: '88' },
        { analyte: 'bilirubin', value: '0.60' },
        { analyte: 'protein', value: '6.90' },
      ],
      conclusion: corrected ? 'Potassium corrected after recollection.' : 'Potassium critically high.',
    },
    {
      id: 'rpt-mk-2052',
      person: PEOPLE.phuong,
      panel: 'markers',
      collected: '2026-01-20T07:40:00-05:00',
      issued: '2026-01-20T15:02:00-05:00',
      // The same instant as another record, second against sub-second precision.
      recorded: '2026-02-16T14:14:31Z',
      status: 'final',
      results: [
        { analyte: 'ca125', value: '1187.346', flag: 'H' },
        { analyte: 'cea', value: '2.7' },
        { analyte: 'circulatingTumour', value: '3' },
      ],
    },
  ];
}

/** One analyte over two years: below the limit, rising, and down again after radiation. */
function prostateAntigen(done: ReadonlySet<StepName>): Report[] {
  const draw = (day: string, id: string, result: Partial<Result>): Report => ({
    id,
    person: PEOPLE.volkov,
    panel: 'psa',
    collected: `${day}T09:30:00-05:00`,
    issued: `${day}T16:00:00-05:00`,
    recorded: `${day}T21:00:04Z`,
    status: 'final',
    results: [{ analyte: 'psa', ...result }],
  });
  const draws = [
    draw('2024-11-11', 'rpt-psa-3001', { value: '0.02', comparator: '<' }),
    draw('2025-05-12', 'rpt-psa-3002', { value: '0.35' }),
    draw('2025-08-18', 'rpt-psa-3003', { value: '0.8273' }),
    draw('2025-10-20', 'rpt-psa-3004', { value: '1.40' }),
    draw('2026-01-19', 'rpt-psa-3005', { value: '0.20' }),
  ];
  if (done.has('new-lab')) draws.push(draw('2026-03-02', 'rpt-psa-3006', { value: '0.02', comparator: '<' }));
  return draws;
}

/** A whole report that is cancelled, and a panel with one component that never was done. */
function cancellations(done: ReadonlySet<StepName>): Report[] {
  const cancelled = done.has('lab-cancelled');
  return [
    {
      id: 'rpt-pt-4001',
      person: PEOPLE.okafor,
      panel: 'coagulation',
      collected: '2026-02-09T06:15:00-05:00',
      issued: cancelled ? '2026-03-02T07:59:00-05:00' : '2026-02-09T07:30:00-05:00',
      recorded: '2026-02-09T12:30:45Z',
      status: cancelled ? 'cancelled' : 'final',
      results: [
        { analyte: 'pt', value: '41.9', flag: 'HH' },
        { analyte: 'inr', value: '3.90', flag: 'HH' },
      ],
      ...(cancelled ? { conclusion: 'Cancelled: tube of another patient.' } : {}),
    },
    {
      id: 'rpt-bmp-4002',
      person: PEOPLE.okafor,
      panel: 'bmp',
      collected: '2026-02-01T06:10:00-05:00',
      issued: '2026-02-01T08:00:00-05:00',
      recorded: '2026-02-01T13:00:00.5Z',
      status: 'final',
      results: [
        { analyte: 'na', value: '124', flag: 'LL' },
        { analyte: 'k', value: '5.6', flag: 'H' },
        { analyte: 'creatinine', value: '1.72', flag: 'H' },
        { analyte: 'glucose', status: 'cancelled', note: 'Quantity not sufficient.' },
        // The source flags a value inside its own range; it is the source's flag that is shown.
        { analyte: 'calcium', value: '8.70', flag: 'L' },
      ],
    },
  ];
}

/** Every kind of value that is not a plain number; and a preliminary report that becomes final. */
function oddValues(done: ReadonlySet<StepName>): Report[] {
  const final = done.has('lab-finalized');
  return [
    {
      id: 'rpt-ua-5001',
      person: PEOPLE.whitcombe,
      panel: 'urinalysis',
      collected: '2026-02-10',
      issued: '2026-02-10T12:00:00-05:00',
      recorded: '2026-02-10T17:00:00Z',
      status: 'final',
      results: [
        { analyte: 'colour', text: 'amber, slightly turbid (“weißlich”)' },
        { analyte: 'nitrite', coded: { system: 'http://snomed.info/sct', code: '10828004', display: 'Positive' }, flag: 'A' },
        { analyte: 'urineWbc', range: ['10', '25'], flag: 'H' },
        { analyte: 'urineProtein', absent: { code: 'not-performed', display: 'Not Performed' } },
        { analyte: 'ana', ratio: ['1', '80'], flag: 'A' },
      ],
    },
    {
      id: 'rpt-bmp-5002',
      person: PEOPLE.whitcombe,
      panel: 'bmp',
      collected: '2026-02-18T06:00:00-05:00',
      issued: final ? '2026-03-02T07:59:30-05:00' : '2026-02-18T07:00:00-05:00',
      recorded: '2026-02-18T12:00:00Z',
      status: final ? 'final' : 'preliminary',
      results: [
        { analyte: 'calcium', value: final ? '13.62' : '13.6', flag: 'HH' },
        { analyte: 'creatinine', value: '2.10', flag: 'H' },
        { analyte: 'egfr', value: '22', flag: 'L' },
      ],
    },
    {
      id: 'rpt-bmp-6001',
      person: PEOPLE.brennan,
      panel: 'bmp',
      collected: '2026-02-02T08:00:00-05:00',
      issued: '2026-02-02T09:00:00-05:00',
      recorded: '2026-02-02T14:00:00Z',
      status: 'final',
      results: [
        { analyte: 'na', value: '141' },
        { analyte: 'k', value: '4.00' },
        { analyte: 'glucose', value: '97' },
      ],
    },
  ];
}

/** Of a patient whom no configured identifier system names. */
function leftOut(): Report[] {
  return [
    {
      id: 'rpt-bmp-9001',
      person: PEOPLE.unnumbered,
      panel: 'bmp',
      collected: '2026-02-24T02:10:00-05:00',
      issued: '2026-02-24T02:40:00-05:00',
      recorded: '2026-02-24T07:40:10Z',
      status: 'final',
      results: [{ analyte: 'na', value: '137' }],
      outcome: { outcome: 'quarantine', why: 'PATIENT_UNKNOWN' },
    },
  ];
}
