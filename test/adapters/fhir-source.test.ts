import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { after, afterEach, before, describe, it } from 'node:test';
import { array, asyncProperty, constant, assert as holds, integer, oneof, record } from 'fast-check';
import { createAriaSource } from '../../src/adapters/aria/aria-source.ts';
import { createFhirSource } from '../../src/adapters/fhir/fhir-source.ts';
import type { LimitOptions, SourceOptions, StreamOptions } from '../../src/adapters/fhir/options.ts';
import type { RawAttachment } from '../../src/adapters/source.ts';
import { bundle, type FixtureServer, json, outcome, startFixtureServer } from './fixture-server.ts';
import { createMemoryIntake, type MemoryIntake, pullInto, sourceConformance, textOf } from './source-conformance.ts';

const FAST: Partial<LimitOptions> = {
  requestsPerSecond: 5000,
  retryBaseMs: 2,
  retryCapMs: 1500,
  maxRetries: 3,
  timeoutMs: 2000,
  retryBudget: 1000,
  breaker: { failures: 50, halfOpenAfterMs: 50 },
};
const FOLLOW = { types: ['Patient', 'Practitioner', 'Organization'] as const, attachments: true };
const LABS: StreamOptions = {
  id: 'labs',
  strategy: 'last-updated',
  searches: ['Observation?category=laboratory', 'DiagnosticReport'],
  lookbackMs: 600_000,
  pageSize: 2,
  follow: FOLLOW,
};
const SWEEP: StreamOptions = {
  id: 'courses',
  strategy: 'patient-sweep',
  discover: { search: 'Appointment', lookbackMs: 86_400_000, initialSince: '2020-01-01' },
  perPatient: ['Procedure?category=a,b', 'DocumentReference'],
  pageSize: 2,
  follow: FOLLOW,
};

const patient = (id: string): string =>
  `{"resourceType":"Patient","id":"${id}","meta":{"versionId":"1"},"managingOrganization":{"reference":"Organization/o1"}}`;
const observation = (id: string, lastUpdated: string, version = '1', value = '2.00'): string =>
  `{ "resourceType" : "Observation", "id":"${id}", "meta":{"versionId":"${version}","lastUpdated":"${lastUpdated}"},\n  "subject":{"reference":"Patient/p1"}, "valueQuantity":{"value":${value}} }`;
const procedure = (id: string, of: string, version = '1'): string =>
  `{"resourceType":"Procedure","id":"${id}","meta":{"versionId":"${version}"},"subject":{"reference":"Patient/${of}"},"value":5040.0}`;
const note = (id: string, of: string, content: string, version = '1'): string =>
  `{"resourceType":"DocumentReference","id":"${id}","meta":{"versionId":"${version}"},"subject":{"reference":"Patient/${of}"},"content":[${content}]}`;
const inline = (text: string): string => `{"attachment":{"contentType":"text/plain","data":"${Buffer.from(text).toString('base64')}"}}`;
const appointment = (id: string, of: string, lastUpdated: string): string =>
  `{"resourceType":"Appointment","id":"${id}","meta":{"lastUpdated":"${lastUpdated}"},"participant":[{"actor":{"reference":"Patient/${of}"}}]}`;

function fill(server: FixtureServer): void {
  server.put('{"resourceType":"Organization","id":"o1","meta":{"versionId":"1"}}');
  for (const id of ['p1', 'p2', 'p3']) server.put(patient(id));
  // Two at one instant, sub-second and second precision mixed (edge case 10).
  [
    '2026-01-01T10:00:00Z',
    '2026-01-01T10:00:00.000Z',
    '2026-01-02T09:00:00.5+01:00',
    '2026-01-03T00:00:00Z',
    '2026-01-04T00:00:00Z',
  ].forEach((at, i) => server.put(observation(`obs${i}`, at)));
  server.put(
    '{"resourceType":"DiagnosticReport","id":"r1","meta":{"versionId":"7","lastUpdated":"2026-01-04T00:00:00Z"},"subject":{"reference":"Patient/p1"}}',
  );
  for (const id of ['p1', 'p2', 'p3']) {
    server.put(appointment(`a-${id}`, id, '2026-01-01T00:00:00Z'));
    for (const n of [1, 2, 3]) server.put(procedure(`c${n}-${id}`, id));
    server.put(note(`n-${id}`, id, inline(`note of ${id}`)));
  }
}

