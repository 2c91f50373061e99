import { codingsOf, conceptText, objectOf, objectsOf, stringOf } from './elements.ts';
import { type Json, type JsonObject, numberOf, textOf } from './lossless-json.ts';
import type { LaboratoryResult } from './model.ts';
import { decimalShift } from './units.ts';

/** One value as it is shown, with what the notes about it need. */
export interface ReadResult {
  result: LaboratoryResult;
  /** False for a panel's own node and for a result whose value is absent. */
  hasValue: boolean;
  inverted: boolean;
  /** Below, within or outside the source's range; undefined where that cannot be told. */
  position: 'below' | 'within' | 'above' | undefined;
}

/**
 * The value of an Observation, or of a component of it (`parent` then gives status and time). Every form of value[x] reads as
 * text in the source's own digits; an absent one says why, never blank or zero. Edge cases 35 and 37.
 */
export function laboratoryResult(resource: JsonObject, parent?: JsonObject): ReadResult {
  const whole = parent ?? resource;
  const quantity = objectOf(resource['valueQuantity']);
  const comparator = stringOf(quantity?.['comparator']);
  const number = quantity === undefined || comparator !== undefined ? numberOf(resource['valueInteger']) : numberOf(quantity['value']);
  const unit = quantity === undefined ? undefined : (stringOf(quantity['unit']) ?? stringOf(quantity['code']));
  const value = valueText(resource);
  const range = rangeOf(resource, unit);
  const flag = flagOf(resource['interpretation']);
  const collected =
    stringOf(whole['effectiveDateTime']) ?? stringOf(whole['effectiveInstant']) ?? stringOf(objectOf(whole['effectivePeriod'])?.['start']);
  const absent = conceptText(resource['dataAbsentReason']);
  const isGroup = objectsOf(resource['component']).length > 0 || objectsOf(resource['hasMember']).length > 0;
  return {
    result: {
      value: value ?? (absent === undefined ? (isGroup ? 'see below' : 'not provided by source') : `not provided by source (${absent})`),
      status: stringOf(whole['status']) ?? 'not provided by source',
      ...(value !== undefined && number !== undefined ? { number } : {}),
      ...(value !== undefined && unit !== undefined ? { unit } : {}),
      ...(range.text === undefined ? {} : { range: range.text }),
      ...(range.low !== undefined && !range.inverted ? { rangeLow: range.low } : {}),
      ...(range.high !== undefined && !range.inverted ? { rangeHigh: range.high } : {}),
      ...(flag === undefined ? {} : { flag }),
      ...(collected === undefined ? {} : { collected }),
    },
    hasValue: value !== undefined,
    inverted: range.inverted,
    position: value === undefined || number === undefined || range.inverted ? undefined : positionOf(number, range),
  };
}

/** What the reader must know of a result beside its value; the source's flag is never changed. */
export function resultNotes(read: ReadResult): readonly string[] {
  const notes: string[] = [];
  const { flag, range } = read.result;
  if (read.inverted) notes.push(`The source gives the reference range inverted (${range ?? ''}).`);
  if (read.position !== undefined) {
    const high = flag !== undefined && /^(H|HH|HU|>)$/.test(flag);
    const low = flag !== undefined && /^(L|LL|LU|<)$/.test(flag);
    const normal = flag === 'N';
    if ((high && read.position !== 'above') || (low && read.position !== 'below') || (normal && read.position !== 'within')) {
      notes.push(`The source's flag (${flag}) and its reference range disagree; the flag is shown.`);
    } else if (flag === undefined && read.position !== 'within') {
      notes.push(`${read.position === 'above' ? 'Above' : 'Below'} the source's reference range; the source gives no flag.`);
    }
  }
  return notes;
}

