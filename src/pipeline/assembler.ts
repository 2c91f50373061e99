import type { Logger } from 'pino';
import { codeOf } from '../errors.ts';
import type { Reason } from '../records/reasons.ts';
import { takeUpPublished, waitForCategoryKey } from '../store/category-keys.ts';
import type { Database } from '../store/database.ts';
import { decide, pendingRecords } from '../store/records.ts';
import type { createAssembly, DocumentDraft } from './assembly.ts';
import type { createFiling } from './filing.ts';
import { isPassing } from './passing.ts';
import type { createReplay } from './replay.ts';
import type { createResealing } from './resealing.ts';
import type { createWithdrawal } from './withdrawal.ts';

/** Drafts filed together: one commit for many, but the first ones go at once, so that a pull shows its first document soon. */
const BATCH = 24;
/** Attachments of drafts filed together; a scan may have a hundred megabytes. */
const BATCH_BYTES = 64 * 2 ** 20;
/** Records looked up at once. */
const PAGE = 200;
/** Pending records looked at together. Few enough that what is known of the last one is still new. */
const LOOK = 50;
/** Between two rounds, so that the small pages of a sweep are not looked at one by one. The first page waits for nothing. */
const APART_MS = 100;
/** Rounds more for what became due while it was worked off; after them the next pull goes on. */
const AGAIN = 3;
/** A database that was away is mostly back by then. */
const RETRY_MS = 5000;

/**
 * The loop that turns pending records into filed documents. One runs at a time in the process that holds the custodian;
 * it may be killed anywhere and starts again from the rows.
 */
