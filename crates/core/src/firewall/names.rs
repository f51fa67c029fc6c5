//! Every name that we give to objects in the firewall, and those of others that we build on.
//!
//! Both backends and the watcher of the long-lived node use them; no other file has such a name.

/// The chain of the exposures, in every backend; the names of all our chains in tables of others begin with it.
pub const CHAIN: &str = "RIKLET";
/// Our passage: the chain in a foreign table that accepts packets from and to guests; rules jump to it before the rules
/// that would drop them.
pub const PASSAGE_CHAIN: &str = "RIKLET-PASSAGE";

/// Reports whether a chain in a table of others is ours.
#[must_use]
pub fn is_our_chain(chain: &str) -> bool {
    chain.starts_with(CHAIN)
}

/// Names of nf_tables.
pub mod nftables {
    /// Our table, of the family `inet`.
    pub const TABLE: &str = "riklet";
    /// The beginning of our table's comment. The digest of the base ruleset follows, and the owner.
    pub const TABLE_COMMENT: &str = "riklet-sdn 1 ";

    /// The table, of the family `inet`, of the process that confines packets that pass only because of our forwarding.
    pub const CONFINEMENT_TABLE: &str = "riklet-confinement";

    /// The table, of the family `inet`, of what guests reach, where the rest of the firewall is iptables.
    pub const POLICIES_TABLE: &str = "riklet-policies";

    /// The chain that drops packets of guests that are not theirs to send, and of others that are only theirs, before they
    /// are tracked.
    pub const ANTISPOOF: &str = "antispoof";
    /// The chain that drops packets of guests that belong to no connection or begin too many, and marks translated ones for routing.
    pub const TRACK: &str = "track";
    /// The chain that leads arriving packets to the exposures.
    pub const PREROUTING: &str = "prerouting";
    /// The chain that leads the host's own packets to the exposures.
    pub const OUTPUT: &str = "output";
    /// The chain that marks packets of guests before they are routed.
    pub const ANSWERS: &str = "answers";
    /// The chain that decides which packets of guests reach the host itself.
    pub const INPUT: &str = "input";
    /// The chain that decides which packets from and to guests are forwarded.
    pub const FORWARD: &str = "forward";
    /// The chain that masquerades.
    pub const POSTROUTING: &str = "postrouting";

    /// The map of the exposures on every address.
    pub const EXPOSURES: &str = "exposures";
    /// The map of the exposures on one address.
    pub const BOUND: &str = "bound";
    /// The map of the ranges of ports on every address that lead to the same ports of a guest.
    pub const RANGES: &str = "ranges";
    /// The map of such ranges on one address.
    pub const BOUND_RANGES: &str = "bound-ranges";
    /// The set of the guests that may reach themselves by way of the host.
    pub const HAIRPIN: &str = "hairpin";
    /// The chain that refuses what guests send, so that their programs need not wait.
    pub const REFUSE: &str = "refuse";
    /// The chain that refuses what guests send to the host, as the host does where nobody listens.
    pub const HOST_REFUSE: &str = "host-refuse";
    /// The chain that drops what guests send without a whole header of a protocol with ports.
    pub const WHOLE: &str = "whole";
    /// The map of the guests whose policy names destinations, each with the chain that decides about them.
    pub const POLICIES: &str = "policies";
    /// The map of the guests whose policy names the host, each with the chain that decides about its ports.
    pub const HOST_POLICIES: &str = "host-policies";
    /// The beginning of the name of a chain that decides about destinations, and of the sets that it looks into.
    pub const POLICY: &str = "policy-";
    /// The beginning of the name of a chain that decides about ports of the host, and of the sets that it looks into.
    pub const HOST_POLICY: &str = "host-policy-";
    /// The chain that accepts what a policy allows.
    pub const ALLOWED: &str = "allowed";
    /// The set of the guests that reach the Internet.
    pub const REACH_INTERNET: &str = "reach-internet";
    /// The set of the guests that reach everything.
    pub const REACH_ALL: &str = "reach-all";
    /// The set of the guests that reach nothing.
    pub const REACH_NONE: &str = "reach-none";
    /// The set of the interfaces that only our forwarding leads to each other.
    pub const CONFINED: &str = "confined";
    /// The set of the guests that have begun flows, each with their number. The kernel adds and removes them.
    pub const FLOWS: &str = "flows";
    /// The set of the guests that began flows lately, each with its rate. The kernel adds and removes them.
    pub const RATES: &str = "rates";
    /// The map of the guests and ports whose connections are led to a proxy.
    pub const PROXIES: &str = "proxies";
    /// The set of the guests whose policies have names.
    pub const NAMED: &str = "named";
    /// The set of the guests that asked for names lately, each with its rate. The kernel adds and removes them.
    pub const ASKED: &str = "asked";
    /// The sets that the kernel fills by itself.
    pub const FILLED: [&str; 8] =
        [FLOWS, FLOWS_V6, RATES, RATES_V6, REFUSED, TOLD, DISCOVERIES, ASKED];
    /// The set of the uplinks.
    pub const UPLINKS: &str = "uplinks";