function valueText(resource: JsonObject): string | undefined {
  const quantity = objectOf(resource['valueQuantity']);
  if (quantity !== undefined) return quantityText(quantity, false);
  const text = stringOf(resource['valueString']);
  if (text !== undefined) return text;
  const concept = conceptText(resource['valueCodeableConcept']);
  if (concept !== undefined) return concept;
  const integer = textOf(resource['valueInteger']);
  if (integer !== undefined) return integer;
  if (typeof resource['valueBoolean'] === 'boolean') return resource['valueBoolean'] ? 'true' : 'false';
  const range = objectOf(resource['valueRange']);
  if (range !== undefined) {
    const [low, high] = [quantityText(objectOf(range['low']), true), quantityText(objectOf(range['high']), true)];
    return low === undefined ? (high === undefined ? undefined : `<= ${high}`) : high === undefined ? `>= ${low}` : `${low} - ${high}`;
  }
  const ratio = objectOf(resource['valueRatio']);
  if (ratio !== undefined) {
    const [above, below] = [quantityText(objectOf(ratio['numerator']), true), quantityText(objectOf(ratio['denominator']), true)];
    return above === undefined || below === undefined ? undefined : `${above}:${below}`;
  }
  const period = objectOf(resource['valuePeriod']);
  if (period !== undefined) return `${stringOf(period['start']) ?? '…'} to ${stringOf(period['end']) ?? '…'}`;
  if (objectOf(resource['valueSampledData']) !== undefined) return 'sampled data (not drawn)';
  return stringOf(resource['valueDateTime']) ?? stringOf(resource['valueTime']);
}

function quantityText(quantity: JsonObject | undefined, withUnit: boolean): string | undefined {
  const value = textOf(quantity?.['value']);
  if (value === undefined) return undefined;
  const unit = withUnit ? (stringOf(quantity?.['unit']) ?? stringOf(quantity?.['code'])) : undefined;
  return `${stringOf(quantity?.['comparator']) ?? ''}${value}${unit === undefined ? '' : ` ${unit}`}`;
}

const INTERPRETATION = /(ObservationInterpretation|v2-0078)$/;
function flagOf(interpretation: Json | undefined): string | undefined {
  const codings = codingsOf(interpretation);
  return codings.find((coding) => INTERPRETATION.test(coding.system))?.code ?? codings[0]?.code ?? conceptText(interpretation);
}

interface Range {
  text?: string;
  low?: number;
  high?: number;
  inverted: boolean;
}
/** All ranges as text; the numbers only where there is exactly one, in the value's unit. */
function rangeOf(resource: JsonObject, unit: string | undefined): Range {
  const ranges = objectsOf(resource['referenceRange']);
  const texts = ranges.map((range) => oneRange(range, unit)).filter((text) => text !== '');
  const only = ranges.length === 1 ? ranges[0] : undefined;
  const usable = (bound: JsonObject | undefined): number | undefined => {
    const boundUnit = stringOf(bound?.['unit']) ?? stringOf(bound?.['code']);
    return boundUnit === undefined || decimalShift(boundUnit, unit) === 0 ? numberOf(bound?.['value']) : undefined;
  };
  const low = usable(objectOf(only?.['low']));
  const high = usable(objectOf(only?.['high']));
  return {
    inverted: low !== undefined && high !== undefined && low > high,
    ...(texts.length === 0 ? {} : { text: texts.join('; ') }),
    ...(low === undefined ? {} : { low }),
    ...(high === undefined ? {} : { high }),
  };
}

function oneRange(range: JsonObject, unit: string | undefined): string {
  const bound = (name: string): string | undefined => {
    const quantity = objectOf(range[name]);
    const boundUnit = stringOf(quantity?.['unit']) ?? stringOf(quantity?.['code']);
    return quantityText(quantity, boundUnit !== undefined && decimalShift(boundUnit, unit) !== 0);
  };
  const [low, high, text] = [bound('low'), bound('high'), stringOf(range['text'])];
  const numbers =
    low === undefined ? (high === undefined ? undefined : `<= ${high}`) : high === undefined ? `>= ${low}` : `${low} - ${high}`;
  const age = objectOf(range['age']);
  const whom = [
    ...objectsOf(range['appliesTo']).map((concept) => conceptText(concept)),
    age === undefined
      ? undefined
      : `age ${quantityText(objectOf(age['low']), true) ?? '0'} - ${quantityText(objectOf(age['high']), true) ?? '…'}`,
  ].filter((part) => part !== undefined);
  const shown = numbers ?? text ?? '';
  return whom.length > 0 && shown !== '' ? `${shown} (${whom.join(', ')})` : shown;
}

function positionOf(number: number, range: Range): ReadResult['position'] {
  if (range.low === undefined && range.high === undefined) return undefined;
  if (range.low !== undefined && number < range.low) return 'below';
  return range.high !== undefined && number > range.high ? 'above' : 'within';
}
