import { plainTerm } from './dose-volume.ts';
import { conceptText, extensionOf, extensionsOf, objectOf, objectsOf, stringOf } from './elements.ts';
import { type JsonObject, textOf } from './lossless-json.ts';
import { CODEX, MCODE, readByCode } from './radiotherapy-codes.ts';

/** The name that staff use (identifier with use `usual`); never a database id. */
export function shownName(resource: JsonObject, fallback: string): string {
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
export function techniquesOf(resources: readonly (JsonObject | undefined)[]): Techniques {
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

export function intentOf(resources: readonly (JsonObject | undefined)[]): string | undefined {
  for (const resource of resources) {
    const intent = readByCode('intent', extensionOf(resource, `${MCODE}mcode-procedure-intent`)?.['valueCodeableConcept']);
    if (intent !== undefined) return intent;
  }
  return undefined;
}
export function stopReasonOf(procedure: JsonObject | undefined): string | undefined {
  const reason = readByCode('stop-reason', procedure?.['statusReason']);
  return reason === undefined ? undefined : plainTerm(reason);
}

/** Image guidance and motion management, as the source's words. */
export function managementNotes(resource: JsonObject | undefined): string[] {
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
