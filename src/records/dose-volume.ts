import { refOf } from './assembly.ts';
import { codingsOf, conceptText, displayOf, identifierTargetOf, objectOf, objectsOf, SNOMED, stringOf, targetOf } from './elements.ts';
import { type JsonObject, numberOf, textOf } from './lossless-json.ts';
import type { DoseVolume } from './model.ts';
import { CODEX, MCODE, readByCode } from './radiotherapy-codes.ts';

/** One entry of a dose extension: what was delivered to, planned or prescribed for one volume at one level. */
export interface DoseEntry {
  /** Equal for entries about one volume: its BodyStructure, else the target's identifier, else its name. */
  key: string;
  name: string;
  volume: JsonObject | undefined;
  isPoint: boolean;
  totalCGy?: string;
  fractionCGy?: string;
  fractions?: number;
  uniform?: boolean;
  metric?: string;
  notes: readonly string[];
}

const DELIVERED = `${MCODE}mcode-radiotherapy-dose-delivered-to-volume`;
const PLANNED = `${CODEX}codexrt-radiotherapy-dose-planned-to-volume`;
const PRESCRIBED = `${CODEX}codexrt-radiotherapy-dose-prescribed-to-volume`;
const URLS = { delivered: DELIVERED, planned: PLANNED, prescribed: PRESCRIBED } as const;

/** The entries of one kind on one resource; `volumeOf` finds a BodyStructure by `Type/id`. */
export function doseEntries(
  kind: keyof typeof URLS,
  resource: JsonObject | undefined,
  volumeOf: (ref: string) => JsonObject | undefined,
): readonly DoseEntry[] {
  return objectsOf(resource?.['extension'])
    .filter((extension) => extension['url'] === URLS[kind])
    .map((extension) => readEntry(extension, volumeOf));
}

function readEntry(extension: JsonObject, volumeOf: (ref: string) => JsonObject | undefined): DoseEntry {
  const parts = objectsOf(extension['extension']);
  // STU1 and STU2 name some parts by a short name and some by a full url.
  const part = (...names: readonly string[]): JsonObject | undefined =>
    parts.find((candidate) => names.some((name) => candidate['url'] === name || stringOf(candidate['url'])?.endsWith(`/${name}`)));
  const notes: string[] = [];
  const reference = objectOf(part('volume')?.['valueReference']);
  const target = targetOf(reference);
  const volume = target === undefined ? undefined : volumeOf(target);
  if (volume === undefined && target !== undefined)
    notes.push("The volume itself was not provided by the source; its name is the reference's.");
  if (volume === undefined && target === undefined && reference !== undefined)
    notes.push('A target named by the prescription only; not linked to a volume.');
  const total = doseCGy(part('totalDoseDelivered', 'totalDose', 'totalDosePrescribed', 'totalDosePlanned'), 'total dose', notes);
  const fraction = doseCGy(part('fractionDose', 'fractionDosePrescribed', 'fractionDosePlanned'), 'fraction dose', notes);
  const fractions = countOf(part('fractionsDelivered', 'fractions', 'fractionsPrescribed', 'fractionsPlanned'));
  const uniform = part('codexrt-radiotherapy-uniform-fractionation')?.['valueBoolean'];
  if (part('codexrt-radiotherapy-primary-plan-dose')?.['valueBoolean'] === false) notes.push('Not the primary volume of its plan.');
  const isPoint = [part('codexrt-radiotherapy-point-dose'), part('isPointDose')].some((flag) => flag?.['valueBoolean'] === true);
  const metrics = parts
    .filter((candidate) => candidate['url'] === `${CODEX}codexrt-radiobiologic-metric`)
    .map((candidate) => objectOf(candidate['valueQuantity']))
    .map((quantity) =>
      [textOf(quantity?.['value']), stringOf(quantity?.['unit']) ?? stringOf(quantity?.['code'])]
        .filter((text) => text !== undefined)
        .join(' '),
    );
  const name =
    (volume === undefined ? undefined : volumeName(volume)) ?? displayOf(reference) ?? identifierValue(reference) ?? 'unnamed volume';
  return {
    key: volume === undefined ? (target ?? identifierTargetOf(reference) ?? `name:${name}`) : refOf(volume),
    name,
    volume,
    isPoint,
    notes,
    ...(total === undefined ? {} : { totalCGy: total }),
    ...(fraction === undefined ? {} : { fractionCGy: fraction }),
    ...(fractions === undefined ? {} : { fractions }),
    ...(typeof uniform === 'boolean' ? { uniform } : {}),
    ...(metrics.length === 0 ? {} : { metric: metrics.join('; ') }),
  };
}

/**
 * The source's own digits where the unit is cGy. Anything else in a field that the profile fixes to cGy is flagged, never
 * scaled by guess: a wrong factor of 100 in a dose harms (edge case 56).
 */
function doseCGy(part: JsonObject | undefined, what: string, notes: string[]): string | undefined {
  const quantity = objectOf(part?.['valueQuantity']);
  const value = textOf(quantity?.['value']);
  if (quantity === undefined || value === undefined) return undefined;
  const code = stringOf(quantity['code']);
  const unit = stringOf(quantity['unit']);
  const comparator = stringOf(quantity['comparator']);
  const agrees = (text: string | undefined): boolean => text === undefined || text === 'cGy';
  if ((code !== undefined || unit !== undefined) && agrees(code) && agrees(unit) && comparator === undefined) return value;
  const given = [...new Set([code, unit].filter((text) => text !== undefined))].join('/');
  notes.push(
    `The source gives the ${what} as ${comparator ?? ''}${value} ${given === '' ? 'without a unit' : given} where cGy is required; not converted.`,
  );
  return undefined;
}

