import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { readableScope } from '../../src/consent/readable-scope.ts';
import { codeOf } from '../../src/errors.ts';
import { createCompleteReads } from '../../src/fhir/complete-reads.ts';
import type { Caller } from '../../src/fhir/ports.ts';
import { ownRows } from '../../src/fhir/readable.ts';
import { RIGHTS } from '../../src/ledger/contract/shapes.ts';
import type { Database } from '../../src/store/database.ts';
import { raw, sql } from '../../src/store/sql.ts';
import {
  type Asked,
  actors,
  asked,
  at,
  CATEGORIES,
  decisionState,
  expectedScope,
  INST,
  type World,
  worlds,
  writeWorld,
} from '../consent/scope-world.ts';
import { withTestDatabase } from '../store/test-database.ts';

/*
 * What the facade serves is what the contract's decision permits, of patients of ours and of another institution's alike; of theirs, only
 * what is linked, live and held, and of what is permitted and not held an answer says so. The other institution names its patients as
 * we name ours.
 */
const often = <T>(usual: T, others: readonly T[]): T[] => [...others.map(() => usual), ...others.map(() => usual), ...others];
const LINKS = often('confirmed', ['bound', 'held', 'rejected', 'none']);
const STATES = often('live', ['waiting', 'refused', 'ending', 'none']);
const HOLDINGS =
  'held held held missing held refused held held newer other-category newer other-category resealed withdrawn unseen noticed other-patient'.split(
    ' ',
  );

interface Place {
  inst: string;
  pat: string;
  category: string;
  link: string;
  state: string;
  holding: string;
  /** When it was: moments are few, so that bounds meet them. */
  moment: number;
}

/** Their patients grant more than chance would have them: what is not permitted is never wanted either. */
function generous(world: World): World {
  const clause = {
    consent: 'con-1',
    effect: 'permit' as const,
    emergency: false,
    rights: [...RIGHTS],
    purposes: null,
    periodStart: null,
    periodEnd: null,
  };
  return {
    ...world,
    patients: world.patients.map((p, n) => {
      if (p.inst === INST) return p;
      const granted = CATEGORIES.map((category, c) => ({
        grantor: 'patient',
        grantee: `member:${INST}:mem-${1 + ((n + c) % 3)}`,
        category,
        parent: null,
        clauses: [{ ...clause, dataStart: c === 0 ? null : at(2).toISOString(), dataEnd: null }],
        revoking: 'none' as const,
      }));
      const key = (head: (typeof p.heads)[number]): string => `${head.grantor}/${head.grantee}/${head.category}`;
      const status = p.status === 'erased' ? p.status : ('active' as const);
      return { ...p, status, heads: [...new Map([...p.heads, ...granted].map((head) => [key(head), head])).values()] };
    }),
  };
}

/** One document for each patient and category, of which a number says what became of it. */
function placesOf(world: World, numbers: readonly number[]): Place[] {
  const pick = <T>(list: readonly T[], n: number): T => list[n % list.length] ?? assert.fail();
  return world.patients.flatMap(({ inst, pat }, p) =>
    CATEGORIES.map((category, c): Place => {
      const n = numbers[(p * CATEGORIES.length + c) % numbers.length] ?? 0;
      const own = inst === INST;
      return {
        inst,
        pat,
        category,
        link: own ? 'none' : pick(LINKS, Math.floor((numbers[p % numbers.length] ?? 0) / 7)),
        state: own ? 'none' : pick(STATES, Math.floor(n / 84)),
        holding: own ? 'held' : pick(HOLDINGS, Math.floor(n / 1008)),
        moment: n % 7,
      };
    }),
  );
}

const nameOf = ({ inst, pat, category }: Place): string => `${inst}.${pat}.${category}`;

