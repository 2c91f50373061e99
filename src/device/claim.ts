import type { PatientActor } from '../auth/actor.ts';
import { refusalOf } from '../consent/permissions.ts';
import { CodedError } from '../errors.ts';
import type { Statement } from '../ledger/contract/jws.ts';
import { TYP } from '../ledger/contract/payloads.ts';
import type { PatientState } from '../ledger/contract/state.ts';
import type { Database } from '../store/database.ts';
import type { Custodian, PublicJwk } from '../vault/custodian.ts';
import { jwkThumbprint } from '../vault/thumbprint.ts';
import { type Carried, type Carrying, refusedWith } from './carrying.ts';
import { patientOnLedger, patientOrder, readSigned } from './reading.ts';

export interface Claimed {
  receipt: Extract<Carried, { state: 'committed' }>;
  /** By category: the private halves of every version that the custodian kept, to the claim's encryption key. Empty once released. */
  envelopes: Record<string, string>;
}

export interface Claim {
  /**
   * The patient's own keys take the place of the custodian's (architecture section 5, "claim"): `proof` is the claim signed by the
   * new key; the institution signs the same payload and brings both to the ledger. With the keys that already stand there it only
   * answers the envelopes again. FORBIDDEN where the claim is not the token's patient's, LEDGER_REFUSED, STALE.
   */
  claim(actor: PatientActor, proof: string): Promise<Claimed | Extract<Carried, { state: 'pending' }>>;
  /** The device has what the custodian kept: the custodian's copies are destroyed. CONFLICT before the claim stands on the ledger. */
  finish(actor: PatientActor): Promise<void>;
}

export function createClaim(parts: {
  database: Database;
  carrying: Carrying;
  custodian: Custodian;
  ledgerId: string;
  msp: string;
  fresh(): Promise<boolean>;
  now: () => Date;
}): Claim {
  const { database, carrying, custodian, ledgerId, now } = parts;
  const { institution } = custodian;

  async function envelopesTo(patient: string, recipient: PublicJwk): Promise<Record<string, string>> {
    const categories = await custodian.heldCategories(patient);
    const sealed = await Promise.all(categories.map(async (one) => [one, await custodian.sealEnvelope(patient, one, recipient)] as const));
    return Object.fromEntries(sealed);
  }

  /** Keys of this claim that the ledger has as the patient's own; who else they are of is no matter of this call. */
  function standing(core: PatientState, { payload }: Statement<'claimPatient'>): boolean {
    const { signing, encryption } = core;
    return (
      !core.custody &&
      signing !== null &&
      encryption !== null &&
      jwkThumbprint(signing) === jwkThumbprint(payload.signing) &&
      jwkThumbprint(encryption) === jwkThumbprint(payload.encryption)
    );
  }

  return {
    async claim(actor, proof) {
      const statement = await readSigned('claimPatient', proof, ledgerId);
      const { payload, payloadText, identity, kid } = statement;
      const of = { institution, patient: actor.patient };
      if (payload.institution !== institution || payload.patient !== actor.patient || payload.onBehalf !== actor.patient)
        throw new CodedError('FORBIDDEN', { diagnostics: 'The claim is not of the patient whom the token names.' });
      if (payload.keys.some((key) => key.envelopes.length > 0))
        throw new CodedError('BAD_REQUEST', { diagnostics: 'A claim names no envelopes; grants do.', expression: ['keys.envelopes'] });
      if (!(await parts.fresh())) throw new CodedError('STALE', { retryAfterSeconds: 15 });

      const known = await patientOnLedger(database, of);
      let receipt = await carrying.follow(identity);
      if (receipt === undefined && known !== undefined && standing(known.core, statement))
        receipt = { state: 'committed', txId: null, block: known.block };
      if (receipt === undefined) {
        if (known !== undefined && !known.core.custody) throw refusedWith('PATIENT_CLAIMED');
        const authority = await custodian.signForPatient({
          patient: actor.patient,
          actor: { kind: 'patient', id: actor.patient },
          typ: TYP.claimPatient,
          payload: payloadText,
        });
        const args = [proof, authority];
        const caller = { msp: parts.msp, institution };
        const refusal = await refusalOf(database, { name: 'claimPatient', args, caller, now: now() });
        if (refusal !== undefined) throw refusedWith(refusal);
        receipt = await carrying.carry({
          statement: identity,
          of,
          kid,
          item: { transaction: 'claimPatient', args, priority: 'live', orderKey: patientOrder(of) },
        });
      }
      if (receipt.state === 'pending') return receipt;
      // To the key that the ledger has, never to one that was only sent.
      const claimed = await patientOnLedger(database, of);
      if (claimed === undefined || !standing(claimed.core, statement)) throw refusedWith('PATIENT_CLAIMED');
      return { receipt, envelopes: await envelopesTo(actor.patient, payload.encryption as PublicJwk) };
    },

    async finish(actor) {
      const known = await patientOnLedger(database, { institution, patient: actor.patient });
      if (known === undefined || known.core.custody)
        throw new CodedError('CONFLICT', { diagnostics: 'The claim does not stand on the ledger yet.' });
      await custodian.release(actor.patient);
    },
  };
}
