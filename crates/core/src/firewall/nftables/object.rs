//! Tables, chains, rules and sets, as messages and back.

use std::{collections::BTreeMap, fmt};

use netlink_packet_core::{DefaultNla, Emitable, NLA_F_NESTED, NLM_F_APPEND, NLM_F_CREATE, Nla};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
    nftables::{
        ChainAttribute, ChainMessage, Hook, HookNumber, NfTablesMessage, RuleAttribute,
        RuleMessage, SetAttribute, SetDescription, SetFlags, SetMessage, TableAttribute,
        TableFlags, TableMessage,
    },
};

use super::{
    attribute::LIST_ELEMENT,
    expression::{Expression, does_nothing, normal, target},
};

/// `TYPE_IFNAME` of nft(8) (`enum datatypes` of its datatype.h).
pub(super) const INTERFACE: u32 = 41;

/// `NFTA_SET_FIELD_LEN` of `<linux/netfilter/nf_tables.h>`.
const FIELD_LENGTH: u16 = 1;

/// One message of a transaction.
#[derive(Debug, Clone)]
pub struct Operation {
    /// A description for errors: "adding tcp 8080 -> 10.231.0.2:3000".
    pub what: String,
    /// The request.
    pub message: NetfilterMessage,
    /// The flags of the request, `NLM_F_*` of netlink(7).
    pub flags: u16,
}

/// A table's family and name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableName {
    /// The address family.
    pub family: NetfilterProtoFamily,
    /// The name within the family.
    pub name: String,
}

/// A table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its family and name.
    pub name: TableName,
    /// The flags, `NFT_TABLE_F_*` of `<linux/netfilter/nf_tables.h>`.
    pub flags: u32,
    /// The number of its chains, sets and other objects.
    pub references: u32,
    /// The user data; a comment is stored there.
    pub userdata: Vec<u8>,
}

/// A chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// The table that it is in.
    pub table: TableName,
    /// The name within the table.
    pub name: String,
    /// The hook, if it is a base chain; `None` for a regular chain.
    pub base: Option<Base>,
    /// The number of its rules and of the rules that jump to it.
    pub references: u32,
}

/// The properties of a base chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// The type: `filter`, `nat` or `route`.
    pub kind: String,
    /// The hook at which packets enter.
    pub hook: HookNumber,
    /// The order among the chains of a hook: lower ones come first.
    pub priority: i32,
    /// The verdict at its end: `NF_DROP` or `NF_ACCEPT` of `<linux/netfilter.h>`.
    pub policy: u32,
}

/// A rule.
#[derive(Debug, Clone)]
pub struct Rule {
    /// The table that it is in.
    pub table: TableName,
    /// The chain that it is in.
    pub chain: String,
    /// The number by which the kernel knows it; 0 in a rule that is not added yet.
    pub handle: u64,
    /// The user data; a comment is stored there.
    pub userdata: Vec<u8>,
    /// Its expressions, in order.
    pub expressions: Vec<Expression>,
}

/// A set or a map, without its elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// The table that it is in.
    pub table: TableName,
    /// The name within the table.
    pub name: String,
    /// The flags, `NFT_SET_*` of `<linux/netfilter/nf_tables.h>`.
    pub flags: u32,
    /// The type of the keys as nft(8) numbers it, and their length in bytes.
    pub key: (u32, u32),
    /// The type and length of the values, if it is a map.
    pub data: Option<(u32, u32)>,
    /// The lengths of the fields of a concatenation of ranges, in bytes; empty otherwise.
    pub fields: Vec<u32>,
    /// The most elements that it may have, if there is a limit.
    pub size: Option<u32>,
    /// The time after which an element is removed, in milliseconds, if it is.
    pub timeout: Option<u64>,
}

/// Returns a text as nft(8) stores comments: type 0, length, text, NUL.
pub(super) fn comment(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len() + 1).unwrap_or(u8::MAX);
    let text = text.bytes().chain([0]).take(length.into());
    [0, length].into_iter().chain(text).collect()
}

/// Returns the text that [`comment`] stored.
pub(super) fn commented(userdata: &[u8]) -> Option<&str> {
    let [0, length, text @ ..] = userdata else { return None };
    std::str::from_utf8(text.get(..usize::from(*length))?.strip_suffix(&[0])?).ok()
}

impl TableName {
    /// Names a table.
    #[must_use]
    pub fn new(family: NetfilterProtoFamily, name: &str) -> Self {
        Self { family, name: name.to_owned() }
    }

    /// Returns a message about an object of this family.
    pub(super) fn message(&self, inner: NfTablesMessage) -> NetfilterMessage {
        NetfilterMessage::new(NetfilterHeader::new(self.family, 0, 0), inner)
    }

