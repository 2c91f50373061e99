import type { Audit } from '../audit/audit.ts';
import { parseDurationMs, type serverSchema } from '../config/schema.ts';
import type { Membership } from '../membership/members.ts';
import type { Metrics } from '../observe/metrics.ts';
import type { Carrier } from '../outbox/await-commit.ts';
import { createLinks } from '../sharing/links.ts';
import { createOwnDecisions } from '../sharing/own-decisions.ts';
import { createSharingReport } from '../sharing/report.ts';
import { createSharing } from '../sharing/sharing.ts';
import type { Core } from './core.ts';

type ServerConfig = ReturnType<typeof serverSchema.parse>;

/** What patients of other institutions share with this one: the links, the worker that fetches and ends, and what persons ask of it. */
export function createSharedRecords(
  parts: Carrier & { core: Core; config: ServerConfig; audit: Audit; membership: Pick<Membership, 'activeRole'>; metrics: Metrics },
) {
  const { core, config, audit, membership, metrics } = parts;
  const { database, rows, custodian, institution, ledgerId, msp, log } = core;
  const now = (): Date => new Date();
  const { retryFirst, retryMost, maxAttempts, retryMissing, ...quotas } = config.sharing;
  const activeRole = (inst: string, member: string) => membership.activeRole(inst, member);
  let wake = (): void => {};
  const links = createLinks({
    database,
    rows,
    custodian,
    activeRole,
    onAlarm(alarm) {
      log.error(alarm, 'LINK ALARM: name or birth date differ; nothing is served until a person decides');
      metrics.onAlarm('link');
    },
    onChanged: () => wake(),
  });
  const sharing = createSharing({
    database,
    rows,
    custodian,
    sealer: core.sealer,
    blobs: core.blobs,
    links,
    audit,
    facility: config.institution.name,
    quotas,
    retry: {
      firstMs: parseDurationMs(retryFirst),
      mostMs: parseDurationMs(retryMost),
      maxAttempts,
      slowMs: parseDurationMs(retryMissing),
    },
    now,
    onAlarm(alarm) {
      log.error(alarm, 'SHARING ALARM');
      metrics.onAlarm('sharing');
    },
    log,
    onError: core.onError,
  });
  wake = () => sharing.wake();
  const { outbox, projected } = parts;
  const decisions = createOwnDecisions({ outbox, projected, database, rows, custodian, ledgerId, msp, activeRole, now, onChanged: wake });
  return { links, sharing, decisions, report: createSharingReport({ database, institution, now }) };
}
