import { type Assembly, headerOf, NOT_PROVIDED, nameOf, present, refOf } from './assembly.ts';
import { countOf, doseEntries, plainTerm, volumeRows } from './dose-volume.ts';
import {
  codingsOf,
  compareText,
  compareTimes,
  conceptText,
  displayOf,
  extensionOf,
  extensionsOf,
  objectOf,
  objectsOf,
  stringOf,
  targetOf,
} from './elements.ts';
import { type JsonObject, textOf } from './lossless-json.ts';
import type { DosePhase, DoseVolume, RadiationDoseDocument } from './model.ts';
import { CODEX, levelOf, MCODE, type RadiotherapyLevel, readByCode } from './radiotherapy-codes.ts';

/**
 * The radiation treatment summary of one course. Doses are the source's cGy digits, per volume at each level; volumes and
 * levels are never added (the same dose stands at course, phase and plan), revised plans stand beside what replaced them.
 * CodeX RT STU1 and STU2, and plain mCODE, read the same.
 */
export function assembleRadiationDose(assembly: Assembly): RadiationDoseDocument {
  const records = readRecords(assembly);
  const course = records.course;
  const requests = requestsOf(records, course, 'course');
  const about = course ?? requests.planned ?? requests.prescribed;
  const name = about === undefined ? 'Course' : shownName(about, 'Course');
  const rows = volumeRows(
    doseEntries('delivered', course, records.volume),
    doseEntries('planned', requests.planned, records.volume),
    doseEntries('prescribed', requests.prescribed, records.volume),
  );
  const period = objectOf(course?.['performedPeriod']);
  const start = stringOf(period?.['start']) ?? stringOf(course?.['performedDateTime']);
  const end = stringOf(period?.['end']);
  const status = course === undefined ? 'planned' : (stringOf(course['status']) ?? NOT_PROVIDED);
  const physician = physicianOf(assembly, course, requests);
  const techniques = techniquesOf([course ?? requests.planned ?? requests.prescribed]);
  const notes = courseNotes(records, about);
  if (status === 'in-progress' && end !== undefined) notes.push('In progress: the end is that of the last treatment so far.');
  if (course === undefined) notes.push('Planned only: no delivered course is known.');
  return {
    kind: 'radiation-dose',
    header: headerOf(assembly, {
      title: `Radiation treatment summary: ${name}`,
      status,
      dateOfService: start,
      author: physician,
      signer: undefined,
    }),
    course: {
      name,
      diagnoses: diagnosesOf(assembly, about),
      sites: siteTexts(about),
      modalities: techniques.modalities,
      techniques: techniques.techniques,
      status,
      notes,
      ...present({
        intent: intentOf([course, requests.planned, requests.prescribed]),
        start,
        end,
        sessionsGiven: countOf(extensionOf(course, `${MCODE}mcode-radiotherapy-sessions`)),
        sessionsPlanned: countOf(extensionOf(requests.planned, `${MCODE}mcode-radiotherapy-sessions`)),
        stopReason: stopReasonOf(course),
        physician,
        reirradiation: booleanExtension(course, 'codexrt-radiotherapy-course-involves-reirradiation'),
      }),
    },
    volumes: rows.filter((row) => !row.isPoint).map(withoutPoint),
    points: rows.filter((row) => row.isPoint).map(withoutPoint),
    phases: phasesOf(assembly, records),
  };
}

function withoutPoint({ isPoint: _isPoint, ...row }: DoseVolume & { isPoint: boolean }): DoseVolume {
  return row;
}

interface Records {
  course: JsonObject | undefined;
  procedures: readonly JsonObject[];
  requests: readonly JsonObject[];
  volume(ref: string): JsonObject | undefined;
  /** How many own records are not shown: withdrawn, or an older statement of the same phase. */
  withdrawn: number;
  older: number;
}

