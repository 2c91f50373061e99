import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import fc from 'fast-check';
import request from 'supertest';
import { sql } from '../../src/store/sql.ts';
import { createSharedWorld, type Holding, type SharedWorld } from './shared-world.ts';
import { BASE, course, createWorld, INST, laboratory, member, type NewDocument, type World } from './world.ts';

/*
 * The law of the facade (architecture section 8; fhir-facade.md section 3): the response with hidden data present equals
 * the response with it absent. A random store and random permissions are made; every request is asked; then all that the
 * caller may not see is deleted, and the same requests must give the same answers and leave the same audit.
 */
const PATIENTS = ['pat-a', 'pat-b', 'pat-c'];
/** Of another institution; each is linked to the one of ours in the same place, or held, or to nobody. */
const FOREIGN = ['pat-x', 'pat-y'];

let world: World;
let shared: SharedWorld;
before(async () => {
  world = await createWorld({ settings: { maxPinned: 2, maxIncluded: 12 } });
  await world.database.query(sql`insert into projection.institution values (${INST}, 'msp', 'active', '{}', '{}', 1)`);
  shared = await createSharedWorld(world);
  world.actors.set('officer', member('officer', { purpose: 'HOPERAT' }));
  for (const [mem, role] of [
    ['mem-officer', 'privacy-officer'],
    ['mem-clinician', 'clinician'],
  ] as const)
    await world.database.query(sql`
      insert into projection.member (inst, mem, role, status, valid_until, block) values (${INST}, ${mem}, ${role}, 'active', '2027-01-01', 1)`);
});
after(async () => {
  await shared.close();
  await world.close();
});

type Kind = 'laboratory' | 'radiation-dose';
interface Foreign {
  links: ('confirmed' | 'held' | 'bound' | 'none')[];
  /** By patient and category. */
  categories: ('live' | 'waiting' | 'ending')[];
  documents: { pat: number; kind: Kind; month: number; holding: Holding }[];
  grants: { pat: number; category: Kind; from: number | undefined }[];
}
interface Plan {
  foreign: Foreign;
  documents: {
    pat: number;
    kind: 'laboratory' | 'radiation-dose';
    month: number;
    values: string[];
    state: 'stands' | 'none' | 'other-hash' | 'withdrawn' | 'misfiled';
    practitioner: number;
  }[];
  grants: { pat: number; category: 'laboratory' | 'radiation-dose'; from: number | undefined; until: number | undefined }[];
  revokeBetweenPages: boolean;
}

const month = (n: number): string => `2026-${String(n).padStart(2, '0')}`;
const start = (n: number): string => `${month(n)}-01T00:00:00Z`;

const KINDS = ['laboratory', 'radiation-dose'] as const;
const usually = <T extends string>(usual: T, ...others: T[]): T[] => [...others.flatMap(() => [usual, usual, usual]), ...others];
const foreign: fc.Arbitrary<Foreign> = fc.record({
  links: fc.array(fc.constantFrom(...usually('confirmed', 'held', 'bound', 'none')), {
    minLength: FOREIGN.length,
    maxLength: FOREIGN.length,
  }),
  categories: fc.array(fc.constantFrom(...usually('live', 'waiting', 'ending')), {
    minLength: FOREIGN.length * KINDS.length,
    maxLength: FOREIGN.length * KINDS.length,
  }),
  documents: fc
    .tuple(
      fc.array(
        fc.record({
          pat: fc.nat(FOREIGN.length - 1),
          kind: fc.constantFrom(...KINDS),
          month: fc.integer({ min: 1, max: 9 }),
          holding: fc.constantFrom('held' as const, 'held' as const, 'held' as const, 'resealed' as const, 'withdrawn' as const),
        }),
        { minLength: 1, maxLength: 3 },
      ),
      // What is not here keeps every wide search of who may read it waiting, so there is little of it.
      fc.array(
        fc.record({
          pat: fc.nat(FOREIGN.length - 1),
          kind: fc.constantFrom(...KINDS),
          month: fc.integer({ min: 1, max: 9 }),
          holding: fc.constantFrom(
            'unseen' as const,
            'noticed' as const,
            'missing' as const,
            'missing' as const,
            'refused' as const,
            'newer' as const,
          ),
        }),
        { maxLength: 2 },
      ),
    )
    .map(([held, lacking]) => [...held, ...lacking]),
  grants: fc
    .tuple(
      ...FOREIGN.flatMap((_, pat) =>
        KINDS.map((category) =>
          fc.option(
            fc.record({
              pat: fc.constant(pat),
              category: fc.constant(category),
              from: fc.option(fc.integer({ min: 1, max: 5 }), { nil: undefined }),
            }),
            { freq: 8 },
          ),
        ),
      ),
    )
    .map((grants) => grants.filter((grant) => grant !== null)),
});

