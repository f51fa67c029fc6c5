//! The ruleset as input of `iptables-restore`.