function readRecords(assembly: Assembly): Records {
  const own = assembly.own.map((record) => record.resource);
  const standing = own.filter((resource) => resource['status'] !== 'entered-in-error');
  const procedures = standing.filter((resource) => resource['resourceType'] === 'Procedure' && levelOf(resource) !== undefined);
  const latest = newestOfEach(procedures);
  const volumes = new Map<string, JsonObject>();
  for (const { resource } of [...assembly.context, ...assembly.own])
    if (resource['resourceType'] === 'BodyStructure') volumes.set(refOf(resource), resource);
  const courses = latest.filter((resource) => levelOf(resource) === 'course').sort(newer);
  const withdrawn = own.filter((resource) => resource['status'] === 'entered-in-error').length;
  return {
    course: courses[0],
    procedures: latest.filter((resource) => levelOf(resource) !== 'course'),
    requests: newestOfEach(standing.filter((resource) => resource['resourceType'] === 'ServiceRequest' && levelOf(resource) !== undefined)),
    volume: (ref) => volumes.get(ref) ?? assembly.lookup(ref),
    withdrawn,
    older: procedures.length - latest.length,
  };
}

/**
 * One statement for each thing: records with the same permanent identifier at the same level are versions of one (CodeX's
 * own examples send an earlier moment under another id), and two versions must never be shown as two doses.
 */
function newestOfEach(resources: readonly JsonObject[]): readonly JsonObject[] {
  const byIdentity = new Map<string, JsonObject>();
  for (const resource of [...resources].sort(newer)) {
    const identity = `${levelOf(resource)} ${stringOf(resource['intent']) ?? ''} ${permanentIdentifier(resource) ?? refOf(resource)}`;
    if (!byIdentity.has(identity)) byIdentity.set(identity, resource);
  }
  return [...byIdentity.values()].sort((a, b) => compareText(refOf(a), refOf(b)));
}
function newer(a: JsonObject, b: JsonObject): number {
  const time = (resource: JsonObject): string | undefined => stringOf(objectOf(resource['meta'])?.['lastUpdated']);
  return compareTimes(time(b), time(a)) || compareText(refOf(a), refOf(b));
}
function permanentIdentifier(resource: JsonObject): string | undefined {
  for (const identifier of objectsOf(resource['identifier'])) {
    const system = stringOf(identifier['system']) ?? '';
    const value = textOf(identifier['value']);
    if (value !== undefined && (system === 'urn:dicom:uid' || system.endsWith('/RadOnc-Id'))) return `${system}|${value}`;
  }
  return undefined;
}

interface Requests {
  planned: JsonObject | undefined;
  prescribed: JsonObject | undefined;
}
/** The requests of the same level that a procedure is based on; for a course without such links, the course level's own. */
function requestsOf(records: Records, procedure: JsonObject | undefined, level: RadiotherapyLevel): Requests {
  const targets = new Set(objectsOf(procedure?.['basedOn']).map((reference) => targetOf(reference)));
  const sameLevel = records.requests.filter((request) => levelOf(request) === level);
  let linked = sameLevel.filter((request) => targets.has(refOf(request)));
  if (linked.length === 0 && level === 'course') linked = sameLevel.filter((request) => request['status'] !== 'revoked');
  // A phase's prescription is often named by its plan's request only: one step further up the same level.
  const further = new Set(linked.flatMap((request) => objectsOf(request['basedOn']).map((reference) => targetOf(reference))));
  const all = [...linked, ...sameLevel.filter((request) => further.has(refOf(request)) && !linked.includes(request))];
  const live = (request: JsonObject): number => (request['status'] === 'revoked' ? 1 : 0);
  const ordered = [...all].sort((a, b) => live(a) - live(b) || newer(a, b));
  return {
    planned: ordered.find((request) => request['intent'] !== 'original-order'),
    prescribed: ordered.find((request) => request['intent'] === 'original-order'),
  };
}

