-- The table of format 4 that format 3 does not have.
CREATE TABLE journal (
    number   INTEGER PRIMARY KEY,
    kind     TEXT    NOT NULL,
    workload TEXT,
    ordinal  INTEGER CHECK (ordinal >= 0),
    text     TEXT    NOT NULL
) STRICT;
