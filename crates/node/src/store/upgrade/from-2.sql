-- The tables of format 3 that format 2 does not have, or has in another way.
ALTER TABLE ports RENAME TO ports_2;
ALTER TABLE runs RENAME TO runs_2;
ALTER TABLE manifests RENAME TO manifests_2;
CREATE TABLE slots (
    slot       INTEGER PRIMARY KEY CHECK (slot BETWEEN 0 AND 65535),
    state      INTEGER NOT NULL CHECK (state BETWEEN 0 AND 6),
    generation INTEGER NOT NULL,
    workload   TEXT,
    ordinal    INTEGER CHECK (ordinal >= 0),
    definition TEXT,
    details    TEXT NOT NULL DEFAULT '{}',
    CHECK ((state >= 4) = (workload IS NOT NULL)),
    CHECK ((workload IS NULL) = (ordinal IS NULL) AND (workload IS NULL) = (definition IS NULL))
) STRICT;
CREATE UNIQUE INDEX slots_instance ON slots (workload, ordinal) WHERE workload IS NOT NULL;
CREATE INDEX slots_state ON slots (state, slot) WHERE state <> 5;
CREATE TABLE ports (
    protocol INTEGER NOT NULL,
    port     INTEGER NOT NULL,
    family   INTEGER NOT NULL CHECK (family IN (0, 4, 6)),
    address  TEXT    NOT NULL CHECK (family <> 0 OR address = ''),
    slot     INTEGER NOT NULL,
    PRIMARY KEY (protocol, port, family, address)
) STRICT, WITHOUT ROWID;
CREATE TABLE runs (
    workload   TEXT    NOT NULL,
    ordinal    INTEGER NOT NULL CHECK (ordinal >= 0),
    vmm        TEXT    NOT NULL,
    supervisor TEXT    NOT NULL,
    process    TEXT,
    started    INTEGER NOT NULL,
    ready      INTEGER,
    stopping   INTEGER NOT NULL DEFAULT 0,
    ended      INTEGER,
    reason     TEXT,
    failed     INTEGER NOT NULL DEFAULT 0,
    details    TEXT    NOT NULL DEFAULT '{}',
    PRIMARY KEY (workload, ordinal)
) STRICT, WITHOUT ROWID;
CREATE TABLE manifests (
    workload TEXT PRIMARY KEY,
    file     TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- What was recorded by format 2 may have been made in another way than what is recorded now.
INSERT INTO slots (slot, state, generation, workload, ordinal, definition, details)
    SELECT slot, 4 + phase, random() & 0x3fffffffffffffff, name, 0, definition, '{"recordedBy":2}' FROM records;
INSERT OR IGNORE INTO slots (slot, state, generation)
    SELECT slot, 1 + state, random() & 0x3fffffffffffffff FROM spares;
INSERT OR IGNORE INTO slots (slot, state, generation)
    SELECT slot, 0, random() & 0x3fffffffffffffff FROM free_slots;

INSERT INTO ports (protocol, port, family, address, slot)
    SELECT protocol, port, 0, '', slot FROM ports_2 WHERE host_address = 0;
INSERT INTO ports (protocol, port, family, address, slot)
    SELECT protocol, port, 4,
        format('%d.%d.%d.%d', host_address >> 24, host_address >> 16 & 255, host_address >> 8 & 255,
            host_address & 255), slot
    FROM ports_2 WHERE host_address <> 0;

INSERT INTO runs (workload, ordinal, vmm, supervisor, process, started, ready, stopping, ended, reason, failed)
    SELECT name, 0, vmm, supervisor, process, started, ready, stopping, ended, reason, failed FROM runs_2;
INSERT INTO manifests (workload, file) SELECT name, file FROM manifests_2;

DROP TABLE records;
DROP TABLE spares;
DROP TABLE free_slots;
DROP TABLE ports_2;
DROP TABLE runs_2;
DROP TABLE manifests_2;
CREATE INDEX runs_under_way ON runs (supervisor, workload, ordinal) WHERE ended IS NULL;
