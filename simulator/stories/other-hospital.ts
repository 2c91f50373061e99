import type { Draft } from '../record-store.ts';
import { reportDrafts } from './labs.ts';
import { directoryDrafts, PEOPLE, type Person } from './people.ts';

/** A person of the stories whom another hospital knows too, by a number of its own. */
export interface OtherPatient {
  person: keyof typeof PEOPLE;
  mrn: string;
}

/** What another hospital's record holds: the same persons under its own numbers, and one blood count of each. */
export function otherHospitalDrafts(patients: readonly OtherPatient[]): Draft[] {
  const people = patients.map(({ person, mrn }, n): Person => ({ ...PEOPLE[person], mrn, ehrId: `pt-other${n + 1}` }));
  const reports = people.flatMap((person, n) =>
    reportDrafts({
      id: `rpt-other-${n + 1}`,
      person,
      panel: 'cbc',
      collected: '2026-02-24T09:10:00-05:00',
      issued: '2026-02-24T11:30:00-05:00',
      recorded: `2026-02-24T16:30:0${n}Z`,
      status: 'final',
      results: [
        { analyte: 'wbc', value: '4.71' },
        { analyte: 'hgb', value: '12.10' },
        { analyte: 'plt', value: '219' },
      ],
    }),
  );
  return [...directoryDrafts(people, new Map()), ...reports];
}
