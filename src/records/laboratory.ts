import { type Assembly, type AssemblyRecord, headerOf, nameOf, namesOf, newestFirst, present, refOf } from './assembly.ts';
import {
  codingsOf,
  compareText,
  compareTimes,
  conceptText,
  LOINC,
  millisOf,
  objectOf,
  objectsOf,
  stringOf,
  targetOf,
  token,
} from './elements.ts';
import { laboratoryResult, type ReadResult, resultNotes } from './laboratory-result.ts';
import type { JsonObject } from './lossless-json.ts';
import { textOf } from './lossless-json.ts';
import type { LaboratoryAnalyte, LaboratoryDocument, LaboratoryPanel, LaboratoryResult } from './model.ts';
import { decimalShift, shiftDecimal } from './units.ts';

/**
 * The laboratory document: a report with its results, or the results of one collection that no report claims. Values, flags
 * and ranges are the source's; nothing is computed but the shift of a decimal point in an earlier value.
 */
export function assembleLaboratory(assembly: Assembly): LaboratoryDocument {
  const report = assembly.own.find((record) => record.resource['resourceType'] === 'DiagnosticReport')?.resource;
  const observations = currentObservations(assembly.own);
  const standing = observations.filter((record) => !isWithdrawn(record.resource));
  const specimen = specimenOf(assembly, report, observations);
  const first = observations[0]?.resource;
  const collected = stringOf(objectOf(specimen?.['collection'])?.['collectedDateTime']) ?? timeOf(report) ?? timeOf(first);
  const reported = stringOf(report?.['issued']) ?? latest(observations.map((record) => stringOf(record.resource['issued'])));
  const reportName =
    conceptText(report?.['code']) ?? (observations.length === 1 ? conceptText(first?.['code']) : undefined) ?? 'Laboratory results';
  const performers = objectsOf(report?.['performer'] ?? first?.['performer']);
  const conclusion = [stringOf(report?.['conclusion']), ...objectsOf(report?.['conclusionCode']).map((code) => conceptText(code))]
    .filter((text) => text !== undefined)
    .join('\n');
  return {
    kind: 'laboratory',
    header: headerOf(assembly, {
      title: reportName,
      status: reportStatus(report, standing),
      dateOfService: collected,
      author: namesOf(assembly, performers),
      signer: namesOf(assembly, objectsOf(report?.['resultsInterpreter'])),
    }),
    reportName,
    panels: panelsOf(assembly, reportName, report, standing),
    cancelled: observations.filter((record) => isWithdrawn(record.resource)).map((record) => cancelledOf(record.resource)),
    comments: commentsOf(report, standing),
    ...present({
      specimen: conceptText(specimen?.['type']) ?? displayOfSpecimen(report, observations),
      collected,
      received: stringOf(specimen?.['receivedTime']),
      reported,
      orderedBy: ordererOf(assembly, report ?? first),
      performer: performerOf(assembly, performers),
      conclusion: conclusion === '' ? undefined : conclusion,
    }),
  };
}

/** `system|code` of an observation by which earlier results are found: LOINC if there is one, else the local code. */
export function analyteCode(observation: JsonObject): string | undefined {
  const codings = codingsOf(observation['code']);
  const coding = codings.find((candidate) => candidate.system === LOINC) ?? codings[0];
  return coding === undefined ? undefined : token(coding);
}

/** The newest version of each own observation, in a fixed order. */
function currentObservations(records: readonly AssemblyRecord[]): readonly AssemblyRecord[] {
  const byRef = new Map<string, AssemblyRecord>();
  for (const record of newestFirst(records.filter((candidate) => candidate.resource['resourceType'] === 'Observation'))) {
    const key = `${record.source} ${refOf(record.resource)}`;
    if (!byRef.has(key)) byRef.set(key, record);
  }
  return [...byRef.values()].sort((a, b) => compareText(`${a.source} ${refOf(a.resource)}`, `${b.source} ${refOf(b.resource)}`));
}

function isWithdrawn(observation: JsonObject): boolean {
  return observation['status'] === 'cancelled' || observation['status'] === 'entered-in-error';
}

function reportStatus(report: JsonObject | undefined, observations: readonly AssemblyRecord[]): string {
  const own = stringOf(report?.['status']);
  const below = observations.map((record) => stringOf(record.resource['status']));
  // A correction of one result corrects what the reader sees, even where the server left the report final.
  if (own === undefined || own === 'final') {
    for (const status of ['corrected', 'amended', 'preliminary', 'registered']) if (below.includes(status)) return status;
  }
  return own ?? 'final';
}