function options(server: FixtureServer, streams: StreamOptions[], more: Partial<SourceOptions> = {}): SourceOptions {
  return { id: 'test', baseUrl: server.base, auth: { type: 'none' }, limits: FAST, streams, ...more };
}

function failing(server: FixtureServer): { fail(status: number, times: number, pass: number): void; calm(): void } {
  return {
    fail: (status, times, pass) => {
      let skip = pass;
      let left = times;
      server.hook = (_request, response) => {
        if (skip-- > 0 || left-- <= 0) return false;
        outcome(response, status, 'exception');
        return true;
      };
    },
    calm: () => {
      server.hook = undefined;
    },
  };
}

sourceConformance('fhir, last-updated, fixture', async () => {
  const server = await startFixtureServer();
  fill(server);
  let version = 1;
  return {
    open: () => createFhirSource(options(server, [LABS])),
    streams: ['labs'],
    expected: () => ['Organization/o1', 'Patient/p1', ...[0, 1, 2, 3, 4].map((n) => `Observation/obs${n}`), 'DiagnosticReport/r1'],
    change: () => {
      version += 1;
      server.put(observation('obs1', new Date().toISOString(), String(version), '3.10'));
      return ['Observation/obs1'];
    },
    ...failing(server),
    close: () => server.close(),
  };
});

sourceConformance('aria, patient-sweep, fixture', async () => {
  const server = await startFixtureServer({ refuseRepeats: true });
  fill(server);
  let version = 1;
  let removed = 0;
  return {
    open: () => createAriaSource(options(server, [SWEEP])),
    streams: ['courses'],
    expected: () =>
      ['p1', 'p2', 'p3'].flatMap((of) => [`Patient/${of}`, `Procedure/c1-${of}`, `Procedure/c3-${of}`, `DocumentReference/n-${of}`]),
    change: () => {
      version += 1;
      server.put(procedure('c2-p2', 'p2', String(version)));
      return ['Procedure/c2-p2'];
    },
    remove: () => {
      removed += 1;
      server.remove('Procedure', `c${removed}-p3`);
      return [`Procedure/c${removed}-p3`];
    },
    ...failing(server),
    close: () => server.close(),
  };
});