    /// The set of refused packets, each with a count, by interface and rule. The kernel adds and removes them.
    pub const REFUSED: &str = "refused";
    /// The set of the interfaces whose refused packets were told of lately. The kernel adds and removes them.
    pub const TOLD: &str = "told";
    /// The chain for packets that the guest's policy denies.
    pub const REFUSED_POLICY: &str = "refused-policy";
    /// The chain for packets to the host that the guest's policy denies.
    pub const REFUSED_POLICY_HOST: &str = "refused-policy-host";
    /// The chain for packets beyond the default of the guest's policy.
    pub const REFUSED_DEFAULT: &str = "refused-default";
    /// The chain for packets beyond the reach of the node's guests.
    pub const REFUSED_EGRESS: &str = "refused-egress";
    /// The chain for mail.
    pub const REFUSED_MAIL: &str = "refused-mail";
    /// The chain for packets to services of the host.
    pub const REFUSED_HOST: &str = "refused-host";
    /// The chain for packets to other guests, which routing refuses.
    pub const REFUSED_GUEST: &str = "refused-guest";
    /// The chain for packets with addresses of others.
    pub const REFUSED_SPOOFED: &str = "refused-spoofed";
    /// The chain for packets to 127.0.0.0/8.
    pub const REFUSED_LOOPBACK: &str = "refused-loopback";
    /// The chain for packets to groups of hosts.
    pub const REFUSED_MULTICAST: &str = "refused-multicast";
    /// The chain for packets to all hosts of a network.
    pub const REFUSED_BROADCAST: &str = "refused-broadcast";
    /// The chain for packets that belong to no connection.
    pub const REFUSED_INVALID: &str = "refused-invalid";
    /// The chain for packets of guests that begin flows too fast.
    pub const REFUSED_RATE: &str = "refused-flow-rate";
    /// The chain for packets of guests that have too many flows.
    pub const REFUSED_FLOWS: &str = "refused-flows";
    /// The chain for packets that are too short for ports.
    pub const REFUSED_SHORT: &str = "refused-short";

