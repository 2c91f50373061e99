import { rotationDue } from '../consent/rotation-due.ts';
import { CodedError } from '../errors.ts';
import type { EncryptionJwk } from '../ledger/contract/host.ts';
import * as keys from '../ledger/contract/keys.ts';
import type { CategoryKeyState, PatientState, PermissionState } from '../ledger/contract/state.ts';
import { projectedState } from '../ledger/projection-state.ts';
import { institutionOnLedger } from '../membership/directory.ts';
import type { Database } from '../store/database.ts';
import { sql } from '../store/sql.ts';
import { jwkThumbprint } from '../vault/thumbprint.ts';
import { patientOnLedger } from './reading.ts';

/** How old the view is that an answer comes from: a device shows it, and signs grants on a fresh one only. */
export interface View {
  /** Blocks that it rests on. */
  height: number;
  fresh: boolean;
}

/** What a device signs on: versions, keys and heads of one patient, as the verified view of the ledger has them. */
export interface DeviceState extends View {
  ledger: string;
  institution: string;
  patient: string;
  core: PatientState;
  categories: readonly { category: string; version: number; keys: readonly ({ version: number } & CategoryKeyState)[] }[];
  /** The head of each, whoever granted it; `clauses` is the whole list in force. */
  permissions: readonly ({ grantor: string; grantee: string; category: string; sequence: number } & PermissionState)[];
  /** Categories whose key wants a new version: somebody has lost them since, and nobody signed the next. None in custody. */
  rotationDue: readonly string[];
}

export interface InstitutionOnLedger extends View {
  institution: string;
  status: string;
  version: number;
  signing: EncryptionJwk;
  signingThumbprint: string;
  encryption: EncryptionJwk;
  encryptionThumbprint: string;
}

export interface StateReading {
  about(): Promise<View & { ledger: string; institution: string }>;
  /** NOT_FOUND where the ledger does not know the patient. */
  patient(patient: string): Promise<DeviceState>;
  /** NOT_FOUND where the ledger does not know it. */
  institution(institution: string): Promise<InstitutionOnLedger>;
}

/** What the door tells: facts of the ledger, from the institution's own verified view of it. */
export function createStateReading(parts: {
  database: Database;
  institution: string;
  ledgerId: string;
  fresh(): Promise<boolean>;
}): StateReading {
  const { database, institution, ledgerId } = parts;

  async function view(): Promise<View> {
    const [row] = await database.query<{ height: number }>(sql`select height from projection.checkpoint`);
    return { height: row?.height ?? 0, fresh: await parts.fresh() };
  }

  return {
    about: async () => ({ ledger: ledgerId, institution, ...(await view()) }),

    async patient(patient) {
      const now = await view();
      return database.transaction(async (tx) => {
        const state = projectedState(tx);
        const found = await patientOnLedger(tx, { institution, patient });
        if (found === undefined) throw new CodedError('NOT_FOUND');
        const prefix = keys.categoryKeys(institution, patient);
        const versions = new Map<string, ({ version: number } & CategoryKeyState)[]>();
        for (const { key, value } of await state.scan(prefix)) {
          const [category = '', kind, number] = key.slice(prefix.length).split('/');
          if (kind !== 'v') continue;
          versions.set(category, [
            ...(versions.get(category) ?? []),
            { version: Number(number), ...(JSON.parse(value) as CategoryKeyState) },
          ]);
        }
        const heads = await tx.query<{ grantor: string; grantee: string; category: string; seq: number }>(sql`
          select grantor, grantee, category, seq from projection.permission where inst = ${institution} and pat = ${patient}
          order by grantor, grantee, category`);
        const keyOf = (head: (typeof heads)[number]): string => keys.permissionVersionKey(institution, patient, head, head.seq);
        const values = (await state.together?.(heads.map(keyOf))) ?? state;
        const permissions = [];
        for (const head of heads) {
          const value = await values.get(keyOf(head));
          const { grantor, grantee, category, seq: sequence } = head;
          if (value !== undefined)
            permissions.push({ grantor, grantee, category, sequence, ...(JSON.parse(value.value) as PermissionState) });
        }
        return {
          ledger: ledgerId,
          institution,
          patient,
          ...now,
          core: found.core,
          categories: [...versions].map(([category, all]) => ({ category, version: all.at(-1)?.version ?? 0, keys: all })),
          permissions,
          rotationDue: await rotationDue(tx, { institution, patient }, new Date()),
        };
      }, 'repeatable read');
    },

    async institution(name) {
      const known = await institutionOnLedger(database, name);
      if (known === undefined) throw new CodedError('NOT_FOUND');
      const { status, state } = known;
      return {
        institution: name,
        status,
        version: state.version,
        signing: state.signing,
        signingThumbprint: jwkThumbprint(state.signing),
        encryption: state.encryption,
        encryptionThumbprint: jwkThumbprint(state.encryption),
        ...(await view()),
      };
    },
  };
}
