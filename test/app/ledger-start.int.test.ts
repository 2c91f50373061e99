import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { startProjection } from '../../src/app/ledger.ts';
import { CodedError, type ErrorCode } from '../../src/errors.ts';
import type { Projection } from '../../src/ledger/projection.ts';
import { createLedgerWorld, type LedgerWorld } from '../consent/ledger-world.ts';
import { withTestDatabase } from '../store/test-database.ts';

let world: LedgerWorld;
before(async () => {
  world = await createLedgerWorld();
});
after(() => world.close());

/** How a start of the projection goes that fails, or is held up, with this code. */
async function started(options: { known: boolean; rejects?: ErrorCode; heldUp?: ErrorCode; ledgerId?: string }): Promise<string> {
  const { known, rejects, heldUp } = options;
  const database = known ? world.database : (await withTestDatabase()).database;
  const start = (): Promise<void> => (rejects === undefined ? new Promise(() => {}) : Promise.reject(new CodedError(rejects)));
  const noted: string[] = [];
  try {
    await startProjection({
      database,
      projection: { ...world.projection, start } satisfies Projection,
      ledgerId: options.ledgerId ?? world.ledgerId,
      heldUp: heldUp === undefined ? new Promise(() => {}) : Promise.resolve(new CodedError(heldUp)),
      onError: (error) => void noted.push((error as CodedError).code),
    });
    return `comes up, noted ${noted.join()}`;
  } catch (error) {
    return `ends with ${(error as CodedError).code}`;
  }
}

test('a ledger that is away or waits for an approval holds up only a first start', async () => {
  assert.equal(await started({ known: true, rejects: 'LEDGER_UNAVAILABLE' }), 'comes up, noted LEDGER_UNAVAILABLE');
  assert.equal(await started({ known: true, heldUp: 'LEDGER_DEFINITION' }), 'comes up, noted LEDGER_DEFINITION');
  assert.equal(await started({ known: false, rejects: 'LEDGER_UNAVAILABLE' }), 'ends with LEDGER_UNAVAILABLE');
  assert.equal(await started({ known: false, heldUp: 'LEDGER_DEFINITION' }), 'ends with LEDGER_DEFINITION');
  // Not what another attempt makes good.
  assert.equal(await started({ known: true, rejects: 'LEDGER_CORRUPT' }), 'ends with LEDGER_CORRUPT');
  assert.equal(await started({ known: true, rejects: 'LEDGER_UNAVAILABLE', ledgerId: 'ledger-another' }), 'ends with LEDGER_OTHER');
});
