/**
 * Units that are the same, and units that differ by a power of ten: shifting the decimal point loses no digit. Everything
 * else (molar against mass, U against IU, an unknown unit) is never converted. Edge case 36.
 */
const SPELLINGS: Readonly<Record<string, string>> = {
  'k/ul': '10*3/uL',
  'k/µl': '10*3/uL',
  'thou/ul': '10*3/uL',
  '10^3/ul': '10*3/uL',
  '10*3/ul': '10*3/uL',
  'x10e3/ul': '10*3/uL',
  'x10(3)/ul': '10*3/uL',
  '10*9/l': '10*9/L',
  '10^9/l': '10*9/L',
  'giga.l-1': '10*9/L',
  'giga/l': '10*9/L',
  'x10e9/l': '10*9/L',
  'm/ul': '10*6/uL',
  '10*6/ul': '10*6/uL',
  '10^6/ul': '10*6/uL',
  'x10e6/ul': '10*6/uL',
  'mil/ul': '10*6/uL',
  '10*12/l': '10*12/L',
  '10^12/l': '10*12/L',
  'tera.l-1': '10*12/L',
  'tera/l': '10*12/L',
  'g/dl': 'g/dL',
  'g/l': 'g/L',
  'g.l-1': 'g/L',
  'mg/dl': 'mg/dL',
  'mg/l': 'mg/L',
  'ug/l': 'ug/L',
  'µg/l': 'ug/L',
  'ug/dl': 'ug/dL',
  'µg/dl': 'ug/dL',
  'ng/ml': 'ng/mL',
  'ng/l': 'ng/L',
  'ng/dl': 'ng/dL',
  'pg/ml': 'pg/mL',
  'ug/ml': 'ug/mL',
  'µg/ml': 'ug/mL',
  'mmol/l': 'mmol/L',
  'umol/l': 'umol/L',
  'µmol/l': 'umol/L',
  'nmol/l': 'nmol/L',
  'pmol/l': 'pmol/L',
  'u/l': 'U/L',
  fl: 'fL',
  pg: 'pg',
  '%': '%',
};
/** Dimension and power of ten against its base. */
const SCALES: Readonly<Record<string, readonly [string, number]>> = {
  '10*3/uL': ['count', 9],
  '10*9/L': ['count', 9],
  '10*6/uL': ['count', 12],
  '10*12/L': ['count', 12],
  'g/dL': ['mass', 1],
  'g/L': ['mass', 0],
  'mg/dL': ['mass', -2],
  'mg/L': ['mass', -3],
  'ug/L': ['mass', -6],
  'ug/dL': ['mass', -5],
  'ug/mL': ['mass', -3],
  'ng/mL': ['mass', -6],
  'ng/L': ['mass', -9],
  'ng/dL': ['mass', -8],
  'pg/mL': ['mass', -9],
  'mmol/L': ['substance', 0],
  'umol/L': ['substance', -3],
  'nmol/L': ['substance', -6],
  'pmol/L': ['substance', -9],
};

/** The one spelling of a unit. UCUM is case-sensitive, so only these known spellings are folded; others stay as they are. */
export function unitSpelling(unit: string): string {
  const trimmed = unit.trim();
  // Mega and milli differ by case alone: `mg/dL` and `Mg/dL` must not fold together.
  if (/^M(?!\/)/.test(trimmed)) return trimmed;
  return SPELLINGS[trimmed.toLowerCase()] ?? trimmed;
}

/** By how many places the decimal point moves from one unit to another: 0 where they are the same, undefined where unrelated. */
export function decimalShift(from: string | undefined, to: string | undefined): number | undefined {
  if (from === undefined || to === undefined) return from === to ? 0 : undefined;
  const [a, b] = [unitSpelling(from), unitSpelling(to)];
  if (a === b) return 0;
  const [left, right] = [SCALES[a], SCALES[b]];
  return left === undefined || right === undefined || left[0] !== right[0] ? undefined : left[1] - right[1];
}

/** Moves the decimal point of a plain decimal text; every digit stays. Undefined where the text is no plain decimal. */
export function shiftDecimal(text: string, places: number): string | undefined {
  const match = /^(-?)(\d+)(?:\.(\d+))?$/.exec(text);
  if (!match) return undefined;
  const [, sign = '', whole = '', fraction = ''] = match;
  const point = whole.length + places;
  const digits = `${whole}${fraction}`
    .padEnd(Math.max(point, 0), '0')
    .padStart(whole.length + fraction.length + Math.max(1 - point, 0), '0');
  const at = Math.max(point, 1);
  const left = digits.slice(0, at).replace(/^0+(?=\d)/, '');
  const right = digits.slice(at);
  return `${sign}${left}${right === '' ? '' : `.${right}`}`;
}
