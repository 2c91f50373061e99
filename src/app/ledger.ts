import type { ServerConfig } from '../config/schema.ts';
import { CodedError, codeOf } from '../errors.ts';
import { LEDGER } from '../ledger/contract/keys.ts';
import type { LedgerState } from '../ledger/contract/state.ts';
import { createDefinitionGuard, type DefinitionGuard } from '../ledger/definition-guard.ts';
import { createEmbeddedLedger, type EmbeddedLedgerOptions } from '../ledger/embedded/embedded-ledger.ts';
import { foundLedger } from '../ledger/embedded/first-start.ts';
import type { FabricEvent } from '../ledger/fabric/fabric-ledger.ts';
import type { Ledger } from '../ledger/ledger.ts';
import type { Projection } from '../ledger/projection.ts';
import type { Alarm } from '../ledger/projection-alarms.ts';
import { projectedState } from '../ledger/projection-state.ts';
import { checkChannelProjection, checkProjection } from '../ledger/self-check.ts';
import { type VerifyReport, verifyLedger } from '../ledger/verify.ts';
import { verifyChannel } from '../ledger/verify-channel.ts';
import type { Database } from '../store/database.ts';
import type { Custodian } from '../vault/custodian.ts';
import { fabricConnection } from './fabric-connection.ts';

/** The ledger that the configuration names, with all that differs by its kind: nobody else asks which it is. */
export interface OpenedLedger {
  ledger: Ledger;
  ledgerId: string;
  msp: string;
  /** Jobs of the ledger writer at once, each of up to sixteen batches. */
  concurrency: number;
  definitions?: DefinitionGuard;
  /** Peers that it is reached by; none of the embedded one. */
  peers: readonly string[];
  /** Runs everything again and compares. */
  verify(): Promise<VerifyReport>;
  /** The cheap part of it, for the running server; raises the alarm itself. */
  check(options: { signal: AbortSignal; onAlarm(alarm: Alarm): void }): Promise<unknown>;
}

interface LedgerParts {
  server: ServerConfig;
  tipFile: string;
  database: Database;
  custodian: Custodian;
  onError(error: Error): void;
  onEvent(event: FabricEvent): void;
}

/** The embedded one is founded here, at its first start; a Fabric channel's by a command. LEDGER_UNPINNED where none is named. */
export async function openLedger(parts: LedgerParts): Promise<OpenedLedger> {
  return parts.server.ledger.kind === 'embedded' ? openEmbedded(parts) : openFabric(parts);
}

async function openEmbedded({ tipFile, database, custodian, onError }: LedgerParts): Promise<OpenedLedger> {
  const { institution } = custodian;
  const { signing, encryption } = await custodian.institutionKeys();
  const msp = `${institution}-msp`;
  const sign: EmbeddedLedgerOptions['sign'] = (bytes, publicKey) => custodian.signBytes(bytes, publicKey);
  const ledger = await createEmbeddedLedger({ database, tipFile, institution, msp, publicKey: signing, sign, onError });
  try {
    const signAsInstitution = (typ: string, payload: string): Promise<string> => custodian.signAsInstitution(typ, payload);
    await foundLedger({ ledger, institution, msp, keys: { signing, encryption }, signAsInstitution });
    const { ledgerId } = await ledger.info();
    return {
      ledger,
      ledgerId,
      msp,
      // What is submitted at once shares a block: its signature, its commit and its line in the tip file.
      concurrency: 8,
      peers: [],
      verify: () => verifyLedger({ database, tipFile }),
      check: (options) => checkProjection({ database, tipFile, ...options }),
    };
  } catch (error) {
    await ledger.close();
    throw error;
  }
}

async function openFabric({ server, database, onEvent }: LedgerParts): Promise<OpenedLedger> {
  const { connection, pinned } = fabricConnection(server);
  if (pinned === undefined) throw new CodedError('LEDGER_UNPINNED');
  // Only now: gRPC and its messages take their time to load.
  const { createFabricLedger } = await import('../ledger/fabric/fabric-ledger.ts');
  const ledger = await createFabricLedger({ connection, ledgerId: pinned, state: projectedState(database), onEvent });
  const { msp, chaincode, institution } = connection;
  return {
    ledger,
    ledgerId: pinned,
    msp,
    // Sixty-four batches under way fill the network (more would only wait longer), and four jobs leave none behind a slow one.
    concurrency: 4,
    definitions: createDefinitionGuard({ msp, chaincode, ledger }),
    peers: connection.peers.map((peer) => peer.name),
    verify: () => verifyChannel({ database, ledger, institution, msp }),
    check: (options) => checkChannelProjection({ database, ledger, institution, msp, ...options }),
  };
}

/** What the projected rows say of the ledger they follow. */
async function projectedLedgerId(database: Database): Promise<string | undefined> {
  const found = await projectedState(database).get(LEDGER);
  return found === undefined ? undefined : (JSON.parse(found.value) as LedgerState).ledger;
}

/**
 * Lets the projection catch up. A ledger that does not answer holds up only a first start: later the server comes up without it,
 * refuses what it cannot decide freshly, and goes on pulling. Throws LEDGER_OTHER where the rows or the channel are of another
 * ledger than the pinned one, LEDGER_NOT_FOUNDED where it is none yet.
 */
export async function startProjection(parts: {
  database: Database;
  projection: Projection;
  ledgerId: string;
  /** Settles with the first failure that the projection waits out instead of ending with it. */
  heldUp: Promise<unknown>;
  onError(error: Error): void;
}): Promise<void> {
  const { database, projection, ledgerId, heldUp } = parts;
  const other = (found: string): CodedError => new CodedError('LEDGER_OTHER', { diagnostics: `Here: ${found}; named: ${ledgerId}.` });
  const before = await projectedLedgerId(database);
  if (before !== undefined && before !== ledgerId) throw other(before);
  let failure: unknown;
  try {
    failure = await Promise.race([projection.start(), heldUp]);
  } catch (error) {
    failure = error;
  }
  const now = await projectedLedgerId(database);
  if (now !== undefined && now !== ledgerId) throw other(now);
  if (failure === undefined) {
    if (now === undefined) throw new CodedError('LEDGER_NOT_FOUNDED');
    return;
  }
  if (now === undefined || !WAITED_OUT.has(codeOf(failure) ?? '')) throw failure;
  parts.onError(failure as Error);
}

/** What ends without us: a network that comes back, a definition that is approved. */
const WAITED_OUT: ReadonlySet<string> = new Set(['LEDGER_UNAVAILABLE', 'LEDGER_UNKNOWN', 'LEDGER_DEFINITION']);
