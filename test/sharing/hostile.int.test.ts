import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { after, afterEach, before, describe, test } from 'node:test';
import { pino } from 'pino';
import { CodedError } from '../../src/errors.ts';
import { newId } from '../../src/ids.ts';
import { createOutbox } from '../../src/outbox/postgres-outbox.ts';
import { createOwnDecisions } from '../../src/sharing/own-decisions.ts';
import { insertResources, prepareResources } from '../../src/store/resources.ts';
import { sql } from '../../src/store/sql.ts';
import { createWorld, type World, watchedBlobs } from './world.ts';

/** Other institutions that lie or flood, and a ledger that says no late. */
let w: World;
before(async () => {
  w = await createWorld();
});
after(() => w.close());
afterEach(async () => {
  w.clock.at = undefined;
  w.alarms.length = 0;
  // Whatever a test did: the sums that quotas are held against are those of the rows.
  const wrong = await w.database.query(sql`
    select * from (select l.pat, l.held_documents, l.held_bytes, count(v.document) as documents, coalesce(sum(v.size_bytes), 0) as bytes
      from patient_link l left join shared_version v on v.inst = l.inst and v.pat = l.pat group by l.inst, l.pat) t
    where held_documents <> documents or held_bytes <> bytes`);
  assert.deepEqual(wrong, []);
});

const later = (ms: number): void => {
  w.clock.at = new Date((w.clock.at?.getTime() ?? Date.now()) + ms);
};
const stateOf = async (patient: string, category = 'laboratory'): Promise<string | undefined> =>
  (await w.database.query<{ state: string }>(sql`select state from shared_category where pat = ${patient} and category = ${category}`))[0]
    ?.state;

