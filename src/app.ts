import { type RequestListener } from 'node:http';
import { type Core, createCore } from './app/core.ts';
import { createFreshness } from './app/freshness.ts';
import { createInstitutionKeyUse } from './app/institution-keys.ts';
import { createOperations } from './app/operations.ts';
import { createSchedule } from './app/schedule.ts';
import { createSharedRecords } from './app/shared-records.ts';
import { createAnchoring } from './audit/anchoring.ts';
import { createAuditLog, MAX_COMMITS } from './audit/audit-log.ts';
import { createAuditSearch } from './audit/audit-search.ts';
import { createIssuer } from './auth/issuer.ts';
import { scopeAllows } from './auth/scopes.ts';
import { createTokenRouter } from './auth/token-router.ts';
import { createTokenVerifier } from './auth/token-verifier.ts';
import type { Operations } from './cli/operations.ts';
import type { Settings } from './cli/settings.ts';
import { parseDurationMs } from './config/schema.ts';
import { createConsentService } from './consent/consent-service.ts';
import { readableScope } from './consent/readable-scope.ts';
import { createDevice } from './device/device.ts';
import { createKeptEnvelopes } from './device/kept-envelopes.ts';
import { createErasure } from './erasure/erasure.ts';
import { createFacade } from './fhir/facade.ts';
import { createHttpApp, safeError } from './http/app.ts';
import { createHealth } from './http/health.ts';
import { createHttpServer } from './http/server.ts';
import { newId } from './ids.ts';
import { openAlarms } from './ledger/projection-alarms.ts';
import { createDirectories } from './membership/directory.ts';
import { ensureInstitution } from './membership/institution.ts';
import { createMembership } from './membership/members.ts';
import { createMetrics } from './observe/metrics.ts';
import { countLinks } from './sharing/link-rows.ts';
import { createDatabase } from './store/database.ts';
import { unnamedVersions } from './store/documents.ts';
import { createGatheredReads } from './store/gathered-reads.ts';
import { sql } from './store/sql.ts';
import { VERSION } from './version.ts';

export interface App {
  core: Core;
  operations: Omit<Operations, 'stop'>;
  /** What patients of other institutions share with this one. */
  shared: ReturnType<typeof createSharedRecords>;
  facadeUrl: string;
  operationsUrl: string;
  /** Where the filesystem store keeps an object; undefined where objects lie in a store of another kind. */
  blobPath(pointer: string): string | undefined;
  /** Resolves when everything that is filed has reached the ledger and its projection. */
  settled(): Promise<void>;
  close(): Promise<void>;
}

export interface AppOptions {
  settings: Settings;
  /** Listen; a command that runs beside nothing builds everything else alike and serves nothing. */
  serve: boolean;
  logLevel: string;
  /** Pull by schedule while serving; the demo pulls by itself. */
  schedule?: boolean;
}

/** Of one address: a patient's device sends a few at a time. */
const STATEMENTS_A_MINUTE = 120;

/**
 * Builds oncobridge from a configuration and closes it in reverse order; the only place that knows all parts.
 */
