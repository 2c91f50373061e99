import assert from 'node:assert/strict';
import { hash } from 'node:crypto';
import { test } from 'node:test';
import fc from 'fast-check';
import { canonicalJson } from '../../src/canonical-json.ts';
import { CodedError, codeOf } from '../../src/errors.ts';
import { newId } from '../../src/ids.ts';
import { formatLinkCode, type LinkCode, makeLinkCode, parseLinkCode, secretHash } from '../../src/sharing/link-code.ts';

const SEED = Number(process.env['FC_SEED'] ?? 20261123);
const KEY = 'NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs';
const make = (): LinkCode =>
  makeLinkCode({ institution: newId('inst'), clinician: newId('mem'), key: KEY, expires: new Date('2026-11-30T08:15:00.250Z') });

/** A text with a right check over whatever stands in it. */
function packed(content: string | Buffer): string {
  const body = `ob1.${Buffer.from(content).toString('base64url')}`;
  return `${body}.${hash('sha256', body, 'buffer').subarray(0, 6).toString('base64url')}`;
}
const isMalformed = (text: string): boolean => {
  try {
    parseLinkCode(text);
    return false;
  } catch (error) {
    assert.equal(codeOf(error), 'LINK_MALFORMED');
    // Nothing of what was given, which may be a secret, and no cause that quotes it.
    assert.equal((error as Error).message, new CodedError('LINK_MALFORMED').message);
    assert.equal((error as Error).cause, undefined);
    return true;
  }
};

test('a code is read as it was written, and white space of mail programs is left out', () => {
  fc.assert(
    fc.property(
      fc.record({
        institution: fc.stringMatching(/^[a-z0-9][a-z0-9-]{0,63}$/),
        clinician: fc.stringMatching(/^[a-z0-9][a-z0-9-]{0,63}$/),
        expires: fc.date({ min: new Date('2000-01-01'), max: new Date('2199-01-01'), noInvalidDate: true }),
        key: fc.stringMatching(/^[A-Za-z0-9_-]{43}$/),
      }),
      fc.array(fc.record({ at: fc.nat(400), space: fc.constantFrom(' ', '\n', '\r\n', '\t') }), { maxLength: 4 }),
      (of, spaces) => {
        const code = makeLinkCode(of);
        let text = formatLinkCode(code);
        assert.match(text, /^ob1\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{8}$/);
        for (const { at, space } of spaces) text = text.slice(0, at) + space + text.slice(at);
        assert.deepEqual(parseLinkCode(text), code);
        assert.equal(secretHash(parseLinkCode(text)), secretHash(code));
      },
    ),
    { seed: SEED, numRuns: 200 },
  );
});

test('a code with one letter changed, lost, doubled or two swapped is malformed, never another code', () => {
  const letters = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.=+/ ';
  const text = formatLinkCode(make());
  for (let at = 0; at < text.length; at++) {
    assert.ok(isMalformed(text.slice(0, at) + text.slice(at + 1)), `without letter ${at}`);
    assert.ok(isMalformed(text.slice(0, at) + text[at] + text.slice(at)), `letter ${at} twice`);
    for (const letter of letters) {
      if (letter !== text[at]) assert.ok(isMalformed(text.slice(0, at) + letter + text.slice(at + 1)), `letter ${at} as ${letter}`);
    }
    const next = text[at + 1];
    if (next !== undefined && next !== text[at])
      assert.ok(isMalformed(text.slice(0, at) + next + text[at] + text.slice(at + 2)), `swapped at ${at}`);
  }
  assert.deepEqual(formatLinkCode(parseLinkCode(text)), text);
});