async function write(database: Database, places: readonly Place[]): Promise<void> {
  await database.query(
    raw(
      'truncate resource, document_version, projection.document, subject, shared_version, shared_object, shared_category, patient_link, link_code, patient cascade',
    ),
  );
  const patients = new Map(places.map((place) => [`${place.inst}/${place.pat}`, place]));
  await database.transaction(async (tx) => {
    for (const { inst, pat, link } of patients.values()) {
      if (inst === INST) await tx.query(sql`insert into patient (pat) values (${pat})`);
      else if (link !== 'none') {
        await tx.query(sql`insert into patient (pat) values (${pat}) on conflict do nothing`);
        await tx.query(
          sql`insert into link_code (link, pat, clinician, secret_hash, expires_at, created_by) values (${pat}, ${pat}, 'm', ${pat}, now(), 'm')`,
        );
        await tx.query(sql`insert into patient_link (inst, pat, link, own_pat, state) values (${inst}, ${pat}, ${pat}, ${pat}, ${link})`);
      }
    }
    for (const place of places) {
      const { inst, pat, category, holding } = place;
      const name = nameOf(place);
      const version = holding === 'newer' ? 2 : 1;
      const n = holding === 'resealed' ? 1 : 0;
      await tx.query(sql`insert into projection.document (inst, pat, recorder, doc, category, version, n, ciphertext_hash, commitment, withdrawn, tx_id, block)
        values (${inst}, ${pat}, ${inst}, ${name}, ${category}, ${version}, ${n}, ${holding === 'resealed' ? 'newer' : name}, ${name}, ${holding === 'withdrawn'}, 't', 1)`);
      if (inst === INST) {
        await tx.query(
          sql`insert into subject (sub, category, key, pat, document, version) values (${name}, ${category}, ${name}, ${pat}, ${name}, 1)`,
        );
        await tx.query(sql`insert into document_version (document, version, sub, pat, category, pointer, ciphertext_hash, commitment, key_version, size_bytes, manifest_hash, outbox, header)
          values (${name}, 1, ${name}, ${pat}, ${category}, '', ${name}, ${name}, 1, 1, '', '', '')`);
      } else if (place.state !== 'none') {
        await tx.query(sql`insert into shared_category (inst, pat, category, state) values (${inst}, ${pat}, ${category}, ${place.state})`);
      }
      if (['noticed', 'missing', 'refused'].includes(holding)) {
        await tx.query(sql`insert into shared_object (recorder, document, version, n, inst, pat, category, state)
          values (${inst}, ${name}, 1, 0, ${inst}, ${pat}, ${category}, ${holding === 'noticed' ? 'wanted' : holding})`);
      } else if (inst !== INST && holding !== 'unseen') {
        const [heldPat, heldCategory] = [holding === 'other-patient' ? 'pat-9' : pat, holding === 'other-category' ? 'imaging' : category];
        await tx.query(sql`insert into shared_version (recorder, document, version, n, inst, pat, category, pointer, origin, ciphertext_hash, commitment, key_version, size_bytes, manifest_hash, header, wrap)
          values (${inst}, ${name}, 1, 0, ${inst}, ${heldPat}, ${heldCategory}, '', '', ${name}, ${name}, 1, 1, '', '', '')`);
      }
      await tx.query(sql`insert into resource (id, version, type, inst, pat, category, recorder, document, document_version, last_updated, clinical_start, clinical_end, elements, body)
        values (${name}, 1, 'Observation', ${inst}, ${pat}, ${category}, ${inst}, ${name}, 1, now(), ${at(place.moment)}, ${at(place.moment)}, '{}', '')`);
    }
  });
}

interface Expected {
  rows: string[];
  own: string[];
  fetching: boolean;
  incomplete: boolean;
}

function expectedOf(world: World, places: readonly Place[], q: Asked): Expected {
  const scope = expectedScope(world, decisionState(world), q);
  const expected: Expected = { rows: [], own: [], fetching: false, incomplete: false };
  const fetching = new Set<string>();
  const missing = new Set<string>();
  for (const place of places) {
    const { inst, link, state, holding, moment } = place;
    const periods = scope.get(`${inst}/${place.pat}/${place.category}`);
    if (periods === undefined) continue;
    const inside = periods.split(' ').some((period) => {
      const [start = '', end = ''] = period.split('..');
      const time = at(moment).getTime();
      return (start === 'null' || Date.parse(start) <= time) && (end === 'null' || time <= Date.parse(end));
    });
    if (inst === INST) {
      if (inside) expected.rows.push(nameOf(place));
      if (inside) expected.own.push(nameOf(place));
      continue;
    }
    if ((link !== 'confirmed' && link !== 'bound') || holding === 'withdrawn') continue;
    if (state !== 'live') {
      // What anybody of ours is granted of whom we know, and cannot open.
      const heads = world.patients.find((p) => p.inst === inst && p.pat === place.pat)?.heads ?? [];
      const granted = heads.some(
        (head) =>
          head.category === place.category && (head.grantee === `organization:${INST}` || head.grantee.startsWith(`member:${INST}:`)),
      );
      if (link === 'confirmed' && granted) (state === 'refused' ? missing : fetching).add(place.pat);
      continue;
    }
    if (holding === 'missing' || holding === 'refused') missing.add(place.pat);
    else if (holding !== 'held' && holding !== 'resealed') fetching.add(place.pat);
    else if (link === 'confirmed' && inside) expected.rows.push(nameOf(place));
  }
  // Whoever has something that stayed missing holds up no other's search.
  return { ...expected, fetching: fetching.difference(missing).size > 0, incomplete: missing.size > 0 };
}

