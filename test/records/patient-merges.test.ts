import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { goneInto, type Merge, mergeStateOf } from '../../src/records/patient-merges.ts';

/** `A>B`: A's record says so and stands; `A>B-`: it is said no more; `B:A>B`: B's record says it. */
const merges = (...texts: string[]): Merge[] =>
  texts.map((text) => {
    const found = /^(?:(\w):)?(\w)>(\w)(-?)$/.exec(text) ?? [];
    const [, by, gone = '', survivor = '', ended] = found;
    return { saidBy: by ?? gone, gone, survivor, standing: ended !== '-' };
  });

describe('merges that a source names', () => {
  test('chain, merge of one already merged, both sides, several survivors, circle', () => {
    const chain = merges('A>B', 'B>C');
    assert.deepEqual(mergeStateOf('A', chain), { survivor: 'C', takenBack: false });
    assert.deepEqual(mergeStateOf('B', chain), { survivor: 'C', takenBack: false });
    assert.deepEqual(mergeStateOf('C', chain), { takenBack: false });
    assert.deepEqual([...goneInto('C', chain)].sort(), ['A', 'B']);
    assert.deepEqual(mergeStateOf('A', merges('A>B', 'B:A>B')), { survivor: 'B', takenBack: false });
    assert.deepEqual(mergeStateOf('A', merges('A>B', 'D:A>D')), { problem: 'several', takenBack: false });
    assert.deepEqual(mergeStateOf('A', merges('A>B', 'A>C', 'B>C')), { survivor: 'C', takenBack: false }, 'two ways to one end');
    for (const circle of [merges('A>A'), merges('A>B', 'B>A'), merges('A>B', 'B>C', 'C>B')])
      assert.deepEqual(mergeStateOf('A', circle), { problem: 'circular', takenBack: false });
  });

  test('taken back: by all who said it, or into somebody else; a chain that was shortened took nothing back', () => {
    assert.deepEqual(mergeStateOf('A', merges('A>B-')), { takenBack: true });
    assert.deepEqual(mergeStateOf('A', merges('A>B-', 'B:A>B')), { survivor: 'B', takenBack: false });
    assert.deepEqual(mergeStateOf('A', merges('A>B-', 'A>C')), { survivor: 'C', takenBack: true });
    assert.deepEqual(mergeStateOf('A', merges('A>B-', 'A>C', 'B>C')), { survivor: 'C', takenBack: false });
  });

  test('whatever a source says: an answer, and never both a survivor and a problem; a survivor goes on as nobody else', () => {
    const name = fc.constantFrom('A', 'B', 'C', 'D', 'E');
    const merge = fc.record({ saidBy: name, gone: name, survivor: name, standing: fc.boolean() });
    fc.assert(
      fc.property(fc.array(merge, { maxLength: 12 }), name, (all, who) => {
        const { survivor, problem } = mergeStateOf(who, all);
        assert.ok(survivor === undefined || problem === undefined);
        if (survivor === undefined) return;
        assert.ok(!all.some((one) => one.standing && one.gone === survivor));
        assert.ok(goneInto(survivor, all).includes(who));
      }),
      { seed: 67, numRuns: 500 },
    );
  });
});
