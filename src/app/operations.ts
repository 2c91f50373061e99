import type { Issuer } from '../auth/issuer.ts';
import type { Operations, PullReport } from '../cli/operations.ts';
import { verifyResult } from '../cli/verify-result.ts';
import { CodedError } from '../errors.ts';
import { isId } from '../ids.ts';
import { verifyLedger } from '../ledger/verify.ts';
import type { Membership } from '../membership/members.ts';
import type { Metrics } from '../observe/metrics.ts';
import type { PullProgress } from '../pipeline/pull.ts';
import { normaliseIdentifier } from '../records/patient-identity.ts';
import { findPatients } from '../store/patients.ts';
import { sql } from '../store/sql.ts';
import { listStreams } from '../store/streams.ts';
import { VERSION } from '../version.ts';
import type { Core } from './core.ts';

/** What commands and the demo can ask for, over the built parts. */
export function createOperations(parts: {
  core: Core;
  membership: Membership;
  issuer: Issuer;
  tokenEndpoint: string;
  facility: string;
  configHash: string;
  maxStalenessMs: number;
  metrics: Metrics;
  /** Everything that opens content leaves an audit event; these are the commands that do. */
  audited(operation: string, outcome: 'permitted' | 'failed'): Promise<void>;
}): Omit<Operations, 'stop'> {
  const { core, membership, issuer, metrics, audited } = parts;
  const { database, projection, ledger, outbox, queue, questions } = core;

  async function pullAll(
    input: { source?: string; stream?: string; dryRun?: boolean },
    onProgress: (progress: PullProgress) => void,
  ): Promise<PullReport> {
    const chosen = core.sources.filter(({ source }) => input.source === undefined || source.id === input.source);
    if (chosen.length === 0)
      throw new CodedError('NOT_FOUND', { diagnostics: `No source ${input.source ?? ''} is configured or enabled.` });
    const streams: PullProgress[] = [];
    const before = await core.questions.counts();
    await Promise.all(
      chosen.map(async (configured) => {
        for (const stream of configured.source.streams) {
          if (input.stream !== undefined && stream !== input.stream) continue;
          const progress = await core.pull.pullStream(configured, stream, core.stopping, onProgress, { dryRun: input.dryRun === true });
          metrics.onIntake(progress.source, progress.stream, progress.outcomes);
          streams.push(progress);
        }
      }),
    );
    if (input.dryRun !== true) await core.assembler.drain();
    const after = await core.questions.counts();
    return { streams, filed: after.versions - before.versions, failed: streams.some((stream) => stream.error !== undefined) };
  }

  return {
    ping: async () => ({ pid: process.pid }),
    async status() {
      const [info, height, freshness, stats, depth, streams, counts, alarms] = await Promise.all([
        ledger.info(),
        projection.height(),
        projection.freshness(parts.maxStalenessMs),
        outbox.stats(),
        queue.depth(),
        listStreams(database),
        questions.counts(),
        database.query<{ count: number }>(sql`select count(*) as count from ledger_alarm where cleared_at is null`),
      ]);
      return {
        version: VERSION,
        institution: core.institution,
        configHash: parts.configHash,
        database: core.databaseKind,
        queue: depth,
        outbox: stats,
        ledger: {
          kind: info.kind,
          consensus: info.consensus,
          nodes: info.nodes,
          height: info.height,
          projected: height,
          fresh: freshness.fresh,
          alarms: alarms[0]?.count ?? 0,
        },
        streams: streams.map((row) => ({
          source: row.source,
          stream: row.stream,
          running: row.running,
          lastSuccess: row.last_success?.toISOString() ?? null,
          lastError: row.last_error,
        })),
        records: counts.records,
        documents: counts.documents,
      };
    },
    pull: pullAll,
    quarantineList: () => questions.quarantineList(),
    quarantineShow: ({ record }) => questions.quarantineShow(record),
    explain: ({ id }) => questions.explain(id),
    async reconcile(_input, progress) {
      const report = await core.reconcile.reconcile(progress);
      await audited('reconcile', 'permitted');
      return report;
    },
    verify: async () => verifyResult(await verifyLedger({ database, tipFile: core.tipFile })),
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
      return { patient };
    },
    memberAdd: (input) => membership.registerMember(input),
    async memberList() {
      return (await membership.list()).map(({ member, name, role, status }) => ({ member, name, role, status }));
    },
  };
}
