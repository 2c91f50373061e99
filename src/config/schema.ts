import { z } from 'zod';
import { isReferenced, stripReference } from './references.ts';

/**
 * The one schema of every configuration file. The descriptions generate docs/configuration.md and config/schema/*.json;
 * unknown keys are refused everywhere.
 */

const text = () => z.string().overwrite(stripReference).min(1);
/** A secret must come by reference, never as a literal in a file that lies in version control. */
const secret = () =>
  z
    .string()
    .refine(isReferenced, { error: 'a secret must be a reference: "${env:NAME}" or "${file:path}"' })
    .overwrite(stripReference)
    .min(1);
const UNITS_MS: Record<string, number> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/** A duration such as `150s`, `5m`, `1d`; read as milliseconds. */
export function parseDurationMs(value: string): number {
  const match = /^(\d+)(ms|s|m|h|d)$/.exec(value);
  if (!match) throw new TypeError(`not a duration: ${value}`);
  return Number(match[1]) * (UNITS_MS[match[2] ?? ''] ?? 0);
}
const duration = () =>
  z
    .string()
    .overwrite(stripReference)
    .regex(/^\d+(ms|s|m|h|d)$/, 'a duration such as "150s", "5m", "1d"');
/** How often something happens: not all the time, and within what a timer can count (24 days). */
const interval = () =>
  duration().refine((value) => {
    const ms = /^\d+(ms|s|m|h|d)$/.test(value) ? parseDurationMs(value) : 1000;
    return ms >= 1000 && ms <= 24 * 86_400_000;
  }, 'between "1s" and "24d"');
const port = () => z.int().min(0).max(65535);
const id = () => z.string().regex(/^[a-z][a-z0-9-]{0,39}$/, 'lower-case letters, digits and hyphens, at most 40');
const url = () =>
  z
    .string()
    .overwrite(stripReference)
    .regex(/^https?:\/\/[^\s]+$/, 'an http(s) URL');

/** Objects are sealed and checked; their names and the credential's session are not for everybody on the way. */
function isSecureOrLoopback(value: string): boolean {
  if (!URL.canParse(value)) return false;
  const { protocol, hostname, pathname, search, username } = new URL(value);
  const loopback = hostname === 'localhost' || hostname === '[::1]' || /^127(\.\d{1,3}){3}$/.test(hostname);
  return (protocol === 'https:' || loopback) && pathname === '/' && search === '' && username === '';
}

/** Public, but as a file of its own: it is renewed by those who issue it. */
const certificate = () =>
  z
    .string()
    .overwrite(stripReference)
    .regex(/-----BEGIN CERTIFICATE-----[\s\S]+-----END CERTIFICATE-----/, 'a certificate in PEM: "${file:path}" or "${env:NAME}"');
const anchorEvery = () => interval().default('60s').describe('How often the audit is anchored on the ledger; also the heartbeat.');