const plans: fc.Arbitrary<Plan> = fc.record({
  foreign,
  documents: fc.array(
    fc.record({
      pat: fc.nat(PATIENTS.length - 1),
      kind: fc.constantFrom('laboratory' as const, 'radiation-dose' as const),
      month: fc.integer({ min: 1, max: 9 }),
      values: fc.array(fc.constantFrom('9.00', '13.20', '15.0'), { minLength: 1, maxLength: 3 }),
      state: fc.constantFrom(
        'stands' as const,
        'stands' as const,
        'stands' as const,
        'none' as const,
        'other-hash' as const,
        'withdrawn' as const,
        'misfiled' as const,
      ),
      practitioner: fc.nat(2),
    }),
    { minLength: 5, maxLength: 8 },
  ),
  // One grant in two for each patient and category, most of them with a data period that cuts through the documents.
  grants: fc
    .tuple(
      ...PATIENTS.flatMap((_, pat) =>
        (['laboratory', 'radiation-dose'] as const).map((category) =>
          fc.option(
            fc.record({
              pat: fc.constant(pat),
              category: fc.constant(category),
              from: fc.option(fc.integer({ min: 1, max: 5 }), { nil: undefined }),
              until: fc.option(fc.integer({ min: 6, max: 10 }), { nil: undefined }),
            }),
            { freq: 2 },
          ),
        ),
      ),
    )
    .map((grants) => grants.filter((grant) => grant !== null)),
  revokeBetweenPages: fc.boolean(),
});

function documentOf(plan: Plan, i: number): NewDocument {
  const { pat, kind, month: m, values, practitioner } = plan.documents[i] ?? assert.fail();
  const made =
    kind === 'laboratory'
      ? laboratory(
          PATIENTS[pat] ?? '',
          `d${i}`,
          `${month(m)}-10`,
          values.map((value) => ['718-7', value]),
        )
      : course(PATIENTS[pat] ?? '', `d${i}`, `${month(m)}-05`, `${month(m + 1)}-20`);
  const text = (one: NewDocument['resources'][number]): string => (typeof one === 'string' ? one : JSON.stringify(one));
  return {
    ...made,
    resources: made.resources.map((one) => text(one).replaceAll(`Practitioner/prac-d${i}`, `Practitioner/prac-${practitioner}`)),
  };
}

/** The model: what the caller may see, computed without the facade. A course's rows all have the time of the course. */
function isVisible(plan: Plan, i: number, state: Plan['documents'][number]['state'] = 'stands'): boolean {
  const document = plan.documents[i] ?? assert.fail();
  if (document.state !== state) return false;
  const first = document.month;
  const last = document.kind === 'laboratory' ? document.month : document.month + 1;
  return plan.grants.some(
    (g) =>
      g.pat === document.pat &&
      g.category === document.kind &&
      (g.from === undefined || first >= g.from) &&
      (g.until === undefined || last < g.until),
  );
}

const isLive = ({ foreign: { links, categories } }: Plan, pat: number, kind: Kind): boolean =>
  (links[pat] === 'confirmed' || links[pat] === 'bound') && categories[pat * 2 + KINDS.indexOf(kind)] === 'live';

