-- FHIR resources as the facade serves them. `body` is sealed (row key of patient and category); beside it lies the clear
-- index: codes, statuses, dates, references, uris, and HMACs of identifiers. It is health data all the same
-- (docs/privacy.md). One row a (resource id, document version); which version shows is said by projection.document alone.
create table resource (
  id text collate "C" not null,
  version integer not null,               -- of the document; a Patient counts its own
  type text not null,
  inst text not null, pat text not null, category text not null,
  recorder text not null,                 -- institution that recorded the document's entry
  document text, document_version integer,-- null: Patient, which stands without a document
  last_updated timestamptz not null,      -- whole milliseconds
  clinical_start timestamptz, clinical_end timestamptz, -- both inclusive; null: no time is known, and no data period covers it
  elements text[] not null,               -- form: src/records/search-index.ts
  body bytea not null,
  primary key (id, version)
);
create index resource_patient on resource (pat, type);
create index resource_document on resource (document, document_version);
create index resource_updated on resource (type, last_updated);
create index resource_elements on resource using gin (elements);
-- Date parameters, as inclusive ranges.
create table resource_date (id text collate "C" not null, version integer not null, parameter text not null, range_start timestamptz not null, range_end timestamptz not null);
create index resource_date_of on resource_date (id, version, parameter);

-- Practitioners and organisations: a directory, in clear. Readable where a readable resource refers to them, or they are members.
create table directory_resource (
  id text collate "C" primary key,
  type text not null,
  version integer not null,
  last_updated timestamptz not null,
  content text not null,                  -- SHA-256 of the text as it was handed in
  elements text[] not null,
  strings text[] not null,                -- `name=folded text`: prefix search
  body text not null
);
create index directory_elements on directory_resource using gin (elements);
-- Identifier systems that any index entry was made for: a search by another one has no answer, and makes no new HMAC key.
create table identifier_system (system text primary key);