describe('a revocation that is accepted here and refused late', () => {
  /** As whoever accepts one writes it: a row of the outbox, and the denial. */
  async function accepted(patient: string): Promise<string> {
    const outbox = newId('obx');
    await w.database.query(sql`
      insert into outbox (id, transaction, args, priority) values (${outbox}, 'revokePermission', '{x}', 0)`);
    await w.database.query(sql`
      insert into revocation (inst, pat, grantor, grantee, category, used_key, outbox)
      values (${w.a.institution}, ${patient}, 'patient', ${`member:${w.b.institution}:${w.clinician}`}, 'laboratory', ${`used/${outbox}`}, ${outbox})`);
    return outbox;
  }
  const refuse = (outbox: string) =>
    w.database.query(sql`update outbox set state = 'rejected', error_code = 'STATEMENT_LATE', settled_at = now() where id = ${outbox}`);

  test('the category ends, and begins again once the ledger has refused; also after a restart between', async () => {
    const { patient } = await w.granted();
    await w.pass();
    const outbox = await accepted(patient);
    await w.pass();
    assert.equal(await stateOf(patient), undefined);
    assert.equal(await w.count('resource', patient), 0);
    // Looked at again while it is on its way, more than once.
    for (let i = 0; i < 3; i++) {
      later(200);
      await w.pass();
      assert.equal(await stateOf(patient), undefined);
      assert.equal(await w.count('sharing_backlog'), 1);
    }
    await refuse(outbox);
    later(200);
    await w.pass();
    assert.equal(await stateOf(patient), 'live');
    assert.equal(await w.count('shared_version', patient), 1);
    assert.equal(await w.count('revocation', patient), 0);
    later(1000);
    await w.pass();
    assert.equal(await w.count('sharing_backlog'), 0);
  });

  test('its denial taken away by whoever accepted it: the same', async () => {
    const { patient } = await w.granted();
    await w.pass();
    await accepted(patient);
    await w.pass();
    await w.database.query(sql`delete from revocation where pat = ${patient}`);
    later(200);
    await w.pass();
    assert.equal(await stateOf(patient), 'live');
  });

  test('before anything had begun: the same', async () => {
    const { patient } = await w.granted();
    const outbox = await accepted(patient);
    await w.pass();
    assert.equal(await stateOf(patient), undefined);
    await refuse(outbox);
    later(200);
    await w.pass();
    assert.equal(await stateOf(patient), 'live');
  });

  test('signed by our former key: it denies on, for it is sent again', async () => {
    const { patient } = await w.granted();
    await w.pass();
    const outbox = await accepted(patient);
    await w.database.query(sql`update outbox set state = 'rejected', error_code = 'JWS_KEY', settled_at = now() where id = ${outbox}`);
    later(200);
    await w.pass();
    assert.equal(await stateOf(patient), undefined);
    assert.equal(await w.count('revocation', patient), 1);
    await w.database.query(sql`delete from revocation where pat = ${patient}`);
    later(200);
    await w.pass();
  });

  test('renounced and refused: the denial goes, and a later end is not said to be renounced', async () => {
    const { patient } = await w.granted();
    await w.pass();
    const outbox = createOutbox({ database: w.database, highWater: 100, lowWater: 50, pollMs: 10 });
    try {
      const decisions = createOwnDecisions({
        database: w.database,
        rows: w.rows,
        custodian: w.b.custodian,
        ledgerId: w.ledgerId,
        msp: w.b.gateway.msp,
        activeRole: async () => 'privacy-officer',
        now: w.parts.now,
        waitMs: 5000,
        onChanged: () => {},
        outbox,
        projected: (block, timeoutMs) => w.projection.waitFor(block, timeoutMs),
      });
      const renounced = decisions.renounce({ institution: w.a.institution, patient, category: 'laboratory' }, w.officer);
      const failed = assert.rejects(renounced, { code: 'LEDGER_REFUSED' });
      for (let n = 0; n === 0; ) {
        const rows = await w.database.query(sql`
          update outbox set state = 'rejected', error_code = 'STATEMENT_LATE', settled_at = now() where patient = ${`${w.a.institution}/${patient}`} returning id`);
        n = rows.length;
      }
      await failed;
    } finally {
      await outbox.close();
    }
    assert.equal(await w.count('revocation', patient), 0);
    await w.pass();
    assert.equal(await stateOf(patient), 'live');
    await w.revoke(patient);
    await w.pass();
    const [end] = await w.database.query<{ cause: string }>(sql`select cause from sharing_end where pat = ${patient}`);
    assert.equal(end?.cause, 'revoked');
  });

  test('many grants that nothing can come of keep nobody else from beginning again', async () => {
    const { patient } = await w.granted();
    await w.pass();
    const outbox = await accepted(patient);
    await w.pass();
    await w.database.query(sql`
      insert into projection.permission (inst, pat, grantor, grantee, category, seq, status, recorded_at, tx_id, block)
      select ${w.a.institution}, 'pat-0' || g, 'patient', ${`organization:${w.b.institution}`}, 'laboratory', 1, 'active', now(), 'flood', 0
      from generate_series(1, 600) g`);
    await refuse(outbox);
    later(200);
    await w.pass();
    await w.database.query(sql`delete from projection.permission where tx_id = 'flood'`);
    assert.equal(await stateOf(patient), 'live');
  });
});