/** Of their documents: what is served, what an answer must say is lacking, and what might as well not be. */
function seenOf(plan: Plan, i: number): 'served' | 'fetching' | 'missing' | 'hidden' {
  const { pat, kind, month: m, holding } = plan.foreign.documents[i] ?? assert.fail();
  const grants = plan.foreign.grants.filter((g) => g.pat === pat && g.category === kind);
  if (!isLive(plan, pat, kind) || grants.length === 0 || holding === 'withdrawn') return 'hidden';
  if (holding === 'missing' || holding === 'refused') return 'missing';
  if (holding !== 'held' && holding !== 'resealed') return 'fetching';
  if (plan.foreign.links[pat] !== 'confirmed') return 'hidden';
  return grants.some((g) => g.from === undefined || m >= g.from) ? 'served' : 'hidden';
}

function foreignDocument(plan: Plan, i: number): NewDocument {
  const { pat, kind, month: m } = plan.foreign.documents[i] ?? assert.fail();
  const name = FOREIGN[pat] ?? '';
  const made =
    kind === 'laboratory' ? laboratory(name, `f${i}`, `${month(m)}-10`) : course(name, `f${i}`, `${month(m)}-05`, `${month(m)}-20`);
  // As the pipeline names the parts of a document.
  const text = JSON.stringify(made.resources).replaceAll(`ref-f${i}`, `doc-f${i}`).replaceAll(`pdf-f${i}`, `doc-f${i}-pdf`);
  return { ...made, resources: JSON.parse(text) as NewDocument['resources'] };
}

async function fillForeign(plan: Plan): Promise<void> {
  await shared.clear();
  for (const [n, pat] of FOREIGN.entries()) {
    await shared.patient(pat, { resourceType: 'Patient', name: [{ family: `Family${n}` }], birthDate: `195${n}-01-01` });
    const link = plan.foreign.links[n] ?? 'none';
    if (link !== 'none') await shared.link(pat, PATIENTS[n] ?? '', link);
    for (const [k, kind] of KINDS.entries()) await shared.category(pat, kind, plan.foreign.categories[n * 2 + k] ?? 'waiting');
  }
  for (const [i, { holding }] of plan.foreign.documents.entries()) await shared.document(foreignDocument(plan, i), holding);
  for (const g of plan.foreign.grants) {
    await shared.grant('clinician', FOREIGN[g.pat] ?? '', g.category, g.from === undefined ? {} : { start: start(g.from) });
  }
}

/** All of theirs that this caller can neither read nor is told to wait for, and with the last of a patient the link itself. */
async function pruneForeign(plan: Plan): Promise<void> {
  const { links, documents, grants } = plan.foreign;
  for (const i of documents.keys()) if (seenOf(plan, i) === 'hidden') await shared.remove(`doc-f${i}`);
  for (const [n, pat] of FOREIGN.entries()) {
    const concerned = KINDS.some((kind) => isLive(plan, n, kind) && grants.some((g) => g.pat === n && g.category === kind));
    // The scope here has no row for the core, so whose categories are none of this caller's is nobody to them.
    if (links[n] !== 'confirmed' || !concerned)
      await world.database.query(sql`delete from resource where pat = ${pat} and type = 'Patient'`);
    if (concerned) continue;
    await world.database.query(sql`delete from patient_link where pat = ${pat}`);
    await world.database.query(sql`delete from shared_category where pat = ${pat}`);
    await world.database.query(sql`delete from test_grant where pat = ${pat}`);
  }
}

