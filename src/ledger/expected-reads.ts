import * as keys from './contract/keys.ts';
import type { Proposal } from './simulation.ts';

/**
 * Keys that the contract will ask for, as far as that is plain from what is proposed: a host fetches them together. What the
 * contract asks beyond them it gets one by one, and what it does not ask for is recorded nowhere.
 */
export function expectedReads({ name, args, caller }: Pick<Proposal, 'name' | 'args' | 'caller'>): string[] {
  const wanted = new Set([keys.LEDGER, keys.institutionKey(caller.institution)]);
  try {
    if (name === 'enrollPatient') {
      const [, payload = ''] = (args[0] ?? '').split('.');
      const { institution, patient } = JSON.parse(Buffer.from(payload, 'base64url').toString()) as { institution: string; patient: string };
      wanted.add(keys.coreKey(institution, patient));
    } else if (name === 'recordDocuments') {
      const { entries } = JSON.parse(args[0] ?? '') as { entries: { institution: string; patient: string; category: string }[] };
      for (const { institution, patient, category } of entries) {
        wanted.add(keys.coreKey(institution, patient));
        wanted.add(keys.categoryHeadKey(institution, patient, category));
      }
    }
  } catch {
    // Whatever is wrong with the argument, the contract says it.
  }
  // PostgreSQL would refuse a name with U+0000 in it; the contract says so itself.
  return [...wanted].filter((key) => !key.includes('\0'));
}
