//! Foreign forward chains, and the tables of iptables-nft.

use netlink_packet_core::NLM_F_CREATE;
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage,
    nftables::{
        ChainAttribute, ChainMessage, Hook, HookNumber, InetHookNumber, NfTablesMessage,
        TableAttribute, TableFlags, TableMessage,
    },
};

use super::*;
use riklet_core::firewall::{
    ForeignChain,
    nftables::{Operation, TableName, foreign_chain},
};

fn foreign_chain(
    family: ForeignFamily,
    table: &str,
    chain: &str,
    open: bool,
    touched: bool,
) -> ForeignChainState {
    let (table, chain) = (table.to_owned(), chain.to_owned());
    ForeignChainState {
        foreign_chain: ForeignChain::Nftables { family, table, chain },
        open,
        touched,
    }
}

#[test]
fn a_passage_through_iptables_is_opened_repaired_and_closed() {
    in_namespace(|| {
        for rule in
            ["-P FORWARD DROP", "-A FORWARD -i eth7 -j ACCEPT", "-N DOCKER", "-A FORWARD -j DOCKER"]
        {
            iptables(rule);
        }
        let before = (iptables_save(), listing());
        let mut kernel = Nftables::default();
        let forward = |open, touched| {
            vec![foreign_chain(ForeignFamily::Ip, "filter", "FORWARD", open, touched)]
        };
        let mut set = |open| {
            kernel
                .connection()
                .unwrap()
                .set_passage(ForeignFamily::Ip, "filter", "FORWARD", open)
                .unwrap();
        };
        let foreign_chains =
            || Nftables::default().connection().unwrap().foreign_chains(false).unwrap();
        assert_eq!(foreign_chains(), forward(false, false));
        assert_eq!(Nftables::default().connection().unwrap().foreign_chains(true).unwrap(), []);
        set(false);
        assert_eq!((iptables_save(), listing()), before);

        set(true);
        assert_eq!(foreign_chains(), forward(true, true));
        let open = (iptables_save(), listing());
        let rules = "-A FORWARD -j RIKLET-FORWARD\n-A FORWARD -i eth7 -j ACCEPT\n-A FORWARD -j DOCKER\n\
                     -A RIKLET-FORWARD -i rik+ -j ACCEPT\n-A RIKLET-FORWARD -o rik+ -j ACCEPT\n";
        assert!(open.0.contains(rules), "{}", open.0);
        set(true);
        assert_eq!((iptables_save(), listing()), open);

        for damage in [
            "-D FORWARD -j RIKLET-FORWARD",
            "-A FORWARD -j RIKLET-FORWARD",
            "-I FORWARD -j DOCKER",
            "-F RIKLET-FORWARD",
            "-D RIKLET-FORWARD -i rik+ -j ACCEPT",
            "-I RIKLET-FORWARD -i rik3 -j DROP",
        ] {
            iptables(damage);
            assert_eq!(foreign_chains(), forward(false, true), "{damage}");
            set(true);
            assert_eq!(foreign_chains(), forward(true, true), "{damage}");
            if damage == "-I FORWARD -j DOCKER" {
                iptables("-D FORWARD -j DOCKER");
            }
        }
        assert_eq!(iptables_save(), open.0);
        set(false);
        assert_eq!((iptables_save(), listing()), before);
    });
}

