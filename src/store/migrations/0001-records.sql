-- Records, subjects and documents: the pipeline's own tables. Source ids and content are looked up by HMAC (blind);
-- their text, and everything of a patient, is sealed.
create table stream (
  source text not null, stream text not null, mark bytea, last_success timestamptz, last_error text,
  running_until timestamptz, holder text, -- lease, and the process that holds it
  complete boolean not null default false, -- the last pull came to its end: what a record still waits for will not come
  primary key (source, stream)
);

create table patient (
  pat text primary key,
  demographics bytea,                     -- sealed Patient resource text (row key core)
  demographics_record text,
  enrolled_outbox text,                   -- outbox row of the enrolment
  created_at timestamptz not null default now()
);
create table patient_identifier (authority text not null, blind text not null, pat text not null references patient, primary key (authority, blind));
create index patient_identifier_pat on patient_identifier (pat);
-- A source's own patient ids, for references and sweeps.
create table source_patient (source text not null, key text not null, pat text references patient, reason text, source_id bytea not null, primary key (source, key));

create table record (
  rec text primary key,
  source text not null, stream text not null, type text not null,
  key text not null,                      -- HMAC(source|type|id)
  version_key text not null,              -- HMAC(source|type|id|versionId|content): same version and content = same row
  content text not null,                  -- HMAC(content without meta): a change of meta alone makes no new document
  raw bytea not null,                     -- sealed {id, versionId, lastUpdated, bytes, attachments}
  sealed_for text,                        -- 'pat-…/category', 'directory', or null: intake key
  version_id bytea not null,              -- sealed: what the source calls it (type, id, versionId)
  last_updated timestamptz,
  received_at timestamptz not null default now(),
  seq bigint generated always as identity,
  current boolean not null default true,  -- newest version of its key
  corrects boolean not null default false, -- the version before it stands in a document: it goes before what is new
  not_before timestamptz not null default now(), -- a record moved to another patient waits (architecture section 3, step 4)
  deleted boolean not null default false,
  -- the stored decision
  outcome text not null default 'pending' check (outcome in ('pending','own','skip','quarantine')),
  reason text, rule text, config_hash text,
  category text, pat text, sub text, document text, document_version integer,
  patient_key text,                       -- HMAC(source|Patient|id): whom it is about, for when that patient gets known
  decided_at timestamptz
);
create unique index record_version on record (version_key);
create index record_key on record (key, seq);
create index record_current on record (key) where current;
create index record_pending on record (seq) where outcome = 'pending';
create index record_correcting on record (seq) where outcome = 'pending' and corrects;
create index record_held on record (reason, seq) where outcome = 'quarantine';
create index record_sub on record (sub) where sub is not null;
create index record_patient on record (pat, source, stream) where current;
-- Links between records by key: what assembles a subject without opening every record of a patient.
create table record_link (rec text not null references record on delete cascade, relation text not null, target text not null, primary key (rec, relation, target));
create index record_link_target on record_link (target, relation);
-- For trends: which results of a patient exist per analyte (code hashed under an HMAC key), newest first.
create table record_analyte (rec text primary key references record on delete cascade, pat text not null, analyte text not null, at timestamptz not null);
create index record_analyte_series on record_analyte (pat, analyte, at desc);

create table subject (
  sub text primary key,
  category text not null, key text not null,       -- HMAC of what names it at its source
  pat text not null, document text not null unique,
  version integer not null default 0,              -- newest filed version of its document
  own_hash text,                                   -- hash over the content of the own records in that version
  withdrawn_at timestamptz, withdrawn_reason text,
  unique (category, key, pat)
);
create index subject_key on subject (key);
create index subject_withdrawn on subject (document) where withdrawn_at is not null;

create table document_version (
  document text not null, version integer not null,
  sub text not null references subject, pat text not null, category text not null,
  pointer text not null, ciphertext_hash text not null, commitment text not null, key_version integer not null,
  size_bytes integer not null, manifest_hash text not null,
  clinical_time timestamptz, outbox text not null, filed_at timestamptz not null default now(),
  header bytea not null,                           -- sealed inner header (manifest, resource ids, salt)
  primary key (document, version)
);
create index document_version_pat on document_version (pat, category);
create index document_version_pointer on document_version (pointer);
create index document_version_outbox on document_version (outbox);
create index document_version_resealable on document_version (document) where key_version > 0;
-- The same source resource in the same subject keeps its id over versions and rebuilds.
create table resource_identity (key text primary key, id text not null unique);
-- Committed before an object is put, so that nothing needs to list a store (protocol section 7).
create table puts (name text primary key, at timestamptz not null default now());
