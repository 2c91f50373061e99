import { createHash, createPrivateKey } from 'node:crypto';
import { createServer, type RequestListener, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import express from 'express';
import type { JWK } from 'jose';
import { ARIA_PROFILE, ARIA_SCOPES, createAriaTokenService } from './aria-api.ts';
import { clientKeyOf, createSmartSignIn, EHR_PROFILE, EHR_SCOPES } from './ehr.ts';
import { publishExtraPatients } from './extra-patients.ts';
import { extraReportDrafts } from './extra-reports.ts';
import { createFaults, type Fault } from './faults.ts';
import { type BinaryContent, createFhirServer, type LoggedRequest } from './fhir-server.ts';
import { createRecordStore, type Draft, type SourceName } from './record-store.ts';
import { courseDrafts } from './stories/courses.ts';
import { type OtherPatient, otherHospitalDrafts } from './stories/other-hospital.ts';
import { directoryDrafts, PEOPLE } from './stories/people.ts';
import { CORRECTIONS, STEPS, type StepName } from './stories/steps.ts';
import {
  breastCourse,
  leftOutCourses,
  PELVIS_FRACTIONS,
  pelvisCourse,
  revisedCourse,
  spineCourses,
  stoppedCourse,
  unstartedCourse,
} from './stories/story-courses.ts';
import { labDrafts } from './stories/story-labs.ts';
import { noteDrafts, noteFiles } from './stories/story-notes.ts';
import { type Truth, truthOf } from './truth.ts';

export interface SimulatorOptions {
  /** 0 or absent: any free port. */
  ports?: { aria?: number; ariaToken?: number; ehr?: number };
  /** Decides secrets, keys and the generated patients. */
  seed?: string;
  /** The simulated day, ISO 8601; not before the standard one, on which the stories begin. */
  today?: string;
  /** More patients for load and crash tests: per patient 18 records in the four streams, 4 subjects. */
  extraPatients?: number;
  /** Laboratory reports of persons of the stories beside those that the stories tell, for measuring. */
  extraReports?: Readonly<Partial<Record<keyof typeof PEOPLE, number>>>;
  /** Another hospital, which knows these persons of the stories by numbers of its own; none of the stories' records. */
  otherHospital?: readonly OtherPatient[];
}

export interface Simulator {
  aria: { baseUrl: string; tokenUrl: string; clientId: string; clientSecret: string; scopes: readonly string[] };
  ehr: {
    baseUrl: string;
    tokenUrl: string;
    clientId: string;
    privateKeyJwk: JWK;
    privateKeyPem: string;
    algorithm: 'ES384';
    scopes: readonly string[];
  };
  control: Control;
  /** What every record version is expected to become, at this moment. */
  truth(): Truth;
  close(): Promise<void>;
}

export interface Control {
  /** Lets one thing happen; the simulated clock moves on 20 minutes. Repeating a step does nothing (except course-advanced). */
  step(name: StepName): void;
  /** All corrections, in order: what a second pull must find exactly. */
  applyCorrections(): void;
  /** So many more generated patients, entered now; the simulated clock moves on 20 minutes. */
  admit(patients: number): void;
  /** So many more fractions of the pelvis course; at most 25 in all. Answers how many are given now. */
  advanceCourse(fractions?: number): number;
  /** The simulated time, ISO 8601. */
  now(): string;
  fault(fault: Fault): void;
  clearFaults(): void;
  /** How many faults have acted so far. */
  faultsActed(): number;
  /** Grants at most these scopes; undefined: all asked. */
  limitScopes(source: SourceName, scopes: readonly string[] | undefined): void;
  /** Makes every token handed out so far worthless. */
  expireTokens(source: SourceName): void;
  tokensIssued(source: SourceName): number;
  /** Requests to the two FHIR servers so far, newest last; at most 20,000 are kept. */
  requests(): readonly LoggedRequest[];
  forgetRequests(): void;
  /** What reached the stranger that foreign next links and redirects name; must stay empty. */
  strangerRequests(): readonly { url: string; authorization: boolean }[];
}

const STANDARD_TODAY = '2026-03-02T13:00:00Z';
const KEPT_REQUESTS = 20_000;
const STEP_MS = 20 * 60_000;

/** Starts an ARIA API, its token service and an EHR on the loopback interface. */
export async function createSimulator(options: SimulatorOptions = {}): Promise<Simulator> {
  const seed = options.seed ?? 'oncobridge';
  let extraPatients = options.extraPatients ?? 0;
  let nowMs = Date.parse(options.today ?? STANDARD_TODAY);
  if (!(nowMs >= Date.parse(STANDARD_TODAY))) throw new RangeError(`today must not be before ${STANDARD_TODAY}`);

  const stores = { aria: createRecordStore(), ehr: createRecordStore() };
  const binaries = { aria: new Map<string, BinaryContent>(), ehr: new Map<string, BinaryContent>() };
  const faults = createFaults();
  const requests: LoggedRequest[] = [];
  const strangerRequests: { url: string; authorization: boolean }[] = [];
  const log = (request: LoggedRequest) => {
    requests.push(request);
    if (requests.length > KEPT_REQUESTS) requests.splice(0, KEPT_REQUESTS / 2);
  };

  const clientSecret = createHash('sha256').update(`${seed} aria client secret`).digest('base64url');
  const ariaToken = createAriaTokenService({ seed, clientId: 'oncobridge', clientSecret, faults });
  const { privateJwk, publicJwk } = clientKeyOf(seed);
  const origins = { aria: '', ehr: '', stranger: '' };
  const smart = createSmartSignIn({ seed, clientId: 'oncobridge', publicJwk, faults, origin: () => origins.ehr });

  const fhir = (source: SourceName) =>
    createFhirServer({
      profile: source === 'aria' ? ARIA_PROFILE : EHR_PROFILE,
      store: stores[source],
      binaries: binaries[source],
      faults,
      authorise: (source === 'aria' ? ariaToken : smart).authorise,
      baseUrl: () => baseUrl(source),
      strangerUrl: () => origins.stranger,
      nowMs: () => nowMs,
      log,
    });
  const baseUrl = (source: SourceName) => `${origins[source]}${(source === 'aria' ? ARIA_PROFILE : EHR_PROFILE).path}`;

  const ehrApp = express();
  ehrApp.disable('x-powered-by');
  ehrApp.use(smart.app);
  ehrApp.use(fhir('ehr'));
  const stranger: RequestListener = (request, response) => {
    strangerRequests.push({ url: request.url ?? '', authorization: request.headers.authorization !== undefined });
    response.setHeader('Content-Type', 'application/fhir+json').end('{"resourceType":"Bundle","type":"searchset"}');
  };

  const servers: Server[] = [];
  const listen = async (handler: RequestListener, port = 0): Promise<number> => {
    const server = createServer(handler);
    servers.push(server);
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(port, '127.0.0.1', resolve);
    });
    return (server.address() as AddressInfo).port;
  };
  const close = async () => {
    await Promise.all(
      servers.map(async (server) => {
        const closed = new Promise((resolve) => server.close(resolve));
        server.closeAllConnections();
        await closed;
      }),
    );
  };
  let tokenPort = 0;
  try {
    origins.aria = `http://127.0.0.1:${await listen(fhir('aria'), options.ports?.aria)}`;
    tokenPort = await listen(ariaToken.app, options.ports?.ariaToken);
    origins.ehr = `http://127.0.0.1:${await listen(ehrApp, options.ports?.ehr)}`;
    origins.stranger = `http://localhost:${await listen(stranger)}`;
  } catch (error) {
    await close();
    throw error;
  }

  // -- the stories --
  const files = await noteFiles();
  const done = new Set<StepName>();
  const visits = new Map<string, number>();
  let fractions = 15;

  const drafts = (): Draft[] => {
    if (options.otherHospital !== undefined) return otherHospitalDrafts(options.otherHospital);
    const stopped = stoppedCourse();
    return [
      ...directoryDrafts(Object.values(PEOPLE), visits),
      ...labDrafts(done),
      ...noteDrafts(done, files, binaries, { aria: baseUrl('aria'), ehr: baseUrl('ehr') }),
      ...[
        breastCourse(),
        pelvisCourse(fractions, done.has('course-completed')),
        revisedCourse(),
        done.has('course-entered-in-error') ? { ...stopped, status: 'entered-in-error' as const } : stopped,
        unstartedCourse(),
        ...spineCourses(),
        ...leftOutCourses(),
      ].flatMap(courseDrafts),
    ];
  };
  /** Versions are opaque; ARIA shares a row version between records and gives treated phases and plans epoch milliseconds. */
  const versionOf = (draft: Draft, atMs: number): string => {
    const { resourceType, id } = draft.resource;
    if (draft.source === 'ehr') return createHash('sha256').update(`${resourceType}/${id}@${atMs}`).digest('hex').slice(0, 12);
    return id.startsWith('RadiotherapyTreated') ? String(atMs) : String(4_000_000 + (Math.floor(atMs / 60_000) % 1_000_000));
  };
  /** Publishes what differs from before: the first time everything, with the stamps of the stories; later with the clock's. */
  const tell = (first: boolean) => {
    for (const draft of drafts()) {
      const changedAt = first ? undefined : stamp(draft.source);
      stores[draft.source].put(draft, changedAt, (atMs) => versionOf(draft, atMs));
    }
  };
  const stamp = (source: SourceName): string =>
    source === 'ehr' ? new Date(nowMs).toISOString() : new Date(nowMs - 5 * 3_600_000).toISOString().replace('Z', '-05:00');
  tell(true);
  publishExtraPatients(extraPatients, seed, stores, versionOf);
  for (const [key, count = 0] of Object.entries(options.extraReports ?? {}) as [keyof typeof PEOPLE, number | undefined][])
    for (const draft of extraReportDrafts(PEOPLE[key], count)) stores.ehr.put(draft, undefined, (atMs) => versionOf(draft, atMs));

  const republish = (type: string, id: string, change: 'touch' | 'delete') => {
    const head = stores.ehr.head(type, id);
    if (!head) throw new Error('no such record');
    const lastUpdated = stamp('ehr');
    const versionId = createHash('sha256').update(`${type}/${id}@${nowMs}`).digest('hex').slice(0, 12);
    const body = head.body();
    const meta = { ...(body.meta as object), versionId, lastUpdated };
    stores.ehr.publish({
      ...head,
      versionId,
      lastUpdated,
      atMs: nowMs,
      body: () => ({ ...body, meta }),
      ...(change === 'delete' ? { deleted: true as const } : {}),
      ...(change === 'delete' && head.expect.outcome === 'own' ? { expect: { ...head.expect, withdraws: true as const } } : {}),
    });
  };
  const step = (name: StepName) => {
    if (done.has(name) && name !== 'course-advanced') return;
    nowMs += STEP_MS;
    done.add(name);
    for (const person of STEPS[name]) visits.set(person, (visits.get(person) ?? 0) + 1);
    if (name === 'course-advanced') {
      fractions = Math.min(fractions + 1, PELVIS_FRACTIONS);
      // A treatment is recorded after it was given.
      nowMs = Math.max(nowMs, Date.parse(pelvisCourse(fractions, false).end ?? '') + STEP_MS);
    }
    if (name === 'meta-touched') republish('Observation', 'obs-cbc-1043-718-7', 'touch');
    if (name === 'lab-deleted') {
      for (const one of ['2951-2', '2823-3', '2345-7']) republish('Observation', `obs-bmp-6001-${one}`, 'delete');
      republish('DiagnosticReport', 'rpt-bmp-6001', 'delete');
    }
    tell(false);
  };

  return {
    aria: {
      baseUrl: baseUrl('aria'),
      tokenUrl: `http://127.0.0.1:${tokenPort}/tokenservice/connect/token`,
      clientId: 'oncobridge',
      clientSecret,
      scopes: ARIA_SCOPES,
    },
    ehr: {
      baseUrl: baseUrl('ehr'),
      tokenUrl: `${origins.ehr}/oauth2/token`,
      clientId: 'oncobridge',
      privateKeyJwk: privateJwk,
      // The JWK's own type has more members than node's; the curve and numbers are the same.
      privateKeyPem: createPrivateKey({ key: { ...privateJwk }, format: 'jwk' })
        .export({ type: 'pkcs8', format: 'pem' })
        .toString(),
      algorithm: 'ES384',
      scopes: EHR_SCOPES,
    },
    control: {
      step,
      applyCorrections: () => CORRECTIONS.forEach(step),
      advanceCourse(more = 1) {
        for (let fraction = 0; fraction < more && fractions < PELVIS_FRACTIONS; fraction++) step('course-advanced');
        return fractions;
      },
      admit(patients) {
        nowMs += STEP_MS;
        const after = extraPatients;
        extraPatients += patients;
        publishExtraPatients(extraPatients, seed, stores, versionOf, { after, stamp });
      },
      now: () => new Date(nowMs).toISOString(),
      fault: faults.add,
      clearFaults: faults.clear,
      faultsActed: faults.acted,
      limitScopes: (source, scopes) => (source === 'aria' ? ariaToken : smart).limitScopes(scopes),
      expireTokens: (source) => (source === 'aria' ? ariaToken : smart).expireTokens(),
      tokensIssued: (source) => (source === 'aria' ? ariaToken : smart).issued(),
      requests: () => requests,
      forgetRequests: () => requests.splice(0),
      strangerRequests: () => strangerRequests,
    },
    truth: () => truthOf(stores, seed, extraPatients),
    close,
  };
}
