import { createCipheriv, createDecipheriv, randomBytes } from 'node:crypto';
import { CodedError } from '../errors.ts';
import type { Caller } from './ports.ts';

/** Where a page ends, and the query that it belongs to. The caller can neither read nor alter it. */
export interface Cursor {
  /** The honoured parameters of the first page. */
  pairs: readonly (readonly [string, string])[];
  /** Sort values of the last row, as text; its id last. */
  after: readonly string[];
  /** The moment of the first page: `now` of the search. */
  moment: string;
  expires: number;
}

export interface Cursors {
  seal(caller: Caller, type: string, cursor: Omit<Cursor, 'expires'>): string;
  /** Throws NOT_FOUND: expired, altered, or another's (client, person, purpose, type). */
  open(caller: Caller, type: string, text: string): Cursor;
}

/** Cursors sealed with AES-256-GCM: a query may hold a name, which must not stand readable in a url. */
export function createCursors(key: Uint8Array, lifetimeMs: number): Cursors {
  const bound = ({ actor }: Caller, type: string): Buffer => {
    const subject = actor.kind === 'patient' ? actor.patient : actor.kind === 'member' ? actor.member : actor.institution;
    const system = actor.kind === 'member' ? (actor.system ?? '') : '';
    return Buffer.from(JSON.stringify(['cursor 1', actor.client, actor.kind, actor.institution, subject, system, actor.purpose, type]));
  };
  return {
    seal(caller, type, cursor) {
      const nonce = randomBytes(12);
      const cipher = createCipheriv('aes-256-gcm', key, nonce).setAAD(bound(caller, type));
      const text = JSON.stringify({ ...cursor, expires: caller.now.getTime() + lifetimeMs });
      return Buffer.concat([nonce, cipher.update(text, 'utf8'), cipher.final(), cipher.getAuthTag()]).toString('base64url');
    },
    open(caller, type, text) {
      let cursor: Cursor;
      try {
        const bytes = Buffer.from(text, 'base64url');
        // Stray characters are skipped in decoding: one cursor, one text.
        if (bytes.toString('base64url') !== text) throw new CodedError('NOT_FOUND');
        const decipher = createDecipheriv('aes-256-gcm', key, bytes.subarray(0, 12), { authTagLength: 16 });
        decipher.setAAD(bound(caller, type)).setAuthTag(bytes.subarray(-16));
        cursor = JSON.parse(Buffer.concat([decipher.update(bytes.subarray(12, -16)), decipher.final()]).toString('utf8')) as Cursor;
      } catch {
        throw new CodedError('NOT_FOUND');
      }
      if (cursor.expires < caller.now.getTime()) throw new CodedError('NOT_FOUND');
      return cursor;
    },
  };
}