function phasesOf(assembly: Assembly, records: Records): readonly DosePhase[] {
  const used = new Set<string>();
  const phases: { phase: DosePhase; start: string | undefined; ref: string }[] = [];
  for (const procedure of records.procedures) {
    const level = levelOf(procedure);
    if (level === undefined || level === 'course') continue;
    const requests = requestsOf(records, procedure, level);
    for (const request of [requests.planned, requests.prescribed]) if (request !== undefined) used.add(refOf(request));
    phases.push({ phase: phaseOf(assembly, records, level, procedure, requests), start: startOf(procedure), ref: refOf(procedure) });
  }
  // Requests that nothing was delivered on: planned, revoked before the first fraction, or prescribed only (edge case 61).
  const left = records.requests.filter((request) => levelOf(request) !== 'course' && !used.has(refOf(request)));
  for (const request of left) {
    const level = levelOf(request);
    const isPrescription = request['intent'] === 'original-order';
    if (level === undefined || level === 'course' || used.has(refOf(request))) continue;
    if (
      isPrescription &&
      left.some(
        (other) =>
          other !== request &&
          objectsOf(other['basedOn']).some((reference) => targetOf(reference) === refOf(request)) &&
          levelOf(other) === level,
      )
    )
      continue;
    const requests = isPrescription
      ? { planned: undefined, prescribed: request }
      : { planned: request, prescribed: requestsOf(records, request, level).prescribed };
    phases.push({ phase: phaseOf(assembly, records, level, undefined, requests), start: undefined, ref: refOf(request) });
  }
  const rank = (phase: DosePhase): number => (phase.level === 'phase' ? 0 : 1);
  return phases
    .sort(
      (a, b) =>
        rank(a.phase) - rank(b.phase) ||
        Number(a.start === undefined) - Number(b.start === undefined) ||
        compareTimes(a.start, b.start) ||
        compareText(a.ref, b.ref),
    )
    .map(({ phase }) => phase);
}

function phaseOf(
  assembly: Assembly,
  records: Records,
  level: 'phase' | 'plan',
  procedure: JsonObject | undefined,
  requests: Requests,
): DosePhase {
  const about = procedure ?? requests.planned ?? requests.prescribed ?? {};
  const planned = doseEntries('planned', requests.planned, records.volume);
  const prescribed = doseEntries('prescribed', requests.prescribed, records.volume);
  const rows = volumeRows(doseEntries('delivered', procedure, records.volume), planned, prescribed);
  const techniques = techniquesOf([procedure ?? requests.planned ?? requests.prescribed]);
  const fractionDoses = new Set(
    (planned.some((entry) => entry.fractionCGy !== undefined) ? planned : prescribed).flatMap((entry) => entry.fractionCGy ?? []),
  );
  const notes = managementNotes(about);
  if (procedure === undefined) notes.push('No delivery of it is known.');
  if (fractionDoses.size > 1) notes.push(`Dose per fraction differs by volume: ${[...fractionDoses].join(', ')} cGy.`);
  for (const row of rows.filter((point) => point.isPoint))
    notes.push(`Point ${row.name}: ${row.deliveredCGy === undefined ? NOT_PROVIDED : `${row.deliveredCGy} cGy delivered`}.`);
  const stopReason = stopReasonOf(procedure);
  if (stopReason !== undefined) notes.push(`Stopped: ${stopReason}.`);
  const period = objectOf(procedure?.['performedPeriod']);
  return {
    level,
    name: shownName(about, level === 'phase' ? 'Phase' : 'Plan'),
    status: stringOf(about['status']) ?? NOT_PROVIDED,
    techniques: techniques.techniques,
    volumes: rows.filter((row) => !row.isPoint).map(withoutPoint),
    notes,
    ...present({
      parent: level === 'plan' ? parentName(records, about) : undefined,
      modality: techniques.modalities.length > 0 ? techniques.modalities.join(', ') : undefined,
      energy: techniques.energies.length > 0 ? techniques.energies.join(', ') : undefined,
      machine: nameOf(assembly, objectsOf(procedure?.['usedReference'])[0]) ?? nameOf(assembly, objectOf(procedure?.['location'])),
      start: stringOf(period?.['start']) ?? stringOf(procedure?.['performedDateTime']),
      end: stringOf(period?.['end']),
      fractionsDelivered: countOf(extensionOf(procedure, `${CODEX}codexrt-radiotherapy-fractions-delivered`)),
      fractionsPlanned:
        countOf(extensionOf(requests.planned, `${CODEX}codexrt-radiotherapy-fractions-planned`)) ??
        countOf(extensionOf(requests.prescribed, `${CODEX}codexrt-radiotherapy-fractions-prescribed`)),
      fractionDoseCGy: fractionDoses.size === 1 ? [...fractionDoses][0] : undefined,
      revision: revisionOf(records, [procedure, requests.planned, requests.prescribed]),
    }),
  };
}

