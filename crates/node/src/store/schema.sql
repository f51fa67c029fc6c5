CREATE TABLE records (
    slot       INTEGER PRIMARY KEY CHECK (slot BETWEEN 0 AND 65535),
    name       TEXT    NOT NULL UNIQUE,
    phase      INTEGER NOT NULL CHECK (phase BETWEEN 0 AND 2),
    definition TEXT    NOT NULL,
    -- Random at first, and one more with every change.
    generation INTEGER NOT NULL
) STRICT;
CREATE INDEX records_unsettled ON records (name) WHERE phase <> 1;

-- Every slot below the highest one ever taken is either in records, in spares or in here: the lowest free slot
-- is the lowest of these, or the one above the highest of all three.
CREATE TABLE free_slots (
    slot INTEGER PRIMARY KEY
) STRICT;

-- Slots that nobody holds and that are not free either: 0 is being prepared, 1 is warm, 2 is condemned.
CREATE TABLE spares (
    slot  INTEGER PRIMARY KEY CHECK (slot BETWEEN 0 AND 65535),
    state INTEGER NOT NULL CHECK (state BETWEEN 0 AND 2)
) STRICT;
CREATE INDEX spares_state ON spares (state, slot);

-- One row a port of the host; host_address 0 is every address.
CREATE TABLE ports (
    protocol     INTEGER NOT NULL,
    port         INTEGER NOT NULL,
    host_address INTEGER NOT NULL,
    slot         INTEGER NOT NULL,
    PRIMARY KEY (protocol, port, host_address)
) STRICT, WITHOUT ROWID;
CREATE INDEX ports_slot ON ports (slot);

CREATE TABLE settings (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- What the sysctls were before they were changed.
CREATE TABLE sysctls (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- The last run of each name: which processes play the guest, and what became of them. A process is PID@START.
CREATE TABLE runs (
    name       TEXT PRIMARY KEY,
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
    failed     INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE INDEX runs_unended ON runs (name) WHERE ended IS NULL;

-- The names that definition files ask for, and which file: what is in here goes with its file.
CREATE TABLE manifests (
    name TEXT PRIMARY KEY,
    file TEXT NOT NULL
) STRICT, WITHOUT ROWID;
