-- What sources say of merges (`Patient.link` replaced-by and replaces). One row for each who says it; one that is said no more stays,
-- for it tells that a merge was taken back. Keys are those of source_patient.
create table patient_merge (
  source text not null,
  said_by text not null,                  -- whose record has the link: `gone` or `survivor`
  gone text not null, survivor text not null,
  standing boolean not null,              -- false: its newest version says it no more
  primary key (source, said_by, gone, survivor)
);
create index patient_merge_gone on patient_merge (source, gone);
create index patient_merge_survivor on patient_merge (source, survivor);
