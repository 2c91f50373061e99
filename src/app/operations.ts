import { verifyAudit } from '../audit/verify.ts';
import type { Issuer } from '../auth/issuer.ts';
import type { Operations, PullReport } from '../cli/operations.ts';
import { verifyResult } from '../cli/verify-result.ts';
import type { Erasure } from '../erasure/erasure.ts';
import { CodedError, codeOf } from '../errors.ts';
import { isId } from '../ids.ts';
import { openAlarms } from '../ledger/projection-alarms.ts';
import { cosignFile, submitFile } from '../membership/cosigned-file.ts';
import type { Directories } from '../membership/directory.ts';
import type { Membership } from '../membership/members.ts';
import type { Metrics } from '../observe/metrics.ts';
import { within } from '../observe/within.ts';
import type { PullProgress } from '../pipeline/pull.ts';
import { normaliseIdentifier } from '../records/patient-identity.ts';
import { isReason } from '../records/reasons.ts';
import type { Links } from '../sharing/links.ts';
import { findPatients } from '../store/patients.ts';
import { listStreams } from '../store/streams.ts';
import type { LedgerPatient } from '../vault/holder.ts';
import { VERSION } from '../version.ts';
import type { Core } from './core.ts';
import type { createInstitutionKeyUse } from './institution-keys.ts';
import type { createSharedRecords } from './shared-records.ts';
import { createSharingOperations } from './sharing-operations.ts';