export const serverSchema = z.strictObject({
  schemaVersion: z.literal(1).describe('Version of this file format.'),
  data: text().describe('Directory for everything that oncobridge keeps itself, relative to this file.'),
  institution: z.strictObject({
    name: text().describe('Name of the department or hospital, as printed on every PDF.'),
    zone: text().describe('IANA time zone in which PDFs print times, e.g. America/New_York.'),
    id: z
      .string()
      .overwrite(stripReference)
      .regex(/^inst-[a-z2-7]{26}$/, '"inst-" and 26 characters of base32; `oncobridge config institution-id` makes one')
      .optional()
      .describe(
        'Opaque id on the ledger. Embedded ledger: made at the first start where absent. Fabric: required, and the certificate names it too.',
      ),
  }),
  database: z
    .discriminatedUnion('kind', [
      z.strictObject({ kind: z.literal('embedded') }),
      z.strictObject({ kind: z.literal('postgres'), url: secret().describe('postgres:// URL, by reference.') }),
    ])
    .describe('embedded: PostgreSQL from npm as our own child. postgres: a server of yours.'),
  queue: z
    .discriminatedUnion('kind', [
      z.strictObject({ kind: z.literal('postgres') }),
      z.strictObject({
        kind: z.literal('redis'),
        url: secret().describe('redis:// URL, by reference; maxmemory-policy must be noeviction.'),
      }),
    ])
    .describe('Transport of jobs (BullMQ); the outbox in the database is the truth.'),
  blobs: z
    .discriminatedUnion('kind', [
      z.strictObject({ kind: z.literal('files'), directory: text().optional().describe('Default: blobs under `data`.') }),
      z.strictObject({
        kind: z.literal('s3'),
        endpoint: url()
          .refine((value) => isSecureOrLoopback(value), 'https, or http to loopback, and nothing after host and port')
          .describe('https://host[:port] of the store, without the bucket.'),
        region: text().default('us-east-1').describe('Region, as the store signs it.'),
        bucket: z
          .string()
          .overwrite(stripReference)
          .regex(/^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$/, 'the name of a bucket')
          .describe('Bucket, which all institutions share.'),
        prefix: z
          .string()
          .overwrite(stripReference)
          .regex(/^([a-z0-9][a-z0-9_-]*\/)+$/, 'lower-case folders, each with its "/": "oncobridge/"')
          .optional()
          .describe('Folder in the bucket, the same for every institution. Below it every institution has a prefix of its own id.'),
        addressing: z.enum(['path', 'virtual-host']).default('path').describe('path: endpoint/bucket. virtual-host: bucket.endpoint.'),
        accessKeyId: secret().describe('Access key id of this institution, by reference.'),
        secretAccessKey: secret().describe('Its secret, by reference.'),
        sessionToken: secret().optional().describe('Of a temporary credential, by reference; a new one needs a new start.'),
        tlsRootCertificate: certificate()
          .optional()
          .describe("The store's own TLS root (PEM, by reference), beside those that Node knows."),
        timeout: duration().default('30s').describe('Of one object with all attempts; a second more for every MiB.'),
        attempts: z.int().min(1).max(10).default(4).describe('How often one request is sent.'),
        maxObjectBytes: z.int().min(1_000_000).default(512_000_000).describe('A larger object of another institution is not read.'),
      }),
    ])
    .describe(
      'Where sealed objects lie. files: a directory here. s3: a store that institutions share ([shared-store.md](shared-store.md)).',
    ),
  ledger: z
    .discriminatedUnion('kind', [
      z.strictObject({
        kind: z.literal('embedded'),
        anchorEvery: anchorEvery(),
      }),
      z.strictObject({
        kind: z.literal('fabric'),
        id: z
          .string()
          .overwrite(stripReference)
          .regex(/^[a-z0-9][a-z0-9-]{7,63}$/, 'a ledger id, as `oncobridge ledger found` prints it')
          .optional()
          .describe('Id of the ledger, pinned: what `oncobridge ledger found` printed at the founder. Every signature binds it.'),
        channel: text().default('oncobridge').describe('Channel.'),
        chaincode: text().default('oncobridge').describe('Name of the committed chaincode definition.'),
        msp: text().describe('MSP id of the own organisation.'),
        certificate: certificate().describe(
          'Gateway certificate (PEM, by reference), OU client, with the attribute `oncobridge.institution`.',
        ),
        privateKey: secret().describe('Its private key (PEM), by reference.'),
        peers: z
          .array(
            z.strictObject({
              name: text().optional().describe('As shown in status and metrics; default: the endpoint.'),
              endpoint: z
                .string()
                .overwrite(stripReference)
                .regex(/^[A-Za-z0-9.-]+:\d{1,5}$/, 'host:port')
                .describe('host:port of a peer of the own organisation.'),
              tlsRootCertificate: certificate().describe("TLS root of the peer's certificate (PEM, by reference)."),
              serverName: text().optional().describe('Host that its certificate names, where the endpoint is another.'),
              clientCertificate: certificate()
                .optional()
                .describe('Mutual TLS: our certificate (PEM, by reference), where the peer asks for one.'),
              clientKey: secret().optional().describe('Mutual TLS: its private key (PEM), by reference.'),
            }),
          )
          .min(1)
          .describe('Peers of the own organisation, tried in this order.'),
        deadlines: z
          .strictObject({
            evaluate: duration().default('5s').describe('Of a query.'),
            endorse: duration().default('15s').describe("Above the peer's `peer.gateway.endorsementTimeout`."),
            submit: duration()
              .default('15s')
              .describe("Above the peer's `peer.gateway.broadcastTimeout`, so that it may try another orderer."),
            commit: duration()
              .default('30s')
              .describe('Wait for the commit; past it the status is asked and the same bytes are sent again.'),
          })
          .prefault({})
          .describe('How long one call may take.'),
        anchorEvery: anchorEvery(),
      }),
    ])
    .describe('embedded: the contract over PostgreSQL, one node, no consensus. fabric: Hyperledger Fabric, several institutions.'),
  custodian: z
    .discriminatedUnion('kind', [
      z.strictObject({
        kind: z.literal('file'),
        passphrase: secret().describe('Passphrase of the key store, by reference.'),
        makePassphrase: z
          .boolean()
          .default(false)
          .describe('Make the passphrase file at the first start. For trials; a production site keeps it elsewhere.'),
      }),
    ])
    .describe("Keeper of the institution's keys."),
  http: z.strictObject({
    host: text().default('127.0.0.1').describe('Address to listen on; loopback unless you say otherwise.'),
    port: port().default(8480).describe('Port of the FHIR facade; 0 takes a free one.'),
    publicUrl: url().optional().describe('How clients reach us, where a proxy stands before; default http://host:port.'),
    requestsPerMinute: z.int().min(1).default(6000).describe('Limit per client address.'),
  }),
  operations: z.strictObject({
    port: port().default(8481).describe('Loopback port of livez, readyz and metrics; 0 takes a free one.'),
  }),
  auth: z.strictObject({
    issuer: z.literal('development').describe('The built-in development issuer.'),
    userTokenLifetime: duration().default('1h').describe('Life of a token of `oncobridge token`.'),
  }),
  consent: z.strictObject({
    implicitPolicy: z
      .literal('deny')
      .describe('What holds where no permission says anything. The treating department reads in ARIA itself.'),
    maxStaleness: duration().default('150s').describe('Past this age of the ledger view every read is answered 503.'),
  }),
  search: z
    .strictObject({ maxPinned: z.int().min(1).max(1000).default(50).describe('Patients that a search over sealed values may open.') })
    .prefault({}),
  outbox: z
    .strictObject({
      batch: z.int().min(1).max(200).default(50).describe('Entries in one ledger transaction.'),
      highWater: z.int().min(1).default(5000).describe('Unsettled rows at which pulls wait.'),
      lowWater: z.int().min(0).default(2000).describe('Unsettled rows at which pulls go on.'),
    })
    .prefault({}),
  pipeline: z
    .strictObject({
      renderThreads: z.int().min(1).max(32).default(2).describe('Worker threads that render PDFs.'),
      wrongPatientDelay: duration()
        .default('0s')
        .describe('How long the right document of a moved record waits, so that nobody links the two patients by time.'),
      page: z.enum(['A4', 'Letter']).default('A4').describe('Paper of the PDFs.'),
    })
    .prefault({}),
  patients: z.strictObject({
    authorities: z
      .array(
        z.strictObject({
          id: id().describe('Name of the authority in this config.'),
          display: text().describe('As printed beside the number, e.g. "MRN, Example Hospital".'),
          systems: z.array(text()).min(1).describe('Identifier systems that this authority uses at the sources.'),
        }),
      )
      .min(1)
      .describe('Patients are matched by these identifiers and by nothing else.'),
    excludeTestPatients: z.boolean().default(true).describe('Skip persons that a source marks as test patients.'),
  }),
  device: z
    .strictObject({
      maxBytesPerPatient: z
        .int()
        .min(100_000)
        .default(20_000_000)
        .describe('Bytes kept here in envelopes of one patient; a statement that brings more is refused, a revocation brings none.'),
      maxBytesPerPatientADay: z.int().min(100_000).default(5_000_000).describe('The same, of what comes within a day.'),
      maxBytesPerInstitution: z
        .int()
        .min(100_000)
        .default(200_000_000)
        .describe('Bytes kept here in envelopes of all patients of one other institution.'),
      maxBytesPerInstitutionADay: z.int().min(100_000).default(20_000_000).describe('The same, of what comes within a day.'),
    })
    .prefault({}),
  sharing: z
    .strictObject({
      maxPatients: z
        .int()
        .min(1)
        .default(10_000)
        .describe('Linked patients of one other institution of whom something is kept here; more wait.'),
      maxDocumentsPerPatient: z.int().min(1).default(5000).describe('Documents kept of one such patient; more wait, and raise an alarm.'),
      maxBytesPerPatient: z.int().min(1).default(2_000_000_000).describe('Bytes of sealed objects kept of one such patient.'),
      maxObjectBytes: z
        .int()
        .min(1)
        .max(2_000_000_000)
        .default(100_000_000)
        .describe('A larger object of another institution is not fetched.'),
      maxPendingPerInstitution: z
        .int()
        .min(1)
        .default(1000)
        .describe(
          'Categories granted by patients of one other institution that may wait here for a linking code; more are looked at later.',
        ),
      retryFirst: duration().default('1s').describe('After a failed fetch; doubles with each further one.'),
      retryMost: duration().default('5m').describe('At most so long between two tries.'),
      maxAttempts: z
        .int()
        .min(1)
        .max(100)
        .default(8)
        .describe('After so many an object counts as missing: an alarm, and a try every `retryMissing`.'),
      retryMissing: duration().default('30m').describe('Between tries of what is missing or was refused.'),
    })
    .prefault({})
    .describe("What patients of other institutions share with this one: limits, so that no other institution's flood is ours."),
  categories: z
    .array(
      z.strictObject({
        id: id().describe('Category id: on the ledger, in permissions.'),
        title: text().describe('Title of its PDFs.'),
        layout: z.enum(['laboratory', 'history-and-physical', 'radiation-dose']).describe('PDF layout.'),
        loinc: z
          .string()
          .regex(/^\d{1,5}-\d$/)
          .describe('LOINC document type of its DocumentReference.'),
      }),
    )
    .min(1)
    .describe('The registry of categories.'),
  sources: z.array(text()).describe('Source files, relative to this file. A source that is not listed does nothing.'),
});

