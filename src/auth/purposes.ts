/** HL7 v3 PurposeOfUse (2.16.840.1.113883.5.8) that a token may carry. */
export const PURPOSES = ['TREAT', 'HPAYMT', 'HOPERAT', 'HRESCH', 'ETREAT', 'BTG', 'PATRQT'] as const;
export type Purpose = (typeof PURPOSES)[number];

const PREFIXES = ['urn:oid:2.16.840.1.113883.5.8#', 'http://terminology.hl7.org/CodeSystem/v3-ActReason|'];

/** The code of a purpose as claims write it (bare, or with the code system in front); undefined for what is none of ours. */
export function purposeOf(text: string): Purpose | undefined {
  const prefix = PREFIXES.find((one) => text.startsWith(one)) ?? '';
  return PURPOSES.find((purpose) => purpose === text.slice(prefix.length));
}

/** Emergency purposes make only short tokens, and only who is registered for them gets one. */
export function isEmergency(purpose: string): boolean {
  return purpose === 'BTG' || purpose === 'ETREAT';
}
