//! A table of nf_tables that another process owns (`NFT_TABLE_F_OWNER`), as a newer firewalld has one.

use std::{iter, time::Duration};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use super::{Namespace, wait_for};

const PATIENCE: Duration = Duration::from_secs(10);

/// `NFT_TABLE_F_OWNER | NFT_TABLE_F_PERSIST` of `linux/netfilter/nf_tables.h`: the table stays without its owner, and then
/// belongs to nobody until a process asks for it again.
const OWNED: u32 = 2 | 4;

/// A table of the family inet, and the socket that owns it. Dropping this leaves the table to nobody.
pub(crate) struct Owned {
    namespace: Namespace,
    table: &'static str,
    socket: Socket,
}

impl Owned {
    /// Replaces the table by these chains and rules, and owns it. `rules` has a command of nft(8) in each line, and none
    /// about the table itself, which this nft cannot name without changing its flags.
    #[track_caller]
    pub(crate) fn load(namespace: &Namespace, table: &'static str, rules: &str) -> Self {
        let _absent = namespace.feed(&["nft", "delete", "table", "inet", table], "");
        // Only a table that was created so can be left and taken again, and only its owner could fill it.
        drop(own(namespace, table));
        wait_for("the table to have no owner", PATIENCE, || {
            (namespace.feed(&["nft", "-f", "-"], rules).code == Some(0)).then_some(())
        });
        let socket = own(namespace, table);
        let refused = namespace.feed(&["nft", "flush", "table", "inet", table], "");
        assert_ne!(refused.code, Some(0), "the table belongs to its owner");
        Self { namespace: namespace.clone(), table, socket }
    }

    /// Replaces the rules.
    #[track_caller]
    pub(crate) fn reload(self, rules: &str) -> Self {
        let Self { namespace, table, socket } = self;
        drop(socket);
        wait_for("the table to have no owner", PATIENCE, || {
            let deleted = namespace.feed(&["nft", "delete", "table", "inet", table], "");
            (deleted.code == Some(0)).then_some(())
        });
        Self::load(&namespace, table, rules)
    }

    /// Deletes the table.
    #[track_caller]
    pub(crate) fn delete(self) {
        let Self { namespace, table, socket } = self;
        drop(socket);
        wait_for("the table to be deleted", PATIENCE, || {
            let deleted = namespace.feed(&["nft", "delete", "table", "inet", table], "");
            (deleted.code == Some(0)).then_some(())
        });
    }
}

/// Creates the table, or takes it if nobody has it, and returns the socket that owns it from now on.
#[track_caller]
fn own(namespace: &Namespace, table: &str) -> Socket {
    let mut socket = namespace.run(|| Socket::new(NETLINK_NETFILTER)).expect("a netlink socket");
    socket.bind_auto().expect("an address");
    socket.connect(&SocketAddr::new(0, 0)).expect("the kernel");
    socket.send(&request(table), 0).expect("a request");
    let (answer, _) = socket.recv_from_full().expect("an answer");
    // `struct nlmsgerr` follows the header: an error number, 0 for success.
    assert_eq!(answer.get(16..20), Some(&[0; 4][..]), "the table {table}: {answer:?}");
    socket
}

/// A batch with one message: `NFT_MSG_NEWTABLE` (nftables, `linux/netfilter/nf_tables.h`).
fn request(table: &str) -> Vec<u8> {
    const SUBSYSTEM: u16 = 10;
    let (begin, end, new_table) = (0x10, 0x11, SUBSYSTEM << 8);
    let (request, acknowledge, create) = (1, 4, 0x400);
    let name = table.bytes().chain([0]).collect::<Vec<_>>();
    let attributes = [attribute(1, &name), attribute(2, &OWNED.to_be_bytes())].concat();
    [
        message(begin, request, 0, SUBSYSTEM, &[]),
        message(new_table, request | acknowledge | create, 1, 0, &attributes),
        message(end, request, 0, SUBSYSTEM, &[]),
    ]
    .concat()
}

/// A netlink message of netfilter: `struct nlmsghdr`, `struct nfgenmsg` and attributes.
fn message(kind: u16, flags: u16, family: u8, resource: u16, attributes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(20 + attributes.len()).expect("short");
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]);
    message.extend([family, 0]);
    message.extend(resource.to_be_bytes());
    message.extend(attributes);
    message
}

/// `struct nlattr` and its value, padded to four bytes.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = 4 + value.len();
    let mut attribute = u16::try_from(length).expect("short").to_ne_bytes().to_vec();
    attribute.extend(kind.to_ne_bytes());
    attribute.extend(value);
    attribute.extend(iter::repeat_n(0, length.next_multiple_of(4) - length));
    attribute
}
