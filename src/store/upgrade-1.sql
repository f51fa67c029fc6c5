CREATE TABLE spares (
    slot  INTEGER PRIMARY KEY CHECK (slot BETWEEN 0 AND 65535),
    state INTEGER NOT NULL CHECK (state BETWEEN 0 AND 2)
) STRICT;
CREATE INDEX spares_state ON spares (state, slot);