function panelsOf(
  assembly: Assembly,
  reportName: string,
  report: JsonObject | undefined,
  observations: readonly AssemblyRecord[],
): readonly LaboratoryPanel[] {
  const byRef = new Map(observations.map((record) => [refOf(record.resource), record]));
  const placed = new Set<string>();
  const panels: LaboratoryPanel[] = [];
  const direct: LaboratoryAnalyte[] = [];
  const place = (ref: string, into: LaboratoryAnalyte[]): void => {
    const record = byRef.get(ref);
    if (record === undefined || placed.has(ref)) return;
    placed.add(ref);
    const members = objectsOf(record.resource['hasMember']).flatMap((member) => targetOf(member) ?? []);
    if (members.length === 0) {
      into.push(analyteOf(assembly, record));
      return;
    }
    const analytes: LaboratoryAnalyte[] = [];
    if (laboratoryResult(record.resource).hasValue) analytes.push(analyteOf(assembly, record));
    for (const member of members) place(member, analytes);
    if (analytes.length > 0) panels.push({ name: conceptText(record.resource['code']) ?? reportName, analytes });
  };
  const members = new Set(
    observations.flatMap((record) => objectsOf(record.resource['hasMember']).flatMap((member) => targetOf(member) ?? [])),
  );
  for (const result of objectsOf(report?.['result'])) {
    const ref = targetOf(result);
    if (ref !== undefined && !members.has(ref)) place(ref, direct);
  }
  for (const ref of byRef.keys()) if (!members.has(ref)) place(ref, direct);
  for (const ref of byRef.keys()) place(ref, direct);
  return direct.length > 0 ? [{ name: reportName, analytes: direct }, ...panels] : panels;
}

function analyteOf(assembly: Assembly, record: AssemblyRecord): LaboratoryAnalyte {
  const { resource } = record;
  const read = laboratoryResult(resource);
  const code = analyteCode(resource);
  const { earlier, notes } = earlierOf(assembly, record, read, code);
  return {
    name: conceptText(resource['code']) ?? 'unnamed test',
    current: read.result,
    earlier,
    notes: [
      ...resultNotes(read),
      ...correctionNotes(assembly, record, read),
      ...objectsOf(resource['note']).flatMap((note) => stringOf(note['text']) ?? []),
      ...notes,
    ],
    components: objectsOf(resource['component']).map((component) => {
      const part = laboratoryResult(component, resource);
      return { name: conceptText(component['code']) ?? 'unnamed component', current: part.result };
    }),
    ...(code === undefined ? {} : { code }),
  };
}

/** The value before a correction stands in a footnote (edge case 31): the newest earlier version of the same observation. */
function correctionNotes(assembly: Assembly, record: AssemblyRecord, read: ReadResult): readonly string[] {
  const ref = refOf(record.resource);
  const before = newestFirst(assembly.context.filter((other) => other.source === record.source && refOf(other.resource) === ref))
    .map((other) => laboratoryResult(other.resource))
    .find((other) => other.hasValue && (other.result.value !== read.result.value || other.result.unit !== read.result.unit));
  const status = read.result.status;
  if (before === undefined) return status === 'corrected' ? ['Corrected; the value before is not known here.'] : [];
  const was = `${before.result.value}${before.result.unit === undefined ? '' : ` ${before.result.unit}`}`;
  const word = status === 'corrected' || status === 'amended' ? `${status[0]?.toUpperCase()}${status.slice(1)}` : 'Changed';
  return [`${word}: was ${was} (${before.result.status}).`];
}

/**
 * Earlier results of the same analyte, newest first: same code, and the same unit or one that differs by a power of ten.
 * The same specimen reported twice (by two sources, or in two reports) appears once. Edge cases 36, 38, 40.
 */
function earlierOf(
  assembly: Assembly,
  record: AssemblyRecord,
  read: ReadResult,
  code: string | undefined,
): { earlier: readonly LaboratoryResult[]; notes: readonly string[] } {
  const now = millisOf(read.result.collected);
  if (code === undefined || now === undefined) return { earlier: [], notes: [] };
  const ref = refOf(record.resource);
  const earlier = new Map<string, LaboratoryResult>();
  const notes: string[] = [];
  const candidates = assembly.context.filter(
    (other) =>
      other.resource['resourceType'] === 'Observation' &&
      refOf(other.resource) !== ref &&
      !isWithdrawn(other.resource) &&
      analyteCode(other.resource) === code,
  );
  for (const other of newestFirst(candidates)) {
    const { result, hasValue } = laboratoryResult(other.resource);
    const at = millisOf(result.collected);
    if (!hasValue || at === undefined || at >= now) continue;
    const shift = result.number === undefined && result.unit === undefined ? 0 : decimalShift(result.unit, read.result.unit);
    if (shift === undefined) continue;
    const shown = shift === 0 ? result : shifted(result, shift, read.result.unit);
    if (shown === undefined) continue;
    const key = `${at} ${shown.value}`;
    if (earlier.has(key)) continue;
    earlier.set(key, shown);
    if (shift !== 0)
      notes.push(`${result.collected}: ${result.value} ${result.unit ?? ''} at the source, shown as ${shown.value} ${shown.unit ?? ''}.`);
  }
  return { earlier: [...earlier.values()].sort((a, b) => compareTimes(b.collected, a.collected)), notes: notes.sort(compareText) };
}