    /// The same of IPv6, which exist where guests have it: exposures, guests, flows, and confined interfaces.
    pub const EXPOSURES_V6: &str = "exposures6";
    /// See [`EXPOSURES_V6`].
    pub const BOUND_V6: &str = "bound6";
    /// See [`EXPOSURES_V6`].
    pub const RANGES_V6: &str = "ranges6";
    /// See [`EXPOSURES_V6`].
    pub const BOUND_RANGES_V6: &str = "bound-ranges6";
    /// See [`EXPOSURES_V6`].
    pub const HAIRPIN_V6: &str = "hairpin6";
    /// See [`EXPOSURES_V6`].
    pub const POLICIES_V6: &str = "policies6";
    /// See [`EXPOSURES_V6`].
    pub const HOST_POLICIES_V6: &str = "host-policies6";
    /// See [`EXPOSURES_V6`].
    pub const POLICY_V6: &str = "policy6-";
    /// See [`EXPOSURES_V6`].
    pub const HOST_POLICY_V6: &str = "host-policy6-";
    /// See [`EXPOSURES_V6`].
    pub const REACH_INTERNET_V6: &str = "reach-internet6";
    /// See [`EXPOSURES_V6`].
    pub const REACH_ALL_V6: &str = "reach-all6";
    /// See [`EXPOSURES_V6`].
    pub const REACH_NONE_V6: &str = "reach-none6";
    /// See [`EXPOSURES_V6`].
    pub const FLOWS_V6: &str = "flows6";
    /// See [`EXPOSURES_V6`].
    pub const RATES_V6: &str = "rates6";
    /// See [`EXPOSURES_V6`].
    pub const CONFINED_V6: &str = "confined6";
    /// The set of the TAPs whose guests discovered neighbours lately, each with its rate. The kernel adds and removes them.
    pub const DISCOVERIES: &str = "discoveries";

    /// Priorities of base chains (`enum nf_ip_hook_priorities` of `<linux/netfilter_ipv4.h>`).
    pub mod priority {
        /// Before connection tracking (`NF_IP_PRI_RAW`).
        pub const RAW: i32 = -300;
        /// Before the table mangle of iptables, at the hooks where that filters.
        pub const BEFORE_MANGLE: i32 = -160;
        /// Alteration of packets, before they are routed (`NF_IP_PRI_MANGLE`).
        pub const MANGLE: i32 = -150;
        /// Translation of destinations, one step before `NF_IP_PRI_NAT_DST` (-100), which others use. Of two chains with the
        /// same priority, the kernel asks the later one first (`nf_hook_entries_grow` in `net/netfilter/core.c`).
        pub const BEFORE_DSTNAT: i32 = -101;
        /// After the translation of destinations by anybody, and before routing: a mark that is set here is not lost to chains
        /// of others that set theirs before.
        pub const AFTER_DSTNAT: i32 = -90;
        /// Filtering, before others filter.
        pub const BEFORE_FILTER: i32 = -10;
        /// Filtering (`NF_IP_PRI_FILTER`).
        pub const FILTER: i32 = 0;
        /// Translation of sources (`NF_IP_PRI_NAT_SRC`).
        pub const SRCNAT: i32 = 100;
    }
}

/// Names of iptables.
pub mod iptables {
    /// The beginning of the names that the programs of iptables have as processes.
    pub const PROGRAM: &str = "iptables";
    /// The legacy variant, in the names of its chains.
    pub const LEGACY: &str = "iptables-legacy";
    /// The beginning of the comment on our jumps. The owner follows.
    pub const JUMP_COMMENT: &str = "riklet-sdn ";

    /// Our chain in the table mangle that drops packets from and to guests that are not allowed: every packet passes it
    /// before the table filter, in which other programs accept packets.
    pub const FORWARD_CHAIN: &str = "RIKLET-FORWARD";
    /// Our chain in the table mangle that refuses once more, when packets leave: an accept of others before our jump in
    /// FORWARD ends that chain only.
    pub const LAST_CHAIN: &str = "RIKLET-LAST";
    /// Our chain in the table mangle that drops packets of guests to the host itself that are not allowed.
    pub const INPUT_CHAIN: &str = "RIKLET-INPUT";
    /// Our chain in the table mangle that repeats the rules of [`RAW_CHAIN`] for guests, for the same reason. It also drops
    /// packets of guests that belong to no connection, and marks translated ones for routing.
    pub const PREROUTING_CHAIN: &str = "RIKLET-PREROUTING";
    /// Our chain in the table mangle that drops what guests with a policy send, if nobody has asked their policies.
    pub const POLICY_CHAIN: &str = "RIKLET-POLICY";
    /// Our chain in the table raw.
    pub const RAW_CHAIN: &str = "RIKLET-RAW";
    /// Our chain in the table nat that masquerades.
    pub const POSTROUTING_CHAIN: &str = "RIKLET-POSTROUTING";
    /// Our chain in the table nat of the guests that may reach themselves by way of the host.
    pub const HAIRPIN_CHAIN: &str = "RIKLET-HAIRPIN";