describe('names that somebody else bears', () => {
  /** Of one name: enrolled by C, then by A, each linked with a patient of ours. */
  async function twice(): Promise<{ name: string; ofA: () => Promise<void>; ofC: () => Promise<void> }> {
    const name = await w.enroll(w.c);
    await w.enroll(w.a, name);
    await w.caughtUp();
    const share = async (of: typeof w.a): Promise<void> => {
      await w.file(name, { of });
      await w.grant(name, { of, link: await w.code(await w.ownPatient()) });
      await w.pass();
    };
    return { name, ofA: () => share(w.a), ofC: () => share(w.c) };
  }
  const patients = (name: string) =>
    w.database.query<{ inst: string; n: number }>(sql`
      select inst, count(*) as n from resource where pat = ${name} group by inst order by inst`);

  test('a pseudonym belongs to whoever enrolled it first, whether anything of theirs is here or not', async () => {
    const { name, ofA, ofC } = await twice();
    await ofA();
    assert.deepEqual(await patients(name), []);
    const [wanted] = await w.database.query<{ code: string }>(sql`select code from shared_object where pat = ${name}`);
    assert.equal(wanted?.code, 'SHARED_ID_TAKEN');
    await ofC();
    assert.deepEqual(await patients(name), [{ inst: w.c.institution, n: 7 }]);
  });

  test('who is here before the one who was enrolled first gives way, with all that is held of them, and says why', async () => {
    const { name, ofA, ofC } = await twice();
    const core = `pat/${w.c.institution}/${name}/core`;
    // As rows of a time before there was this rule.
    await w.database.query(sql`update projection.state set key = 'away' where key = ${core}`);
    await ofA();
    await w.file(name, { category: 'radiation-dose' });
    await w.grant(name, { categories: ['radiation-dose'] });
    await w.pass();
    await w.database.query(sql`update projection.state set key = ${core} where key = 'away'`);
    assert.deepEqual(await patients(name), [{ inst: w.a.institution, n: 13 }]);
    await ofC();
    assert.deepEqual(await patients(name), [{ inst: w.c.institution, n: 7 }]);
    const ends = await w.database.query<{ cause: string; inst: string; deleted_at: Date | null }>(
      sql`select cause, inst, deleted_at from sharing_end where pat = ${name}`,
    );
    assert.deepEqual(
      ends.map((end) => [end.cause, end.inst, end.deleted_at !== null]),
      [
        ['taken', w.a.institution, true],
        ['taken', w.a.institution, true],
      ],
    );
    const wanted = await w.database.query<{ code: string; inst: string }>(sql`select code, inst from shared_object where pat = ${name}`);
    assert.deepEqual(
      wanted.map((row) => [row.code, row.inst]),
      [
        ['SHARED_ID_TAKEN', w.a.institution],
        ['SHARED_ID_TAKEN', w.a.institution],
      ],
    );
    // Revoked by C's patient, A's is not let in after all.
    await w.revoke(name, { of: w.c });
    later(120_000);
    await w.pass();
    assert.deepEqual(await patients(name), []);
  });

  test('the id of a document of ours, whether anything of it is filed or not', async () => {
    const { patient } = await w.granted();
    await w.pass();
    const own = await w.ownPatient();
    const document = newId('doc');
    await w.database.query(sql`
      insert into subject (sub, pat, category, key, document) values (${newId('sub')}, ${own}, 'laboratory', ${document}, ${document})`);
    await w.file(patient, { document });
    await w.pass();
    const [wanted] = await w.database.query<{ code: string }>(sql`select code from shared_object where pat = ${patient}`);
    assert.equal(wanted?.code, 'SHARED_ID_TAKEN');
  });

  test('our own filing is kept off by nothing that another institution brought: the whole of that document goes, and is refused', async () => {
    const { patient, filed } = await w.granted();
    await w.pass();
    const own = await w.ownPatient();
    const document = newId('doc');
    const id = `res-${filed.document.slice(4)}`;
    const prepared = await prepareResources(w.rows, {
      institution: w.b.institution,
      patient: own,
      category: 'laboratory',
      document,
      version: 1,
      lastUpdated: new Date(),
      resources: [
        {
          type: 'Observation',
          id,
          text: JSON.stringify({ resourceType: 'Observation', id, status: 'final', effectiveDateTime: '2026-10-30' }),
        },
      ],
    });
    await w.database.transaction((tx) => insertResources(tx, [prepared]));
    const rows = await w.database.query<{ pat: string; type: string }>(
      sql`select pat, type from resource where id = ${id} or pat = ${patient} order by type`,
    );
    assert.deepEqual(rows, [
      { pat: own, type: 'Observation' },
      { pat: patient, type: 'Patient' },
    ]);
    await w.pass();
    const [wanted] = await w.database.query<{ code: string; version: number }>(
      sql`select code, version from shared_object where pat = ${patient}`,
    );
    assert.deepEqual([wanted?.code, wanted?.version], ['SHARED_ID_TAKEN', 1]);
    assert.equal(await w.count('shared_version', patient), 0);
    assert.equal(await w.store.head(`${w.b.institution}/copies/${filed.ciphertextHash}`), undefined);
    assert.deepEqual(
      w.alarms.map((alarm) => alarm.code),
      ['SHARED_ID_TAKEN'],
    );
    // A row of our own is never taken for another's.
    await assert.rejects(
      w.database.transaction((tx) => insertResources(tx, [prepared])),
      { code: '23505' },
    );
  });
});

