import type { Draft } from './record-store.ts';
import { reportDrafts } from './stories/labs.ts';
import type { Person } from './stories/people.ts';

const MINUTE_MS = 60_000;
const FIRST_MS = Date.UTC(2025, 0, 6, 9);

/** So many laboratory reports of three results of one person, one every five hours: a long course of treatment, for measuring. */
export function extraReportDrafts(person: Person, count: number): Draft[] {
  return Array.from({ length: count }, (_, n) => {
    const at = (minutes: number): string => new Date(FIRST_MS + (n * 300 + minutes) * MINUTE_MS).toISOString();
    return reportDrafts({
      id: `rpt-${person.key}-${n}`,
      person,
      panel: 'cbc',
      collected: at(0),
      issued: at(40),
      recorded: at(45),
      status: 'final',
      results: [
        { analyte: 'hgb', value: (11 + (n % 40) / 10).toFixed(1) },
        { analyte: 'wbc', value: (4 + (n % 57) / 10).toFixed(1) },
        { analyte: 'plt', value: String(150 + (n % 230)) },
      ],
    });
  }).flat();
}