const ruleSchema = z.strictObject({
  id: id().describe('Shown in logs, metrics and explanations.'),
  when: z
    .strictObject({
      type: z.array(text()).optional().describe('Resource types.'),
      code: z.array(text()).optional().describe('`system|code` of code or type.'),
      category: z.array(text()).optional().describe('`system|code` of category.'),
      fhirpath: text().optional().describe('FHIRPath that must be true.'),
    })
    .describe('All that is given must hold.'),
  category: id().optional().describe('File the record under this category.'),
  skip: text().optional().describe('Skip it with this reason code.'),
  quarantine: text().optional().describe('Hold it for a person with this reason code.'),
});

const streamSchema = z.strictObject({
  id: id(),
  strategy: z
    .enum(['last-updated', 'patient-sweep'])
    .describe('last-updated: search by _lastUpdated. patient-sweep: find patients, then read each.'),
  search: z.array(text()).default([]).describe('Searches such as `Observation?category=laboratory`.'),
  discover: text().optional().describe('patient-sweep: the search that finds patients, e.g. `Appointment`.'),
  perPatient: z.array(text()).default([]).describe('patient-sweep: one request each, per patient.'),
  lookback: duration().default('10m').describe('Overlap re-read at each pull.'),
  initialSince: z
    .string()
    .regex(/^\d{4}-\d{2}-\d{2}/)
    .optional()
    .describe('How far back the first pull goes.'),
  pageSize: z.int().min(1).max(1000).default(100),
  rescan: z
    .int()
    .min(0)
    .max(100_000)
    .default(0)
    .describe('last-updated: known patients read anew at each pull, in rotation; finds what was deleted without a word.'),
  follow: z
    .array(z.enum(['Patient', 'Practitioner', 'Organization']))
    .default(['Patient', 'Practitioner', 'Organization'])
    .describe('Referenced resources to fetch too.'),
  attachments: z.boolean().default(false).describe('Fetch attachments of documents.'),
  use: z
    .array(z.enum(['us-core-laboratory', 'codex-radiotherapy', 'clinical-notes']))
    .default([])
    .describe('Built-in rules, after your own.'),
  rules: z.array(ruleSchema).default([]).describe('First match wins.'),
  documentTypes: z
    .array(z.strictObject({ code: text(), loinc: z.string().optional(), category: id() }))
    .default([])
    .describe('Local document types: `system|code` to category.'),
  default: z.enum(['quarantine', 'skip']).describe('What happens to a record that no rule names.'),
});