    /// Returns the request for this table.
    #[must_use]
    pub fn get(&self) -> NetfilterMessage {
        self.message(NfTablesMessage::GetTable(self.named()))
    }

    /// Returns the request for one chain of this table.
    #[must_use]
    pub fn get_chain(&self, chain: &str) -> NetfilterMessage {
        self.message(NfTablesMessage::GetChain(self.chain_named(chain)))
    }

    /// Returns the request for the rules of one chain, or of all chains.
    #[must_use]
    pub fn get_rules(&self, chain: Option<&str>) -> NetfilterMessage {
        let table = RuleAttribute::Table(self.name.clone());
        let chain = chain.map(|chain| RuleAttribute::Chain(chain.to_owned()));
        let attributes = [table].into_iter().chain(chain).collect();
        self.message(NfTablesMessage::GetRule(RuleMessage { attributes }))
    }

    /// Returns the request for the sets and maps of this table.
    #[must_use]
    pub fn get_sets(&self) -> NetfilterMessage {
        let attributes = vec![SetAttribute::Table(self.name.clone())];
        self.message(NfTablesMessage::GetSet(SetMessage { attributes }))
    }

    pub(super) fn add(&self, userdata: Option<Vec<u8>>) -> Operation {
        let mut message = self.named();
        message.attributes.extend(userdata.map(TableAttribute::UserData));
        self.operation(format!("adding table {self}"), NfTablesMessage::NewTable(message), 0)
    }

    /// Adds the table with flags, `NFT_TABLE_F_*` of `<linux/netfilter/nf_tables.h>`.
    pub(super) fn add_with(&self, flags: u32, userdata: Vec<u8>) -> Operation {
        let mut message = self.named();
        let flags = TableAttribute::Flags(TableFlags::from_bits_retain(flags));
        message.attributes.extend([flags, TableAttribute::UserData(userdata)]);
        self.operation(format!("adding table {self}"), NfTablesMessage::NewTable(message), 0)
    }

    pub(super) fn delete(&self, flags: u16) -> Operation {
        let message = NfTablesMessage::DeleteTable(self.named());
        Operation { what: format!("deleting table {self}"), message: self.message(message), flags }
    }

    pub(super) fn delete_chain(&self, chain: &str, flags: u16) -> Operation {
        let message = NfTablesMessage::DeleteChain(self.chain_named(chain));
        let what = format!("deleting chain {self} {chain}");
        Operation { what, message: self.message(message), flags }
    }

    /// Deletes the rule with this handle, or all rules of the chain.
    pub(super) fn delete_rules(&self, chain: &str, handle: Option<u64>) -> Operation {
        let place =
            [RuleAttribute::Table(self.name.clone()), RuleAttribute::Chain(chain.to_owned())];
        let attributes = place.into_iter().chain(handle.map(RuleAttribute::Handle)).collect();
        let message = NfTablesMessage::DeleteRule(RuleMessage { attributes });
        let what = format!("deleting our rules of chain {self} {chain}");
        Operation { what, message: self.message(message), flags: 0 }
    }

    pub(super) fn operation(
        &self,
        what: String,
        message: NfTablesMessage,
        flags: u16,
    ) -> Operation {
        Operation { what, message: self.message(message), flags: NLM_F_CREATE | flags }
    }

    fn named(&self) -> TableMessage {
        TableMessage { attributes: vec![TableAttribute::Name(self.name.clone())] }
    }

    fn chain_named(&self, chain: &str) -> ChainMessage {
        let table = ChainAttribute::Table(self.name.clone());
        ChainMessage { attributes: vec![table, ChainAttribute::Name(chain.to_owned())] }
    }
}

impl Table {
    /// Reads the table of a message of the kernel (`NFT_MSG_NEWTABLE`).
    #[must_use]
    pub fn read(message: NetfilterMessage) -> Option<Self> {
        let family = message.header.family;
        let NetfilterMessageInner::NfTables(NfTablesMessage::NewTable(table)) = message.inner
        else {
            return None;
        };
        let name = TableName { family, name: String::new() };
        let mut found = Self { name, flags: 0, references: 0, userdata: Vec::new() };
        for attribute in table.attributes {
            match attribute {
                TableAttribute::Name(name) => found.name.name = name,
                TableAttribute::Flags(flags) => found.flags = flags.bits(),
                TableAttribute::Use(references) => found.references = references,
                TableAttribute::UserData(userdata) => found.userdata = userdata,
                _ => {}
            }
        }
        Some(found)
    }

    /// Reports whether only the process that created it can change it (`NFT_TABLE_F_OWNER`).
    #[must_use]
    pub const fn is_owned(&self) -> bool {
        self.flags & 2 != 0
    }
}

