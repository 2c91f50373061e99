import type { Router } from 'express';
import type { Audit } from '../audit/audit.ts';
import type { Actor } from '../auth/actor.ts';
import type { Interaction } from '../auth/scopes.ts';
import type { Directories } from '../membership/directory.ts';
import type { Carrier } from '../outbox/await-commit.ts';
import type { Links } from '../sharing/links.ts';
import type { Database } from '../store/database.ts';
import type { Custodian } from '../vault/custodian.ts';
import { createCarrying } from './carrying.ts';
import { type Claim, createClaim } from './claim.ts';
import type { KeptEnvelopes } from './kept-envelopes.ts';
import { createDeviceRouter } from './router.ts';
import { createStateReading, type StateReading } from './state.ts';
import { createStatements, type Statements } from './statements.ts';

export interface Device {
  /** Mount it at `/device`. Errors go on to the error middleware of the server. */
  router: Router;
  /** The operations, callable without HTTP. */
  operations: { statements: Statements; claim: Claim; state: StateReading };
  /** Envelopes that nothing names any more, and what statements that were refused late left behind. */
  sweep(): Promise<void>;
}

export interface DeviceParts extends Carrier {
  database: Database;
  envelopes: KeptEnvelopes;
  custodian: Custodian;
  ledgerId: string;
  /** MSP of this institution, as it stands on the ledger. */
  msp: string;
  audit: Pick<Audit, 'record'>;
  directories: Pick<Directories, 'holding'>;
  links: Pick<Links, 'makeCode'>;
  verifyToken(token: string): Promise<Actor>;
  allows(actor: Actor, resource: string, interaction: Interaction): boolean;
  fresh(): Promise<boolean>;
  /** Statements a minute and address; 0: no limit. */
  statementsPerMinute: number;
  /** How long an answer waits for the ledger before it says that the statement is on its way. Default 10 s. */
  waitMs?: number;
  now?: () => Date;
}

/** What patients who hold their own keys sign on their device: taken in, checked by the contract itself, carried to the ledger. */
export function createDevice(parts: DeviceParts): Device {
  const { envelopes, custodian, audit } = parts;
  const { institution } = custodian;
  const now = parts.now ?? (() => new Date());
  const carrying = createCarrying({ ...parts, waitMs: parts.waitMs ?? 10_000 });
  const statements = createStatements({ ...parts, institution, carrying, now });
  const claim = createClaim({ ...parts, carrying, now });
  const state = createStateReading({ ...parts, institution });
  return {
    router: createDeviceRouter({ ...parts, institution, statements, claim, state, audit }),
    operations: { statements, claim, state },
    async sweep() {
      await carrying.sweep();
      await envelopes.sweep();
    },
  };
}