describe('what a server may do to us', () => {
  let server: FixtureServer;
  before(async () => {
    server = await startFixtureServer();
    fill(server);
  });
  after(() => server.close());
  afterEach(() => {
    server.hook = undefined;
    server.requests.length = 0;
    server.nowMs = Date.now;
  });
  const pull = async (
    streams: StreamOptions[] = [LABS],
    more: Partial<SourceOptions> = {},
    intake = createMemoryIntake(),
  ): Promise<MemoryIntake> => {
    const source = createFhirSource(options(server, streams, more));
    try {
      await pullInto(source, streams[0]?.id ?? '', intake);
      return intake;
    } finally {
      await source.close();
    }
  };
  const code = (name: string) => (error: unknown) => {
    assert.equal((error as { code?: string }).code, name, String(error));
    assert.ok(!String(error).includes('Jane'), 'no text of the source in an error');
    return true;
  };
  const onSearch = (act: NonNullable<FixtureServer['hook']>): void => {
    server.hook = (request, response, url) => url.pathname === '/fhir/Observation' && act(request, response, url);
  };

  it('keeps the exact text of a resource, decimals and spaces included', async () => {
    const kept = (await pull()).records.get('Observation/obs0');
    assert.ok(kept);
    assert.equal(textOf(kept), observation('obs0', '2026-01-01T10:00:00Z'));
    assert.equal(kept.lastUpdated, '2026-01-01T10:00:00Z');
  });

  it('takes the cursor from the server clock, however wrong ours is (edge cases 2, 3)', async () => {
    const serverNow = Date.parse('2026-01-04T00:05:00Z');
    server.nowMs = () => serverNow;
    const intake = await pull();
    server.requests.length = 0;
    await pull([LABS], {}, intake);
    const since = new URL(server.requests[0]?.url ?? '', server.origin).searchParams.get('_lastUpdated') ?? '';
    const sinceMs = Date.parse(since.slice(2));
    assert.ok(since.startsWith('ge'));
    assert.ok(sinceMs <= serverNow - 600_000 && sinceMs > serverNow - 600_000 - 5000, since);
  });

  it('goes by the newest record where the server tells no time', async () => {
    const tellNothing: NonNullable<FixtureServer['hook']> = (_request, response) => {
      response.removeHeader('date');
      response.sendDate = false;
      return false;
    };
    server.hook = tellNothing;
    const intake = await pull();
    assert.match(intake.mark ?? '', /"Observation\?category=laboratory":\{"since":"2026-01-04T00:00:00.000Z"\}/);
  });

  it('starts a forgotten page chain again (410 on the stored link)', async () => {
    const source = createFhirSource(options(server, [LABS]));
    const intake = createMemoryIntake();
    await pullInto(source, 'labs', intake, 1);
    assert.match(intake.mark ?? '', /"next"/);
    server.hook = (_request, response, url) => {
      if (!url.searchParams.has('_offset') || url.searchParams.has('again')) return false;
      server.hook = undefined;
      outcome(response, 410, 'expired');
      return true;
    };
    await pullInto(source, 'labs', intake);
    await source.close();
    for (const n of [0, 1, 2, 3, 4]) assert.ok(intake.records.has(`Observation/obs${n}`));
  });

  for (const [what, next, expected] of [
    ['another host', 'http://169.254.169.254/latest', 'SOURCE_ORIGIN'],
    ['another port', 'http://127.0.0.1:1/fhir/Observation', 'SOURCE_ORIGIN'],
    ['a file', 'file:///etc/passwd', 'SOURCE_ORIGIN'],
    ['itself', 'SELF', 'SOURCE_PAGING'],
    ['ever new links with the same page', 'NEW', 'SOURCE_PAGING'],
  ] as const) {
    it(`stops where a next link leads to ${what} (edge case 5)`, async () => {
      let count = 0;
      onSearch((_request, response, url) => {
        count += 1;
        const link = next === 'SELF' ? url.href : next === 'NEW' ? `${url.origin}${url.pathname}?n=${count}` : next;
        bundle(response, [observation('obs0', '2026-01-01T10:00:00Z'), observation('obs1', '2026-01-01T10:00:00Z')], link);
        return true;
      });
      await assert.rejects(pull(), code(expected));
      assert.ok(count < 5);
    });
  }

  it('stops where empty pages lead round in a circle', async () => {
    let count = 0;
    onSearch((_request, response, url) => {
      count += 1;
      assert.ok(count < 10, 'it goes on for ever');
      bundle(response, [], `${url.origin}${url.pathname}?page=${count % 3}`);
      return true;
    });
    await assert.rejects(pull(), code('SOURCE_PAGING'));
  });

  it('follows another name of the same server where it is allowed, with the token', async () => {
    const other = await startFixtureServer();
    other.hook = (_request, response) => {
      bundle(response, [observation('far', '2026-01-01T10:00:00Z')]);
      return true;
    };
    onSearch((_request, response) => {
      bundle(response, [observation('near', '2026-01-01T10:00:00Z')], `${other.base}/Observation?page=2`);
      return true;
    });
    try {
      const intake = await pull([{ ...LABS, searches: ['Observation'] } as StreamOptions], { allowedOrigins: [other.origin] });
      assert.ok(intake.records.has('Observation/near') && intake.records.has('Observation/far'));
    } finally {
      await other.close();
    }
  });

  it('processes a page with a warning entry, an empty page with next, and no total (edge case 7)', async () => {
    onSearch((_request, response, url) => {
      const warning =
        '{"resourceType":"OperationOutcome","issue":[{"severity":"warning","code":"incomplete","diagnostics":"about Jane Doe"}]}';
      if (url.searchParams.has('p')) bundle(response, [warning, observation('late', '2026-01-01T10:00:00Z')]);
      else bundle(response, [], `${url.origin}${url.pathname}?p=2`);
      return true;
    });
    const intake = await pull();
    assert.ok(intake.records.has('Observation/late'));
    assert.deepEqual(intake.warnings, ['The source warns: incomplete.']);
  });

  it('hands a damaged resource on by its fullUrl and the others with it (edge case 20)', async () => {
    onSearch((_request, response) => {
      const entries = `{"fullUrl":"${server.base}/Observation/bad","resource":{"resourceType":"Observation","id":"bad","value":NaN}},{"resource":${observation('good', '2026-01-01T10:00:00Z')}},{"resource":{"resourceType":"Observation"}}`;
      json(response, 200, `{"resourceType":"Bundle","entry":[${entries}]}`);
      return true;
    });
    const intake = await pull();
    assert.ok(intake.records.has('Observation/good'));
    assert.match(textOf(intake.records.get('Observation/bad') ?? assert.fail('bad is missing')), /NaN/);
    const unnamed = [...intake.records.keys()].filter((name) => name.startsWith('Observation/unnamed-'));
    assert.equal(unnamed.length, 1);
  });

  it('holds what the server holds after any history of edits, removals and broken-off pulls', async () => {
    const step = oneof(
      record({ act: constant('put' as const), n: integer({ min: 1, max: 3 }), of: integer({ min: 1, max: 3 }) }),
      record({ act: constant('remove' as const), n: integer({ min: 1, max: 3 }), of: integer({ min: 1, max: 3 }) }),
      record({ act: constant('pull' as const), n: integer({ min: 1, max: 6 }), of: constant(0) }),
    );
    await holds(
      asyncProperty(array(step, { maxLength: 15 }), async (steps) => {
        const world = await startFixtureServer({ refuseRepeats: true });
        fill(world);
        const source = createAriaSource(options(world, [{ ...SWEEP, follow: { types: ['Patient'], attachments: true } } as StreamOptions]));
        const intake = createMemoryIntake();
        const held = new Map<string, string>();
        for (const id of ['p1', 'p2', 'p3']) for (const n of [1, 2, 3]) held.set(`Procedure/c${n}-${id}`, '1');
        let version = 1;
        try {
          for (const { act, n, of } of steps) {
            const name = `c${n}-p${of}`;
            if (act === 'pull') await pullInto(source, 'courses', intake, n);
            else if (act === 'put') {
              version += 1;
              world.put(procedure(name, `p${of}`, String(version)));
              held.set(`Procedure/${name}`, String(version));
            } else {
              world.remove('Procedure', name);
              held.delete(`Procedure/${name}`);
            }
          }
          // The first ends a sweep that was broken off, the second begins at the beginning.
          await pullInto(source, 'courses', intake);
          await pullInto(source, 'courses', intake);
          const got = [...intake.records].filter(([name, { deleted }]) => name.startsWith('Procedure/') && !deleted);
          assert.deepEqual(
            got.map(([name, { versionId }]) => `${name} ${versionId}`).sort(),
            [...held].map(([name, current]) => `${name} ${current}`).sort(),
          );
        } finally {
          await source.close();
          await world.close();
        }
      }),
      { seed: Number(process.env.FC_SEED ?? 20260302), numRuns: 25 },
    );
  });

  it('retries 429 with Retry-After in both forms, and gives up on a long one (edge case 13)', async () => {
    for (const header of ['1', new Date(Date.now() + 2000).toUTCString()]) {
      let refusedAtMs = 0;
      let waitedMs = 0;
      onSearch((_request, response) => {
        if (refusedAtMs > 0) {
          waitedMs ||= performance.now() - refusedAtMs;
          return false;
        }
        refusedAtMs = performance.now();
        response.setHeader('retry-after', header);
        outcome(response, 429, 'throttled');
        return true;
      });
      await pull([{ ...LABS, searches: ['Observation'] } as StreamOptions]);
      assert.ok(waitedMs >= 900, `${header}: waited ${waitedMs} ms`);
    }
    onSearch((_request, response) => {
      response.setHeader('retry-after', '3600');
      outcome(response, 429, 'throttled');
      return true;
    });
    await assert.rejects(pull(), (error: unknown) => {
      assert.equal((error as { detail: { retryAfterSeconds?: number } }).detail.retryAfterSeconds, 3600);
      return code('SOURCE_THROTTLED')(error);
    });
  });

  it('retries a reset, a cut answer and a timeout; never 400, 404, 422', async () => {
    const once = (act: (response: import('node:http').ServerResponse) => void): void => {
      let done = false;
      onSearch((_request, response) => {
        if (done) return false;
        done = true;
        act(response);
        return true;
      });
    };
    once((response) => response.destroy());
    assert.ok((await pull()).records.has('Observation/obs0'), 'reset');
    once((response) => {
      response.writeHead(200, { 'content-length': 1000 });
      response.write('{"resourceType":');
      setTimeout(() => response.destroy(), 5);
    });
    assert.ok((await pull()).records.has('Observation/obs0'), 'cut');
    once(() => undefined);
    assert.ok((await pull([LABS], { limits: { ...FAST, timeoutMs: 150 } })).records.has('Observation/obs0'), 'timeout');
    for (const status of [400, 404, 422]) {
      let asked = 0;
      onSearch((_request, response) => {
        asked += 1;
        outcome(response, status, 'invalid');
        return true;
      });
      const intake = createMemoryIntake();
      await assert.rejects(pull([LABS], {}, intake), code('SOURCE_REFUSED'));
      assert.equal(asked, 1);
      assert.ok(intake.records.has('DiagnosticReport/r1'), 'the other search went on');
    }
  });

  it('refuses JSON that ends too soon though the connection ended well, and too large a page', async () => {
    onSearch((_request, response) => {
      json(response, 200, '{"resourceType":"Bundle","entry":[{"resource":{"resourceType":"Obs');
      return true;
    });
    await assert.rejects(pull(), code('SOURCE_RESPONSE'));
    server.hook = undefined;
    await assert.rejects(pull([LABS], { limits: { ...FAST, maxPageBytes: 100 } }), code('SOURCE_TOO_LARGE'));
  });

  it('stops only the type that is refused, and keeps its place (edge case 12)', async () => {
    const intake = createMemoryIntake();
    for (const [status, issue] of [
      [403, 'forbidden'],
      [400, 'too-costly'],
    ] as const) {
      onSearch((_request, response) => {
        outcome(response, status, issue);
        return true;
      });
      await pull([LABS], {}, intake);
      assert.ok(intake.records.has('DiagnosticReport/r1'));
      assert.ok(intake.warnings.some((warning) => warning.includes('Observation is refused') && warning.includes(issue)));
    }
    server.hook = undefined;
    await pull([LABS], {}, intake);
    assert.ok(intake.records.has('Observation/obs4'));
  });

  it('opens the breaker after repeated failures and says so at once', async () => {
    let asked = 0;
    server.hook = (_request, response) => {
      asked += 1;
      outcome(response, 500, 'exception');
      return true;
    };
    const source = createFhirSource(options(server, [LABS], { limits: { ...FAST, breaker: { failures: 3, halfOpenAfterMs: 60_000 } } }));
    await assert.rejects(pullInto(source, 'labs', createMemoryIntake()), code('SOURCE_UNREACHABLE'));
    const before = asked;
    assert.equal(before, 3);
    await assert.rejects(pullInto(source, 'labs', createMemoryIntake()), code('SOURCE_UNREACHABLE'));
    assert.equal(asked, before);
    await source.close();
  });

  it('keeps to its rate', async () => {
    const startedMs = performance.now();
    await pull([{ ...LABS, searches: ['DiagnosticReport'] } as StreamOptions], { limits: { ...FAST, requestsPerSecond: 20 } });
    const paced = server.requests.length;
    assert.ok(paced >= 3);
    assert.ok(performance.now() - startedMs >= (paced - 1) * 50 - 5);
  });

  it('a redirect to another origin is refused, one at home is followed', async () => {
    onSearch((_request, response) => {
      response.writeHead(302, { location: 'http://localhost:1/steal' }).end();
      return true;
    });
    await assert.rejects(pull(), code('SOURCE_ORIGIN'));
    let moved = false;
    onSearch((_request, response, url) => {
      if (moved) return false;
      moved = true;
      response.writeHead(307, { location: `${url.pathname}?category=laboratory&moved=1` }).end();
      return true;
    });
    assert.ok((await pull()).records.has('Observation/obs4'));
  });

  it('a reference that leads nowhere is a warning; a known record behind it that is gone is a tombstone (edge case 14)', async () => {
    const intake = await pull();
    server.remove('Organization', 'o1');
    intake.mark = undefined;
    await pull([LABS], {}, intake);
    assert.equal(intake.records.get('Organization/o1')?.deleted, true);
    const fresh = await pull();
    assert.ok(fresh.warnings.includes('A reference to a Organization leads nowhere.'));
    server.put('{"resourceType":"Organization","id":"o1","meta":{"versionId":"1"}}');
  });

  it('sweeps known patients in rotation where told, and does not lose the discovery of a refused type', async () => {
    const two: StreamOptions = { ...SWEEP, perPatient: ['Procedure'], knownPatientsPerPull: 1 } as StreamOptions;
    const intake = await pull([two]);
    const swept: string[] = [];
    for (let round = 0; round < 3; round++) {
      server.requests.length = 0;
      // Nothing new in the appointments: the cursor stands behind them.
      await pull([two], {}, intake);
      swept.push(
        ...server.requests.flatMap(({ url }) =>
          url.startsWith('/fhir/Procedure?') && !url.includes('_offset')
            ? [new URL(url, server.origin).searchParams.get('patient') ?? '']
            : [],
        ),
      );
    }
    assert.deepEqual(swept, ['p1', 'p2', 'p3']);

    const other = createMemoryIntake();
    server.hook = (_request, response, url) => {
      if (url.pathname !== '/fhir/Procedure') return false;
      outcome(response, 403, 'forbidden');
      return true;
    };
    await pull([{ ...SWEEP, perPatient: ['Procedure', 'DocumentReference'] } as StreamOptions], {}, other);
    assert.ok(other.records.has('DocumentReference/n-p2'));
    assert.ok(!other.records.has('Procedure/c1-p2'));
    assert.ok(!other.mark?.includes('since'), other.mark);
  });

  it('reads attachments under the guard (edge cases 42, 43)', async () => {
    const pdf = Buffer.from('%PDF-1.7 not much of it');
    const sha1 = createHash('sha1').update(pdf).digest('base64');
    server.hook = (request, response, url) => {
      if (url.pathname === '/fhir/Binary/json')
        json(response, 200, JSON.stringify({ resourceType: 'Binary', contentType: 'application/pdf', data: pdf.toString('base64') }));
      else if (url.pathname === '/fhir/Binary/away') response.writeHead(302, { location: 'http://10.0.0.1/x' }).end();
      else if (url.pathname.startsWith('/fhir/Binary/') && url.pathname !== '/fhir/Binary/none')
        response.writeHead(200, { 'content-type': 'application/msword' }).end(pdf);
      else return false;
      assert.ok(request.method === 'GET');
      return true;
    };
    const cases: [attachment: string, problem: string | undefined, mediaType?: string][] = [
      [`"contentType":"application/msword","url":"Binary/1","size":${pdf.length},"hash":"${sha1}"`, undefined, 'application/pdf'],
      [`"contentType":"application/pdf","url":"${server.base}/Binary/2"`, undefined, 'application/pdf'],
      ['"url":"/fhir/Binary/3"', undefined, 'application/pdf'],
      ['"contentType":"application/pdf","url":"Binary/json"', undefined, 'application/pdf'],
      ['"contentType":"application/pdf","url":"Binary/4","size":1', 'size-mismatch'],
      ['"contentType":"application/pdf","url":"Binary/5","hash":"AAAAAAAAAAAAAAAAAAAAAAAAAAA="', 'hash-mismatch'],
      ['"url":"Binary/none"', 'not-found'],
      ['"url":"Binary/away"', 'origin-refused'],
      [String.raw`"url":"\\\\fileserver\\docs\\note.doc"`, 'unc-path'],
      [String.raw`"url":"C:\\docs\\note.doc"`, 'unc-path'],
      ['"url":"file:///etc/passwd"', 'scheme-refused'],
      ['"url":"data:text/plain,hello"', 'scheme-refused'],
      ['"url":"ftp://files.example/x"', 'scheme-refused'],
      ['"url":"http://169.254.169.254/latest/meta-data"', 'link-local-refused'],
      ['"url":"http://[fe80::1]/x"', 'link-local-refused'],
      ['"url":"//other.example/x"', 'origin-refused'],
      [`"url":"http://user:secret@127.0.0.1:${new URL(server.origin).port}/fhir/Binary/1"`, 'origin-refused'],
      ['"url":"#inside"', undefined, 'text/plain'],
      ['"url":"#nothing"', 'no-content'],
      ['"contentType":"text/plain","data":"not base64!"', 'bad-base64'],
      ['"contentType":"text/plain","data":"aGVs\\nbG8="', undefined, 'text/plain'],
      ['"title":"empty"', 'no-content'],
    ];
    const contained = `,"contained":[{"resourceType":"Binary","id":"inside","contentType":"text/plain","data":"aGVsbG8="}]}`;
    const text = note('many', 'p1', cases.map(([attachment]) => `{"attachment":{${attachment}}}`).join(',')).replace(/\}$/, contained);
    server.put(text.replace('"versionId":"1"', '"versionId":"1","lastUpdated":"2026-02-01T00:00:00Z"'));
    const notes: StreamOptions = { ...LABS, id: 'notes', searches: ['DocumentReference'] } as StreamOptions;
    const intake = await pull([notes]);
    const attachments: readonly RawAttachment[] = intake.records.get('DocumentReference/many')?.attachments ?? [];
    assert.equal(attachments.length, cases.length);
    cases.forEach(([attachment, problem, mediaType], index) => {
      const got = attachments[index];
      assert.equal(got?.problem, problem, attachment);
      assert.equal(got?.contentIndex, index);
      if (mediaType) assert.equal(got?.mediaType, mediaType, attachment);
      if (!problem) assert.ok((got?.bytes.length ?? 0) > 0);
    });
    assert.deepEqual(Buffer.from(attachments[0]?.bytes ?? []), pdf);
    server.remove('DocumentReference', 'many');
    // A server in trouble is no property of the document: the page is read again later.
    server.put(note('later', 'p1', '{"attachment":{"url":"Binary/1"}}'));
    server.hook = (_request, response, url) => {
      if (!url.pathname.startsWith('/fhir/Binary/')) return false;
      outcome(response, 503, 'transient');
      return true;
    };
    await assert.rejects(pull([notes]), code('SOURCE_UNREACHABLE'));
    server.remove('DocumentReference', 'later');
  });
});