impl Chain {
    /// Reads the chain of a message of the kernel (`NFT_MSG_NEWCHAIN`).
    #[must_use]
    pub fn read(message: NetfilterMessage) -> Option<Self> {
        let family = message.header.family;
        let NetfilterMessageInner::NfTables(NfTablesMessage::NewChain(chain)) = message.inner
        else {
            return None;
        };
        let table = TableName { family, name: String::new() };
        let mut found = Self { table, name: String::new(), base: None, references: 0 };
        let (mut kind, mut policy) = (String::new(), 0);
        let mut entry = None;
        for attribute in chain.attributes {
            match attribute {
                ChainAttribute::Table(name) => found.table.name = name,
                ChainAttribute::Name(name) => found.name = name,
                ChainAttribute::Use(references) => found.references = references,
                ChainAttribute::Type(name) => kind = name,
                ChainAttribute::Policy(number) => policy = number,
                ChainAttribute::Hook(attributes) => entry = hook(&attributes),
                _ => {}
            }
        }
        found.base = entry.map(|(hook, priority)| Base { kind, hook, priority, policy });
        Some(found)
    }

    pub(super) fn add(&self) -> Operation {
        let mut message = self.table.chain_named(&self.name);
        if let Some(Base { kind, hook, priority, policy }) = &self.base {
            message.attributes.extend([
                ChainAttribute::Type(kind.clone()),
                ChainAttribute::Hook(vec![
                    Hook::Number(*hook),
                    Hook::Priority(priority.cast_unsigned()),
                ]),
                ChainAttribute::Policy(*policy),
            ]);
        }
        let what = format!("adding chain {} {}", self.table, self.name);
        self.table.operation(what, NfTablesMessage::NewChain(message), 0)
    }
}

fn hook(attributes: &[Hook]) -> Option<(HookNumber, i32)> {
    let number = attributes.iter().find_map(|attribute| match attribute {
        Hook::Number(number) => Some(*number),
        _ => None,
    });
    let priority = attributes.iter().find_map(|attribute| match attribute {
        Hook::Priority(priority) => Some(priority.cast_signed()),
        _ => None,
    });
    Some((number?, priority?))
}

impl Rule {
    /// Returns a rule to be added.
    pub(super) fn new(
        table: &TableName,
        chain: &str,
        userdata: Vec<u8>,
        parts: &[Vec<Expression>],
    ) -> Self {
        let chain = chain.to_owned();
        Self { table: table.clone(), chain, handle: 0, userdata, expressions: parts.concat() }
    }

    /// Adds it after the chain's other rules.
    pub(super) fn append(&self) -> Operation {
        self.add(NLM_F_APPEND, None)
    }

    /// Adds it before the rule of the chain that has this handle. Refused with `ENOENT` if there is none.
    pub(super) fn insert_before(&self, handle: u64) -> Operation {
        self.add(0, Some(handle))
    }

    fn add(&self, flags: u16, position: Option<u64>) -> Operation {
        let mut attributes = vec![
            RuleAttribute::Table(self.table.name.clone()),
            RuleAttribute::Chain(self.chain.clone()),
            RuleAttribute::Expressions(self.expressions.iter().cloned().map(Into::into).collect()),
        ];
        attributes.extend(position.map(RuleAttribute::Position));
        if !self.userdata.is_empty() {
            attributes.push(RuleAttribute::UserData(self.userdata.clone()));
        }
        let message = NfTablesMessage::NewRule(RuleMessage { attributes });
        self.table.operation(format!("adding to {self}"), message, flags)
    }

    /// Reports whether both do the same in the same chain.
    pub(super) fn means(&self, other: &Self) -> bool {
        let normals = |rule: &Self| {
            let effective = rule.expressions.iter().filter(|expression| !does_nothing(expression));
            effective.map(normal).collect::<Vec<Normal>>()
        };
        self.chain == other.chain
            && self.userdata == other.userdata
            && normals(self) == normals(other)
    }

    /// Returns the chain that it jumps or goes to.
    pub(super) fn target(&self) -> Option<&str> {
        self.expressions.iter().find_map(target)
    }
}

type Normal = (String, BTreeMap<u16, Vec<u8>>);

impl Set {
    /// Reads the set or map of a message of the kernel (`NFT_MSG_NEWSET`).
    #[must_use]
    pub fn read(message: NetfilterMessage) -> Option<Self> {
        let table = TableName { family: message.header.family, name: String::new() };
        let NetfilterMessageInner::NfTables(NfTablesMessage::NewSet(set)) = message.inner else {
            return None;
        };
        let (name, fields) = (String::new(), vec![]);
        let (size, timeout) = (None, None);
        let mut found =
            Self { table, name, flags: 0, key: (0, 0), data: None, fields, size, timeout };
        let mut data = (0, 0);
        for attribute in set.attributes {
            match attribute {
                SetAttribute::Table(name) => found.table.name = name,
                SetAttribute::Name(name) => found.name = name,
                SetAttribute::Flags(flags) => found.flags = flags.bits(),
                SetAttribute::KeyType(number) => found.key.0 = number,
                SetAttribute::KeyLen(length) => found.key.1 = length,
                SetAttribute::Description(parts) => {
                    found.fields = parts.iter().flat_map(field_lengths).collect();
                    found.size = parts.iter().find_map(most);
                }
                SetAttribute::Timeout(milliseconds) => found.timeout = Some(milliseconds),
                SetAttribute::DataType(number) => data.0 = number,
                SetAttribute::DataLen(length) => data.1 = length,
                _ => {}
            }
        }
        found.data = (data != (0, 0)).then_some(data);
        Some(found)
    }

