import type { Operations } from '../cli/operations.ts';
import { CodedError } from '../errors.ts';
import { isId } from '../ids.ts';
import type { createSharedRecords } from './shared-records.ts';

type SharingOperations = Pick<
  Operations,
  'sharingList' | 'sharingShow' | 'sharingReport' | 'sharingRenounce' | 'sharingHoldPlace' | 'sharingHoldLift' | 'sharingHoldList'
>;

/** What persons ask of what is shared with this institution. What decides or opens something leaves an audit event. */
export function createSharingOperations(parts: {
  institution: string;
  shared: Pick<ReturnType<typeof createSharedRecords>, 'decisions' | 'report'>;
  accounted<T>(operation: string, work: () => Promise<T>): Promise<T>;
}): SharingOperations {
  const { decisions, report } = parts.shared;
  const { accounted } = parts;
  return {
    sharingList: () => report.categories(),
    async sharingShow({ institution, patient }) {
      const of = named(institution, patient);
      const [categories, documents, ends] = await Promise.all([report.categories(of), report.documents(of), report.ends(of)]);
      if (categories.length === 0 && ends.length === 0)
        throw new CodedError('NOT_FOUND', { diagnostics: 'Nothing of this patient is or was shared here.' });
      return { categories, documents, ends };
    },
    sharingReport: () =>
      accounted('sharing report', async () => {
        const [held, ended, holds] = await Promise.all([report.categories(), report.ends(), decisions.listHolds()]);
        return { institution: parts.institution, at: new Date().toISOString(), held, ended, holds };
      }),
    sharingRenounce: ({ institution, patient, category, by }) =>
      accounted(text('renounce', institution, patient, category, by), () =>
        decisions.renounce({ ...named(institution, patient), category }, by),
      ),
    sharingHoldPlace: ({ institution, patient, category, by, reason }) =>
      accounted(text('hold place', institution, patient, category, by), async () => {
        await decisions.placeHold({ ...named(institution, patient), category }, by, reason);
        return { placed: true as const };
      }),
    sharingHoldLift: ({ institution, patient, category, by }) =>
      accounted(text('hold lift', institution, patient, category, by), () =>
        decisions.liftHold({ ...named(institution, patient), category }, by),
      ),
    sharingHoldList: () => accounted('sharing hold list', () => decisions.listHolds()),
  };
}

function named(institution: string, patient: string): { institution: string; patient: string } {
  if (!isId('inst', institution) || !isId('pat', patient))
    throw new CodedError('BAD_REQUEST', { diagnostics: 'Name the other institution (inst-…) and their patient (pat-…).' });
  return { institution, patient };
}

/** Only names of ours and of the ledger go into the event. */
function text(act: string, ...names: string[]): string {
  return `sharing ${act} ${names.map((name) => (/^[a-z][a-z0-9-]{0,63}$/.test(name) ? name : '?')).join(' ')}`;
}
