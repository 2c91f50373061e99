import type { ErasureCertificate } from '../erasure/erasure.ts';
import type { OpenAlarms } from '../ledger/projection-alarms.ts';
import type { CosignedFile } from '../membership/cosigned-file.ts';
import type { DirectoryReport } from '../membership/directory.ts';
import type { RotatedKeys } from '../membership/institution-keys.ts';
import type { IdentityAnswer, IdentityQuestion, IdentityResolved } from '../pipeline/identity.ts';
import type { PullProgress } from '../pipeline/pull.ts';
import type { ExplainReport, QuarantineEntry, QuarantineGroup } from '../pipeline/questions.ts';
import type { ReconcileReport } from '../pipeline/reconcile.ts';
import type { ReplayChoice, ReplayReport } from '../pipeline/replay.ts';
import type { LinkAnswer, LinkResolved, LinkShown } from '../sharing/link-comparison.ts';
import type { LinkState } from '../sharing/link-rows.ts';
import type { ListedLink, MadeCode, NewCode } from '../sharing/links.ts';
import type { Hold } from '../sharing/own-decisions.ts';
import type { SharedCategoryReport, SharedDocumentReport, SharingEndReport } from '../sharing/report.ts';

/**
 * What a command can ask of oncobridge: the same whether it runs in the command's own process or in the running server,
 * which holds the keys. Inputs and results are plain JSON and hold no data of a patient, but for the one that says so.
 */
export interface Operations {
  ping(input: object): Promise<{ pid: number }>;
  status(input: object): Promise<StatusReport>;
  pull(input: { source?: string; stream?: string; dryRun?: boolean }, progress: (progress: PullProgress) => void): Promise<PullReport>;
  quarantineList(input: object): Promise<readonly QuarantineGroup[]>;
  quarantineShow(input: { record: string }): Promise<QuarantineEntry>;
  /** Decides held records again, by the rules and the patients known now; leaves an audit event. */
  quarantineReplay(input: ReplayChoice): Promise<QuarantineReplayed>;
  /** Who a held record's patient may be; with `reveal` names and birth dates, for a terminal. Leaves an audit event. */
  identityQuestion(input: { record: string; reveal: boolean }): Promise<IdentityQuestion>;
  /** A person's answer, and what waits for it filed; leaves an audit event. */
  identityResolve(input: IdentityAnswer): Promise<IdentityAnswered>;
  explain(input: { id: string }): Promise<ExplainReport>;
  reconcile(input: object, progress: (done: number) => void): Promise<ReconcileReport>;
  verify(input: object): Promise<VerifyResult>;
  /** Adds this institution's signature to another one's statement, and brings a signed one to the ledger. */
  ledgerCosign(input: { file: CosignedFile; thumbprint: string }): Promise<CosignedFile>;
  ledgerSubmit(input: { file: CosignedFile }): Promise<{ institution: string; txId: string; block: number }>;
  /** New signing and encryption keys: on the ledger by the current one's signature, or as a statement for two others to sign. */
  institutionRotateKey(input: object): Promise<RotatedKeys>;
  institutionExportKey(input: object): Promise<CosignedFile>;
  /** With `contents` every event is opened, which leaves an event itself. */
  auditVerify(input: { contents?: boolean }): Promise<AuditVerifyResult>;
  clientAdd(input: { name: string; publicKeyJwk?: object; scopes: readonly string[]; actsFor?: boolean }): Promise<ClientAdded>;
  token(input: {
    as: string;
    purpose?: string;
    scopes?: readonly string[];
  }): Promise<{ token: string; expiresInSeconds: number; actor: string }>;
  memberAdd(input: { name: string; role: string }): Promise<{ member: string }>;
  memberSuspend(input: { member: string }): Promise<{ member: string }>;
  /** This institution's directory, signed; and those of others, held against the ledger whenever they are asked for. */
  directoryExport(input: object): Promise<{ institution: string; directory: string }>;
  directoryCheck(input: { directory: string }): Promise<DirectoryReport>;
  directoryImport(input: { directory: string }): Promise<DirectoryReport>;
  directoryShow(input: { institution?: string }): Promise<readonly DirectoryFound[]>;
  memberList(input: object): Promise<readonly { member: string; name: string; role: string; status: string }[]>;
  /** The pseudonym behind an identifier of a configured authority; leaves an audit event. */
  patientFind(input: { authority: string; value: string }): Promise<{ patient: string }>;
  /** Erases a patient in custody, for ever; and what became of an erasure, whoever signed it. Both answer the certificate. */
  patientErase(input: { patient: string; by: string }): Promise<ErasureCertificate>;
  patientErasure(input: { patient: string }): Promise<ErasureCertificate>;
  /** A one-time code for one of our patients; its text is a secret, answered once. These all leave audit events. */
  linkCreate(input: NewCode): Promise<MadeCode>;
  linkList(input: object): Promise<readonly ListedLink[]>;
  /** With `reveal` names and birth dates of both sides, for a terminal. */
  linkShow(input: { link: string; reveal: boolean }): Promise<ListedLink & LinkShown>;
  linkResolve(input: LinkAnswer): Promise<LinkResolved>;
  linkClose(input: { link: string; by: string }): Promise<{ link: string }>;
  /** What patients of other institutions share with this one. */
  sharingList(input: object): Promise<readonly SharedCategoryReport[]>;
  sharingShow(input: { institution: string; patient: string }): Promise<{
    categories: readonly SharedCategoryReport[];
    documents: readonly SharedDocumentReport[];
    ends: readonly SharingEndReport[];
  }>;
  /** For the privacy officer; leaves an audit event, for it opens the reasons of holds. */
  sharingReport(input: object): Promise<SharingReport>;
  /** `left`: permissions by role, which are not this institution's to give up. */
  sharingRenounce(input: SharedBy): Promise<{ permissions: number; left: number; state: 'committed' | 'pending' }>;
  sharingHoldPlace(input: SharedBy & { reason: string }): Promise<{ placed: true }>;
  sharingHoldLift(input: SharedBy): Promise<{ objects: number }>;
  sharingHoldList(input: object): Promise<readonly Hold[]>;
  stop(input: object): Promise<{ pid: number }>;
}
/** A category of another institution's patient, and the member who decides. */
interface SharedBy {
  institution: string;
  patient: string;
  category: string;
  by: string;
}
export interface SharingReport {
  institution: string;
  at: string;
  held: readonly SharedCategoryReport[];
  ended: readonly SharingEndReport[];
  holds: readonly Hold[];
}
export type OperationName = keyof Operations;