    /// Our chain in the table mangle that marks packets of guests before they are routed.
    pub const MARK_CHAIN: &str = "RIKLET-MARK";
    /// Our chain in the table mangle that confines packets that pass only because of our forwarding.
    pub const CONFINE_CHAIN: &str = "RIKLET-CONFINE";

    /// Our chain for packets beyond the reach of the node's guests.
    pub const REFUSED_EGRESS: &str = "RIKLET-REFUSED-EGRESS";
    /// Our chain for mail.
    pub const REFUSED_MAIL: &str = "RIKLET-REFUSED-MAIL";
    /// Our chain for packets to services of the host.
    pub const REFUSED_HOST: &str = "RIKLET-REFUSED-HOST";
    /// Our chain for packets to other guests, which routing refuses.
    pub const REFUSED_GUEST: &str = "RIKLET-REFUSED-GUEST";
    /// Our chain for packets with addresses of others.
    pub const REFUSED_SPOOFED: &str = "RIKLET-REFUSED-SPOOFED";
    /// Our chain for packets to 127.0.0.0/8.
    pub const REFUSED_LOOPBACK: &str = "RIKLET-REFUSED-LOOPBACK";
    /// Our chain for packets to groups of hosts.
    pub const REFUSED_MULTICAST: &str = "RIKLET-REFUSED-MULTICAST";
    /// Our chain for packets to all hosts of a network.
    pub const REFUSED_BROADCAST: &str = "RIKLET-REFUSED-BROADCAST";
    /// Our chain for packets that belong to no connection.
    pub const REFUSED_INVALID: &str = "RIKLET-REFUSED-INVALID";
    /// Our chain for packets of guests that begin flows too fast.
    pub const REFUSED_RATE: &str = "RIKLET-REFUSED-FLOW-RATE";
    /// Our chain for packets of guests that have too many flows.
    pub const REFUSED_FLOWS: &str = "RIKLET-REFUSED-FLOWS";

    /// The table that filters. Only passages of ours are in it.
    pub const FILTER: &str = "filter";
    /// The table before connection tracking.
    pub const RAW: &str = "raw";
    /// The table that translates addresses.
    pub const NAT: &str = "nat";
    /// The table that alters packets.
    pub const MANGLE: &str = "mangle";
    /// The table for mandatory access control, which filters as well.
    pub const SECURITY: &str = "security";
    /// The tables that have objects of ours, passages through the table filter aside.
    pub const OUR_TABLES: [&str; 3] = [NAT, RAW, MANGLE];
    /// The tables that iptables-nft creates when it is called.
    pub const TABLES: [&str; 4] = [FILTER, NAT, RAW, MANGLE];

    /// The built-in chain for packets to the host itself.
    pub const INPUT: &str = "INPUT";
    /// The built-in chain for arriving packets.
    pub const PREROUTING: &str = "PREROUTING";
    /// The built-in chain for the host's own packets.
    pub const OUTPUT: &str = "OUTPUT";
    /// The built-in chain for forwarded packets.
    pub const FORWARD: &str = "FORWARD";
    /// The built-in chain for leaving packets.
    pub const POSTROUTING: &str = "POSTROUTING";
    /// The tables and built-in chains that jump to ours, now or in an earlier version (the chain FORWARD of the table
    /// filter).
    pub const JUMPS: [(&str, &str); 9] = [
        (FILTER, FORWARD),
        (MANGLE, INPUT),
        (MANGLE, FORWARD),
        (RAW, PREROUTING),
        (MANGLE, PREROUTING),
        (MANGLE, POSTROUTING),
        (NAT, PREROUTING),
        (NAT, OUTPUT),
        (NAT, POSTROUTING),
    ];
    /// The built-in chains that jump to ours.
    pub const JUMPING: [&str; 5] = [PREROUTING, INPUT, OUTPUT, FORWARD, POSTROUTING];
}
