-- The projection: an institution's verified view of the ledger (protocol section 4). `state` is the raw key space with
-- history; the other tables are derived from it in the same transaction, for the readable scope and for search.
create schema projection;

create table projection.checkpoint (
  one boolean primary key default true check (one), -- `only` is a reserved word
  height bigint not null,                 -- number of blocks applied
  tip text not null,
  own_seen_at timestamptz                 -- submit time of the newest own transaction that came back (freshness)
);
create table projection.state (
  key text collate "C" not null,
  block bigint not null,
  tx integer not null,
  value text,                             -- null: deleted
  primary key (key, block, tx)
);
create table projection.institution (inst text primary key, msp text not null, status text not null, signing_jwk jsonb not null, encryption_jwk jsonb not null, block bigint not null);
create table projection.member (inst text not null, mem text not null, role text not null, signing_thumbprint text, encryption_thumbprint text,
  status text not null, valid_until timestamptz not null, block bigint not null, primary key (inst, mem));
create table projection.patient (inst text not null, pat text not null, custody boolean not null, status text not null, block bigint not null, primary key (inst, pat));
create table projection.category_key (inst text not null, pat text not null, category text not null, version integer not null, public_jwk jsonb not null, block bigint not null,
  primary key (inst, pat, category, version));
-- status of institution, member and patient is also 'alarmed': a state key of theirs was written in a way that does not follow from
-- the contract (protocol section 4), so they are denied.
-- Heads only: one row a (patient, grantor, grantee, category). grantor: 'patient' or 'member:<inst>:<mem>'. grantee: 'member:<inst>:<mem>', 'organization:<inst>', 'role:<role>'.
create table projection.permission (inst text not null, pat text not null, grantor text not null, grantee text not null, category text not null,
  seq integer not null, status text not null, parent_grantor text, parent_grantee text, recorded_at timestamptz not null, tx_id text not null, block bigint not null,
  primary key (inst, pat, grantor, grantee, category));
create index permission_grantee on projection.permission (grantee, category);
-- Clauses of the head version. Null purposes = any; null period or data bounds = open. A shared permission stands on (parent_grantor, parent_grantee)
-- of the same category. Instants: both ends count in.
create table projection.clause (inst text not null, pat text not null, grantor text not null, grantee text not null, category text not null, n integer not null,
  effect text not null, rights text[] not null, purposes text[], period_start timestamptz, period_end timestamptz, data_start timestamptz, data_end timestamptz,
  consent text not null, emergency boolean not null default false,
  primary key (inst, pat, grantor, grantee, category, n),
  foreign key (inst, pat, grantor, grantee, category) references projection.permission on delete cascade);
create table projection.entry (inst text not null, pat text not null, recorder text not null, doc text not null, version integer not null, n integer not null,
  entry_hash text not null, clinician text, category text not null, pointer text not null, ciphertext_hash text not null, commitment text not null, key_version integer not null,
  tx_id text not null, block bigint not null, tx integer not null, recorded_at timestamptz not null,
  standing boolean not null,              -- the first in block order at its (doc, version, n)
  primary key (inst, pat, recorder, doc, version, n, entry_hash));
-- One row a document: what stands now. Visible = not withdrawn and the local row's ciphertext_hash equals this one.
create table projection.document (inst text not null, pat text not null, recorder text not null, doc text not null, category text not null, version integer not null, n integer not null,
  ciphertext_hash text not null, commitment text not null, withdrawn boolean not null default false, tx_id text not null, block bigint not null,
  primary key (recorder, doc));
create index document_patient on projection.document (inst, pat, category);
create table projection.emergency (inst text not null, pat text not null, id text not null, member text not null, from_time timestamptz not null, until_time timestamptz not null, block bigint not null, primary key (inst, pat, id));
create table projection.anchor (inst text primary key, number bigint not null, root text not null, time timestamptz not null, block bigint not null);
-- Outside what a rebuild recreates.
create table ledger_alarm (id text primary key, at timestamptz not null default now(), kind text not null, block bigint, tx_id text, state_keys text[] not null default '{}', cleared_at timestamptz);