/** What was revised: `revoked` and `replaces` of the requests, with the reason that either side gives (section 5.4 point 4). */
function revisionOf(records: Records, resources: readonly (JsonObject | undefined)[]): string | undefined {
  const parts: string[] = [];
  for (const resource of resources) {
    if (resource === undefined) continue;
    for (const reference of objectsOf(resource['replaces'])) {
      const replaced = records.requests.find((request) => refOf(request) === targetOf(reference));
      const name = replaced === undefined ? displayOf(reference) : shownName(replaced, 'an earlier request');
      parts.push(`replaces ${name ?? 'an earlier request'}${reasonText(replaced)}`);
    }
    if (resource['resourceType'] === 'ServiceRequest' && resource['status'] === 'revoked') {
      const by = records.requests.find((request) =>
        objectsOf(request['replaces']).some((reference) => targetOf(reference) === refOf(resource)),
      );
      parts.push(`revoked${by === undefined ? '' : `, replaced by ${shownName(by, 'a later request')}`}${reasonText(resource)}`);
    } else if (reasonText(resource) !== '') parts.push(`revised${reasonText(resource)}`);
  }
  return parts.length > 0 ? [...new Set(parts)].join('; ') : undefined;
}
function reasonText(resource: JsonObject | undefined): string {
  const reason = conceptText(
    extensionOf(resource, `${CODEX}codexrt-radiotherapy-reason-for-revision-or-adaptation`)?.['valueCodeableConcept'],
  );
  return reason === undefined ? '' : ` (${plainTerm(reason)})`;
}

function parentName(records: Records, plan: JsonObject): string | undefined {
  for (const name of ['partOf', 'basedOn'] as const) {
    for (const reference of objectsOf(plan[name])) {
      const target = targetOf(reference);
      const parent = [...records.procedures, ...records.requests].find((resource) => refOf(resource) === target);
      if (parent !== undefined && levelOf(parent) === 'phase') return shownName(parent, 'Phase');
      // Not here, but named: ARIA's typed ids say what it is, so the display is that of a phase.
      if (parent === undefined && target !== undefined && /Phase/.test(target)) return displayOf(reference);
    }
  }
  return undefined;
}

/** The name that staff use (identifier with use `usual`); never a database id. */
function shownName(resource: JsonObject, fallback: string): string {
  const identifiers = objectsOf(resource['identifier']);
  const shown =
    identifiers.find((identifier) => /\/radiotherapy(Course|Phase|Plan)Id$/.test(stringOf(identifier['system']) ?? '')) ??
    identifiers.find((identifier) => identifier['use'] === 'usual');
  return textOf(shown?.['value']) ?? stringOf(objectOf(resource['code'])?.['text']) ?? fallback;
}

interface Techniques {
  modalities: readonly string[];
  techniques: readonly string[];
  energies: readonly string[];
}
function techniquesOf(resources: readonly (JsonObject | undefined)[]): Techniques {
  const modalities = new Set<string>();
  const techniques = new Set<string>();
  const energies = new Set<string>();
  for (const resource of resources) {
    for (const extension of extensionsOf(resource, `${MCODE}mcode-radiotherapy-modality-and-technique`)) {
      for (const part of objectsOf(extension['extension'])) {
        const url = stringOf(part['url']) ?? '';
        if (url === `${MCODE}mcode-radiotherapy-modality`) addIf(modalities, readByCode('modality', part['valueCodeableConcept']));
        else if (url === `${MCODE}mcode-radiotherapy-technique`) addIf(techniques, readByCode('technique', part['valueCodeableConcept']));
        else if (url.endsWith('codexrt-radiotherapy-energy-or-isotope')) {
          const quantity = objectOf(part['valueQuantity']);
          const value = textOf(quantity?.['value']);
          addIf(
            energies,
            value === undefined
              ? conceptText(part['valueCodeableConcept'])
              : `${value} ${stringOf(quantity?.['unit']) ?? stringOf(quantity?.['code']) ?? ''}`.trim(),
          );
        } else if (url.endsWith('codexrt-radiotherapy-treatment-applicator-type'))
          addIf(techniques, conceptText(part['valueCodeableConcept']));
      }
    }
  }
  const plain = (set: ReadonlySet<string>): readonly string[] => [...set].map(plainTerm);
  return { modalities: plain(modalities), techniques: plain(techniques), energies: plain(energies) };
}
function addIf(set: Set<string>, text: string | undefined): void {
  if (text !== undefined) set.add(text);
}

