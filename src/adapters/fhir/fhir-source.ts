import { CodedError } from '../../errors.ts';
import type { Page, ProbeReport, PullContext, Source } from '../source.ts';
import { pullByLastUpdated } from './last-updated.ts';
import { type Dialect, PLAIN_FHIR, type SourceOptions } from './options.ts';
import { pullByPatient } from './patient-sweep.ts';
import { probeServer } from './probe.ts';
import { parseTemplate, splitIntoSingleValues } from './search-template.ts';
import { createSession } from './session.ts';

/**
 * A source that is a FHIR R4 server. Errors of `pull`: the SOURCE_ rows of the table (SOURCE_AUTHENTICATION stops until
 * somebody corrects the sign-in; the others are tried again by the next pull), or the signal's reason. Throws
 * CONFIG_INVALID at once where a search of the options cannot be used.
 */
export function createFhirSource(options: SourceOptions, dialect: Dialect = PLAIN_FHIR): Source {
  for (const stream of options.streams) {
    const texts =
      stream.strategy === 'last-updated' ? stream.searches : [...stream.perPatient, ...(stream.discover ? [stream.discover.search] : [])];
    for (const template of texts.map(parseTemplate)) if (dialect.singleValuesOnly) splitIntoSingleValues(template);
  }
  const streams = new Map(options.streams.map((stream) => [stream.id, stream]));
  const session = createSession(options);
  const closing = new AbortController();

  async function* pull(name: string, mark: string | undefined, context: PullContext): AsyncGenerator<Page> {
    const stream = streams.get(name);
    if (!stream) throw new CodedError('SOURCE_STREAM', { diagnostics: `${options.id} has: ${[...streams.keys()].join(', ')}.` });
    const signal = AbortSignal.any([context.signal, closing.signal]);
    signal.throwIfAborted();
    const inner: PullContext = {
      signal,
      knownPatients: () => context.knownPatients(),
      knownVersion: (type, id) => context.knownVersion(type, id),
      knownRecords: async (patient) => (await context.knownRecords?.(patient)) ?? [],
    };
    if (stream.strategy === 'last-updated') yield* pullByLastUpdated(session, dialect, stream, mark, inner);
    else yield* pullByPatient(session, dialect, stream, mark, inner);
  }

  return {
    id: options.id,
    kind: dialect.kind,
    streams: [...streams.keys()],
    pull,
    probe: (signal): Promise<ProbeReport> => probeServer(session, dialect, options, signal),
    close: () => {
      closing.abort(new CodedError('UNAVAILABLE', { diagnostics: 'The source is being closed.' }));
      session.close();
      return Promise.resolve();
    },
  };
}
