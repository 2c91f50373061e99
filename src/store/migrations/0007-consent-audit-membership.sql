-- Members of this institution as it knows them: the ledger holds role, key and validity, the name stays here (architecture section 6).
create table member (
  mem text primary key,                   -- mem-…
  name text not null,                     -- staff are a directory: in clear
  role text not null,
  outbox text,                            -- outbox row of the registration
  credential text,                        -- kind of the check, e.g. npi; what it was made on and where never leaves this table
  credential_number text,
  credential_status text,
  credential_checked_at timestamptz,
  created_at timestamptz not null default now()
);
-- Signing keys that the institution keeps for its members: development custody, see docs/consent.md.
create table member_key (
  mem text primary key references member,
  public_jwk jsonb not null,
  private_key bytea not null,             -- PKCS #8, sealed under the purpose key member-signing
  created_at timestamptz not null default now()
);

-- Consents as FHIR resources. What holds is on the ledger; a version shows once the projection has its transaction, and an
-- end as soon as it is accepted here.
create table consent_version (
  consent text not null, version integer not null,
  inst text not null, pat text not null,
  status text not null,                   -- FHIR Consent.status
  state_key text not null,                -- what the ledger writes for it: the first permission's version, or the revoke's used/…
  statement text not null,                -- SHA-256 of the payload
  grantees text[] not null, categories text[] not null, -- its triples, in pairs
  outbox text not null,
  last_updated timestamptz not null,
  body bytea not null,                    -- sealed under the patient's core key, place consent/<id>/<version>
  evidence bytea,                         -- salt of the commitment to what a registrar saw, sealed at consent/<id>/<version>/evidence
  primary key (consent, version)
);
create index consent_version_patient on consent_version (inst, pat);

-- Revocations accepted here and not seen on the ledger yet, and triples that a narrower grant takes away whole: they deny, whatever
-- the sequence of a permission (architecture section 7). A row is without effect once the projection holds its used_key (the revoke's
-- used/…, the grant's version of that triple), and is then swept; that of a grant which was refused goes with it.
create table revocation (
  inst text not null, pat text not null, grantor text not null, grantee text not null, category text not null,
  used_key text not null,
  outbox text not null,
  created_at timestamptz not null default now(),
  primary key (inst, pat, grantor, grantee, category, used_key)
);
-- Category keys that a revocation has made due for a new version, with whoever asked for it.
create table key_rotation (
  pat text not null, category text not null,
  actor_kind text not null, actor_id text not null,
  key_version integer,                    -- version published by `outbox`, once there is one
  outbox text,
  due_at timestamptz not null default now(),
  primary key (pat, category)
);

-- Accesses, allowed or denied: one row an event and patient.
create table audit_event (
  id text primary key,                    -- aud-…
  seq bigint generated always as identity,
  recorded timestamptz not null,
  inst text, pat text,                    -- null: names nobody, for the privacy officer only
  leaf bytea not null,                    -- SHA-256 of the salted event, a leaf of the anchored tree
  anchor bigint,                          -- number of the anchor that covers it
  detail bytea not null                   -- salt and event, sealed under the purpose key audit
);
create index audit_event_patient on audit_event (inst, pat, recorded desc, id desc);
create index audit_event_recorded on audit_event (recorded desc, id desc);
create index audit_event_open on audit_event (seq) where anchor is null;
create index audit_event_anchor on audit_event (anchor, seq) where anchor is not null;
create table audit_anchor (
  number bigint primary key,
  root text not null,
  header text not null,                   -- first leaf: JCS of count, deletions, institution, number, salt
  outbox text not null,
  created_at timestamptz not null default now()
);
