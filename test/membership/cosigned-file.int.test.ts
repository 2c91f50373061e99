import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { CodedError, codeOf } from '../../src/errors.ts';
import { institutionKey } from '../../src/ledger/contract/keys.ts';
import { findFounding, foundChannel } from '../../src/ledger/founding.ts';
import { projectedState } from '../../src/ledger/projection-state.ts';
import { type CosignedFile, cosignFile, makeJoinFile, submitFile } from '../../src/membership/cosigned-file.ts';
import { createLedgerWorld, type LedgerWorld } from '../consent/ledger-world.ts';

let home: LedgerWorld;
let newcomer: LedgerWorld;
before(async () => {
  [home, newcomer] = await Promise.all([createLedgerWorld(), createLedgerWorld()]);
});
after(async () => {
  await Promise.all([home.close(), newcomer.close()]);
});

const refused = (code: string, words: RegExp) => (error: unknown) =>
  error instanceof CodedError && error.code === code && words.test(error.detail.diagnostics ?? '');
const founder = async (world: LedgerWorld) => ({
  ledger: world.ledger,
  institution: world.institution,
  msp: world.msp,
  keys: await world.custodian.institutionKeys(),
  signAsInstitution: world.custodian.signAsInstitution,
});

test('a ledger is founded once: again by the founder says so, under another id or by another institution it is refused', async () => {
  const { ledger, ledgerId, institution } = home;
  const found = await findFounding(ledger);
  assert.deepEqual([found?.ledgerId, found?.founder, found?.block], [ledgerId, institution, 0]);
  const height = await ledger.height();
  for (const wanted of [ledgerId, undefined]) {
    const again = await foundChannel(await founder(home), wanted);
    assert.deepEqual([again.isNew, again.ledgerId, again.txId], [false, ledgerId, found?.txId]);
  }
  await assert.rejects(foundChannel(await founder(home), 'ledger-another'), refused('LEDGER_OTHER', new RegExp(ledgerId)));
  const stranger = { ...(await founder(home)), institution: newcomer.institution };
  await assert.rejects(foundChannel(stranger, undefined), refused('LEDGER_OTHER', new RegExp(institution)));
  assert.equal(await ledger.height(), height);
});

test('an institution joins: its statement, a sponsor who knows its key, and anybody who submits', async () => {
  const { custodian, ledger, ledgerId } = home;
  const file = await makeJoinFile({ custodian: newcomer.custodian, ledgerId, msp: 'NewcomerMSP' });
  assert.equal(file.signatures.length, 1);
  await assert.rejects(submitFile({ ledger, ledgerId }, file), (error) => ['LEDGER_REFUSED'].includes(codeOf(error) ?? ''));

  const cosign = (given: CosignedFile, thumbprint = given.thumbprint) => cosignFile({ custodian, ledgerId }, given, thumbprint);
  await assert.rejects(cosign(file, 'A'.repeat(43)), refused('BAD_REQUEST', /do not sign/));
  await assert.rejects(
    cosignFile({ custodian: newcomer.custodian, ledgerId }, file, file.thumbprint),
    refused('BAD_REQUEST', /own sponsor/),
  );
  await assert.rejects(
    cosignFile({ custodian, ledgerId: 'ledger-another' }, file, file.thumbprint),
    refused('BAD_REQUEST', /LEDGER_OTHER/),
  );
  // What a person reads must be what was signed.
  await assert.rejects(cosign({ ...file, msp: 'OtherMSP' }), refused('BAD_REQUEST', /not what was signed/));
  await assert.rejects(cosign({ ...file, signatures: [`${file.signatures[0]}x`] }), refused('BAD_REQUEST', /JWS_/));
  await assert.rejects(cosign({ ...file, signatures: 'none' as unknown as string[] }), refused('BAD_REQUEST', /no file of/));

  const signed = await cosign(file);
  assert.equal(signed.signatures.length, 2);
  // Signed again it has one signature of each.
  assert.equal((await cosign(signed)).signatures.length, 2);
  const { block } = await submitFile({ ledger, ledgerId }, JSON.parse(JSON.stringify(signed)) as CosignedFile);
  assert.ok(await home.projected(block, 5000));
  const state = await projectedState(home.database).get(institutionKey(newcomer.institution));
  assert.equal((JSON.parse(state?.value ?? '{}') as { msp?: string }).msp, 'NewcomerMSP');
  await assert.rejects(submitFile({ ledger, ledgerId }, signed), refused('LEDGER_REFUSED', /INSTITUTION_EXISTS/));
});
