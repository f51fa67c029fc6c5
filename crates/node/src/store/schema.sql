-- Every slot up to the highest one ever taken, and what has it. A row is never deleted.
CREATE TABLE slots (
    slot       INTEGER PRIMARY KEY CHECK (slot BETWEEN 0 AND 65535),
    -- 0: free. Reserved, of no instance: 1 creating, 2 ready, 3 draining. Of an instance: 4 pending, 5 up, 6 removing.
    state      INTEGER NOT NULL CHECK (state BETWEEN 0 AND 6),
    -- Random at first, and one more with every change.
    generation INTEGER NOT NULL,
    -- The instance: the workload's name, and a number within the workload.
    workload   TEXT,
    ordinal    INTEGER CHECK (ordinal >= 0),
    -- JSON: the definition, and an object with whatever else is known of the instance. Nothing is looked up by them.
    definition TEXT,
    details    TEXT NOT NULL DEFAULT '{}',
    CHECK ((state >= 4) = (workload IS NOT NULL)),
    CHECK ((workload IS NULL) = (ordinal IS NULL) AND (workload IS NULL) = (definition IS NULL))
) STRICT;
CREATE UNIQUE INDEX slots_instance ON slots (workload, ordinal) WHERE workload IS NOT NULL;
CREATE INDEX slots_state ON slots (state, slot) WHERE state <> 5;

-- One row a port of the host. The family is 4 or 6, or 0 for both; an empty address is every one of the family.
CREATE TABLE ports (
    protocol INTEGER NOT NULL,
    port     INTEGER NOT NULL,
    family   INTEGER NOT NULL CHECK (family IN (0, 4, 6)),
    address  TEXT    NOT NULL CHECK (family <> 0 OR address = ''),
    slot     INTEGER NOT NULL,
    PRIMARY KEY (protocol, port, family, address)
) STRICT, WITHOUT ROWID;

CREATE TABLE settings (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- What the sysctls were before they were changed.
CREATE TABLE sysctls (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- The last run of each instance: which processes play the guest, and what became of them. A process is PID@START.
CREATE TABLE runs (
    workload   TEXT    NOT NULL,
    ordinal    INTEGER NOT NULL CHECK (ordinal >= 0),
    vmm        TEXT    NOT NULL,
    supervisor TEXT    NOT NULL,
    process    TEXT,
    -- Milliseconds since 1970.
    started    INTEGER NOT NULL,
    -- Milliseconds after the start.
    ready      INTEGER,
    stopping   INTEGER NOT NULL DEFAULT 0,
    ended      INTEGER,
    reason     TEXT,
    failed     INTEGER NOT NULL DEFAULT 0,
    -- A JSON object with whatever else is known of the run.
    details    TEXT    NOT NULL DEFAULT '{}',
    PRIMARY KEY (workload, ordinal)
) STRICT, WITHOUT ROWID;
CREATE INDEX runs_under_way ON runs (supervisor, workload, ordinal) WHERE ended IS NULL;

-- The workloads that definition files ask for, and which file: what is in here goes with its file.
CREATE TABLE manifests (
    workload TEXT PRIMARY KEY,
    file     TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- The last changes by processes that announce none themselves; the daemon reads them for its events. The numbers grow.
CREATE TABLE journal (
    number   INTEGER PRIMARY KEY,
    kind     TEXT    NOT NULL,
    workload TEXT,
    ordinal  INTEGER CHECK (ordinal >= 0),
    text     TEXT    NOT NULL
) STRICT;
