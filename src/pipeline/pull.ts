import { randomUUID } from 'node:crypto';
import type { Logger } from 'pino';
import type { PullContext, Source } from '../adapters/source.ts';
import { CodedError, codeOf } from '../errors.ts';
import type { Classifier } from '../records/classify.ts';
import type { Database } from '../store/database.ts';
import { sourcePatientIds, sourcePatients } from '../store/patients.ts';
import { newestVersion, standingRecords } from '../store/records.ts';
import { advanceStream, leaseStream, readStream, releaseStream } from '../store/streams.ts';
import type { SealedRows } from '../vault/sealed-rows.ts';
import type { createIntake } from './intake.ts';
import { joinPages } from './joined-pages.ts';
import { openVersionName } from './record-seal.ts';
import type { SourceKeys } from './source-keys.ts';

/** How far a stream's pull has come: what the progress line shows. */
export interface PullProgress {
  source: string;
  stream: string;
  pages: number;
  records: number;
  known: number;
  outcomes: Readonly<Record<string, number>>;
  warnings: readonly string[];
  done: boolean;
  error?: string;
}

export interface ConfiguredSource {
  source: Source;
  classifier(stream: string): Classifier;
}

const LEASE_MS = 120_000;
/** The outbox's high-water mark is no limit to the row, so it is not counted for every small page of a sweep. */
const ROOM_HOLDS_MS = 250;
const MAX_WARNINGS = 50;

/**
 * Pulls streams: one puller a stream (lease), a page and its mark in one transaction. A failing stream is reported and
 * keeps its last mark; the others go on. A dry run reads and decides, and stores nothing.
 */
export function createPull(parts: {
  database: Database;
  rows: SealedRows;
  keys: SourceKeys;
  intake: ReturnType<typeof createIntake>;
  /** Resolves when the outbox has room: pulls wait here, not in Redis (queue-and-reliability.md section 7). */
  room(signal: AbortSignal): Promise<void>;
  /** A page was stored: assembly may start. */
  onStored(): void;
  log: Logger;
}) {
  const { database, rows, keys, intake, room, onStored, log } = parts;
  const holder = randomUUID();
  const underway = new Set<string>();
  const markPlace = (source: string, stream: string): string => `mark/${source}/${stream}`;

  async function pullStream(
    { source, classifier }: ConfiguredSource,
    stream: string,
    signal: AbortSignal,
    onProgress: (progress: PullProgress) => void,
    options: { dryRun?: boolean } = {},
  ): Promise<PullProgress> {
    let progress: PullProgress = { source: source.id, stream, pages: 0, records: 0, known: 0, outcomes: {}, warnings: [], done: false };
    const report = (change: Partial<PullProgress>): void => {
      progress = { ...progress, ...change };
      onProgress(progress);
    };
    const name = `${source.id}/${stream}`;
    const isDry = options.dryRun === true;
    if (underway.has(name)) throw new CodedError('STREAM_BUSY', { diagnostics: name });
    underway.add(name);
    try {
      if (!(await leaseStream(database, source.id, stream, LEASE_MS, holder))) throw new CodedError('STREAM_BUSY', { diagnostics: name });
      const state = await readStream(database, source.id, stream);
      const mark = state?.mark ? (await rows.openPurpose('marks', markPlace(source.id, stream), state.mark)).toString() : undefined;
      const classify = classifier(stream);
      const context = {
        knownPatients: async () => {
          const found = await sourcePatientIds(database, source.id);
          return Promise.all(
            found.map(async (row) =>
              (await rows.openPurpose('directory', `source-patient/${row.key}`, row.source_id)).toString().replace(/^Patient\//, ''),
            ),
          );
        },
        knownVersion: async (type: string, id: string) => {
          const row = await newestVersion(database, await keys.ref(source.id, `${type}/${id}`));
          return row === undefined ? undefined : (await openVersionName(rows, row)).versionId;
        },
        knownRecords: async (patient: string) => {
          const key = await keys.ref(source.id, `Patient/${patient}`);
          const pat = (await sourcePatients(database, source.id, [key])).get(key)?.pat;
          if (pat === null || pat === undefined) return [];
          return Promise.all((await standingRecords(database, source.id, stream, pat)).map((row) => openVersionName(rows, row)));
        },
      } satisfies Omit<PullContext, 'signal'>;
      const pages = joinPages((ending) => source.pull(stream, mark, { ...context, signal: ending }), signal);
      let roomFoundAt = 0;
      for await (const page of pages) {
        if (!isDry && performance.now() - roomFoundAt > ROOM_HOLDS_MS) {
          await room(signal);
          roomFoundAt = performance.now();
        }
        const sealedMark =
          page.mark === undefined ? undefined : await rows.sealPurpose('marks', markPlace(source.id, stream), Buffer.from(page.mark));
        const counts = isDry
          ? await intake.preview(source.id, stream, classify, page.records)
          : await intake.storePage(source.id, stream, classify, page, (tx) =>
              advanceStream(tx, source.id, stream, sealedMark, LEASE_MS, holder),
            );
        report({
          pages: progress.pages + page.pages,
          records: progress.records + page.records.length,
          known: progress.known + counts.known,
          outcomes: added(progress.outcomes, counts.outcomes),
          warnings: told(progress.warnings, page.warnings),
        });
        if (counts.stored > 0) onStored();
      }
      await releaseStream(database, source.id, stream, holder, isDry ? 'stopped' : 'completed');
      report({ done: true });
    } catch (error) {
      // The code says what to do; the message of another error could quote a source's answer.
      const code = codeOf(error) ?? (signal.aborted ? 'UNAVAILABLE' : 'INTERNAL');
      if (code === 'STREAM_BUSY') throw error;
      // Should this fail, the database is away, and the lease is taken anew by its holder.
      await releaseStream(database, source.id, stream, holder, isDry || signal.aborted ? 'stopped' : { error: code }).catch(() => {});
      if (signal.aborted) log.info({ source: source.id, stream }, 'pull of a stream stopped');
      else log.error({ source: source.id, stream, code, err: codeOf(error) === undefined ? error : undefined }, 'pull of a stream failed');
      report({ done: true, error: error instanceof CodedError ? error.message : code });
    } finally {
      underway.delete(name);
    }
    return progress;
  }

  return { pullStream };
}

/** Each warning once: a sweep of thousands of patients says the same of each. */
function told(warnings: readonly string[], more: readonly string[] | undefined): readonly string[] {
  return more === undefined || more.length === 0 ? warnings : [...new Set([...warnings, ...more])].slice(0, MAX_WARNINGS);
}

function added(a: Readonly<Record<string, number>>, b: Readonly<Record<string, number>>): Record<string, number> {
  const sum: Record<string, number> = { ...a };
  for (const [key, count] of Object.entries(b)) sum[key] = (sum[key] ?? 0) + count;
  return sum;
}
