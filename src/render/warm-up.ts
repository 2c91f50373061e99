import type { LaboratoryDocument } from '../records/model.ts';

/**
 * A document about nobody. A thread renders it before it is asked for anything: the first one takes ten times as long as those
 * after it (typefaces, harfbuzz, compiled code), and a pull's first document should not wait for that.
 */
export const WARM_UP: LaboratoryDocument = {
  kind: 'laboratory',
  header: {
    category: 'laboratory',
    title: 'Warm-up',
    documentId: 'doc-aaaaaaaaaaaaaaaaaaaaaaaaaa',
    version: 1,
    status: 'final',
    facility: 'None',
    patient: { name: 'Nobody', identifiers: [] },
    asOf: '2000-01-01T00:00:00Z',
    zone: 'UTC',
    sources: [],
    manifestHash: '0'.repeat(64),
  },
  reportName: 'Warm-up',
  panels: [
    {
      name: 'Warm-up',
      analytes: [
        {
          name: 'Result',
          current: {
            value: '4.0',
            number: 4,
            unit: 'mg/dL',
            range: '1 - 3',
            rangeLow: 1,
            rangeHigh: 3,
            flag: 'H',
            status: 'final',
            collected: '2000-01-01T00:00:00Z',
          },
          earlier: [{ value: '2.0', number: 2, unit: 'mg/dL', flag: 'N', status: 'final', collected: '1999-12-01T00:00:00Z' }],
          notes: [],
          components: [],
        },
      ],
    },
  ],
  cancelled: [],
  comments: [],
};