test('what is no code in exactly its one form is malformed, a right check notwithstanding', () => {
  const code = make();
  const good = canonicalJson(code);
  assert.deepEqual(parseLinkCode(packed(good)), code);
  const changed = (change: Record<string, unknown>): string => packed(canonicalJson({ ...code, ...change }));
  const bad: Record<string, string> = {
    nothing: '',
    'a prefix alone': 'ob1.',
    'another version': formatLinkCode(code).replace(/^ob1/, 'ob2'),
    'no check': formatLinkCode(code).replace(/\.[^.]*$/, ''),
    'not JSON': packed('{'),
    'a number': packed('1'),
    null: packed('null'),
    'a list': packed('[]'),
    'broken UTF-8': packed(Buffer.from([0xff, 0xfe])),
    'white space inside': packed(` ${good}`),
    'another order': packed(JSON.stringify(Object.fromEntries(Object.entries(code).reverse()))),
    'an escape': packed(good.replace('lnk-', '\\u006cnk-')),
    'a member twice': packed(good.replace('{', `{"clinician":"${code.clinician}",`)),
    'a member too many': changed({ name: 'Kim' }),
    'a member too few': changed({ key: undefined }),
    'a prototype': packed(good.replace('{', '{"__proto__":{},')),
    'a clinician with a capital': changed({ clinician: 'Mem-1' }),
    'a clinician that is no text': changed({ clinician: 7 }),
    'an institution with a slash': changed({ institution: 'inst/1' }),
    'an institution with 65 letters': changed({ institution: 'a'.repeat(65) }),
    'no institution': changed({ institution: '' }),
    'a link of another kind': changed({ link: newId('pat') }),
    'a short link': changed({ link: code.link.slice(0, -1) }),
    'a secret of 15 bytes': changed({ secret: Buffer.alloc(15, 7).toString('base64url') }),
    'a secret of 17 bytes': changed({ secret: Buffer.alloc(17, 7).toString('base64url') }),
    'a secret with stray bits': changed({ secret: `${code.secret.slice(0, -1)}B` }),
    'a key of another length': changed({ key: KEY.slice(1) }),
    'an expiry without milliseconds': changed({ expires: '2026-11-30T08:15:00Z' }),
    'an expiry that is no day': changed({ expires: '2026-02-30T08:15:00.000Z' }),
    'stray bits of base64url': (() => {
      // 4 letters carry 3 bytes: pad the text until the last letter carries unused bits, and set one.
      let n = 1;
      while (canonicalJson({ ...code, institution: 'a'.repeat(n) }).length % 3 === 0) n++;
      const body = formatLinkCode({ ...code, institution: 'a'.repeat(n) }).split('.')[1] ?? '';
      const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_';
      const stray = `ob1.${body.slice(0, -1)}${alphabet[alphabet.indexOf(body.slice(-1)) + 1]}`;
      return `${stray}.${hash('sha256', stray, 'buffer').subarray(0, 6).toString('base64url')}`;
    })(),
    'a very long text': `ob1.${'A'.repeat(100_000)}`,
    'a good one after much white space': `${' '.repeat(2000)}${formatLinkCode(code)}`,
  };
  for (const [what, text] of Object.entries(bad)) assert.ok(isMalformed(text), what);
});

test('secrets are 128 bits and never the same; every member is in the hash', () => {
  const codes = Array.from({ length: 500 }, make);
  assert.equal(new Set(codes.map((code) => code.secret)).size, codes.length);
  assert.equal(new Set(codes.map((code) => code.link)).size, codes.length);
  for (const code of codes) assert.equal(Buffer.from(code.secret, 'base64url').length, 16);
  const code = make();
  const others: Partial<LinkCode>[] = [
    { clinician: newId('mem') },
    { expires: '2027-11-30T08:15:00.250Z' },
    { institution: newId('inst') },
    { key: `${KEY.slice(0, -1)}w` },
    { link: newId('lnk') },
    { secret: Buffer.alloc(16, 7).toString('base64url') },
  ];
  const hashes = [code, ...others.map((change) => ({ ...code, ...change }))].map(secretHash);
  assert.equal(new Set(hashes).size, 7);
  for (const one of hashes) assert.match(one, /^[0-9a-f]{64}$/);
});

test('nothing is made of names that are none of the ledger', () => {
  for (const change of [{ institution: 'St. Mary' }, { clinician: 'mem/1' }, { key: 'x' }]) {
    const of = { institution: newId('inst'), clinician: newId('mem'), key: KEY, expires: new Date(0), ...change };
    assert.throws(() => makeLinkCode(of), { code: 'LINK_MALFORMED' });
  }
});