export async function createApp({ settings, serve, logLevel, schedule = true }: AppOptions): Promise<App> {
  const { server } = settings.config;
  const core = await createCore({ settings, logLevel });
  const { database, rows, custodian, ledger, ledgerId, projection, outbox, institution, log, closers } = core;
  try {
    const maxStalenessMs = parseDurationMs(server.consent.maxStaleness);
    const projected = (block: number, timeoutMs: number): Promise<boolean> => projection.waitFor(block, timeoutMs);
    const carrier = { outbox, projected };
    await ensureInstitution({ database, ledger, custodian, msp: core.msp, projected });
    const institutionKeys = createInstitutionKeyUse(core);
    await core.signAgain();
    const membership = createMembership({ ...carrier, database, rows, custodian, ledgerId });
    const reads = createGatheredReads({ url: database.url, onError: core.onError });
    closers.push(() => reads.close());
    // Every answer waits for its event: not behind searches, pulls and jobs for a connection of theirs.
    const auditing = createDatabase({ url: database.url, maxConnections: MAX_COMMITS, onError: core.onError });
    closers.push(() => auditing.close());
    const audit = createAuditLog({ database: auditing, rows, onError: core.onError });
    closers.push(() => audit.close());
    const anchoring = createAnchoring({
      ...carrier,
      database,
      institution,
      everyMs: parseDurationMs(server.ledger.anchorEvery),
      onError: core.onError,
    });
    closers.push(() => anchoring.close());
    await anchoring.start();

    // The address must be known before the issuer is made, so the listener comes first and answers 503 until all is built.
    let handler: RequestListener = (_request, response) => response.writeHead(503).end();
    const http = serve
      ? await createHttpServer({
          handler: (request, response) => handler(request, response),
          host: server.http.host,
          port: server.http.port,
        })
      : undefined;
    if (http !== undefined) closers.push(() => http.close());
    const publicUrl = (server.http.publicUrl ?? http?.url ?? `http://${server.http.host}:${server.http.port}`).replace(/\/+$/, '');
    const facadeUrl = `${publicUrl}/fhir`;
    const issuerUrl = `${publicUrl}/auth`;
    const issuer = await createIssuer({
      database,
      rows,
      institution,
      issuerUrl,
      audience: facadeUrl,
      memberRole: (inst, member) => membership.activeRole(inst, member),
      userTokenLifetimeMs: parseDurationMs(server.auth.userTokenLifetime),
    });
    const verifier = createTokenVerifier({ issuerUrl, audience: facadeUrl, institution, keyOf: (kid) => issuer.keys.find(kid) });
    const envelopes = createKeptEnvelopes({ database, blobs: core.blobs, institution, quotas: server.device });
    const consents = createConsentService({
      ...carrier,
      database,
      rows,
      custodian,
      envelopes,
      ledgerId,
      msp: core.msp,
      categories: server.categories.map((category) => category.id),
      activeRole: (inst, member) => membership.activeRole(inst, member),
      onError: core.onError,
    });
    closers.push(() => consents.close());
    projection.onApplied(({ transactions }) => {
      if (transactions.some(({ name }) => name === 'grantPermission' || name === 'revokePermission')) consents.wake();
    });
    const metrics = createMetrics({
      outboxDepth: () => outbox.stats(),
      queueDepth: () => core.queue.depth(),
      ledgerKind: ledger.kind,
      ledgerHeight: () => ledger.height(),
      ledgerPeers: () => core.peers,
      openAlarms: () => openAlarms(database),
      projection: async () => {
        const { height, ageMs } = await projection.freshness(maxStalenessMs);
        return { height, ageMs };
      },
      linksHeld: async () => (await countLinks(database, new Date())).held,
      configHash: settings.config.hash,
    });
    core.observe(metrics);
    const onIntegrity = (alarm: { document: string; version: number; reason: string }): void => {
      log.error(alarm, 'INTEGRITY ALARM: a stored object does not match the ledger');
      metrics.onAlarm('integrity');
    };

    const fresh = createFreshness({ projection, reads, maxStalenessMs });
    const verifyToken = (token: string) => verifier.verify(`Bearer ${token}`);
    const directories = createDirectories({ database, custodian, ledgerId, name: server.institution.name });
    const shared = createSharedRecords({ ...carrier, core, config: server, audit, membership, metrics });
    closers.push(() => shared.sharing.close());
    const erasure = createErasure({
      ...carrier,
      database,
      rows,
      custodian,
      blobs: core.blobs,
      audit,
      ledgerId,
      msp: core.msp,
      activeRole: (inst, member) => membership.activeRole(inst, member),
      betweenPages: core.betweenPages,
      onErased: () => shared.sharing.wake(),
      now: () => new Date(),
      log,
    });
    closers.push(() => erasure.close());
    // A database that was restored holds again what has been erased since.
    if (serve) await erasure.pass();
    const device = createDevice({
      ...carrier,
      database,
      envelopes,
      custodian,
      ledgerId,
      msp: core.msp,
      audit,
      directories,
      links: shared.links,
      verifyToken,
      allows: scopeAllows,
      fresh,
      statementsPerMinute: Math.min(STATEMENTS_A_MINUTE, server.http.requestsPerMinute),
    });
    const smart = issuer.smartConfiguration() as { capabilities: string[]; scopes_supported: string[] };
    const facade = createFacade(
      {
        database,
        reads,
        rows,
        sealer: core.sealer,
        custodian,
        blobs: core.blobs,
        audit,
        consents,
        auditEvents: createAuditSearch({
          database,
          rows,
          institution,
          baseUrl: facadeUrl,
        }),
        verifyToken,
        fresh,
        allows: scopeAllows,
        readableScope,
        onIntegrity,
        onError: (error, requestId) => log.error({ requestId, ...safeError(error) }, 'a request failed'),
        clock: () => new Date(),
        cursorKey: (await custodian.purposeKey('cursors')).export(),
        institution,
      },
      {
        baseUrl: facadeUrl,
        maxPinned: server.search.maxPinned,
        smart: {
          issuer: issuerUrl,
          tokenEndpoint: `${issuerUrl}/token`,
          jwksUri: `${issuerUrl}/jwks`,
          scopesSupported: smart.scopes_supported,
          capabilities: smart.capabilities,
        },
        software: { name: 'oncobridge', version: VERSION },
      },
    );
    handler = createHttpApp({
      mounts: [
        ['/fhir', facade.router],
        ['/auth', createTokenRouter({ issuer })],
        ['/device', device.router],
      ],
      logger: log,
      requestsPerMinute: server.http.requestsPerMinute,
      onRequest: (observed) => metrics.onRequest(observed),
    });

    const health = createHealth({
      metrics: metrics.registry,
      checks: new Map([
        ['database', async () => void (await database.query(sql`select 1`))],
        ['queue', async () => void (await core.queue.depth())],
        ['ledger', async () => ((await projection.freshness(maxStalenessMs)).fresh ? undefined : 'the view of the ledger is too old')],
      ]),
      notes: new Map([
        [
          'alarms',
          async () =>
            (await openAlarms(database)).map(({ kind, count, since }) => `${kind}: ${count}, since ${since}`).join('; ') || undefined,
        ],
      ]),
    });
    const operationsServer = serve ? await createHttpServer({ handler: health.handler, port: server.operations.port }) : undefined;
    if (operationsServer !== undefined) closers.push(() => operationsServer.close());
    const operations = createOperations({
      core,
      membership,
      institutionKeys,
      directories,
      issuer,
      links: shared.links,
      shared,
      erasure,
      tokenEndpoint: `${issuerUrl}/token`,
      configHash: settings.config.hash,
      facility: server.institution.name,
      maxStalenessMs,
      metrics,
      audited: (operation, outcome, patients = []) =>
        audit.record({
          interaction: 'operation',
          actor: undefined,
          requestId: newId('req'),
          outcome,
          patients: patients.map((patient) => (typeof patient === 'string' ? { institution, patient } : patient)),
          query: operation,
        }),
    });
    // A command that runs beside nothing ends soon; what is due is the server's.
    if (serve) await shared.sharing.start();
    if (serve) await erasure.start();
    if (serve) {
      // Nobody watches the rows that every answer rests on but this, between two runs of `ledger verify`.
      const work = async (): Promise<void> => {
        await core.checkProjection({ signal: core.stopping, onAlarm: core.onLedgerAlarm });
        // A read by id tells of such a row; one that only searches leave out is found here.
        for (const version of await unnamedVersions(database, institution)) onIntegrity({ ...version, reason: 'ENTRY_DIFFERS' });
      };
      const checker = createSchedule({ name: 'projection check', everyMs: 3_600_000, work, log });
      closers.push(() => checker.close());
    }
    if (serve && schedule) {
      for (const { config } of settings.config.sources.filter((source) => source.config.enabled)) {
        const puller = createSchedule({
          name: `pull ${config.id}`,
          everyMs: parseDurationMs(config.schedule.every),
          work: () => operations.pull({ source: config.id }, () => {}),
          log,
        });
        closers.push(() => puller.close());
      }
      const sweeper = createSchedule({
        name: 'sweep',
        everyMs: 3_600_000,
        work: () =>
          device
            .sweep()
            .then(() => erasure.pass())
            .then(() => core.reconcile.sweep())
            .finally(() => core.blobs.sweep()),
        log,
      });
      closers.push(() => sweeper.close());
    }
    // Before all others, and again in its place where the start fails: no request meets a part that is closed already.
    if (http !== undefined) closers.push(() => http.close());

    return {
      core,
      operations,
      shared,
      facadeUrl,
      operationsUrl: operationsServer?.url ?? '',
      blobPath: (pointer) => core.blobs.pathOf?.(pointer),
      async settled() {
        for (;;) {
          const { depth } = await outbox.stats();
          if (depth === 0 && (await projection.height()) >= (await ledger.height())) return;
          await new Promise((resolve) => setTimeout(resolve, 50));
        }
      },
      async close() {
        health.drain();
        await core.close();
      },
    };
  } catch (error) {
    await core.close();
    throw error;
  }
}