async function fill(plan: Plan): Promise<void> {
  await world.database.query(
    sql`truncate resource, resource_date, directory_resource, document_version, projection.document, subject, test_grant, identifier_system`,
  );
  for (const [i, pat] of PATIENTS.entries()) {
    await world.patient(pat, {
      resourceType: 'Patient',
      name: [{ family: `Family${i % 2}` }],
      birthDate: `195${i}-01-01`,
      identifier: [{ system: `urn:mrn:${i}`, value: `M-${i}` }],
      generalPractitioner: [{ reference: `Practitioner/prac-gp${i}` }],
    });
  }
  await world.directory(
    [...PATIENTS.map((_, i) => `prac-gp${i}`), 'prac-0', 'prac-1', 'prac-2', INST].map(
      (id) =>
        ({ resourceType: id === INST ? 'Organization' : 'Practitioner', id, name: id === INST ? 'Clinic' : [{ family: id }] }) as never,
    ),
  );
  for (const [i, { state }] of plan.documents.entries()) {
    await world.document({ ...documentOf(plan, i), ...(state === 'none' || state === 'other-hash' ? { entry: state } : {}) });
    if (state === 'withdrawn') await world.withdraw(`doc-d${i}`);
    if (state === 'misfiled') await world.misfile(`doc-d${i}`);
  }
  for (const g of plan.grants) {
    await world.grant('clinician', PATIENTS[g.pat] ?? '', g.category, {
      ...(g.from !== undefined ? { start: start(g.from) } : {}),
      ...(g.until !== undefined ? { end: new Date(Date.parse(start(g.until)) - 1).toISOString() } : {}),
    });
  }
  await fillForeign(plan);
}

/** Deletes all that the caller may not see: rows, objects' rows, patients, and staff whom only those name. */
async function prune(plan: Plan): Promise<void> {
  await pruneForeign(plan);
  const practitioners = new Set<string>();
  let laboratories = 0;
  for (const [i, document] of plan.documents.entries()) {
    // An object that is not the one the ledger names is told to who might read it, and to nobody else.
    if (isVisible(plan, i, 'other-hash')) continue;
    if (!isVisible(plan, i)) await world.remove(`doc-d${i}`);
    else if (document.kind === 'laboratory') {
      laboratories++;
      practitioners.add(`prac-${document.practitioner}`);
    }
  }
  const granted = new Set(plan.grants.map((g) => g.pat));
  for (const [i, pat] of PATIENTS.entries()) {
    if (granted.has(i)) practitioners.add(`prac-gp${i}`);
    else {
      await world.database.query(sql`delete from resource where pat = ${pat}`);
      await world.database.query(sql`delete from identifier_system where system = ${`urn:mrn:${i}`}`);
    }
  }
  if (laboratories === 0) await world.database.query(sql`delete from identifier_system where system = 'urn:lab'`);
  await world.database.query(sql`delete from directory_resource where type = 'Practitioner' and id <> all(${[...practitioners]}::text[])`);
}

function paths(plan: Plan): string[] {
  const all: string[] = [];
  for (const [i, { kind }] of plan.documents.entries()) {
    all.push(
      `DocumentReference/doc-d${i}`,
      `DocumentReference/doc-d${i}/_history/1`,
      `Binary/doc-d${i}-pdf`,
      `Binary/doc-d${i}-fhir`,
      ...(kind === 'laboratory'
        ? [
            `Observation/obs-d${i}-0`,
            `DiagnosticReport/rep-d${i}`,
            `Binary/pdf-d${i}`,
            `Provenance/prov-d${i}/_history`,
            `Observation?identifier=urn:lab|ACC-d${i}-0`,
          ]
        : [`Procedure/phase-d${i}`, `BodyStructure/vol-d${i}/_history/1`, `Procedure?part-of=Procedure/course-d${i}`]),
    );
  }
  for (const [i, pat] of PATIENTS.entries()) {
    all.push(
      `Patient/${pat}`,
      `Patient?identifier=urn:mrn:${i}|M-${i}`,
      `Observation?patient=${pat}&value-quantity=gt10`,
      `Practitioner/prac-gp${i}`,
      `DocumentReference?patient=${pat}&_summary=count`,
    );
  }
  for (const i of plan.foreign.documents.keys()) {
    all.push(
      `DocumentReference/doc-f${i}`,
      `Binary/doc-f${i}-pdf`,
      `Observation/obs-f${i}-0`,
      `Procedure/phase-f${i}`,
      `Provenance?target=DocumentReference/doc-f${i}`,
    );
  }
  for (const pat of FOREIGN) all.push(`Patient/${pat}`, `Patient/${pat}/_history`, `Observation?patient=${pat}`, `Patient?_id=${pat}`);
  all.push(
    `Observation?patient=${PATIENTS.join()}&_sort=-date&_count=2`,
    `Patient?_id=${PATIENTS.join()}&_revinclude=Observation:subject`,
    'Patient',
    'Patient?name=family0',
    'Patient?_sort=birthdate&_count=1',
    'Patient?_revinclude=Observation:subject',
    'Observation?_count=2',
    'Observation?_sort=-date&_count=1',
    'Observation?_summary=count',
    'Observation?_count=0',
    'Observation?value-quantity=13.2&_count=1',
    'Observation?code:not=718-7',
    'Observation?performer:missing=false&date=ge2026-05&_elements=status',
    'DiagnosticReport?_include=DiagnosticReport:result&_include=DiagnosticReport:subject',
    'Procedure?_include=Procedure:subject&_sort=date',
    'Procedure?date=lt2026-06&_total=none',
    'BodyStructure',
    'ServiceRequest?authored=2026-03',
    'Provenance?agent=Practitioner/prac-0,Practitioner/prac-1',
    'Practitioner',
    'Practitioner?name=prac&_count=2',
    'Organization',
    'DocumentReference?_include=DocumentReference:subject&_revinclude=Provenance:target',
  );
  return all;
}