test('the rows that are served are those that the decision permits, linked, live and held; what is permitted and not held is said', async () => {
  const { database } = await withTestDatabase();
  const parts = { database, readableScope, institution: INST };
  const met = { own: 0, theirs: 0, waiting: 0, incomplete: 0, complete: 0 };
  await fc.assert(
    fc.asyncProperty(
      worlds(1, 2).map(generous),
      fc.array(fc.noBias(fc.integer({ min: 0, max: 7 * 12 * 12 * HOLDINGS.length - 1 })), { minLength: 12, maxLength: 12 }),
      fc.array(asked, { minLength: 8, maxLength: 8 }),
      async (world, numbers, questions) => {
        await writeWorld(database, world);
        const places = placesOf(world, numbers);
        await write(database, places);
        // Members first: an institution as such is granted little.
        for (const [i, drawn] of questions.entries()) {
          const q: Asked = { ...drawn, right: 'read', actor: i % 2 === 0 ? (actors[i % 3] ?? drawn.actor) : drawn.actor };
          const caller: Caller = { actor: { ...q.actor, purpose: q.purpose }, requestId: 'r', now: q.now };
          const expected = expectedOf(world, places, q);
          const named = { names: [], only: undefined };
          // A fresh one tries the cheaper statement first, one that has seen a link the other.
          const reads = createCompleteReads(parts);
          for (const round of [1, 2]) {
            const found = await reads
              .rows(caller, 'document', { named, rest: sql`true order by r.id` })
              .catch((error: unknown) => codeOf(error));
            if (expected.fetching) assert.equal(found, 'NOT_FETCHED', `round ${round}`);
            else {
              assert.ok(typeof found === 'object', `${found as string}, round ${round}`);
              assert.deepEqual(
                [found.rows.map(({ id }) => id), found.incomplete],
                [expected.rows.sort(), expected.incomplete],
                `round ${round}`,
              );
            }
            // What can be seen of one institution's patients is no matter of another's.
            const counted = await reads
              .count(caller, 'document', { named, rest: sql`r.inst = ${INST}` })
              .catch((error: unknown) => codeOf(error));
            assert.equal(counted, expected.fetching ? 'NOT_FETCHED' : expected.incomplete ? undefined : expected.own.length);
          }
          // By id, whatever else is lacking.
          for (const place of places) {
            const id = nameOf(place);
            const row = await reads
              .one(caller, 'document', { type: 'Observation', id, document: undefined })
              .catch((error: unknown) => codeOf(error));
            assert.equal(typeof row === 'object', expected.rows.includes(id), id);
          }
          const { cte, from } = ownRows(parts, caller, 'document', 'direct');
          const direct = await database.query<{ id: string }>(sql`with ${cte} select r.id ${from}`);
          assert.ok(direct.every(({ id }) => expected.own.includes(id)));
          met.own += expected.own.length;
          met.theirs += expected.rows.length - expected.own.length;
          met.waiting += Number(expected.fetching);
          met.incomplete += Number(!expected.fetching && expected.incomplete);
          met.complete += Number(!expected.fetching && !expected.incomplete);
        }
      },
    ),
    { numRuns: 20, seed: Number(process.env['SEED'] ?? 20261124), endOnFailure: true },
  );
  assert.ok(
    Object.values(met).every((n) => n > 3),
    JSON.stringify(met),
  );
});
