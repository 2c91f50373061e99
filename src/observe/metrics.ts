import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';
import { within } from './within.ts';

/** What is measured of every part; names and labels hold no patient, no id and no URL. */
export interface Metrics {
  registry: Registry;
  onRequest(observed: { method: string; route: string; status: number; seconds: number }): void;
  /** Records by source, stream and outcome (`taken`, `skip:…`, `quarantine:…`). */
  onIntake(source: string, stream: string, outcomes: Readonly<Record<string, number>>): void;
  onFiled(count: number): void;
  onSettled(state: string, count: number): void;
  onAlarm(kind: string): void;
}

/** Readings taken when the metrics are asked for. */
export interface Readings {
  outboxDepth(): Promise<{ depth: number; oldestSeconds: number }>;
  queueDepth(): Promise<{ waiting: number; active: number; delayed: number; failed: number }>;
  ledgerKind: string;
  ledgerHeight(): Promise<number>;
  /** By name; false: its breaker is open, and it is not asked. */
  ledgerPeers(): ReadonlyMap<string, boolean>;
  /** Alarms on record that nobody has cleared. */
  openAlarms(): Promise<readonly { kind: string; count: number }[]>;
  /** What needs no ledger to answer. */
  projection(): Promise<{ height: number; ageMs: number | null }>;
  /** Links with patients of other institutions that wait for a person. */
  linksHeld(): Promise<number>;
  configHash: string;
}

/** A ledger that hangs must not let the scrape run into its own limit. */
const READ_MS = 3000;

export function createMetrics(readings: Readings): Metrics {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry, prefix: 'oncobridge_' });
  const registers = [registry];
  const requests = new Histogram({
    name: 'oncobridge_http_request_seconds',
    help: 'Requests to the facade by route pattern',
    labelNames: ['method', 'route', 'status'] as const,
    buckets: [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2],
    registers,
  });
  const records = new Counter({
    name: 'oncobridge_records_total',
    help: 'Record versions by outcome',
    labelNames: ['source', 'stream', 'outcome'] as const,
    registers,
  });
  const filed = new Counter({ name: 'oncobridge_documents_filed_total', help: 'Document versions filed', registers });
  const settled = new Counter({
    name: 'oncobridge_outbox_settled_total',
    help: 'Outbox rows settled, by state',
    labelNames: ['state'] as const,
    registers,
  });
  const alarms = new Counter({ name: 'oncobridge_alarms_total', help: 'Alarms by kind', labelNames: ['kind'] as const, registers });
  const gauge = (name: string, help: string, read: () => Promise<number>): Gauge =>
    new Gauge({
      name,
      help,
      registers,
      async collect() {
        // A part that is away must not hide the others' readings.
        this.set(await within(READ_MS, read()).catch(() => Number.NaN));
      },
    });
  gauge('oncobridge_outbox_depth', 'Outbox rows not settled', async () => (await readings.outboxDepth()).depth);
  gauge('oncobridge_outbox_oldest_seconds', 'Age of the oldest unsettled row', async () => (await readings.outboxDepth()).oldestSeconds);
  gauge('oncobridge_queue_waiting', 'Jobs waiting', async () => (await readings.queueDepth()).waiting);
  gauge('oncobridge_queue_failed', 'Jobs failed', async () => (await readings.queueDepth()).failed);
  gauge('oncobridge_ledger_height', 'Blocks on the ledger', () => readings.ledgerHeight());
  gauge('oncobridge_ledger_projected', 'Blocks applied to the projection', async () => (await readings.projection()).height);
  gauge('oncobridge_ledger_view_age_seconds', 'Age of the newest own transaction that came back', async () => {
    const { ageMs } = await readings.projection();
    return ageMs === null ? Number.NaN : ageMs / 1000;
  });
  gauge('oncobridge_links_held', 'Links with patients of other institutions that wait for a person', () => readings.linksHeld());
  const open: Gauge = new Gauge({
    name: 'oncobridge_ledger_alarms_open',
    help: 'Alarms of the ledger and of the view of it that nobody has cleared, by kind',
    labelNames: ['kind'] as const,
    registers,
    async collect() {
      const found = await within(READ_MS, readings.openAlarms()).catch(() => undefined);
      open.reset();
      for (const { kind, count } of found ?? []) open.set({ kind }, count);
    },
  });
  new Gauge({ name: 'oncobridge_ledger_info', help: 'Kind of ledger', labelNames: ['kind'] as const, registers }).set(
    { kind: readings.ledgerKind },
    1,
  );
  const peers: Gauge = new Gauge({
    name: 'oncobridge_ledger_peer_up',
    help: 'Peers of the own organisation; 0 while the breaker of one is open',
    labelNames: ['peer'] as const,
    registers: [],
    collect() {
      for (const [peer, isAsked] of readings.ledgerPeers()) peers.set({ peer }, isAsked ? 1 : 0);
    },
  });
  registry.registerMetric(peers);
  new Gauge({ name: 'oncobridge_config_info', help: 'Hash of the running configuration', labelNames: ['hash'] as const, registers }).set(
    { hash: readings.configHash },
    1,
  );

  return {
    registry,
    onRequest: ({ method, route, status, seconds }) => requests.observe({ method, route, status: String(status) }, seconds),
    onIntake(source, stream, outcomes) {
      for (const [outcome, count] of Object.entries(outcomes)) records.inc({ source, stream, outcome }, count);
    },
    onFiled: (count) => filed.inc(count),
    onSettled: (state, count) => settled.inc({ state }, count),
    onAlarm: (kind) => alarms.inc({ kind }),
  };
}