    /// Adds it. `id` tells the sets of one transaction apart.
    pub(super) fn add(&self, id: u32) -> Operation {
        // NFTNL_UDATA_SET_KEYBYTEORDER: without BYTEORDER_HOST_ENDIAN, nft(8) shows names of interfaces
        // reversed, which are empty texts.
        let [a, b, c, d] = 1_u32.to_ne_bytes();
        let mut attributes = vec![
            SetAttribute::Table(self.table.name.clone()),
            SetAttribute::Name(self.name.clone()),
            SetAttribute::Flags(SetFlags::from_bits_retain(self.flags)),
            SetAttribute::KeyType(self.key.0),
            SetAttribute::KeyLen(self.key.1),
            SetAttribute::Id(id),
        ];
        if let Some((number, length)) = self.data {
            attributes.extend([SetAttribute::DataType(number), SetAttribute::DataLen(length)]);
        }
        if self.key.0 == INTERFACE {
            attributes.push(SetAttribute::UserData(vec![0, 4, a, b, c, d]));
        }
        attributes.extend(self.timeout.map(SetAttribute::Timeout));
        let fields: Vec<_> = self.fields.iter().map(|&length| field(length)).collect();
        let fields = (!fields.is_empty()).then_some(SetDescription::Concat(fields));
        let parts: Vec<_> = self.size.map(SetDescription::Size).into_iter().chain(fields).collect();
        if !parts.is_empty() {
            attributes.push(SetAttribute::Description(parts));
        }
        let what = format!("adding set {} {}", self.table, self.name);
        self.table.operation(what, NfTablesMessage::NewSet(SetMessage { attributes }), 0)
    }

    /// Deletes it with its elements. Refused with `EBUSY` if a rule looks into it.
    pub(super) fn delete(&self) -> Operation {
        let attributes = vec![
            SetAttribute::Table(self.table.name.clone()),
            SetAttribute::Name(self.name.clone()),
        ];
        let message = NfTablesMessage::DeleteSet(SetMessage { attributes });
        let what = format!("deleting set {} {}", self.table, self.name);
        Operation { what, message: self.table.message(message), flags: 0 }
    }
}

/// Returns the description of a field of a concatenation (`NFTA_SET_FIELD_LEN` in `NFTA_LIST_ELEM`).
fn field(length: u32) -> DefaultNla {
    let length = DefaultNla::new(FIELD_LENGTH, length.to_be_bytes().into());
    let mut bytes = vec![0; length.buffer_len()];
    length.emit(&mut bytes);
    DefaultNla::new(LIST_ELEMENT | NLA_F_NESTED, bytes)
}

/// Returns the most elements that a description allows.
const fn most(description: &SetDescription) -> Option<u32> {
    match description {
        SetDescription::Size(size) => Some(*size),
        _ => None,
    }
}

/// Returns the lengths of the fields that a description has.
fn field_lengths(description: &SetDescription) -> Vec<u32> {
    let SetDescription::Concat(fields) = description else { return vec![] };
    let length = |field: &DefaultNla| {
        let mut value = vec![0; field.value_len()];
        field.emit_value(&mut value);
        let (_, length) = value.split_at_checked(4)?;
        Some(u32::from_be_bytes(length.try_into().ok()?))
    };
    fields.iter().filter_map(length).collect()
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = match self.family {
            NetfilterProtoFamily::Inet => "inet",
            NetfilterProtoFamily::IPv4 => "ip",
            NetfilterProtoFamily::IPv6 => "ip6",
            NetfilterProtoFamily::NetDev => "netdev",
            _ => "another family's",
        };
        write!(f, "{family} {}", self.name)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "chain {} {}: ", self.table, self.chain)?;
        match (commented(&self.userdata), self.target(), self.handle) {
            (Some(comment), _, _) => write!(f, "rule {comment:?}"),
            (None, Some(chain), _) => write!(f, "rule that jumps to {chain}"),
            (None, None, 0) => f.write_str("rule"),
            (None, None, handle) => write!(f, "rule with handle {handle}"),
        }
    }
}