export interface StatusReport {
  version: string;
  institution: string;
  configHash: string;
  database: string;
  queue: { waiting: number; active: number; delayed: number; failed: number };
  outbox: { depth: number; oldestSeconds: number; states: Record<string, number> };
  ledger: {
    kind: string;
    consensus: string;
    nodes: number;
    /** Where the ledger does not answer, the rest is what the view of it knows. */
    reachable: boolean;
    height: number;
    projected: number;
    fresh: boolean;
    /** Of the newest own transaction that came back. */
    ageSeconds: number | null;
    alarms: number;
    /** Of the own organisation on Fabric, by breaker: one that is open is not asked at present. */
    peers: readonly { name: string; state: string }[];
  };
  /** Of the ledger and of the view of it, as long as nobody has cleared them. */
  openAlarms: readonly OpenAlarms[];
  streams: readonly { source: string; stream: string; running: boolean; lastSuccess: string | null; lastError: string | null }[];
  records: Record<string, number>;
  documents: number;
  /** Links with patients of other institutions; `open`: codes that nobody has used yet. */
  links: Record<LinkState | 'open', number>;
}

export interface PullReport {
  streams: readonly PullProgress[];
  filed: number;
  failed: boolean;
}

export interface VerifyResult {
  ok: boolean;
  blocks: number;
  transactions: number;
  problems: readonly string[];
}

export interface AuditVerifyResult {
  ok: boolean;
  anchors: number;
  events: number;
  problems: readonly string[];
}

export interface QuarantineReplayed extends ReplayReport {
  /** Document versions filed of what was taken. */
  filed: number;
}

export interface IdentityAnswered extends IdentityResolved {
  /** Document versions filed of what had waited. */
  filed: number;
}

/** A directory that is kept here: what it says, or why it does not hold any more. */
export type DirectoryFound = { institution: string } & ({ report: DirectoryReport } | { code: string });

export interface ClientAdded {
  clientId: string;
  /** Only where we made the key pair: shown once. */
  privateKeyJwk?: object;
  tokenEndpoint: string;
}