function shifted(result: LaboratoryResult, places: number, unit: string | undefined): LaboratoryResult | undefined {
  const comparator = /^(<=|>=|<|>)?(.*)$/.exec(result.value);
  const value = shiftDecimal(comparator?.[2] ?? '', places);
  if (value === undefined) return undefined;
  // Its range and flag were given in the other unit; the flag holds, the range's numbers would not.
  const { range: _range, rangeLow: _low, rangeHigh: _high, number: _number, ...rest } = result;
  return {
    ...rest,
    value: `${comparator?.[1] ?? ''}${value}`,
    ...(result.number === undefined ? {} : { number: Number(value) }),
    ...(unit === undefined ? {} : { unit }),
  };
}

function cancelledOf(observation: JsonObject): { name: string; reason?: string } {
  const given =
    conceptText(observation['dataAbsentReason']) ??
    objectsOf(observation['note'])
      .map((note) => stringOf(note['text']))
      .find((text) => text !== undefined);
  const reason =
    observation['status'] === 'entered-in-error' ? ['entered in error', given].filter((text) => text !== undefined).join(': ') : given;
  return { name: conceptText(observation['code']) ?? 'unnamed test', ...(reason === undefined ? {} : { reason }) };
}

function commentsOf(report: JsonObject | undefined, observations: readonly AssemblyRecord[]): readonly string[] {
  const comments = observations
    .filter((record) => objectsOf(record.resource['hasMember']).length > 0 && !laboratoryResult(record.resource).hasValue)
    .flatMap((record) => objectsOf(record.resource['note']).flatMap((note) => stringOf(note['text']) ?? []));
  for (const form of objectsOf(report?.['presentedForm'])) {
    comments.push(
      `The source also gives this report as a file (${stringOf(form['contentType']) ?? 'type not given'}); it is kept with the record.`,
    );
  }
  return comments;
}

function timeOf(resource: JsonObject | undefined): string | undefined {
  return (
    stringOf(resource?.['effectiveDateTime']) ??
    stringOf(resource?.['effectiveInstant']) ??
    stringOf(objectOf(resource?.['effectivePeriod'])?.['start'])
  );
}
function latest(times: readonly (string | undefined)[]): string | undefined {
  return [...times].sort((a, b) => compareTimes(b, a))[0];
}

function specimenOf(assembly: Assembly, report: JsonObject | undefined, observations: readonly AssemblyRecord[]): JsonObject | undefined {
  for (const resource of [report, ...observations.map((record) => record.resource)]) {
    for (const reference of objectsOf(resource?.['specimen'])) {
      const target = targetOf(reference);
      const found = target === undefined ? undefined : target.startsWith('#') ? containedOf(resource, target) : assembly.lookup(target);
      if (found !== undefined) return found;
    }
  }
  return undefined;
}
function containedOf(resource: JsonObject | undefined, target: string): JsonObject | undefined {
  return objectsOf(resource?.['contained']).find((item) => `#${textOf(item['id']) ?? ''}` === target);
}
function displayOfSpecimen(report: JsonObject | undefined, observations: readonly AssemblyRecord[]): string | undefined {
  return [report, ...observations.map((record) => record.resource)]
    .flatMap((resource) => objectsOf(resource?.['specimen']))
    .map((reference) => stringOf(reference['display']))
    .find((text) => text !== undefined);
}

function ordererOf(assembly: Assembly, resource: JsonObject | undefined): string | undefined {
  for (const order of objectsOf(resource?.['basedOn'])) {
    const target = targetOf(order);
    const request = target === undefined ? undefined : assembly.lookup(target);
    const name = nameOf(assembly, objectOf(request?.['requester']));
    if (name !== undefined) return name;
  }
  return undefined;
}

const IDENTIFIER_NAMES: Readonly<Record<string, string>> = {
  'http://hl7.org/fhir/sid/us-npi': 'NPI',
  'urn:oid:2.16.840.1.113883.4.7': 'CLIA',
};
function performerOf(assembly: Assembly, performers: readonly JsonObject[]): LaboratoryDocument['performer'] | undefined {
  for (const reference of performers) {
    const target = targetOf(reference);
    const resource = target === undefined ? undefined : assembly.lookup(target);
    const name = nameOf(assembly, reference);
    if (name === undefined || (resource !== undefined && resource['resourceType'] !== 'Organization')) continue;
    const identifiers = objectsOf(resource?.['identifier']).flatMap((identifier) => {
      const known = IDENTIFIER_NAMES[stringOf(identifier['system']) ?? ''];
      const value = textOf(identifier['value']);
      return known === undefined || value === undefined ? [] : [`${known} ${value}`];
    });
    return { name, identifiers };
  }
  return undefined;
}