#[test]
fn only_chains_that_drop_or_have_something_of_ours_are_foreign_chains() {
    in_namespace(|| {
        nft("table inet foo {
               chain forward { type filter hook forward priority 0; policy drop; tcp dport 22 accept; }
               chain later { type filter hook forward priority 5; policy drop; }
               chain open { type filter hook forward priority 6; policy accept; }
               chain input { type filter hook input priority 0; policy drop; }
             }
             table ip6 foo { chain f { type filter hook forward priority 0; policy drop; }; }
             table ip bar { chain f { type filter hook forward priority 0; policy accept; }; }");
        let before = listing();
        let mut kernel = Nftables::default();
        kernel.apply(&Change::Reset(ruleset([]))).unwrap();
        let foo =
            |chain, open, touched| foreign_chain(ForeignFamily::Inet, "foo", chain, open, touched);
        let first = kernel.connection().unwrap().foreign_chains(false).unwrap();
        assert_eq!(first, [foo("forward", false, false), foo("later", false, false)]);
        for chain in ["forward", "later"] {
            kernel
                .connection()
                .unwrap()
                .set_passage(ForeignFamily::Inet, "foo", chain, true)
                .unwrap();
        }
        let both = [foo("forward", true, true), foo("later", true, true)];
        assert_eq!(kernel.connection().unwrap().foreign_chains(false).unwrap(), both);

        kernel
            .connection()
            .unwrap()
            .set_passage(ForeignFamily::Inet, "foo", "forward", false)
            .unwrap();
        assert_eq!(
            kernel.connection().unwrap().foreign_chains(false).unwrap(),
            [foo("forward", false, true), both[1].clone()]
        );
        // A policy that has become accept leaves something to close.
        nft("add chain inet foo later { policy accept; }");
        assert!(kernel.connection().unwrap().foreign_chains(false).unwrap().contains(&both[1]));
        nft("add chain inet foo later { policy drop; }");
        kernel
            .connection()
            .unwrap()
            .set_passage(ForeignFamily::Inet, "foo", "later", false)
            .unwrap();
        kernel.apply(&Change::Remove).unwrap();
        assert_eq!(listing(), before);

        kernel
            .connection()
            .unwrap()
            .set_passage(ForeignFamily::Inet, "gone", "forward", false)
            .unwrap();
        let refused = kernel
            .connection()
            .unwrap()
            .set_passage(ForeignFamily::Inet, "gone", "forward", true)
            .unwrap_err();
        assert_eq!(refused.errno, Some(Refusal::ENOENT));
    });
}

/// Makes a table with a base chain that drops, which only the returned connection can change.
fn owned(table: &TableName, chain: &str) -> Nftables {
    let forward = HookNumber::Inet(InetHookNumber::Forward);
    let name = table.name.clone();
    let attributes =
        vec![TableAttribute::Name(name.clone()), TableAttribute::Flags(TableFlags::Owner)];
    let add_table = NfTablesMessage::NewTable(TableMessage { attributes });
    let attributes = vec![
        ChainAttribute::Table(name),
        ChainAttribute::Name(chain.to_owned()),
        ChainAttribute::Type("filter".to_owned()),
        ChainAttribute::Hook(vec![Hook::Number(forward), Hook::Priority(0)]),
        ChainAttribute::Policy(0),
    ];
    let add_chain = NfTablesMessage::NewChain(ChainMessage { attributes });
    let operation = |message| Operation {
        what: String::new(),
        message: NetfilterMessage::new(NetfilterHeader::new(table.family, 0, 0), message),
        flags: NLM_F_CREATE,
    };
    let mut owner = Nftables::default();
    owner.connection().unwrap().commit([add_table, add_chain].map(operation).into()).unwrap();
    owner
}

#[test]
fn a_table_with_an_owner_has_no_foreign_chain() {
    in_namespace(|| {
        let owners = [
            owned(&foreign_chain::table(ForeignFamily::Ip, "filter"), "FORWARD"),
            owned(&foreign_chain::table(ForeignFamily::Inet, "firewalld"), "forward"),
        ];
        let mut kernel = Nftables::default();
        assert_eq!(kernel.connection().unwrap().foreign_chains(false).unwrap(), []);
        kernel.apply(&Change::Reset(ruleset([]))).unwrap();
        assert!(kernel.probe(&base_ruleset(), &BTreeSet::new()).unwrap());
        drop(owners);
    });
}

#[test]
fn empty_tables_of_iptables_are_removed() {
    in_namespace(|| {
        let mut kernel = Connection::open().unwrap();
        assert_eq!(kernel.implicit_tables().unwrap(), BTreeSet::new());
        iptables("-A INPUT -i lo -j ACCEPT");
        iptables("-D INPUT -i lo -j ACCEPT");
        iptables("-t nat -P PREROUTING ACCEPT");
        iptables("-t mangle -A INPUT -j ACCEPT");
        iptables("-t raw -P PREROUTING DROP");
        nft("add table ip other");
        let names = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect::<BTreeSet<_>>();
        let there = names(&["filter", "mangle", "nat", "raw"]);
        assert_eq!(kernel.implicit_tables().unwrap(), there);
        kernel.remove_empty_tables(&there).unwrap();
        assert_eq!(kernel.implicit_tables().unwrap(), there);
        kernel.remove_empty_tables(&names(&["nat"])).unwrap();
        assert_eq!(kernel.implicit_tables().unwrap(), names(&["mangle", "nat", "raw"]));
        nft("add set ip nat s { type ipv4_addr; }");
        kernel.remove_empty_tables(&BTreeSet::new()).unwrap();
        assert_eq!(kernel.implicit_tables().unwrap(), names(&["mangle", "nat", "raw"]));
        assert!(listing().contains("table ip other"));
    });
}
