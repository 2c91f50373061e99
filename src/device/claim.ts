import type { PatientActor } from '../auth/actor.ts';
import { refusalOf } from '../consent/permissions.ts';
import { CodedError } from '../errors.ts';
import type { Statement } from '../ledger/contract/jws.ts';
import { TYP } from '../ledger/contract/payloads.ts';
import type { PatientState } from '../ledger/contract/state.ts';
import type { Database } from '../store/database.ts';
import { sql } from '../store/sql.ts';
import type { Custodian, PublicJwk } from '../vault/custodian.ts';
import { jwkThumbprint } from '../vault/thumbprint.ts';
import { type Carried, type Carrying, refusedWith } from './carrying.ts';
import { readFinishProof } from './finish-proof.ts';
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
  /**
   * After the claim and until `finish`, the envelopes to the encryption key that the ledger has of the patient now: for a device that
   * lost the answer, or another one that the recovery key has put in its place. CONFLICT while the patient is in custody.
   */
  envelopes(actor: PatientActor): Promise<Record<string, string>>;
  /**
   * The device has what the custodian kept: the custodian's copies are destroyed. `proof`: a list of the keys that came, signed by the
   * patient's key on the ledger (finish-proof.ts), for a token alone must not destroy what may have reached nobody. CONFLICT before
   * the claim stands on the ledger, or where a key is missing in the list; BAD_REQUEST, FORBIDDEN.
   */
  finish(actor: PatientActor, proof: string): Promise<void>;
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

  /** The patient with keys of their own, as the ledger has them now. */
  async function claimed(patient: string): Promise<PatientState> {
    const known = await patientOnLedger(database, { institution, patient });
    if (known === undefined || known.core.custody)
      throw new CodedError('CONFLICT', { diagnostics: 'The claim does not stand on the ledger yet.' });
    return known.core;
  }

  /** Thumbprints of what the custodian keeps and the ledger names: a version that never was published is nobody's. */
  async function heldKeys(patient: string): Promise<string[]> {
    const held = new Set(await custodian.heldCategories(patient));
    const published = await database.query<{ category: string; version: number; public_jwk: PublicJwk }>(sql`
      select category, version, public_jwk from projection.category_key where inst = ${institution} and pat = ${patient}`);
    const found = await Promise.all(
      published.map(async ({ category, version, public_jwk: key }) => {
        const kept = held.has(category) ? await custodian.categoryKey(patient, category, version) : undefined;
        return kept !== undefined && jwkThumbprint(kept.publicJwk) === jwkThumbprint(key) ? [jwkThumbprint(key)] : [];
      }),
    );
    return found.flat();
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
      const after = await patientOnLedger(database, of);
      if (after === undefined || !standing(after.core, statement)) throw refusedWith('PATIENT_CLAIMED');
      return { receipt, envelopes: await envelopesTo(actor.patient, payload.encryption as PublicJwk) };
    },

    async envelopes({ patient }) {
      const { encryption } = await claimed(patient);
      return encryption === null ? {} : envelopesTo(patient, encryption as PublicJwk);
    },

    async finish({ patient }, proof) {
      const { signing } = await claimed(patient);
      if (signing === null) throw new CodedError('FORBIDDEN', { diagnostics: 'The patient has no key on the ledger.' });
      const keys = await readFinishProof(proof, { institution, patient, ledger: ledgerId, signing });
      if ((await heldKeys(patient)).some((one) => !keys.has(one)))
        throw new CodedError('CONFLICT', { diagnostics: 'A key that is kept here is missing among those that came.' });
      await custodian.release(patient);
    },
  };
}
