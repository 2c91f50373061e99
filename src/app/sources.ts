import { readFileSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { createAriaSource } from '../adapters/aria/aria-source.ts';
import { createFhirSource } from '../adapters/fhir/fhir-source.ts';
import type { AuthOptions, SourceOptions, StreamOptions } from '../adapters/fhir/options.ts';
import type { LoadedSource } from '../config/load.ts';
import { parseDurationMs, type SourceConfig, type StreamConfig } from '../config/schema.ts';
import { CodedError } from '../errors.ts';
import type { ConfiguredSource } from '../pipeline/pull.ts';
import { type Classifier, compileClassifier } from '../records/classify.ts';
import { rulesOf } from '../records/default-rules.ts';

/** A configured source with its compiled rules. */
export async function openSource({ file, config }: LoadedSource): Promise<ConfiguredSource> {
  const options: SourceOptions = {
    id: config.id,
    baseUrl: config.baseUrl.replace(/\/+$/, ''),
    allowedOrigins: config.allowedOrigins,
    auth: authOf(config.auth),
    tls: config.tls === undefined ? undefined : { caPem: readAuthority(resolve(dirname(file), config.tls.ca), config.id) },
    limits: {
      requestsPerSecond: config.limits.requestsPerSecond,
      concurrency: config.limits.concurrency,
      timeoutMs: parseDurationMs(config.limits.timeout),
      maxRetries: config.limits.attempts - 1,
      maxPageBytes: config.limits.maxPageBytes,
      maxAttachmentBytes: config.limits.maxAttachmentBytes,
      breaker: { failures: config.limits.breaker.failures, halfOpenAfterMs: parseDurationMs(config.limits.breaker.halfOpenAfter) },
    },
    streams: config.streams.map(streamOf),
  };
  const classifiers = new Map<string, Classifier>();
  for (const stream of config.streams) classifiers.set(stream.id, await classifierOf(stream));
  return {
    source: config.kind === 'aria' ? createAriaSource(options) : createFhirSource(options),
    classifier(stream) {
      const classifier = classifiers.get(stream);
      if (classifier === undefined) throw new CodedError('NOT_FOUND', { diagnostics: `${config.id} has no stream ${stream}.` });
      return classifier;
    },
  };
}

function readAuthority(path: string, source: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    throw new CodedError('CONFIG_INVALID', { diagnostics: `The source ${source} names ${path} as tls.ca, which cannot be read.` });
  }
}

function authOf(auth: SourceConfig['auth']): AuthOptions {
  switch (auth.kind) {
    case 'none':
      return { type: 'none' };
    case 'client-credentials':
      return {
        type: 'client-credentials',
        tokenUrl: auth.tokenUrl,
        clientId: auth.clientId,
        clientSecret: auth.secret,
        scopes: auth.scopes,
      };
    case 'smart-backend':
      return {
        type: 'smart-backend',
        tokenUrl: auth.tokenUrl,
        clientId: auth.clientId,
        privateKey: auth.key,
        algorithm: auth.algorithm,
        scopes: auth.scopes,
      };
  }
}

function streamOf(stream: StreamConfig): StreamOptions {
  const follow = { types: stream.follow, attachments: stream.attachments };
  const lookbackMs = parseDurationMs(stream.lookback);
  if (stream.strategy === 'last-updated')
    return {
      id: stream.id,
      strategy: 'last-updated',
      searches: stream.search,
      lookbackMs,
      initialSince: stream.initialSince,
      pageSize: stream.pageSize,
      rescanPatientsPerPull: stream.rescan,
      follow,
    };
  return {
    id: stream.id,
    strategy: 'patient-sweep',
    discover: stream.discover === undefined ? undefined : { search: stream.discover, lookbackMs, initialSince: stream.initialSince },
    perPatient: stream.perPatient,
    pageSize: stream.pageSize,
    follow,
  };
}

function classifierOf(stream: StreamConfig): Promise<Classifier> {
  return compileClassifier({
    rules: rulesOf(stream),
    default: stream.default,
    localCodes: stream.documentTypes,
  });
}