interface Seen {
  status: number;
  headers: Record<string, string>;
  text: string;
  audit: unknown;
}

async function ask(path: string, headers: Record<string, string> = {}, who = 'clinician'): Promise<Seen & { next: string | undefined }> {
  world.audited.length = 0;
  const response = await request(world.app)
    .get(`/fhir/${path}`)
    .set({ Authorization: `Bearer ${who}`, Accept: '*/*', ...headers })
    .buffer(true);
  const { date: _date, 'x-request-id': _id, 'content-length': _length, ...rest } = response.headers as Record<string, string>;
  const text = response.text ?? '';
  const next = /"relation":"next","url":"([^"]+)"/.exec(text)?.[1];
  return {
    status: response.status,
    headers: rest,
    // A cursor is sealed with a fresh nonce each time; what it leads to is compared by following it.
    text: text.replace(/_cursor=[A-Za-z0-9_-]+/g, '_cursor=…'),
    audit: world.audited.map(({ requestId: _r, query: _q, ...event }) => event),
    next: next?.slice(`${BASE}/`.length),
  };
}

/** What only a privacy officer may read, asked by one of ours: of a document that is no misfiled one nothing. */
async function askAsOfficer(plan: Plan): Promise<Map<string, Seen>> {
  const seen = new Map<string, Seen>();
  for (const path of paths(plan).filter((one) => /doc-d\d/.test(one))) {
    seen.set(path, await ask(path, {}, 'officer'));
    seen.set(`${path} if none match`, await ask(path, { 'If-None-Match': 'W/"1"' }, 'officer'));
  }
  return seen;
}

async function askAll(plan: Plan): Promise<Map<string, Seen>> {
  const seen = new Map<string, Seen>();
  for (const path of paths(plan)) {
    let page = await ask(path);
    seen.set(path, page);
    for (let n = 2; page.next !== undefined && n < 30; n++) {
      page = await ask(page.next);
      seen.set(`${path} page ${n}`, page);
    }
    if (!path.includes('?')) seen.set(`${path} if none match`, await ask(path, { 'If-None-Match': 'W/"1"' }));
  }
  if (plan.revokeBetweenPages) {
    const first = await ask('Observation?_count=1');
    const rows = await world.database.query<{
      inst: string;
      pat: string;
      category: string;
      data_start: Date | null;
      data_end: Date | null;
    }>(sql`select * from test_grant`);
    await world.database.query(sql`delete from test_grant where pat = 'pat-a'`);
    if (first.next !== undefined) seen.set('after a revocation', await ask(first.next));
    await world.database.query(sql`delete from test_grant`);
    for (const row of rows) {
      await world.database.query(
        sql`insert into test_grant values ('mem-clinician', ${row.inst}, ${row.pat}, ${row.category}, ${row.data_start}, ${row.data_end})`,
      );
    }
  }
  return seen;
}

