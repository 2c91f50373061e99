-- Every pseudonym under which a patient of a source was ever known here. Rows are only added, for what is held or moved forgets whom it
-- was filed for, and a merge must not let in anybody whom the permissions under a former pseudonym keep out.
create table source_patient_was (source text not null, key text not null, pat text not null, primary key (source, key, pat));
create index source_patient_was_pat on source_patient_was (pat);
insert into source_patient_was (source, key, pat)
  select source, key, pat from source_patient where pat is not null
  union select source, key, pat from record where type = 'Patient' and pat is not null;
