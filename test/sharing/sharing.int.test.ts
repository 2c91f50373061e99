import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { sql } from '../../src/store/sql.ts';
import { holderName } from '../../src/vault/holder.ts';
import { createWorld, type World, watchedBlobs } from './world.ts';

let w: World;
before(async () => {
  w = await createWorld();
});
after(() => w.close());

describe('share and fetch', () => {
  test('what is granted with a live code is fetched, checked and kept under names and keys of ours', async () => {
    const { patient, filed } = await w.granted();
    await w.pass();
    const held = await w.database.query<Record<string, unknown>>(sql`select * from shared_version where pat = ${patient}`);
    assert.equal(held.length, 1, JSON.stringify(w.alarms));
    assert.equal(held[0]?.['pointer'], `${w.b.institution}/${filed.ciphertextHash}`);
  });
});
void watchedBlobs;
void holderName;
