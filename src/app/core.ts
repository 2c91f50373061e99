import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { pino } from 'pino';
import type { Settings } from '../cli/settings.ts';
import { parseDurationMs } from '../config/schema.ts';
import { CodedError, codeOf } from '../errors.ts';
import { safeError } from '../http/app.ts';
import { categoryVersionKey } from '../ledger/contract/keys.ts';
import type { FabricEvent } from '../ledger/fabric/fabric-ledger.ts';
import { createProjection } from '../ledger/projection.ts';
import { type Alarm, raiseAlarm } from '../ledger/projection-alarms.ts';
import type { Metrics } from '../observe/metrics.ts';
import { createLedgerWriter } from '../outbox/ledger-writer.ts';
import { createOutbox } from '../outbox/postgres-outbox.ts';
import { createRelay } from '../outbox/relay.ts';
import { signAgain } from '../outbox/sign-again.ts';
import { createAssembler } from '../pipeline/assembler.ts';
import { createAssembly } from '../pipeline/assembly.ts';
import { createCategoryKeys } from '../pipeline/category-keys.ts';
import { createFiling } from '../pipeline/filing.ts';
import { createIdentity } from '../pipeline/identity.ts';
import { createIntake } from '../pipeline/intake.ts';
import { createLedgerStatements } from '../pipeline/ledger-statements.ts';
import type { FilingConfig } from '../pipeline/parts.ts';
import { createPatientMatching } from '../pipeline/patient-matching.ts';
import { createPull } from '../pipeline/pull.ts';
import { createQuestions } from '../pipeline/questions.ts';
import { createReconcile } from '../pipeline/reconcile.ts';
import { createReplay } from '../pipeline/replay.ts';
import { createResealing } from '../pipeline/resealing.ts';
import { createSourceKeys } from '../pipeline/source-keys.ts';
import { createWithdrawal } from '../pipeline/withdrawal.ts';
import { createPostgresQueue } from '../queue/postgres.ts';
import { createRedisQueue } from '../queue/redis.ts';
import { layoutName } from '../render/render-pdf.ts';
import { createRenderer } from '../render/renderer.ts';
import { createDatabase } from '../store/database.ts';
import { createEmbeddedPostgres } from '../store/embedded-postgres.ts';
import { migrate } from '../store/migrate.ts';
import { freeLeases } from '../store/streams.ts';
import { createFileCustodian } from '../vault/file-custodian.ts';
import { createSealedRows } from '../vault/sealed-rows-store.ts';
import { createSealer } from '../vault/sealer.ts';
import { openBlobs } from './blobs.ts';
import { institutionId } from './institution-id.ts';
import { openLedger, startProjection } from './ledger.ts';
import { openSource } from './sources.ts';

/**
 * Everything but the doors: keys, rows, blobs, queue, ledger with its projection, outbox, pipeline and sources, built in this
 * order and closed in reverse. There is one start path and it is the recovery path.
 */
