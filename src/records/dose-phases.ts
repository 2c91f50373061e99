import { type Assembly, NOT_PROVIDED, nameOf, present, refOf } from './assembly.ts';
import { type Records, type Requests, requestsOf } from './dose-records.ts';
import { countOf, doseEntries, plainTerm, volumeRows } from './dose-volume.ts';
import { managementNotes, shownName, stopReasonOf, techniquesOf } from './dose-words.ts';
import { compareText, compareTimes, conceptText, displayOf, extensionOf, objectOf, objectsOf, stringOf, targetOf } from './elements.ts';
import { type JsonObject } from './lossless-json.ts';
import type { DosePhase, DoseVolume } from './model.ts';
import { CODEX, levelOf } from './radiotherapy-codes.ts';

export function withoutPoint({ isPoint: _isPoint, ...row }: DoseVolume & { isPoint: boolean }): DoseVolume {
  return row;
}

export function phasesOf(assembly: Assembly, records: Records): readonly DosePhase[] {
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
function startOf(procedure: JsonObject): string | undefined {
  return stringOf(objectOf(procedure['performedPeriod'])?.['start']) ?? stringOf(procedure['performedDateTime']);
}
