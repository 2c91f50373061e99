/** A document's status for the reader: the chip beside the title and, where it matters, the banner below it. */
import { COLOUR, type Colour } from './theme.ts';

export interface StatusLook {
  label: string;
  /** Missing for a plain final or completed document. */
  banner?: { title: string; text: string; tone: 'caution' | 'alarm' | 'note' };
}

/** `asOf` is printed text. The status is the source's word (FHIR codes and plain words alike). */
export function statusLook(status: string, version: number, asOf: string): StatusLook {
  const label = status.replaceAll(/[-_]/g, ' ');
  const later = version > 1 ? ` This is version ${version}.` : '';
  switch (status.toLowerCase()) {
    case 'corrected':
      return {
        label,
        banner: {
          title: 'Corrected',
          text: `The source has corrected this record.${later} What changed is marked where the source says it.`,
          tone: 'caution',
        },
      };
    case 'amended':
    case 'appended':
      return {
        label,
        banner: {
          title: label === 'amended' ? 'Amended' : 'Appended',
          text: `The source has changed or added to this record.${later}`,
          tone: 'caution',
        },
      };
    case 'preliminary':
    case 'partial':
    case 'registered':
      return { label, banner: { title: 'Preliminary', text: 'Not final: the source may still change or withdraw it.', tone: 'caution' } };
    case 'draft':
      return { label, banner: { title: 'Draft', text: 'Not signed and not released by its author.', tone: 'alarm' } };
    case 'withdrawn':
    case 'entered-in-error':
    case 'cancelled':
      return {
        label,
        banner: {
          title: 'Withdrawn',
          text: `The source has withdrawn this record (${label}). It must not be used for care.`,
          tone: 'alarm',
        },
      };
    case 'in-progress':
    case 'active':
      return {
        label,
        banner: {
          title: `In progress as of ${asOf}`,
          text: 'Treatment goes on: doses and fractions below are what had been delivered by then.',
          tone: 'note',
        },
      };
    case 'on-hold':
      return {
        label,
        banner: {
          title: `On hold as of ${asOf}`,
          text: 'Treatment is interrupted: doses below are what had been delivered by then.',
          tone: 'caution',
        },
      };
    case 'stopped':
      return {
        label,
        banner: { title: 'Stopped early', text: 'Treatment ended before all that was planned had been delivered.', tone: 'caution' },
      };
    case 'not-done':
      return { label, banner: { title: 'Not done', text: 'No treatment was delivered.', tone: 'caution' } };
    default:
      return { label };
  }
}

export const TONE: Record<'caution' | 'alarm' | 'note', { bar: Colour; wash: Colour }> = {
  caution: { bar: COLOUR.caution, wash: COLOUR.cautionWash },
  alarm: { bar: COLOUR.high, wash: COLOUR.alarmWash },
  note: { bar: COLOUR.accent, wash: COLOUR.noteWash },
};