export async function createCore({ settings, logLevel }: { settings: Settings; logLevel: string }) {
  const { data, config } = settings;
  const { server } = config;
  const log = pino(
    {
      level: logLevel,
      base: { service: 'oncobridge' },
      // An error's own message may quote what it choked on (JSON, a row that PostgreSQL refuses): class and place are logged.
      serializers: { err: (error: unknown) => (typeof error === 'string' ? error : safeError(error)) },
    },
    pino.destination({ dest: 2, sync: false }),
  );
  const closers: (() => Promise<unknown>)[] = [];
  let metrics: Metrics | undefined;
  const stopping = new AbortController();
  const close = async (): Promise<void> => {
    stopping.abort(new CodedError('UNAVAILABLE', { diagnostics: 'It is being stopped.' }));
    for (const closer of closers.splice(0).reverse())
      await closer().catch((error: unknown) => log.error({ err: error }, 'a part did not close'));
  };
  const onError = (error: Error): void => {
    // A connection that ends because everything is being closed is no news.
    if (stopping.signal.aborted) return;
    log.warn({ code: codeOf(error) ?? (error as { code?: string }).code ?? error.name }, 'a connection or job failed; it is tried again');
  };
  const peers = new Map<string, boolean>();
  const onLedgerEvent = (event: FabricEvent): void => {
    if (event.kind === 'breaker') {
      peers.set(event.peer, event.state === 'closed');
      log.warn(event, event.state === 'open' ? 'a peer does not answer and is left alone for a while' : 'a peer answers again');
    } else if (event.kind === 'endorsers-disagree' && event.givenUp) {
      log.error(event, 'LEDGER ALARM: endorsers disagree');
      metrics?.onAlarm(event.kind);
    } else log.debug('error' in event ? { ...event, error: safeError(event.error) } : event, 'ledger');
  };
  const onLedgerAlarm = (alarm: Alarm): void => {
    log.error(alarm, 'LEDGER ALARM');
    metrics?.onAlarm(alarm.kind);
  };
  try {
    // As root PostgreSQL runs under another uid, which must be able to pass through here; what lies inside guards itself.
    await mkdir(data, { recursive: true, mode: process.getuid?.() === 0 ? 0o711 : 0o700 });
    const institution = await institutionId(data, server.institution.id);
    const custodian = await createFileCustodian({ directory: join(data, 'keys'), passphrase: server.custodian.passphrase, institution });
    closers.push(() => custodian.close());
    let url: string;
    if (server.database.kind === 'embedded') {
      const postgres = await createEmbeddedPostgres({
        directory: join(data, 'postgres'),
        onEvent: (event) => log.info(event, 'embedded PostgreSQL'),
      });
      closers.push(() => postgres.stop());
      url = postgres.url;
    } else url = server.database.url;
    const database = createDatabase({ url, maxConnections: 16, onError });
    closers.push(() => database.close());
    await migrate(database);
    await freeLeases(database);

    const rows = createSealedRows({ custodian });
    const sealer = createSealer({ custodian });
    const blobs = openBlobs(server, data, config.file);
    closers.push(() => blobs.close());
    const queue =
      server.queue.kind === 'redis'
        ? await createRedisQueue({ url: server.queue.url, onError })
        : await createPostgresQueue({ url, onError });
    closers.push(() => queue.close());

    const opened = await openLedger({ server, tipFile: join(data, 'ledger-tip'), database, custodian, onError, onEvent: onLedgerEvent });
    const { ledger, ledgerId, msp, definitions } = opened;
    closers.push(() => ledger.close());
    for (const peer of opened.peers) peers.set(peer, true);
    let holdUp = (_error: Error): void => {};
    const heldUp = new Promise<Error>((resolve) => (holdUp = resolve));
    const projection = createProjection({
      database,
      ledger,
      institution,
      msp,
      ...(definitions === undefined ? {} : { definitions }),
      onError(error) {
        if (codeOf(error) === 'LEDGER_DEFINITION') holdUp(error);
        onError(error);
      },
      onAlarm: onLedgerAlarm,
    });
    closers.push(() => projection.close());
    await startProjection({ database, projection, ledgerId, heldUp, onError });

    const outbox = createOutbox({ database, highWater: server.outbox.highWater, lowWater: server.outbox.lowWater, onError });
    closers.push(() => outbox.close());
    const relay = await createRelay({ database, queue, batchSize: server.outbox.batch, onError });
    closers.push(() => relay.close());
    let wakeAssembler = (): void => {};
    const resign = async (): Promise<void> => {
      const count = await signAgain({ database, custodian, outbox });
      if (count > 0) log.warn({ count }, 'statements by the institution’s former key were signed again');
    };
    const writer = await createLedgerWriter({
      database,
      queue,
      ledger,
      concurrency: opened.concurrency,
      onError,
      onSettled: (settled) => {
        metrics?.onSettled('committed', settled.filter((row) => row.state === 'committed').length);
        for (const row of settled) {
          if (row.state !== 'rejected') continue;
          metrics?.onSettled('rejected', 1);
          // Sealed just before its category key changed: the assembler seals it again.
          if (row.errorCode === 'KEY_VERSION_STALE') {
            wakeAssembler();
            continue;
          }
          if (row.errorCode === 'JWS_KEY') void resign().catch(onError);
          log.error(row, 'the ledger refused a transaction');
        }
      },
    });
    closers.push(() => writer.close());

    const filingConfig: FilingConfig = {
      institution,
      facility: server.institution.name,
      zone: server.institution.zone,
      page: server.pipeline.page,
      authorities: server.patients.authorities,
      excludeTestPatients: server.patients.excludeTestPatients,
      categories: server.categories,
      wrongPatientDelayMs: parseDurationMs(server.pipeline.wrongPatientDelay),
      configHash: config.hash,
    };
    const paper = server.pipeline.page === 'Letter' ? 'letter' : 'a4';
    const renderer = { ...createRenderer({ threads: server.pipeline.renderThreads, paper }), layout: layoutName(paper) };
    closers.push(() => renderer.close());
    renderer.warm();
    const keys = createSourceKeys(rows);
    const statements = createLedgerStatements({ custodian, ledgerId });
    const matching = createPatientMatching({ database, rows, custodian, outbox, statements, keys, config: filingConfig });
    const intake = createIntake({ database, rows, keys, matching, config: filingConfig });
    const categoryKeys = createCategoryKeys({
      database,
      custodian,
      async onDiffers({ patient, category, version, block }) {
        const stateKeys = [categoryVersionKey(institution, patient, category, version)];
        const alarm: Alarm = { kind: 'category-key', block, stateKeys };
        if (await raiseAlarm(database, alarm)) onLedgerAlarm(alarm);
      },
    });
    const resealing = createResealing({ database, blobs, sealer, custodian, categoryKeys, rows, outbox, statements, log });
    const withdrawal = createWithdrawal({ database, custodian, resealing, outbox, statements, log });
    const assembly = createAssembly({ database, rows, keys, withdrawal, log });
    const filing = createFiling({
      database,
      blobs,
      rows,
      keys,
      categoryKeys,
      sealer,
      renderer,
      outbox,
      statements,
      config: filingConfig,
      log,
    });
    const sources = await Promise.all(config.sources.filter((source) => source.config.enabled).map(openSource));
    const replay = createReplay({
      database,
      intake,
      withdrawal,
      classifierOf: (id, stream) => sources.find(({ source }) => source.id === id && source.streams.includes(stream))?.classifier(stream),
      log,
    });
    const assembler = createAssembler({
      database,
      institution,
      assembly,
      filing,
      withdrawal,
      resealing,
      replay,
      onFiled: (count) => {
        metrics?.onFiled(count);
        outbox.wake();
      },
      stopping: stopping.signal,
      log,
    });
    wakeAssembler = () => assembler.wake();
    // What waits for a key of a category, or was refused under an older one, goes on.
    projection.onApplied(({ transactions }) => {
      if (transactions.some(({ name }) => name === 'publishCategoryKey' || name === 'claimPatient')) assembler.wake();
    });
    closers.push(() => assembler.close());
    const pull = createPull({ database, rows, keys, intake, room: (signal) => outbox.room(signal), onStored: () => assembler.wake(), log });
    closers.push(async () => {
      await Promise.all(sources.map(({ source }) => source.close()));
    });
    // What a process that was killed left pending.
    assembler.wake();
    return {
      log,
      close,
      closers,
      database,
      custodian,
      rows,
      sealer,
      blobs,
      queue,
      ledger,
      ledgerId,
      /** What the institution's former key has signed, and the ledger refused for that. */
      signAgain: resign,
      verifyLedger: opened.verify,
      checkProjection: opened.check,
      /** Peers that the ledger is reached by, and whether each is asked at present. */
      peers,
      msp,
      onError,
      onLedgerAlarm,
      observe: (wanted: Metrics): void => {
        metrics = wanted;
      },
      stopping: stopping.signal,
      databaseKind: server.database.kind === 'embedded' ? 'PostgreSQL, embedded' : 'PostgreSQL by URL',
      projection,
      outbox,
      relay,
      institution,
      assembler,
      pull,
      /** Work that no page of a source may run beside. */
      betweenPages: intake.inTurn,
      replay,
      identity: createIdentity({ database, rows, keys, intake, matching, withdrawal, config: filingConfig, log }),
      sources,
      questions: createQuestions({ database }),
      reconcile: createReconcile({ database, blobs, institution }),
    };
  } catch (error) {
    await close();
    throw error;
  }
}

export type Core = Awaited<ReturnType<typeof createCore>>;