/** What commands and the demo can ask for, over the built parts. */
export function createOperations(parts: {
  core: Core;
  membership: Membership;
  institutionKeys: ReturnType<typeof createInstitutionKeyUse>;
  directories: Directories;
  issuer: Issuer;
  links: Links;
  shared: Pick<ReturnType<typeof createSharedRecords>, 'decisions' | 'report'>;
  erasure: Pick<Erasure, 'erase' | 'certificate'>;
  tokenEndpoint: string;
  facility: string;
  configHash: string;
  maxStalenessMs: number;
  metrics: Metrics;
  /** Everything that opens content leaves an audit event; these are the commands that do. */
  audited(operation: string, outcome: 'permitted' | 'failed', patients?: readonly (string | LedgerPatient)[]): Promise<void>;
}): Omit<Operations, 'stop'> {
  const { core, membership, directories, issuer, links, metrics, audited } = parts;
  const { database, projection, ledger, outbox, queue, questions } = core;

  async function pullAll(
    input: { source?: string; stream?: string; dryRun?: boolean },
    onProgress: (progress: PullProgress) => void,
  ): Promise<PullReport> {
    const sources = core.sources.filter(({ source }) => input.source === undefined || source.id === input.source);
    if (sources.length === 0)
      throw new CodedError('NOT_FOUND', { diagnostics: `No source ${input.source ?? ''} is configured or enabled.` });
    const chosen = sources.map((configured) => ({
      configured,
      names: configured.source.streams.filter((stream) => input.stream === undefined || stream === input.stream),
    }));
    if (chosen.every(({ names }) => names.length === 0))
      throw new CodedError('NOT_FOUND', { diagnostics: `No stream ${input.stream ?? ''} is configured.` });
    const isDry = input.dryRun === true;
    const streams: PullProgress[] = [];
    const before = core.assembler.filedSoFar();
    // Sources beside each other, the streams of one after one another: a source is not asked twice at once.
    await Promise.all(
      chosen.map(async ({ configured, names }) => {
        for (const stream of names) {
          const progress = await core.pull
            .pullStream(configured, stream, core.stopping, onProgress, { dryRun: isDry })
            .catch((error: unknown) => busy(configured.source.id, stream, error, onProgress));
          if (!isDry) metrics.onIntake(progress.source, progress.stream, progress.outcomes);
          streams.push(progress);
        }
      }),
    );
    if (!isDry) await core.assembler.drain();
    return { streams, filed: core.assembler.filedSoFar() - before, failed: streams.some((stream) => stream.error !== undefined) };
  }

  /** Somebody pulls this stream already: said like any other failure of it, and the others go on. */
  function busy(source: string, stream: string, error: unknown, onProgress: (progress: PullProgress) => void): PullProgress {
    if (!(error instanceof CodedError) || error.code !== 'STREAM_BUSY') throw error;
    const progress = { source, stream, pages: 0, records: 0, known: 0, outcomes: {}, warnings: [], done: true, error: error.message };
    onProgress(progress);
    return progress;
  }

  /** A command that opens content, with the audit event that it leaves, done or failed, before anything is answered. */
  async function accounted<T>(operation: string, work: () => Promise<T>, patients: (result: T) => string[] = () => []): Promise<T> {
    const result = await work().catch(async (error: unknown) => {
      await audited(operation, 'failed');
      throw error;
    });
    await audited(operation, 'permitted', patients(result));
    return result;
  }

  return {
    ping: async () => ({ pid: process.pid }),
    async status() {
      const [info, height, freshness, stats, depth, streams, counts, linked, alarms] = await Promise.all([
        // A ledger that is away must not hide the rest.
        within(5000, ledger.info()).catch(() => undefined),
        projection.height(),
        projection.freshness(parts.maxStalenessMs),
        outbox.stats(),
        queue.depth(),
        listStreams(database),
        questions.counts(),
        links.counts(),
        openAlarms(database),
      ]);
      return {
        version: VERSION,
        institution: core.institution,
        configHash: parts.configHash,
        database: core.databaseKind,
        queue: depth,
        outbox: stats,
        ledger: {
          kind: ledger.kind,
          reachable: info !== undefined,
          consensus: info?.consensus ?? '',
          nodes: info?.nodes ?? 0,
          height: info?.height ?? height,
          projected: height,
          fresh: freshness.fresh,
          ageSeconds: freshness.ageMs === null ? null : Math.round(freshness.ageMs / 1000),
          alarms: alarms.reduce((sum, { count }) => sum + count, 0),
          peers: [...core.peers].map(([name, isAsked]) => ({ name, state: isAsked ? 'closed' : 'open' })),
        },
        openAlarms: alarms,
        streams: streams.map((row) => ({
          source: row.source,
          stream: row.stream,
          running: row.running,
          lastSuccess: row.last_success?.toISOString() ?? null,
          lastError: row.last_error,
        })),
        records: counts.records,
        documents: counts.documents,
        links: linked,
      };
    },
    pull: pullAll,
    quarantineList: () => questions.quarantineList(),
    quarantineShow: ({ record }) => questions.quarantineShow(record),
    quarantineReplay: (choice) =>
      accounted('quarantine replay', async () => {
        if (choice.reason !== undefined && !isReason(choice.reason))
          throw new CodedError('BAD_REQUEST', { diagnostics: `There is no reason ${choice.reason}; docs/reasons.md has them.` });
        if (choice.source !== undefined && !core.sources.some(({ source }) => source.id === choice.source))
          throw new CodedError('NOT_FOUND', { diagnostics: `No source ${choice.source} is configured or enabled.` });
        const before = core.assembler.filedSoFar();
        const report = await core.replay.replay(choice);
        await core.assembler.drain();
        return { ...report, filed: core.assembler.filedSoFar() - before };
      }),
    async identityQuestion({ record, reveal }) {
      const operation = `quarantine resolve record=${record}`;
      const work = () => core.identity.question(record, reveal);
      return accounted(operation, work, ({ candidates }) => candidates.map(({ patient }) => patient));
    },
    async identityResolve(answer) {
      const { record, patient, create, by } = answer;
      const choice = patient ?? (create === true ? 'new' : 'reject');
      const before = core.assembler.filedSoFar();
      const answered = await accounted(
        `quarantine resolve record=${record} patient=${choice} by=${by}`,
        () => core.identity.resolve(answer),
        (resolved) => (resolved.patient === null ? [] : [resolved.patient]),
      );
      await core.assembler.drain();
      return { ...answered, filed: core.assembler.filedSoFar() - before };
    },
    explain: ({ id }) => questions.explain(id),
    reconcile: (_input, progress) => accounted('reconcile', () => core.reconcile.reconcile(progress)),
    async auditVerify({ contents = false }) {
      const work = () => verifyAudit({ database, rows: core.rows, institution: core.institution }, { contents });
      const { anchors, events, findings, altered } = contents ? await accounted('audit verify', work) : await work();
      const problems = [
        ...findings.map(({ anchor, problem, expected, found }) =>
          expected === undefined ? `anchor ${anchor}: ${problem}` : `anchor ${anchor}: ${problem}, ${expected} expected, ${found} found`,
        ),
        ...altered.map((id) => `${id}: altered`),
      ];
      return { ok: problems.length === 0, anchors, events, problems };
    },
    verify: async () => verifyResult(await core.verifyLedger()),
    institutionRotateKey: () => parts.institutionKeys.rotate(),
    institutionExportKey: () => parts.institutionKeys.statement(),
    ledgerCosign: ({ file, thumbprint }) => cosignFile({ custodian: core.custodian, ledgerId: core.ledgerId }, file, thumbprint),
    async ledgerSubmit({ file }) {
      const { txId, block } = await submitFile({ ledger, ledgerId: core.ledgerId }, file);
      return { institution: file.institution, txId, block };
    },
    async clientAdd({ name, publicKeyJwk, scopes, actsFor }) {
      const added = await issuer.clients.add({
        name,
        scopes,
        ...(publicKeyJwk === undefined ? {} : { jwk: publicKeyJwk }),
        ...(actsFor === true ? { actsForRoles: ['clinician'] } : {}),
      });
      return {
        clientId: added.client,
        tokenEndpoint: parts.tokenEndpoint,
        ...(added.privateJwk === undefined ? {} : { privateKeyJwk: added.privateJwk }),
      };
    },
    async token({ as, purpose, scopes }) {
      const subject = isId('mem', as)
        ? ({ kind: 'member', member: as } as const)
        : isId('pat', as)
          ? ({ kind: 'patient', patient: as } as const)
          : undefined;
      if (subject === undefined) throw new CodedError('BAD_REQUEST', { diagnostics: 'Name a member (mem-…) or a patient (pat-…).' });
      const issued = await issuer.issueUserToken({
        as: subject,
        ...(purpose === undefined ? {} : { purpose }),
        ...(scopes === undefined ? {} : { scopes }),
      });
      return { token: issued.accessToken, expiresInSeconds: issued.expiresInSeconds, actor: as };
    },
    async patientFind({ authority, value }) {
      const found = await findPatients(database, [
        { authority, blind: await core.rows.blind(`identifier:${authority}`, normaliseIdentifier(value)) },
      ]);
      await audited('patient find', found.length === 1 ? 'permitted' : 'failed');
      const [patient] = found;
      if (patient === undefined)
        throw new CodedError('NOT_FOUND', { diagnostics: 'No patient has this identifier of this authority here.' });
      return { patient: patient.pat };
    },
    patientErase: ({ patient, by }) =>
      accounted(
        `patient erase by=${idIn(by)}`,
        () => parts.erasure.erase({ patient, by }),
        () => [patient],
      ),
    patientErasure: ({ patient }) => parts.erasure.certificate(patient),
    directoryExport: async () => ({ institution: core.institution, directory: await directories.own() }),
    directoryCheck: ({ directory }) => directories.report(directory),
    directoryImport: ({ directory }) => directories.import(directory),
    async directoryShow({ institution }) {
      const names = institution === undefined ? await directories.known() : [institution];
      return Promise.all(
        names.map(async (name) => {
          const jws = await directories.of(name);
          try {
            return { institution: name, report: await directories.report(jws) };
          } catch (error) {
            const code = codeOf(error);
            if (code === undefined) throw error;
            return { institution: name, code };
          }
        }),
      );
    },
    memberAdd: (input) => membership.registerMember(input),
    async memberSuspend({ member }) {
      await membership.suspend(member);
      return { member };
    },
    linkCreate: (input) =>
      accounted(
        `link create clinician=${idIn(input.clinician)} by=${idIn(input.by)}`,
        () => links.makeCode(input),
        () => [input.patient],
      ),
    linkList: () => links.list(),
    async linkShow({ link, reveal }) {
      const operation = `link show ${idIn(link)}${reveal ? ' reveal' : ''}`;
      const found = await accounted(
        operation,
        () => links.show(link, reveal),
        ({ patient }) => [patient],
      );
      // An event of its own: the two pseudonyms stand together in no event.
      if (reveal && found.theirs !== null) await audited(operation, 'permitted', [found.theirs]);
      return found;
    },
    linkResolve: (input) => accounted(`link resolve ${idIn(input.link)} ${input.answer} by=${idIn(input.by)}`, () => links.resolve(input)),
    ...createSharingOperations({ institution: core.institution, shared: parts.shared, accounted }),
    linkClose: ({ link, by }) => accounted(`link close ${idIn(link)} by=${idIn(by)}`, () => links.close(link, by)),
    async memberList() {
      return (await membership.list()).map(({ member, name, role, status }) => ({ member, name, role, status }));
    },
  };
}

/** What a person typed in an id's place may be anything, a code's secret included: only an id goes into the audit's text. */
function idIn(typed: string): string {
  return isId('lnk', typed) || isId('mem', typed) || isId('pat', typed) ? typed : '?';
}
