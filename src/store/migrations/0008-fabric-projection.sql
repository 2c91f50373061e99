-- What the blocks say of the contract's definition (Fabric's lifecycle; empty on the embedded ledger). Recreated by a rebuild.
create table projection.definition (
  block bigint not null,
  n integer not null,                     -- order within the block
  kind text not null check (kind in ('approved', 'committed')),
  name text not null,                     -- approved: SHA-256 of the key, by the own organisation; committed: the field
  hash text not null,                     -- SHA-256 of the value
  sequence bigint,                        -- of what was committed
  primary key (block, kind, n)
);
create index definition_name on projection.definition (kind, name, block desc, n desc);