describe('who withholds', () => {
  const wantedOf = async (document: string) =>
    (
      await w.database.query<{ version: number; state: string; attempts: number; code: string | null; retry_at: Date }>(
        sql`select version, state, attempts, code, retry_at from shared_object where document = ${document}`,
      )
    )[0];

  test('what was given up of one version stays so with the next, which is tried at once, and slowly from then on', async () => {
    const { patient } = await w.granted();
    await w.pass();
    const document = newId('doc');
    await w.file(patient, { document, put: false });
    await w.pass();
    assert.deepEqual([(await wantedOf(document))?.state, (await wantedOf(document))?.attempts], ['wanted', 1]);
    // A new version does not begin the count anew.
    await w.file(patient, { document, version: 2, put: false, value: '2' });
    await w.pass();
    assert.deepEqual([(await wantedOf(document))?.state, (await wantedOf(document))?.attempts], ['wanted', 2]);
    later(200);
    await w.pass();
    assert.deepEqual([(await wantedOf(document))?.state, (await wantedOf(document))?.attempts], ['missing', 3]);
    assert.equal(w.alarms.length, 1);
    await w.file(patient, { document, version: 3, put: false, value: '3' });
    await w.pass();
    const third = await wantedOf(document);
    assert.deepEqual([third?.version, third?.state, third?.attempts, third?.code], [3, 'missing', 4, 'BLOB_MISSING']);
    assert.ok(third !== undefined && third.retry_at.getTime() > Date.now() + 50_000);
    assert.equal(w.alarms.length, 1);
    // One that is there is taken at once.
    await w.file(patient, { document, version: 4, value: '4' });
    await w.pass();
    assert.equal(await wantedOf(document), undefined);
    assert.equal(await w.count('shared_version', patient), 2);
  });

  test('refused content, then an object that is not there: still given up', async () => {
    const { patient } = await w.granted();
    await w.pass();
    const document = newId('doc');
    await w.file(patient, { document, spoil: ({ bundle }) => bundle.entry.splice(0, 1) });
    await w.pass();
    assert.equal((await wantedOf(document))?.state, 'refused');
    await w.file(patient, { document, version: 2, put: false });
    await w.pass();
    assert.deepEqual([(await wantedOf(document))?.state, (await wantedOf(document))?.code], ['missing', 'BLOB_MISSING']);
  });

  test('searches of others are held up once in a while, however many documents come and go', async () => {
    const { patient } = await w.granted();
    await w.pass();
    const heldUp = async (): Promise<number> =>
      (await w.database.query<{ at: Date }>(sql`select held_up_at as at from patient_link where pat = ${patient}`))[0]?.at.getTime() ?? 0;
    const first = await heldUp();
    assert.ok(first > 0);
    for (let i = 0; i < 3; i++) {
      later(60_000);
      const { document } = await w.file(patient, { put: false });
      await w.pass();
      await w.withdraw(patient, document);
      await w.file(patient);
      await w.pass();
      assert.equal(await heldUp(), first);
    }
    later(600_000);
    await w.file(patient, { put: false });
    await w.pass();
    assert.ok((await heldUp()) > first);
  });
});

