import { type Assembly, headerOf, NOT_PROVIDED, nameOf, present, refOf } from './assembly.ts';
import { phasesOf, withoutPoint } from './dose-phases.ts';
import { type Records, type Requests, readRecords, requestsOf } from './dose-records.ts';
import { countOf, doseEntries, plainTerm, volumeRows } from './dose-volume.ts';
import { intentOf, managementNotes, shownName, stopReasonOf, techniquesOf } from './dose-words.ts';
import { codingsOf, conceptText, displayOf, extensionOf, objectOf, objectsOf, stringOf, targetOf } from './elements.ts';
import { type JsonObject } from './lossless-json.ts';
import type { RadiationDoseDocument } from './model.ts';
import { CODEX, MCODE } from './radiotherapy-codes.ts';

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
function booleanExtension(resource: JsonObject | undefined, name: string): boolean | undefined {
  const value = extensionOf(resource, `${CODEX}${name}`)?.['valueBoolean'];
  return typeof value === 'boolean' ? value : undefined;
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
