import type { DiscoverOptions, FollowOptions, PatientSweepStream } from '../fhir/options.ts';

const DAY_MS = 86_400_000;

// No `_lastUpdated` on Procedure, ServiceRequest, DocumentReference, Patient: only Appointment has it (section 1, item 3).
const discover: DiscoverOptions = { search: 'Appointment', lookbackMs: DAY_MS, initialSince: '2020-01-01' };
const types: FollowOptions['types'] = ['Patient', 'Practitioner', 'Organization'];

/**
 * What is read from ARIA unless the config says otherwise (sections of aria-and-oncology.md). The scopes that it needs:
 * `ARIA_SCOPES`.
 */
export const ARIA_STREAMS: readonly PatientSweepStream[] = [
  {
    id: 'courses',
    strategy: 'patient-sweep',
    discover,
    perPatient: [
      // STU1 and ARIA use 108290001 (now inactive), STU2 uses 1287742003: both, in two requests (section 5.4, item 1).
      'Procedure?category=http://snomed.info/sct|108290001',
      'Procedure?category=http://snomed.info/sct|1287742003',
      'ServiceRequest?category=http://snomed.info/sct|108290001',
      'ServiceRequest?category=http://snomed.info/sct|1287742003',
      // Each reference point is a BodyStructure (section 2.3).
      'BodyStructure',
    ],
    pageSize: 100,
    follow: { types, attachments: false },
  },
  {
    id: 'notes',
    strategy: 'patient-sweep',
    discover,
    // Local document types differ from site to site: all are read, the rules choose (section 2.2).
    perPatient: ['DocumentReference'],
    pageSize: 50,
    follow: { types, attachments: true },
  },
];

/** SMART v2 forms, as ARIA's token service takes them (section 2, "scopes"). */
export const ARIA_SCOPES: readonly string[] = [
  ...new Set(ARIA_STREAMS.flatMap(({ perPatient, follow }) => [...perPatient.map((text) => text.split('?')[0] ?? text), ...follow.types])),
  'Appointment',
  'Binary',
].map((type) => `system/${type}.rs`);