describe('ends', () => {
  test('copies that cannot be deleted, however many, and ends that cannot be finished keep no other end waiting', async () => {
    const { patient, filed } = await w.granted();
    await w.pass();
    const stuck = (name: string): boolean => name.includes('/copies/0000');
    const blobs = {
      ...w.store,
      delete: async (name: string) => {
        if (stuck(name)) throw new CodedError('UNAVAILABLE');
        return w.store.delete(name);
      },
    };
    await w.database.query(sql`
      insert into shared_removal (pointer, ending) select ${w.b.institution} || '/copies/' || lpad(to_hex(g), 64, '0'), 'end-stuck' || g % 150 from generate_series(1, 1100) g`);
    await w.database.query(sql`
      insert into sharing_end (id, inst, pat, category, cause, ended_at, audit, documents, rows, objects, bytes, keys, held)
      select 'end-stuck' || g, ${w.a.institution}, 'pat-stuck', 'laboratory', 'revoked', now() - interval '1 day', 'aud-stuck' || g, 0, 0, 0, 0, 0, 0
      from generate_series(0, 149) g`);
    // And as many that wait for nothing but an audit that says no.
    await w.database.query(sql`
      insert into sharing_end (id, inst, pat, category, cause, ended_at, audit, documents, rows, objects, bytes, keys, held)
      select 'end-mute' || g, ${w.a.institution}, 'pat-stuck', 'laboratory', 'revoked', now() - interval '1 day', 'aud-mute' || g, 0, 0, 0, 0, 0, 0
      from generate_series(0, 149) g`);
    const audit = {
      record: async (event: Parameters<typeof w.audit.record>[0]) => {
        if (event.id?.includes('mute') === true) throw new CodedError('UNAVAILABLE');
        return w.audit.record(event);
      },
    };
    const retry = { ...w.parts.retry, firstMs: 60_000, mostMs: 60_000 };
    await w.revoke(patient);
    for (let i = 0; i < 2; i++) await w.pass({ blobs, audit, retry });
    const [end] = await w.database.query<{ deleted_at: Date | null }>(sql`select deleted_at from sharing_end where pat = ${patient}`);
    assert.ok(end?.deleted_at);
    assert.equal(await w.store.head(`${w.b.institution}/copies/${filed.ciphertextHash}`), undefined);
    assert.equal(await w.count('shared_removal'), 1100);
    later(120_000);
    await w.pass();
    assert.equal(await w.count('shared_removal'), 0);
    const open = await w.database.query(sql`select 1 from sharing_end where deleted_at is null`);
    assert.equal(open.length, 0);
  });

  test('a copy that is fetched anew while an earlier one of the same bytes is being deleted stays', async () => {
    const { patient, filed } = await w.granted();
    await w.pass();
    const pointer = `${w.b.institution}/copies/${filed.ciphertextHash}`;
    // The removal stands still in the middle, as another process's may.
    const reached = Promise.withResolvers<void>();
    const go = Promise.withResolvers<void>();
    const blobs = {
      ...w.store,
      delete: async (name: string) => {
        reached.resolve();
        await go.promise;
        return w.store.delete(name);
      },
    };
    await w.database.query(sql`delete from shared_version where pat = ${patient}`);
    await w.database.query(sql`update patient_link set held_documents = 0, held_bytes = 0 where pat = ${patient}`);
    await w.database.query(sql`delete from resource where pat = ${patient}`);
    await w.database.query(sql`insert into shared_removal (pointer) values (${pointer})`);
    const removing = w.pass({ blobs });
    await reached.promise;
    const fetching = w.pass();
    setTimeout(go.resolve, 300);
    await Promise.all([removing, fetching]);
    await w.pass();
    assert.equal(await w.count('shared_version', patient), 1);
    assert.ok(await w.store.head(pointer));
  });
});

