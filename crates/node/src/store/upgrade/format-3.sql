-- The tables of format 3, and what a program of that format recorded in them.
PRAGMA application_id = 0x52494b4e;
PRAGMA user_version = 3;

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

INSERT INTO "manifests" VALUES('web','web.json');
INSERT INTO "ports" VALUES(6,8080,0,'',0);
INSERT INTO "ports" VALUES(6,9000,0,'',2);
INSERT INTO "ports" VALUES(6,9001,0,'',2);
INSERT INTO "ports" VALUES(17,53,4,'192.0.2.1',0);
INSERT INTO "runs" VALUES('gone',0,'qemu','32143@288746',NULL,1795715354331,NULL,1,1795715354400,'stopped',0,'{}');
INSERT INTO "runs" VALUES('web',0,'builtin','32142@288742','32149@288745',1795715354330,84,0,NULL,NULL,0,'{}');
INSERT INTO "settings" VALUES('backend','iptables-nft');
INSERT INTO "settings" VALUES('pool','10.231.0.0/16');
INSERT INTO "settings" VALUES('tables','');
INSERT INTO "slots" VALUES(0,5,152046778635242873,'web',0,'{"apiVersion":"v1","kind":"Function","name":"web","replicas":1,"spec":{"function":{"execution":{"rootfs":"file:///srv/f.ext4"},"exposure":[{"port":8080,"protocol":"TCP","targetPort":3000,"type":"NodePort"},{"hostAddress":"192.0.2.1","port":53,"protocol":"UDP","targetPort":53,"type":"NodePort"}]}}}','{"recordedBy":2}');
INSERT INTO "slots" VALUES(1,0,1710305024652620561,NULL,NULL,NULL,'{}');
INSERT INTO "slots" VALUES(2,4,2063224457320069124,'api',0,'{"apiVersion":"v1","kind":"Function","name":"api","replicas":1,"spec":{"function":{"execution":{"rootfs":"file:///srv/f.ext4"},"exposure":[{"port":"9000-9001","protocol":"TCP","targetPort":"9000-9001","type":"NodePort"}]}}}','{"recordedBy":2}');
INSERT INTO "slots" VALUES(3,6,4310350546255929426,'old',0,'{"apiVersion":"v1","kind":"Function","name":"old","replicas":1,"spec":{"function":{"execution":{"rootfs":"file:///srv/f.ext4"}}}}','{"recordedBy":2}');
INSERT INTO "slots" VALUES(4,2,2354800575535894677,NULL,NULL,NULL,'{}');
INSERT INTO "slots" VALUES(5,3,1430386862423991595,NULL,NULL,NULL,'{}');
INSERT INTO "slots" VALUES(6,1,3599912033775476734,NULL,NULL,NULL,'{}');
INSERT INTO "sysctls" VALUES('net.ipv4.ip_forward','0');