export const sourceSchema = z.strictObject({
  schemaVersion: z.literal(1),
  id: id(),
  kind: z.enum(['fhir', 'aria']).describe('fhir: any FHIR R4 server. aria: the ARIA API profile on top of it.'),
  enabled: z.boolean().default(true),
  baseUrl: url().describe('FHIR base of the source.'),
  owner: text().optional().describe('Whom to call.'),
  auth: z.discriminatedUnion('kind', [
    z.strictObject({ kind: z.literal('none') }),
    z.strictObject({
      kind: z.literal('client-credentials'),
      tokenUrl: url(),
      clientId: text(),
      secret: secret(),
      scopes: z.array(text()).min(1),
    }),
    z.strictObject({
      kind: z.literal('smart-backend'),
      tokenUrl: url().optional().describe('Default: from SMART discovery.'),
      clientId: text(),
      key: secret().describe('Private key as JWK or PEM, by reference.'),
      algorithm: z.enum(['ES384', 'RS384']).default('ES384'),
      scopes: z.array(text()).min(1),
    }),
  ]),
  tls: z.strictObject({ ca: text().describe('PEM bundle of the internal authority, relative to this file.') }).optional(),
  allowedOrigins: z.array(url()).default([]).describe('Further origins that links and attachments may name.'),
  limits: z
    .strictObject({
      requestsPerSecond: z.number().positive().default(20),
      concurrency: z.int().min(1).max(32).default(2),
      timeout: duration().default('20s'),
      attempts: z.int().min(1).max(10).default(4),
      maxPageBytes: z.int().min(1000).default(50_000_000),
      maxAttachmentBytes: z.int().min(1000).default(200_000_000),
      breaker: z.strictObject({ failures: z.int().min(1).default(5), halfOpenAfter: duration().default('30s') }).prefault({}),
    })
    .prefault({}),
  schedule: z
    .strictObject({ every: interval().default('5m') })
    .prefault({})
    .describe('How often `oncobridge start` pulls.'),
  streams: z.array(streamSchema).min(1),
});

export type ServerConfig = z.output<typeof serverSchema>;
export type SourceConfig = z.output<typeof sourceSchema>;
export type StreamConfig = SourceConfig['streams'][number];
