import { CodedError } from '../../errors.ts';

/**
 * Where the source's own words may lead us. Page links, redirects and attachment URLs are input from outside: the token
 * goes to configured origins only, https never falls back to http, and nothing but http(s) is opened.
 */
export interface OriginGuard {
  /** The absolute URL of a page link or redirect, or SOURCE_ORIGIN. */
  page(link: string, relativeTo: URL): URL;
  /** What may be done with an attachment's URL. */
  attachment(url: string): AttachmentTarget;
  /** True where the token may be sent. */
  trusted(url: URL): boolean;
}
export type AttachmentTarget = { open: URL; withToken: boolean } | { contained: string } | { problem: AttachmentProblem };

/** Stable reasons in RawAttachment.problem; docs/sources.md lists them. */
export type AttachmentProblem =
  | 'no-content'
  | 'unc-path'
  | 'scheme-refused'
  | 'origin-refused'
  | 'link-local-refused'
  | 'bad-url'
  | 'not-found'
  | 'forbidden'
  | 'refused'
  | 'too-large'
  | 'bad-base64'
  | 'size-mismatch'
  | 'hash-mismatch';

export function createOriginGuard(options: {
  baseUrl: URL;
  allowedOrigins: readonly string[];
  attachmentOrigins: readonly string[];
}): OriginGuard {
  const base = new URL(`${options.baseUrl.href.replace(/\/+$/, '')}/`);
  const trustedOrigins = new Set([base.origin, ...options.allowedOrigins.map((origin) => new URL(origin).origin)]);
  const openOrigins = new Set(options.attachmentOrigins.map((origin) => new URL(origin).origin));
  const isHttp = (url: URL): boolean => url.protocol === 'https:' || url.protocol === 'http:';
  const downgrade = (url: URL): boolean => base.protocol === 'https:' && url.protocol !== 'https:';
  const trusted = (url: URL): boolean =>
    isHttp(url) && !downgrade(url) && trustedOrigins.has(url.origin) && url.username === '' && url.password === '';

  return {
    trusted,
    page: (link, relativeTo) => {
      const url = URL.parse(link, relativeTo.href);
      if (!url || !isHttp(url)) throw new CodedError('SOURCE_ORIGIN', { diagnostics: 'A link is not an http(s) URL.' });
      if (downgrade(url)) throw new CodedError('SOURCE_ORIGIN', { diagnostics: `A link leads from https down to ${url.origin}.` });
      if (!trusted(url)) throw new CodedError('SOURCE_ORIGIN', { diagnostics: `A link leads to ${url.origin}.` });
      return url;
    },
    attachment: (text) => {
      const written = text.trim();
      if (written.startsWith('#')) return { contained: written.slice(1) };
      // Before any URL parsing: WHATWG takes a backslash for a slash, which makes `\\host\share` an http host.
      if (written.includes('\\') || /^[a-z]:[/]/i.test(written)) return { problem: 'unc-path' };
      const scheme = /^([a-z][a-z0-9+.-]*):/i.exec(written)?.[1]?.toLowerCase();
      if (scheme !== undefined && scheme !== 'http' && scheme !== 'https') return { problem: 'scheme-refused' };
      const url = URL.parse(written, base.href);
      if (!url) return { problem: 'bad-url' };
      if (isLinkLocal(url.hostname)) return { problem: 'link-local-refused' };
      if (trusted(url)) return { open: url, withToken: true };
      if (openOrigins.has(url.origin) && !downgrade(url)) return { open: url, withToken: false };
      return { problem: 'origin-refused' };
    },
  };
}

/** Cloud metadata services live on link-local addresses; never opened, whatever the config allows. */
function isLinkLocal(hostname: string): boolean {
  return hostname.startsWith('169.254.') || /^\[fe[89ab]/i.test(hostname) || /^\[::ffff:a9fe:/i.test(hostname);
}