describe('what is not what it should be', () => {
  const wantedOf = async (document: string) =>
    (
      await w.database.query<{ state: string; code: string; attempts: number; retry_at: Date }>(
        sql`select state, code, attempts, retry_at from shared_object where document = ${document}`,
      )
    )[0];

  test('withdrawn while it is fetched, and looked at by another process meanwhile: not kept', async () => {
    const { patient } = await w.granted();
    await w.pass();
    const late = await w.file(patient);
    const reached = Promise.withResolvers<void>();
    const go = Promise.withResolvers<void>();
    const fetching = w.pass({
      blobs: watchedBlobs(w.store, {
        get: async (name) => {
          if (name === late.pointer) reached.resolve();
          if (name === late.pointer) await go.promise;
          return undefined;
        },
      }),
    });
    await reached.promise;
    await w.withdraw(patient, late.document);
    await w.pass();
    go.resolve();
    await fetching;
    await w.pass();
    assert.equal(await w.count('shared_version', patient), 1);
    assert.equal((await w.database.query(sql`select 1 from resource where document = ${late.document}`)).length, 0);
    assert.equal(await wantedOf(late.document), undefined);
    // The sweep finds the copy by its name.
    await w.database.query(sql`delete from puts`);
    await w.store.delete(`${w.b.institution}/copies/${late.ciphertextHash}`);
  });

  const odd: [string, (resource: Record<string, unknown>) => void][] = [
    [
      'a term longer than an index takes',
      (one) => Object.assign(one, { code: { coding: [{ code: randomBytes(20_000).toString('hex') }] } }),
    ],
    ['a time that is none', (one) => Object.assign(one, { effectiveDateTime: '0000-01-01' })],
    ['a number that is none', (one) => Object.assign(one, { valueQuantity: { value: 'x', unit: {} } })],
    ['lists of lists', (one) => Object.assign(one, { code: [[{ coding: [[]] }]], category: 7, subject: [] })],
    ['nothing where something must be', (one) => Object.assign(one, { code: null, performer: [null], meta: [], text: null })],
  ];
  for (const [what, spoil] of odd)
    test(`${what}: taken or refused with a code, and no word of it in the log`, async () => {
      const { patient } = await w.granted();
      await w.pass();
      const written: string[] = [];
      const log = pino({}, { write: (line) => written.push(line) });
      const { document } = await w.file(patient, {
        spoil: ({ bundle }) => {
          const one = bundle.entry[3]?.resource;
          if (one !== undefined) spoil(one);
          if (one !== undefined) Object.assign(one, { note: [{ text: 'CANARY-IN-CONTENT' }] });
        },
      });
      await w.pass({ log });
      const wanted = await wantedOf(document);
      assert.ok(wanted === undefined || (wanted.state === 'refused' && wanted.code === 'SHARED_CONTENT'), JSON.stringify(wanted));
      assert.doesNotMatch(written.join(''), /CANARY|[0-9a-f]{200}|0000-01-01/);
    });

  const manifests: [string, Record<string, unknown>][] = [
    ['without demographics', { demographics: null }],
    ['with a time beyond all', { asOf: '+275760-09-13T00:00:00.000Z' }],
    ['with members that are none', { configHash: {}, layout: [], zone: 7, facility: null }],
  ];
  for (const [what, facts] of manifests)
    test(`a manifest ${what}: taken or refused with a code`, async () => {
      const { patient } = await w.granted();
      await w.pass();
      const { document } = await w.file(patient, { spoil: ({ manifest }) => Object.assign(manifest, facts) });
      await w.pass();
      const wanted = await wantedOf(document);
      assert.ok(wanted === undefined || (wanted.state === 'refused' && wanted.code === 'SHARED_CONTENT'), JSON.stringify(wanted));
    });

  test('what was fetched whole to be refused is fetched more and more seldom; another version at once', async () => {
    const { patient } = await w.granted();
    await w.pass();
    const bad = await w.file(patient, { spoil: ({ bundle }) => bundle.entry.splice(0, 1) });
    await w.pass();
    const gaps: number[] = [];
    for (let i = 0; i < 14; i++) {
      const at = (await wantedOf(bad.document))?.retry_at ?? assert.fail();
      gaps.push(Math.round((at.getTime() - (w.clock.at?.getTime() ?? Date.now())) / 60_000));
      w.clock.at = at;
      await w.pass();
    }
    assert.deepEqual(gaps, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 1440, 1440, 1440]);
    assert.equal(w.alarms.filter((alarm) => alarm.document === bad.document).length, 1);
    await w.file(patient, { document: bad.document, version: 2 });
    await w.pass();
    assert.equal(await wantedOf(bad.document), undefined);
  });

  test('large ones are opened one after another', async () => {
    const { patient } = await w.granted();
    await w.pass();
    const objects = new Set<string>();
    for (let i = 0; i < 3; i++) objects.add((await w.file(patient)).pointer);
    let now = 0;
    let most = 0;
    await w.pass({
      blobs: watchedBlobs(w.store, {
        head: async (name) => (objects.has(name) ? { sizeBytes: 9_000_000 } : undefined),
        get: async (name) => {
          if (!objects.has(name)) return undefined;
          most = Math.max(most, ++now);
          await new Promise((done) => setTimeout(done, 20));
          now--;
          return undefined;
        },
      }),
    });
    assert.equal(most, 1);
    assert.equal(await w.count('shared_version', patient), 4);
  });
});

