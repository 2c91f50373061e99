import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { createSimulator, type Simulator } from '../../simulator/simulator.ts';
import { createAriaSource } from '../../src/adapters/aria/aria-source.ts';
import { createFhirSource } from '../../src/adapters/fhir/fhir-source.ts';
import type { LimitOptions, SourceOptions, StreamOptions } from '../../src/adapters/fhir/options.ts';
import type { Source } from '../../src/adapters/source.ts';
import { codeOf } from '../../src/errors.ts';
import { createMemoryIntake, pullInto, sourceConformance, textOf } from './source-conformance.ts';

const LIMITS: Partial<LimitOptions> = {
  requestsPerSecond: 100_000,
  concurrency: 4,
  retryBaseMs: 1,
  retryCapMs: 2000,
  maxRetries: 3,
  timeoutMs: 5000,
  retryBudget: 10_000,
  breaker: { failures: 1000, halfOpenAfterMs: 50 },
};
const types = ['Patient', 'Practitioner', 'Organization'] as const;
const EHR_STREAMS: StreamOptions[] = [
  {
    id: 'labs',
    strategy: 'last-updated',
    searches: ['DiagnosticReport?category=http://terminology.hl7.org/CodeSystem/v2-0074|LAB', 'Observation?category=laboratory'],
    lookbackMs: 600_000,
    initialSince: '2020-01-01',
    pageSize: 50,
    follow: { types, attachments: false },
  },
  {
    id: 'notes',
    strategy: 'last-updated',
    searches: ['DocumentReference'],
    lookbackMs: 600_000,
    initialSince: '2020-01-01',
    pageSize: 2,
    follow: { types, attachments: true },
  },
];

const ehr = (simulator: Simulator, more: Partial<SourceOptions> = {}): Source =>
  createFhirSource({
    id: 'ehr',
    baseUrl: simulator.ehr.baseUrl,
    auth: {
      type: 'smart-backend',
      clientId: simulator.ehr.clientId,
      privateKey: JSON.stringify(simulator.ehr.privateKeyJwk),
      algorithm: 'ES384',
      scopes: simulator.ehr.scopes,
    },
    limits: LIMITS,
    streams: EHR_STREAMS,
    ...more,
  });
const aria = (simulator: Simulator, more: Partial<SourceOptions> = {}): Source => {
  const { baseUrl, tokenUrl, clientId, clientSecret, scopes } = simulator.aria;
  return createAriaSource({
    id: 'aria',
    baseUrl,
    auth: { type: 'client-credentials', tokenUrl, clientId, clientSecret, scopes },
    limits: LIMITS,
    ...more,
  });
};

/** `Type/id` -> version of what is current in a stream. */
const current = (simulator: Simulator, source: string, stream: string): Map<string, string> =>
  new Map(
    simulator
      .truth()
      .records.filter((record) => record.stream === `${source}/${stream}` && record.current && !record.deleted)
      .map(({ type, id, versionId }) => [`${type}/${id}`, versionId]),
  );
const changing = (simulator: Simulator, source: string, stream: string, act: () => void): string[] => {
  const before = current(simulator, source, stream);
  act();
  return [...current(simulator, source, stream)].filter(([name, version]) => before.get(name) !== version).map(([name]) => name);
};

sourceConformance('fhir, simulated EHR', async () => {
  const simulator = await createSimulator();
  return {
    open: () => ehr(simulator),
    streams: ['labs', 'notes'],
    expected: (stream) => [...current(simulator, 'ehr', stream).keys()],
    change: (stream) =>
      changing(simulator, 'ehr', stream, () => simulator.control.step(stream === 'labs' ? 'lab-corrected' : 'note-moved')),
    fail: (status, times, pass) => simulator.control.fault({ server: 'ehr', kind: 'status', status, times, after: pass }),
    calm: () => simulator.control.clearFaults(),
    close: () => simulator.close(),
  };
});

sourceConformance('aria, simulated ARIA API', async () => {
  const simulator = await createSimulator();
  return {
    open: () => aria(simulator),
    streams: ['courses', 'notes'],
    expected: (stream) => [...current(simulator, 'aria', stream).keys()],
    change: (stream) =>
      changing(simulator, 'aria', stream, () => simulator.control.step(stream === 'courses' ? 'course-advanced' : 'note-amended')),
    fail: (status, times, pass) => simulator.control.fault({ server: 'aria', kind: 'status', status, times, after: pass }),
    calm: () => simulator.control.clearFaults(),
    close: () => simulator.close(),
  };
});

