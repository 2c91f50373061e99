import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import type { PullContext, RawRecord, Source } from '../../src/adapters/source.ts';

/** A source under test and the levers of the system behind it. */
export interface ConformanceSetup {
  /** A new source over the same system; closed by the suite. */
  open(): Source;
  streams: readonly string[];
  /** `Type/id` of every record that a stream must yield (followed resources may come beside them). */
  expected(stream: string): readonly string[];
  /** Changes something of the stream at the system: the `Type/id`s changed. Absent where the system cannot. */
  change?(stream: string): readonly string[];
  /** Removes something of the stream: the `Type/id`s removed, none where this stream cannot. Absent where no stream can. */
  remove?(stream: string): readonly string[];
  /** Makes the next n answers of the system fail with this status, after letting `pass` go by. */
  fail?(status: number, times: number, pass: number): void;
  /** Ends all faults. */
  calm?(): void;
  close(): Promise<void>;
}

/** What the pipeline does with pages, as small as can be: newest version per record, the mark, what is known. */
export interface MemoryIntake {
  readonly records: Map<string, RawRecord>;
  readonly context: PullContext;
  mark: string | undefined;
  /** Versions that changed something, in order. */
  changes: string[];
  warnings: string[];
  take(page: { records: readonly RawRecord[]; mark?: string; warnings?: readonly string[] }): void;
}

export function createMemoryIntake(signal: AbortSignal = new AbortController().signal): MemoryIntake {
  const records = new Map<string, RawRecord>();
  const patientOf = (record: RawRecord): string | undefined =>
    /"(?:subject|patient)"\s*:\s*\{\s*"reference"\s*:\s*"Patient\/([^"]+)"/.exec(textOf(record))?.[1];
  const intake: MemoryIntake = {
    records,
    mark: undefined,
    changes: [],
    warnings: [],
    context: {
      signal,
      knownPatients: () =>
        Promise.resolve([...records.values()].filter(({ type, deleted }) => type === 'Patient' && !deleted).map(({ id }) => id)),
      knownVersion: (type, id) => Promise.resolve(records.get(`${type}/${id}`)?.versionId),
      knownRecords: (patient) =>
        Promise.resolve(
          [...records.values()].filter((record) => !record.deleted && patientOf(record) === patient).map(({ type, id }) => ({ type, id })),
        ),
    },
    take: (page) => {
      for (const record of page.records) {
        const name = `${record.type}/${record.id}`;
        const stored = records.get(name);
        if (stored && stored.versionId === record.versionId && textOf(stored) === textOf(record) && !record.deleted) continue;
        if (stored?.deleted && record.deleted) continue;
        records.set(name, record);
        intake.changes.push(name);
      }
      if (page.mark !== undefined) intake.mark = page.mark;
      intake.warnings.push(...(page.warnings ?? []));
    },
  };
  return intake;
}

/** Pulls a stream into an intake; stops after `pages` pages where told. True where the pull came to its end. */
export async function pullInto(source: Source, stream: string, intake: MemoryIntake, pages = Number.POSITIVE_INFINITY): Promise<boolean> {
  let count = 0;
  for await (const page of source.pull(stream, intake.mark, intake.context)) {
    intake.take(page);
    count += 1;
    if (count >= pages) return false;
  }
  return true;
}

export function textOf(record: RawRecord): string {
  return Buffer.from(record.bytes).toString('utf8');
}

