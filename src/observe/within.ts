import { CodedError } from '../errors.ts';

/** The promise's outcome, or UNAVAILABLE where it takes longer. */
export async function within<T>(timeoutMs: number, promise: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => reject(new CodedError('UNAVAILABLE', { diagnostics: `No answer within ${timeoutMs} ms.` })), timeoutMs);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}