test('a privacy officer reads what was filed to the wrong person, and of all that is not nothing shows', async () => {
  let read = 0;
  await fc.assert(
    fc.asyncProperty(plans, async (plan) => {
      await fill(plan);
      const full = await askAsOfficer(plan);
      for (const [i, { state }] of plan.documents.entries()) {
        const paths = ['DocumentReference/doc-d', 'Binary/doc-d'].flatMap((start) =>
          [...full.keys()].filter((path) => path.startsWith(`${start}${i}`)),
        );
        assert.equal(paths.length, 8);
        for (const path of paths) {
          const { status, audit } = full.get(path) ?? assert.fail();
          assert.equal(status, state !== 'misfiled' ? 404 : path.endsWith('match') ? 304 : 200, path);
          if (state !== 'misfiled') continue;
          read++;
          const [event] = audit as { outcome: string; reason: string; patients: unknown[] }[];
          assert.deepEqual([event?.outcome, event?.reason, event?.patients], ['permitted', 'MISFILED_REVIEW', []], path);
        }
        if (state !== 'misfiled') await world.remove(`doc-d${i}`);
      }
      assert.deepEqual(await askAsOfficer(plan), full);
    }),
    { numRuns: 4, seed: Number(process.env['SEED'] ?? 20261121), endOnFailure: false },
  );
  assert.ok(read > 8, `only ${read} reads`);
});

test('the response with hidden data equals the response without it', async () => {
  let answered = 0;
  let hidden = 0;
  let doubtful = 0;
  let waiting = 0;
  let incomplete = 0;
  const seen = new Map<string, number>();
  await fc.assert(
    fc.asyncProperty(plans, async (plan) => {
      await fill(plan);
      const full = await askAll(plan);
      await prune(plan);
      const pruned = await askAll(plan);
      assert.deepEqual([...pruned.keys()], [...full.keys()]);
      for (const [path, expected] of pruned) {
        const { next: _a, ...a } = full.get(path) as Seen & { next?: string };
        const { next: _b, ...b } = expected as Seen & { next?: string };
        assert.deepEqual(a, b, path);
        assert.ok(
          a.status === 200 ||
            a.status === 304 ||
            a.status === 404 ||
            (a.status === 400 && a.text.includes('TOO_COSTLY')) ||
            (a.status === 503 && a.text.includes('NOT_FETCHED')) ||
            (a.status === 500 && a.text.includes('INTEGRITY')),
          `${path}: ${a.text}`,
        );
        if (a.status === 200) answered++;
        if (a.status === 503) waiting++;
        if (a.text.includes('INCOMPLETE')) incomplete++;
      }
      for (const i of plan.documents.keys()) if (!isVisible(plan, i)) hidden++;
      // The model and the facade agree on what is visible, so the comparison compares something.
      for (const [i, { kind }] of plan.documents.entries()) {
        const path = kind === 'laboratory' ? `Observation/obs-d${i}-0` : `Procedure/phase-d${i}`;
        const status = isVisible(plan, i) ? 200 : isVisible(plan, i, 'other-hash') ? 500 : 404;
        if (status === 500) doubtful++;
        assert.equal(full.get(path)?.status, status, path);
      }
      for (const i of plan.foreign.documents.keys()) {
        const what = seenOf(plan, i);
        const status = { served: 200, fetching: 503, missing: 503, hidden: 404 }[what];
        const { kind } = plan.foreign.documents[i] ?? assert.fail();
        // A course here has no DocumentReference of its own.
        const path = what === 'served' && kind !== 'laboratory' ? `Procedure/phase-f${i}` : `DocumentReference/doc-f${i}`;
        assert.equal(full.get(path)?.status, status, `${path} ${what}`);
        seen.set(what, (seen.get(what) ?? 0) + 1);
      }
    }),
    { numRuns: Number(process.env['NON_INTERFERENCE_RUNS'] ?? 6), seed: Number(process.env['SEED'] ?? 20261120), endOnFailure: false },
  );
  assert.ok(seen.size === 4 && waiting > 10 && incomplete > 5, `${[...seen].join(' ')}; ${waiting} waited, ${incomplete} incomplete`);
  assert.ok(answered > 50 && hidden > 3 && doubtful > 0, `${answered} answers, ${hidden} hidden documents, ${doubtful} doubtful`);
});