/** The tests that every kind of source must pass. */
export function sourceConformance(name: string, prepare: () => Promise<ConformanceSetup>): void {
  describe(`source conformance: ${name}`, () => {
    let setup: ConformanceSetup;
    let source: Source;
    before(async () => {
      setup = await prepare();
      source = setup.open();
    });
    after(async () => {
      await source?.close();
      await setup?.close();
    });
    const full = async (stream: string): Promise<MemoryIntake> => {
      const intake = createMemoryIntake();
      await pullInto(source, stream, intake);
      return intake;
    };
    const snapshot = (intake: MemoryIntake): string[] =>
      [...intake.records].map(([key, record]) => `${key} ${record.versionId} ${textOf(record)}`).sort();

    it('names its streams', () => {
      for (const stream of setup.streams) assert.ok(source.streams.includes(stream), stream);
    });

    it('yields everything, as FHIR text under the right names, referenced resources first', async () => {
      for (const stream of setup.streams) {
        const intake = await full(stream);
        for (const expected of setup.expected(stream)) assert.ok(intake.records.has(expected), `${stream} lacks ${expected}`);
        const arrived = new Set<string>();
        for (const change of intake.changes) {
          const record = intake.records.get(change);
          assert.ok(record);
          const resource = JSON.parse(textOf(record)) as { resourceType: string; id: string; subject?: { reference?: string } };
          assert.equal(`${resource.resourceType}/${resource.id}`, change);
          const subject = resource.subject?.reference;
          if (subject && intake.records.has(subject)) assert.ok(arrived.has(subject), `${change} came before ${subject}`);
          arrived.add(change);
        }
        assert.ok(intake.mark, 'a mark at the end');
      }
    });

    it('resumes from any page without loss', async () => {
      for (const stream of setup.streams) {
        const whole = snapshot(await full(stream));
        for (let pages = 1; pages < 400; pages++) {
          const intake = createMemoryIntake();
          const ended = await pullInto(source, stream, intake, pages);
          // From here on as after a crash: another source object, the stored mark, what was stored.
          const restarted = setup.open();
          await pullInto(restarted, stream, intake);
          await restarted.close();
          assert.deepEqual(snapshot(intake), whole, `${stream}, abandoned after page ${pages}`);
          if (ended) break;
        }
      }
    });

    it('makes progress when each pull dies after some pages', async () => {
      for (const stream of setup.streams) {
        const whole = snapshot(await full(stream));
        const intake = createMemoryIntake();
        let rounds = 0;
        // A patient's pages bear a mark only with the last one; twelve always reach it in these systems.
        while (!(await pullInto(source, stream, intake, 12))) {
          rounds += 1;
          assert.ok(rounds < 500, `${stream} gets nowhere`);
        }
        assert.deepEqual(snapshot(intake), whole);
      }
    });

    it('a second pull with nothing new changes nothing and fetches no attachment again', async () => {
      for (const stream of setup.streams) {
        const intake = await full(stream);
        intake.changes = [];
        let fetched = 0;
        for await (const page of source.pull(stream, intake.mark, intake.context)) {
          fetched += page.records.filter(({ attachments, versionId }) => attachments !== undefined && versionId !== '').length;
          intake.take(page);
        }
        assert.deepEqual(intake.changes, [], stream);
        assert.equal(fetched, 0, stream);
      }
    });

    it('shows a change as one new version of that record', async () => {
      if (!setup.change) return;
      for (const stream of setup.streams) {
        const intake = await full(stream);
        intake.changes = [];
        const changed = setup.change(stream);
        assert.ok(changed.length > 0);
        await pullInto(source, stream, intake);
        // A record that moved may bring its new patient along.
        const changes = intake.changes.filter((name) => changed.includes(name) || !/^(Patient|Practitioner|Organization)\//.test(name));
        assert.deepEqual(changes.sort(), [...changed].sort(), stream);
      }
    });

    it('shows a removal as a tombstone, once', async () => {
      if (!setup.remove) return;
      for (const stream of setup.streams) {
        const intake = await full(stream);
        intake.changes = [];
        const removed = setup.remove(stream);
        if (removed.length === 0) continue;
        await pullInto(source, stream, intake);
        assert.deepEqual(intake.changes.sort(), [...removed].sort(), stream);
        for (const name of removed) {
          assert.equal(intake.records.get(name)?.deleted, true);
          assert.equal(intake.records.get(name)?.bytes.length, 0);
        }
        intake.changes = [];
        await pullInto(source, stream, intake);
        assert.deepEqual(intake.changes, [], 'not said twice');
      }
    });

    it('outlives short failures and, after long ones, loses nothing', async () => {
      if (!setup.fail || !setup.calm) return;
      for (const stream of setup.streams) {
        const whole = snapshot(await full(stream));
        for (const pass of [0, 1, 2, 3]) {
          setup.fail(503, 1, pass);
          assert.deepEqual(snapshot(await full(stream)), whole, `${stream}: one 503 after ${pass} answers`);
          setup.calm();
          setup.fail(500, Number.POSITIVE_INFINITY, pass);
          const intake = createMemoryIntake();
          const broken = setup.open();
          await assert.rejects(pullInto(broken, stream, intake), { code: 'SOURCE_UNREACHABLE' });
          await broken.close();
          setup.calm();
          await pullInto(source, stream, intake);
          assert.deepEqual(snapshot(intake), whole, `${stream}: down after ${pass} answers`);
        }
      }
    });

    it('stops with the reason of an aborted signal', async () => {
      const stop = new AbortController();
      const intake = createMemoryIntake(stop.signal);
      stop.abort(new Error('stop now'));
      await assert.rejects(pullInto(source, setup.streams[0] ?? '', intake), /stop now/);
    });

    it('refuses an unknown stream and a foreign mark', async () => {
      await assert.rejects(pullInto(source, 'no-such-stream', createMemoryIntake()), { code: 'SOURCE_STREAM' });
      const intake = createMemoryIntake();
      intake.mark = '{"v":9}';
      await assert.rejects(pullInto(source, setup.streams[0] ?? '', intake), { code: 'SOURCE_MARK' });
      intake.mark = 'not json';
      await assert.rejects(pullInto(source, setup.streams[0] ?? '', intake), { code: 'SOURCE_MARK' });
    });
  });
}