export function createAssembler(parts: {
  database: Database;
  institution: string;
  assembly: ReturnType<typeof createAssembly>;
  filing: ReturnType<typeof createFiling>;
  withdrawal: ReturnType<typeof createWithdrawal>;
  resealing: Pick<ReturnType<typeof createResealing>, 'resealStale'>;
  replay: Pick<ReturnType<typeof createReplay>, 'due'>;
  /** Documents were filed: the outbox has work. */
  onFiled(count: number): void;
  /** We are stopping: what is under way is finished, and the rest left for the next start. */
  stopping: AbortSignal;
  log: Logger;
}) {
  const { database, institution, assembly, filing, withdrawal, resealing, replay, onFiled, stopping, log } = parts;
  let running: Promise<unknown> = Promise.resolve();
  let wanted = false;
  /** Number of the newest record that a whole round has looked at; 0: nothing is known. */
  let lookedAt = 0;
  let retry: NodeJS.Timeout | undefined;
  let next: NodeJS.Timeout | undefined;
  let endedAt = Number.NEGATIVE_INFINITY;
  let total = 0;
  /** Something that was looked at is due once more. */
  let again = false;

  /** Starts a round soon; many calls make one round. */
  function wake(): void {
    if (wanted || stopping.aborted) return;
    wanted = true;
    clearTimeout(next);
    const waitMs = endedAt + APART_MS - performance.now();
    if (waitMs > 0) next = setTimeout(begin, waitMs);
    else begin();
  }

  function begin(): void {
    void drain().catch((error: unknown) => {
      log.error({ err: codeOf(error) ?? error }, 'assembly failed; it is tried again');
      clearTimeout(retry);
      retry = setTimeout(wake, RETRY_MS);
    });
  }

  /**
   * Works off everything that is pending, and returns how many documents were filed. What waits for more of its subject goes
   * on waiting until the pull of its stream has come to its end.
   */
  function drain(): Promise<number> {
    const run = running.then(() => {
      wanted = false;
      return round();
    });
    running = run.then(
      () => {
        endedAt = performance.now();
      },
      () => {},
    );
    return run;
  }

  async function round(): Promise<number> {
    // What was put back to wait for a decision, or was left by a round that failed, is older than what has been looked at.
    if ((await replay.due()) > 0) lookedAt = 0;
    const published = await takeUpPublished(database, institution);
    if (published > 0) lookedAt = 0;
    const from = lookedAt;
    lookedAt = 0;
    let filed = await workOff(from);
    // What another subject gave up waits again, and a subject that moved on while its document was made is due again.
    for (let rounds = 0; again && !stopping.aborted && rounds < AGAIN; rounds++) filed += await workOff(0);
    while (!stopping.aborted && (await withdrawal.resealWithdrawn()) > 0);
    while (!stopping.aborted && (await resealing.resealStale()) > 0);
    return filed;
  }

  /** `from`: up to here the records of streams that are still being read were looked at, and wait for what has come since. */
  async function workOff(from: number): Promise<number> {
    again = false;
    let filed = 0;
    let handed = 0;
    let cursor = 0;
    let corrected = 0;
    const seen = new Set<string>();
    // One batch is rendered, sealed and filed while the next is assembled.
    let filing: Promise<number> = Promise.resolve(0);
    const hand = async (drafts: readonly DocumentDraft[]): Promise<void> => {
      filed += await filing;
      handed += drafts.length;
      filing = file(drafts);
      filing.catch(() => {}); // heard by whoever waits for it next
    };
    try {
      while (!stopping.aborted) {
        // What takes something back must not stay shown for as long as a backlog lasts.
        const correcting = await pendingRecords(database, PAGE, { after: corrected, unfinishedAfter: from, correcting: true });
        corrected = correcting.at(-1)?.seq ?? corrected;
        const following = await pendingRecords(database, PAGE, { after: cursor, unfinishedAfter: from });
        const pending = [...correcting, ...following];
        if (pending.length === 0) break;
        let drafts: DocumentDraft[] = [];
        let looked: Awaited<ReturnType<typeof assembly.assembleNew>> = new Map();
        for (const [index, record] of pending.entries()) {
          if (stopping.aborted) break;
          if (index % LOOK === 0) {
            const next = pending.slice(index, index + LOOK).filter(({ rec }) => !seen.has(rec));
            looked = await assembly.assembleNew(next);
          }
          if (seen.has(record.rec)) continue;
          seen.add(record.rec);
          try {
            const { drafts: found, touched, released } = looked.get(record.rec) ?? (await assembly.assemble(record, record.final));
            again ||= released;
            // Everything of the component was looked at; what still waits is looked at again when more has come.
            for (const rec of touched) seen.add(rec);
            drafts.push(...found);
          } catch (error) {
            await quarantine([record.rec], error);
          }
          if (drafts.length >= (handed === 0 ? 1 : BATCH) || attachmentBytes(drafts) > BATCH_BYTES) {
            await hand(drafts);
            drafts = [];
          }
        }
        await hand(drafts);
        cursor = following.at(-1)?.seq ?? cursor;
      }
    } finally {
      // A failure that is already on its way up is the one to tell.
      filed += await filing.catch(() => 0);
    }
    await filing;
    if (!stopping.aborted) lookedAt = Math.max(from, cursor);
    return filed;
  }

  async function file(drafts: readonly DocumentDraft[]): Promise<number> {
    if (drafts.length === 0) return 0;
    let filed = 0;
    try {
      const done = await filing.file(drafts);
      filed = done.filed;
      for (const { draft, error } of done.failed) await setAside(draft, error);
    } catch (error) {
      if (isPassing(error)) throw error;
      const [only, ...others] = drafts;
      // One of them spoils the commit of all: each for itself.
      if (others.length > 0) {
        for (const draft of drafts) filed += await file([draft]);
        return filed;
      }
      // Its subject moved on meanwhile: it is still pending.
      if (codeOf(error) === 'CONFLICT') {
        again = true;
        log.info({ subject: only?.subject.sub }, 'a subject moved on while its document was made');
      } else if (only !== undefined) await setAside(only, error);
    }
    total += filed;
    if (filed > 0) onFiled(filed);
    return filed;
  }

  /** The records of a draft that could not be filed. */
  async function setAside(draft: DocumentDraft, error: unknown): Promise<void> {
    const { category, document } = draft.subject;
    if (codeOf(error) !== 'CATEGORY_KEY_UNPUBLISHED') return quarantine(pendingOf(draft), error);
    await waitForCategoryKey(database, pendingOf(draft), category);
    log.info({ document, category }, 'records wait: no key of the patient for the category is published');
  }

  /** A record that cannot be worked is held with its bytes for a person; the others go on. Passing faults are thrown on. */
  async function quarantine(recs: readonly string[], error: unknown): Promise<void> {
    if (isPassing(error)) throw error;
    const code = codeOf(error);
    log.error(
      { recs, code: code ?? 'INTERNAL', err: code === undefined ? error : undefined },
      'records held: no document can be made of them',
    );
    const reason: Reason = code === 'KEY_DIFFERS' ? 'CATEGORY_KEY_DIFFERS' : 'CONTENT_INVALID';
    await decide(database, recs, { outcome: 'quarantine', reason });
  }

  return {
    wake,
    drain,
    /** Document versions filed since the start. */
    filedSoFar: () => total,
    async close() {
      clearTimeout(next);
      clearTimeout(retry);
      await running;
      clearTimeout(retry);
    },
  };
}

function attachmentBytes(drafts: readonly DocumentDraft[]): number {
  let bytes = 0;
  for (const { own } of drafts)
    for (const { kept } of own) for (const attachment of kept.record.attachments ?? []) bytes += attachment.bytes.length;
  return bytes;
}

function pendingOf(draft: DocumentDraft): string[] {
  return draft.own.filter((record) => record.row.outcome === 'pending').map((record) => record.row.rec);
}