export function countOf(extension: JsonObject | undefined): number | undefined {
  const value =
    numberOf(extension?.['valueUnsignedInt']) ?? numberOf(extension?.['valuePositiveInt']) ?? numberOf(extension?.['valueInteger']);
  return value !== undefined && Number.isInteger(value) && value >= 0 ? value : undefined;
}

function volumeName(volume: JsonObject): string | undefined {
  const identifiers = objectsOf(volume['identifier']);
  const shown = identifiers.find((identifier) => stringOf(identifier['system'])?.endsWith('/radiotherapyDoseReferenceId'));
  return textOf(shown?.['value']) ?? stringOf(volume['description']) ?? conceptText(volume['location']);
}
function identifierValue(reference: JsonObject | undefined): string | undefined {
  return textOf(objectOf(reference?.['identifier'])?.['value']);
}

/** What a BodyStructure says of itself. */
function anatomy(volume: JsonObject | undefined): Pick<DoseVolume, 'type' | 'site' | 'laterality'> {
  if (volume === undefined) return {};
  const type = readByCode('volume-type', volume['morphology']);
  const qualifiers = objectsOf(volume['locationQualifier']);
  const isSide = (concept: JsonObject): boolean => codingsOf(concept).some((coding) => coding.system === SNOMED && SIDES.has(coding.code));
  const sides = qualifiers.filter(isSide).map((concept) => readByCode('laterality', concept));
  const place = [
    conceptText(volume['location']),
    ...qualifiers.filter((concept) => !isSide(concept)).map((concept) => conceptText(concept)),
  ];
  const site = place.filter((text) => text !== undefined).map(plainTerm);
  return {
    ...(type === undefined ? {} : { type }),
    ...(site.length === 0 ? {} : { site: site.join(', ') }),
    ...(sides.length === 0 ? {} : { laterality: sides.filter((side) => side !== undefined).join(', ') }),
  };
}
const SIDES = new Set(['7771000', '24028007', '51440002', '399488007']);

/** SNOMED's fully specified names end in their kind, which says nothing to a reader. */
export function plainTerm(text: string): string {
  return text.replace(/ \((body structure|qualifier value|procedure|finding|situation|regime\/therapy|observable entity|disorder)\)$/, '');
}

/**
 * One row per volume: delivered, planned and prescribed beside each other, joined only where the source points at the same
 * volume. A same name is not the same volume (section 5.4 point 9), and nothing is ever added.
 */
export function volumeRows(
  delivered: readonly DoseEntry[],
  planned: readonly DoseEntry[],
  prescribed: readonly DoseEntry[],
): readonly (DoseVolume & { isPoint: boolean })[] {
  const order: string[] = [];
  const rows = new Map<string, { delivered?: DoseEntry; planned?: DoseEntry; prescribed?: DoseEntry }>();
  const add = (kind: 'delivered' | 'planned' | 'prescribed', entries: readonly DoseEntry[]): void => {
    for (const entry of entries) {
      let key = `${entry.key} ${entry.isPoint ? 'point' : 'volume'}`;
      // Two entries of one kind for one volume are both kept: the source says something twice, we do not choose.
      while (rows.get(key)?.[kind] !== undefined) key += ' again';
      let row = rows.get(key);
      if (row === undefined) {
        row = {};
        rows.set(key, row);
        order.push(key);
      }
      row[kind] = entry;
    }
  };
  add('delivered', delivered);
  add('planned', planned);
  add('prescribed', prescribed);
  return order.flatMap((key) => {
    const row = rows.get(key);
    const entry = row?.delivered ?? row?.planned ?? row?.prescribed;
    if (row === undefined || entry === undefined) return [];
    const notes = [...new Set([row.delivered, row.planned, row.prescribed].flatMap((part) => part?.notes ?? []))];
    const fractionsPlanned = row.planned?.fractions ?? row.prescribed?.fractions;
    const metric = row.delivered?.metric ?? row.planned?.metric ?? row.prescribed?.metric;
    return [
      {
        name: entry.name,
        isPoint: entry.isPoint,
        ...anatomy(entry.volume),
        ...(row.delivered?.totalCGy === undefined ? {} : { deliveredCGy: row.delivered.totalCGy }),
        ...(row.planned?.totalCGy === undefined ? {} : { plannedCGy: row.planned.totalCGy }),
        ...(row.prescribed?.totalCGy === undefined ? {} : { prescribedCGy: row.prescribed.totalCGy }),
        ...(row.delivered?.fractions === undefined ? {} : { fractionsDelivered: row.delivered.fractions }),
        ...(fractionsPlanned === undefined ? {} : { fractionsPlanned }),
        ...(row.delivered?.uniform === undefined ? {} : { uniformFractionation: row.delivered.uniform }),
        ...(metric === undefined ? {} : { metric }),
        notes,
      },
    ];
  });
}