describe('what is too much', () => {
  test('an object larger than any: refused and alarmed at once, whatever the store said of its size', async () => {
    const { patient } = await w.granted();
    await w.pass();
    const huge = await w.file(patient);
    const blobs = watchedBlobs(w.store, {
      get: async (name) => {
        if (name === huge.pointer) throw new CodedError('BLOB_TOO_LARGE');
        return undefined;
      },
    });
    await w.pass({ blobs });
    const [wanted] = await w.database.query<{ state: string; code: string; attempts: number }>(
      sql`select state, code, attempts from shared_object where pat = ${patient}`,
    );
    assert.deepEqual([wanted?.state, wanted?.code, wanted?.attempts], ['refused', 'BLOB_TOO_LARGE', 1]);
    assert.deepEqual(
      w.alarms.map((alarm) => alarm.code),
      ['BLOB_TOO_LARGE'],
    );
    // A store that says less than it gives.
    const liar = await w.file(patient);
    await w.pass({
      quotas: { ...w.parts.quotas, maxObjectBytes: 1000 },
      blobs: watchedBlobs(w.store, { head: async () => ({ sizeBytes: 1 }) }),
    });
    const [second] = await w.database.query<{ code: string }>(sql`select code from shared_object where document = ${liar.document}`);
    assert.equal(second?.code, 'SHARED_QUOTA');
  });

  test('documents beyond the quota: any number waits without being looked at, until there is room', async () => {
    const { patient, filed } = await w.granted();
    const theirs = new Set([filed.pointer]);
    for (let i = 0; i < 3; i++) theirs.add((await w.file(patient)).pointer);
    const quotas = { ...w.parts.quotas, maxDocumentsPerPatient: 2 };
    await w.pass({ quotas });
    for (let i = 0; i < 2; i++) {
      const blobs = watchedBlobs(w.store);
      later(3_600_000);
      await w.pass({ quotas, blobs });
      assert.deepEqual(
        blobs.asked.filter((name) => theirs.has(name)),
        [],
      );
    }
    assert.equal(await w.count('shared_version', patient), 2);
    await w.withdraw(patient, filed.document);
    await w.pass({ quotas });
    assert.equal(await w.count('shared_version', patient), 2);
    assert.equal(await w.count('shared_object', patient), 1);
    // A version of one that is held needs no more room.
    const [held] = await w.database.query<{ document: string }>(sql`select document from shared_version where pat = ${patient} limit 1`);
    await w.file(patient, { document: held?.document ?? '', version: 2 });
    await w.pass({ quotas: { ...quotas, maxDocumentsPerPatient: 1 } });
    assert.deepEqual(await w.database.query(sql`select version from shared_version where document = ${held?.document ?? ''}`), [
      { version: 2 },
    ]);
    // More is taken: the next look finds it.
    await w.pass();
    assert.equal(await w.count('shared_version', patient), 3);
    assert.equal(await w.count('shared_object', patient), 0);
  });

  test('bytes: what would be too much is not kept, and what several fetch at one time is counted together', async () => {
    const { patient } = await w.granted();
    for (let i = 0; i < 5; i++) await w.file(patient);
    const [object] = await w.database.query<{ pointer: string }>(sql`select pointer from projection.entry where pat = ${patient} limit 1`);
    const size = (await w.store.head(object?.pointer ?? ''))?.sizeBytes ?? 0;
    const quotas = { ...w.parts.quotas, maxBytesPerPatient: Math.round(size * 3.5) };
    await Promise.all([w.pass({ quotas }), w.pass({ quotas })]);
    later(200);
    await w.pass({ quotas });
    assert.equal(await w.count('shared_version', patient), 3);
    assert.deepEqual(
      (await w.database.query<{ code: string }>(sql`select code from shared_object where pat = ${patient}`)).map(({ code }) => code),
      ['SHARED_QUOTA', 'SHARED_QUOTA', 'SHARED_QUOTA'],
    );
  });
});