describe('against the simulator', () => {
  let simulator: Simulator;
  before(async () => {
    simulator = await createSimulator();
  });
  after(() => simulator.close());
  const everything = [
    ['ehr', 'labs', ehr],
    ['ehr', 'notes', ehr],
    ['aria', 'courses', aria],
    ['aria', 'notes', aria],
  ] as const;

  it('probe finds nothing to complain of, and names a scope taken away', async () => {
    for (const source of [ehr(simulator), aria(simulator)]) {
      assert.deepEqual((await source.probe()).problems, []);
      await source.close();
    }
    simulator.control.limitScopes(
      'aria',
      simulator.aria.scopes.filter((scope) => !scope.includes('Procedure')),
    );
    const source = aria(simulator);
    const { problems } = await source.probe();
    await source.close();
    simulator.control.limitScopes('aria', undefined);
    simulator.control.expireTokens('aria');
    assert.ok(problems.some(({ id, text }) => id === 'scope-missing' && text.includes('system/Procedure.rs')));
    assert.ok(problems.some(({ id, text }) => id === 'search-refused' && text.includes('Procedure')));
  });

  it('attachments: those within reach have bytes, the others a stable problem', async () => {
    const problems = new Set<string>();
    for (const [name, stream, open] of everything.filter((one) => one[1] === 'notes')) {
      const source = open(simulator);
      const intake = createMemoryIntake();
      await pullInto(source, stream, intake);
      await source.close();
      let fetched = 0;
      for (const { type, attachments } of intake.records.values()) {
        if (type !== 'DocumentReference') continue;
        assert.ok(attachments && attachments.length > 0, name);
        for (const { problem, bytes } of attachments) {
          if (problem === undefined) {
            assert.ok(bytes.length > 0);
            fetched += 1;
          } else problems.add(problem);
        }
      }
      assert.ok(fetched >= 3, `${name}: ${fetched}`);
    }
    for (const problem of problems) assert.match(problem, /^[a-z]+(-[a-z0-9]+)*$/);
  });

  it('brings each correction in the next pull, and only those', async () => {
    const pulls = await Promise.all(
      everything.map(async ([name, stream, open]) => {
        const source = open(simulator);
        const intake = createMemoryIntake();
        await pullInto(source, stream, intake);
        intake.changes = [];
        return { name, stream, source, intake, was: current(simulator, name, stream) };
      }),
    );
    simulator.control.applyCorrections();
    for (const { name, stream, source, intake, was } of pulls) {
      await pullInto(source, stream, intake);
      const now = current(simulator, name, stream);
      const wanted = [...now].filter(([record, version]) => was.get(record) !== version).map(([record]) => record);
      assert.ok(wanted.length > 0);
      // A moved note brings its new patient along.
      assert.deepEqual(
        intake.changes.filter((record) => !/^(Patient|Practitioner|Organization)\//.test(record)).sort(),
        wanted.sort(),
        `${name}/${stream}`,
      );
      for (const [record, version] of now) assert.equal(intake.records.get(record)?.versionId, version);
      await source.close();
    }
  });

  it('page faults: processed, or stopped with a code; nothing reaches a stranger', async () => {
    for (const [kind, code] of [
      ['warning-entry', undefined],
      ['empty-page', undefined],
      ['truncate', 'SOURCE_RESPONSE or retried'],
      ['foreign-next', 'SOURCE_ORIGIN'],
      ['loop-self', 'SOURCE_PAGING'],
      ['loop-back', 'SOURCE_PAGING'],
      ['redirect', 'SOURCE_ORIGIN'],
    ] as const) {
      const source = ehr(simulator);
      const intake = createMemoryIntake();
      simulator.control.clearFaults();
      // In the middle of the chain, for as long as it lasts: a second page is there to lead astray.
      simulator.control.fault({
        server: 'ehr',
        kind,
        times: kind.startsWith('loop') ? Number.POSITIVE_INFINITY : 1,
        after: kind.startsWith('loop') ? 1 : 0,
        match: kind.startsWith('loop') ? '' : 'DocumentReference',
      });
      const outcome = await pullInto(source, 'notes', intake).then(
        () => 'done',
        (error: unknown) => codeOf(error) ?? 'another error',
      );
      if (code === undefined) assert.equal(outcome, 'done', kind);
      else if (code.startsWith('SOURCE_RESPONSE')) assert.match(outcome, /^(done|SOURCE_RESPONSE|SOURCE_UNREACHABLE)$/, kind);
      else assert.equal(outcome, code, kind);
      simulator.control.clearFaults();
      // Well again, it goes on where it stood.
      await pullInto(source, 'notes', intake);
      for (const [record, version] of current(simulator, 'ehr', 'notes'))
        assert.equal(intake.records.get(record)?.versionId, version, kind);
      await source.close();
    }
    assert.deepEqual(simulator.control.strangerRequests(), []);
  });

  it('a deletion at a source with _lastUpdated is seen by the rescan in rotation (edge case 14)', async () => {
    const labs = EHR_STREAMS[0];
    assert.ok(labs?.strategy === 'last-updated');
    const source = ehr(simulator, { streams: [{ ...labs, rescanPatientsPerPull: 3 }] });
    const intake = createMemoryIntake();
    const before = simulator.control.requests().length;
    await pullInto(source, 'labs', intake);
    const rescans = simulator.control
      .requests()
      .slice(before)
      .filter(({ url }) => /[?&]patient=/.test(url));
    assert.deepEqual(rescans, [], 'the first pull read again whom it had just read');
    simulator.control.step('lab-deleted');
    const gone = new Set<string>();
    for (let round = 0; round < 6; round++) {
      intake.changes = [];
      await pullInto(source, 'labs', intake);
      for (const name of intake.changes) if (intake.records.get(name)?.deleted) gone.add(name);
    }
    await source.close();
    const wanted = simulator.truth().records.filter(({ stream, current: newest, deleted }) => stream === 'ehr/labs' && newest && deleted);
    assert.ok(wanted.length >= 4);
    assert.deepEqual([...gone].sort(), wanted.map(({ type, id }) => `${type}/${id}`).sort());
  });

  it('tokens that end mid-run and throttling pass unnoticed', async () => {
    const source = aria(simulator);
    const intake = createMemoryIntake();
    let pages = 0;
    simulator.control.fault({ server: 'aria', kind: 'throttle', seconds: 1, form: 'date', match: 'Procedure' });
    for await (const page of source.pull('courses', undefined, intake.context)) {
      intake.take(page);
      pages += 1;
      if (pages % 3 === 0) simulator.control.expireTokens('aria');
    }
    await source.close();
    for (const record of current(simulator, 'aria', 'courses').keys()) assert.ok(intake.records.has(record), record);
    const doses = [...intake.records.values()].map(textOf).join('');
    assert.match(doses, /"value":\s*\d+\.\d*0\b/, 'trailing zeros of decimals are kept');
    assert.ok(!simulator.control.requests().some(({ url }) => /token|secret/i.test(url)));
  });
});
