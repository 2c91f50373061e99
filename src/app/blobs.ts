import { dirname, join, resolve } from 'node:path';
import { parseDurationMs, type ServerConfig } from '../config/schema.ts';
import { createFileBlobs, type FileBlobs } from '../store/blob-files.ts';
import { createS3Blobs } from '../store/blob-s3.ts';
import type { BlobStore } from '../store/blobs.ts';
import type { S3Options } from '../store/s3-requests.ts';

interface OpenedBlobs extends BlobStore {
  /** Of the filesystem store only. */
  pathOf?(name: string): string;
  /** Of the filesystem, under either store: what killed puts left. */
  sweep(): Promise<void>;
}

/** The store of sealed objects that the configuration names. `data` and `configFile` are paths: a directory may be relative to the file. */
export function openBlobs({ blobs }: ServerConfig, data: string, configFile: string): OpenedBlobs {
  if (blobs.kind === 's3') return besides(createS3Blobs(s3Options(blobs)), createFileBlobs({ directory: join(data, 'copies') }));
  return createFileBlobs({
    directory: blobs.directory === undefined ? join(data, 'blobs') : resolve(dirname(configFile), blobs.directory),
  });
}

/** What was received lies here: a read of it in the shared store would tell the store's operator when it was read. */
function besides(shared: BlobStore, copies: FileBlobs): OpenedBlobs {
  const of = (name: string): BlobStore => (name.includes('/copies/') ? copies : shared);
  return {
    put: (name, bytes) => of(name).put(name, bytes),
    get: (name) => of(name).get(name),
    head: (name) => of(name).head(name),
    delete: (name) => of(name).delete(name),
    sweep: () => copies.sweep(),
    async close() {
      await copies.close();
      await shared.close();
    },
  };
}

export function s3Options({ timeout, tlsRootCertificate, ...blobs }: Extract<ServerConfig['blobs'], { kind: 's3' }>): S3Options {
  return { ...blobs, timeoutMs: parseDurationMs(timeout), tlsRootPem: tlsRootCertificate };
}
