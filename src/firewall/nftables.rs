//! The ruleset as messages of nf_tables.