function intentOf(resources: readonly (JsonObject | undefined)[]): string | undefined {
  for (const resource of resources) {
    const intent = readByCode('intent', extensionOf(resource, `${MCODE}mcode-procedure-intent`)?.['valueCodeableConcept']);
    if (intent !== undefined) return intent;
  }
  return undefined;
}
function stopReasonOf(procedure: JsonObject | undefined): string | undefined {
  const reason = readByCode('stop-reason', procedure?.['statusReason']);
  return reason === undefined ? undefined : plainTerm(reason);
}
function booleanExtension(resource: JsonObject | undefined, name: string): boolean | undefined {
  const value = extensionOf(resource, `${CODEX}${name}`)?.['valueBoolean'];
  return typeof value === 'boolean' ? value : undefined;
}
function startOf(procedure: JsonObject): string | undefined {
  return stringOf(objectOf(procedure['performedPeriod'])?.['start']) ?? stringOf(procedure['performedDateTime']);
}

/** Image guidance and motion management, as the source's words. */
function managementNotes(resource: JsonObject | undefined): string[] {
  const notes: string[] = [];
  const motion = conceptText(extensionOf(resource, `${CODEX}codexrt-radiotherapy-respiratory-motion-management`)?.['valueCodeableConcept']);
  if (motion !== undefined) notes.push(`Motion management: ${plainTerm(motion)}.`);
  for (const extension of extensionsOf(resource, `${CODEX}codexrt-image-guided-radiotherapy-modality`)) {
    const modality = objectsOf(extension['extension']).find((part) => part['url'] === 'modality');
    const text = conceptText(modality?.['valueCodeableConcept']);
    if (text !== undefined) notes.push(`Image guidance: ${plainTerm(text)}.`);
  }
  return notes;
}
function courseNotes(records: Records, about: JsonObject | undefined): string[] {
  const notes = managementNotes(about);
  if (records.withdrawn > 0) notes.push(`${records.withdrawn} record(s) of this course were entered in error and are not shown.`);
  if (records.older > 0) notes.push(`${records.older} earlier statement(s) of the same course or phases are not shown.`);
  for (const note of objectsOf(about?.['note'])) addNote(notes, stringOf(note['text']));
  return notes;
}
function addNote(notes: string[], text: string | undefined): void {
  if (text !== undefined) notes.push(text);
}

function siteTexts(resource: JsonObject | undefined): readonly string[] {
  const sites = objectsOf(resource?.['bodySite'])
    .map((site) => conceptText(site))
    .filter((text) => text !== undefined);
  return [...new Set(sites.map(plainTerm))];
}

/** Codes with their text; a Condition that only repeats a code already named is not listed twice. */
function diagnosesOf(assembly: Assembly, about: JsonObject | undefined): readonly string[] {
  const found = new Map<string, string>();
  const add = (concept: JsonObject | undefined, more: string): void => {
    const text = conceptText(concept);
    const code = codingsOf(concept).find((coding) => /icd|snomed/.test(coding.system))?.code;
    if (text === undefined) return;
    found.set(code ?? text, `${plainTerm(text)}${code === undefined || text === code ? '' : ` (${code})`}${more}`);
  };
  for (const reason of objectsOf(about?.['reasonCode'])) add(reason, '');
  for (const reference of objectsOf(about?.['reasonReference'])) {
    const target = targetOf(reference);
    const condition =
      target === undefined
        ? undefined
        : (assembly.context.find((record) => refOf(record.resource) === target)?.resource ?? assembly.lookup(target));
    const display = displayOf(reference);
    if (condition !== undefined) {
      const stages = objectsOf(condition['stage'])
        .map((stage) => conceptText(stage['summary']))
        .filter((text) => text !== undefined);
      add(objectOf(condition['code']), stages.length === 0 ? '' : `, stage ${stages.join('; ')}`);
    } else if (display !== undefined && ![...found].some(([code, text]) => display.includes(code) || display === text))
      found.set(display, display);
  }
  return [...found.values()];
}

function physicianOf(assembly: Assembly, course: JsonObject | undefined, requests: Requests): string | undefined {
  for (const performer of objectsOf(course?.['performer'])) {
    const name = nameOf(assembly, objectOf(performer['actor']));
    if (name !== undefined) return name;
  }
  return (
    nameOf(assembly, objectOf(course?.['asserter'])) ??
    nameOf(assembly, objectOf(requests.prescribed?.['requester'])) ??
    nameOf(assembly, objectOf(requests.planned?.['requester']))
  );
}
