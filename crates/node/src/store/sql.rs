//! The statements of an `up` and a `down`, none of which scans a table (a test checks that), and those that list
//! records.
//!
//! A partial index is used only if the statement has its condition word for word.

pub(super) const GET: &str = "SELECT slot, state, generation, workload, definition FROM slots \
     WHERE workload = ? AND ordinal = ?";
pub(super) const HOLDER: &str = "SELECT slot, state, generation, workload, definition FROM slots \
     WHERE slot = ? AND workload IS NOT NULL";
pub(super) const HOLDS: &str = "SELECT 1 FROM slots WHERE slot = ? AND generation = ?";
pub(super) const UNSETTLED: &str = "SELECT slot, state, generation, workload, definition FROM slots \
     WHERE state >= 4 AND state <> 5";
pub(super) const PUT: &str = "INSERT INTO slots \
     (slot, state, generation, workload, ordinal, definition) \
     VALUES (?1, ?2, random() & 0x3fffffffffffffff, ?3, ?4, ?5) \
     ON CONFLICT (slot) DO UPDATE SET state = excluded.state, generation = generation + 1, \
     workload = excluded.workload, ordinal = excluded.ordinal, definition = excluded.definition \
     WHERE state < 4 OR (workload = ?3 AND ordinal = ?4) RETURNING generation";
pub(super) const SET_PHASE: &str = "UPDATE slots SET state = ?, generation = generation + 1 \
     WHERE slot = ? AND generation = ? AND workload IS NOT NULL RETURNING generation";
pub(super) const FORGET: &str = "UPDATE slots SET state = ?, generation = generation + 1, \
     workload = NULL, ordinal = NULL, definition = NULL, details = '{}' \
     WHERE slot = ? AND generation = ? AND workload IS NOT NULL";
pub(super) const MANIFEST: &str = "SELECT file FROM manifests WHERE workload = ?";
pub(super) const RECORDED: &str = "SELECT 1 FROM slots WHERE workload = ? AND ordinal = ?";
pub(super) const FORGET_MANIFEST: &str = "DELETE FROM manifests WHERE workload = ?";

pub(super) const ANNOUNCE: &str =
    "INSERT INTO journal (kind, workload, ordinal, text) VALUES (?, ?, ?, ?) RETURNING number";
pub(super) const PRUNE_CHANGES: &str = "DELETE FROM journal WHERE number <= ?";
pub(super) const LAST_CHANGE: &str = "SELECT max(number) FROM journal";
pub(super) const CHANGES: &str =
    "SELECT number, kind, workload, text FROM journal WHERE number > ? ORDER BY number";

pub(super) const LOWEST_FREE: &str =
    "SELECT min(slot) FROM slots WHERE state = 0 AND state <> 5 AND slot >= ?";
pub(super) const LOWEST_READY: &str =
    "SELECT min(slot) FROM slots WHERE state = 2 AND state <> 5 AND slot >= ?";
pub(super) const HIGHEST: &str = "SELECT max(slot) FROM slots";
pub(super) const STATE: &str = "SELECT state FROM slots WHERE slot = ?";
pub(super) const SET_RESERVED: &str = "INSERT INTO slots (slot, state, generation) \
     VALUES (?, ?, random() & 0x3fffffffffffffff) \
     ON CONFLICT (slot) DO UPDATE SET state = excluded.state, generation = generation + 1 \
     WHERE state < 4";
pub(super) const CHANGE_RESERVED: &str = "UPDATE slots SET state = ?, generation = generation + 1 \
     WHERE slot = ? AND state = ?";

/// `?4` and `?5` are the family and the address, as their columns have them; `?6` is the slot that may have it.
pub(super) const CLASH: &str = "SELECT slot FROM ports \
     WHERE protocol = ?1 AND port BETWEEN ?2 AND ?3 AND slot <> ?6 \
     AND (family = 0 OR ?4 = 0 OR family = ?4) AND (address = '' OR ?5 = '' OR address = ?5) \
     ORDER BY port LIMIT 1";
/// Selects the holders of a port, on this address or on all. Each is found by the primary key.
pub(super) const HOLDERS: &str = "SELECT DISTINCT slot FROM ports \
     WHERE protocol = ?1 AND port = ?2 \
     AND (family = 0 OR ?3 = 0 OR family = ?3) AND (address = '' OR ?4 = '' OR address = ?4)";
pub(super) const TAKE_PORT: &str =
    "INSERT INTO ports (protocol, port, family, address, slot) VALUES (?, ?, ?, ?, ?)";
pub(super) const RELEASE_PORTS: &str = "DELETE FROM ports \
     WHERE protocol = ? AND port BETWEEN ? AND ? AND family = ? AND address = ? AND slot = ?";

/// Releases the ports of a slot whose record is unreadable. Scans all ports, since nobody knows which they are.
pub(super) const RELEASE_UNKNOWN_PORTS: &str = "DELETE FROM ports WHERE slot = ?";
pub(super) const ALL: &str = "SELECT slot, state, generation, workload, definition FROM slots \
     WHERE workload IS NOT NULL ORDER BY workload, ordinal";
pub(super) const NAMES: &str =
    "SELECT workload FROM slots WHERE workload IS NOT NULL ORDER BY workload, ordinal";
pub(super) const COUNT: &str = "SELECT count(*) FROM slots WHERE workload IS NOT NULL";
pub(super) const FREE: &str = "SELECT slot FROM slots WHERE state = 0 AND state <> 5 ORDER BY slot";
pub(super) const RESERVED: &str =
    "SELECT slot FROM slots WHERE state = ? AND state <> 5 ORDER BY slot";
pub(super) const COUNT_RESERVED: &str = "SELECT state, count(*) FROM slots \
     WHERE state BETWEEN 1 AND 3 AND state <> 5 GROUP BY state";
