-- The development issuer: registered systems, its signing keys (sealed), and the assertions that were used.
create table auth_client (
  client text primary key,                -- cli-…
  name text not null,
  jwks jsonb not null,                    -- public keys (RFC 7517)
  scopes text[] not null,                 -- SMART v2, what it may ask for at most
  purposes text[] not null,               -- HL7 PurposeOfUse; the first is the default
  acts_for_roles text[] not null default '{}', -- roles of the members that it may name; empty: acts as its organisation only
  created_at timestamptz not null default now(),
  disabled_at timestamptz
);
create table auth_key (
  kid text primary key,
  public_jwk jsonb not null,
  private_key bytea not null,             -- PKCS #8, sealed under the purpose key token-signing
  created_at timestamptz not null default now()
);
-- Single use of a client assertion (SMART Backend Services): kept until it has expired by itself.
create table auth_assertion (client text not null, jti_sha256 text not null, expires_at timestamptz not null, primary key (client, jti_sha256));
create index auth_assertion_expires on auth_assertion (expires_at);
