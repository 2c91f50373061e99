import type { Page, RawRecord, Source } from '../../src/adapters/source.ts';
import type { Core } from '../../src/app/core.ts';
import type { PullProgress } from '../../src/pipeline/pull.ts';
import { settled } from './world.ts';

/** A source that says exactly what a test wrote: its pages come one after the other at the next pull, and once. */
export interface ScriptedSource {
  /** One pull of a stream of the source `ehr` that yields these pages; then all that can be filed is filed and entered. */
  tell(stream: 'labs' | 'notes', ...pages: readonly (readonly RawRecord[])[]): Promise<PullProgress>;
  /** As `tell`, but nothing is worked off afterwards. A function between the pages is called there. */
  store(stream: 'labs' | 'notes', ...pages: readonly Step[]): Promise<PullProgress>;
  /** A pull that is told to stop before its first page. */
  stopped(stream: 'labs' | 'notes', stop: AbortController): Promise<PullProgress>;
}
type Step = readonly RawRecord[] | (() => Promise<unknown>);

export function scriptedSource(core: Core): ScriptedSource {
  const ehr = core.sources.find(({ source }) => source.id === 'ehr');
  if (ehr === undefined) throw new Error('the sample configuration has no source ehr');
  const pull = (stream: string, pages: readonly Step[], stop = new AbortController()): Promise<PullProgress> => {
    const source: Source = { ...ehr.source, pull: (_stream, _mark, { signal }) => scripted(pages, signal) };
    return core.pull.pullStream({ ...ehr, source }, stream, stop.signal, () => {});
  };
  const store: ScriptedSource['store'] = async (stream, ...pages) => {
    const progress = await pull(stream, pages);
    if (progress.error !== undefined) throw new Error(progress.error);
    return progress;
  };
  return {
    store,
    stopped: (stream, stop) => pull(stream, [() => Promise.resolve(stop.abort())], stop),
    async tell(stream, ...pages) {
      const progress = await store(stream, ...pages);
      await core.assembler.drain();
      await settled(core);
      return progress;
    },
  };
}

async function* scripted(pages: readonly Step[], signal: AbortSignal): AsyncGenerator<Page> {
  for (const step of pages) {
    if (typeof step !== 'function') yield { records: step };
    else await step();
    signal.throwIfAborted();
  }
}

/** How a version of a record differs from the first; `version` orders them in time. */
export interface Wanted {
  version?: number;
  /** `Patient/…` whom it is about. */
  patient?: string;
  status?: string;
  /** Further members of the resource. */
  also?: object;
}

function recordOf(type: string, id: string, version: number, rest: object): RawRecord {
  const lastUpdated = new Date(Date.UTC(2026, 0, 5, 8, version)).toISOString();
  const text = JSON.stringify({ resourceType: type, id, meta: { versionId: String(version), lastUpdated }, ...rest });
  return { type, id, versionId: String(version), lastUpdated, mediaType: 'application/fhir+json', bytes: Buffer.from(text) };
}

export function patientRecord(
  id: string,
  mrn: string,
  wanted: { version?: number; family?: string; birthDate?: string; also?: object } = {},
): RawRecord {
  return recordOf('Patient', id, wanted.version ?? 1, {
    identifier: [{ system: 'urn:oid:2.16.840.1.113883.19.5', value: mrn }],
    name: [{ family: wanted.family ?? 'Scripted', given: ['Sam'] }],
    birthDate: wanted.birthDate ?? '1950-04-01',
    ...wanted.also,
  });
}

export function noteRecord(id: string, wanted: Wanted = {}): RawRecord {
  const { version = 1, patient = 'Patient/p1', status = 'current', also } = wanted;
  return recordOf('DocumentReference', id, version, {
    status,
    docStatus: status === 'entered-in-error' ? 'entered-in-error' : 'final',
    type: { coding: [{ system: 'http://loinc.org', code: '34117-2' }] },
    subject: { reference: patient },
    date: '2026-01-04T10:00:00Z',
    content: [{ attachment: { contentType: 'text/plain', data: Buffer.from(`Text of ${id}, version ${version}.`).toString('base64') } }],
    ...also,
  });
}

const LABORATORY = [{ coding: [{ system: 'http://terminology.hl7.org/CodeSystem/observation-category', code: 'laboratory' }] }];
const SECTION = [{ coding: [{ system: 'http://terminology.hl7.org/CodeSystem/v2-0074', code: 'LAB' }] }];

export function resultRecord(id: string, wanted: Wanted & { value?: number } = {}): RawRecord {
  const { version = 1, patient = 'Patient/p1', status = 'final', value = 4.1, also } = wanted;
  return recordOf('Observation', id, version, {
    status,
    category: LABORATORY,
    code: { coding: [{ system: 'http://loinc.org', code: '2823-3', display: 'Potassium' }] },
    subject: { reference: patient },
    effectiveDateTime: '2026-01-04T07:00:00Z',
    valueQuantity: { value, unit: 'mmol/L', system: 'http://unitsofmeasure.org', code: 'mmol/L' },
    ...also,
  });
}

export function reportRecord(id: string, results: readonly string[], wanted: Wanted = {}): RawRecord {
  const { version = 1, patient = 'Patient/p1', status = 'final', also } = wanted;
  return recordOf('DiagnosticReport', id, version, {
    status,
    category: SECTION,
    code: { coding: [{ system: 'http://loinc.org', code: '51990-0', display: 'Basic metabolic panel' }] },
    subject: { reference: patient },
    effectiveDateTime: '2026-01-04T07:00:00Z',
    result: results.map((result) => ({ reference: `Observation/${result}` })),
    ...also,
  });
}

/** What an adapter says of a record that is gone. */
export function gone(type: string, id: string): RawRecord {
  return { type, id, versionId: '', mediaType: 'application/fhir+json', bytes: new Uint8Array(), deleted: true };
}
