-- The tables of format 2, and what a program of that format recorded in them.
PRAGMA application_id = 0x52494b4e;
PRAGMA user_version = 2;

CREATE TABLE records (
    slot       INTEGER PRIMARY KEY CHECK (slot BETWEEN 0 AND 65535),
    name       TEXT    NOT NULL UNIQUE,
    phase      INTEGER NOT NULL CHECK (phase BETWEEN 0 AND 2),
    definition TEXT    NOT NULL
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

INSERT INTO records (slot, name, phase, definition) VALUES
    (0, 'web', 1, '{"apiVersion":"v1","kind":"Function","name":"web","replicas":1,"spec":{"function":{"execution":{"rootfs":"file:///srv/f.ext4"},"exposure":[{"port":8080,"protocol":"TCP","targetPort":3000,"type":"NodePort"},{"hostAddress":"192.0.2.1","port":53,"protocol":"UDP","targetPort":53,"type":"NodePort"}]}}}'),
    (2, 'api', 0, '{"apiVersion":"v1","kind":"Function","name":"api","replicas":1,"spec":{"function":{"execution":{"rootfs":"file:///srv/f.ext4"},"exposure":[{"port":"9000-9001","protocol":"TCP","targetPort":"9000-9001","type":"NodePort"}]}}}'),
    (3, 'old', 2, '{"apiVersion":"v1","kind":"Function","name":"old","replicas":1,"spec":{"function":{"execution":{"rootfs":"file:///srv/f.ext4"}}}}');
INSERT INTO free_slots (slot) VALUES (1);
INSERT INTO ports (protocol, port, host_address, slot) VALUES
    (6, 8080, 0, 0), (17, 53, 3221225985, 0), (6, 9000, 0, 2), (6, 9001, 0, 2);
INSERT INTO settings (name, value) VALUES ('backend', 'iptables-nft'), ('pool', '10.231.0.0/16'), ('tables', '');
INSERT INTO sysctls (name, value) VALUES ('net.ipv4.ip_forward', '0');
INSERT INTO runs (name, vmm, supervisor, process, started, ready, stopping, ended, reason, failed) VALUES
    ('web', 'builtin', '32142@288742', '32149@288745', 1795715354330, 84, 0, NULL, NULL, 0),
    ('gone', 'qemu', '32143@288746', NULL, 1795715354331, NULL, 1, 1795715354400, 'stopped', 0);
INSERT INTO spares (slot, state) VALUES (4, 1), (5, 2), (6, 0);
INSERT INTO manifests (name, file) VALUES ('web', 'web.json');
