//! Reads messages about rules.
//!
//! The library does the same, but formats the text of an error for each attribute of an expression, whether or not there is an
//! error. A host may have tens of thousands of rules, whose reading would take seconds.

use netlink_packet_core::{DefaultNla, NlaBuffer, Parseable};
use netlink_packet_netfilter::nftables::{
    Bitwise, Cmp, Expressions, Immediate, Lookup, Meta, Payload,
};

use super::{
    attribute::{
        Attributes, EXPRESSION_DATA, EXPRESSION_NAME, HEADER, LIST_ELEMENT, RULE_CHAIN,
        RULE_EXPRESSIONS, RULE_HANDLE, RULE_TABLE, RULE_USERDATA, each, text,
    },
    expression::Expression,
    object::{Rule, TableName},
    sound::{
        HEADERS, HOLDERS_OF_BITWISE, HOLDERS_OF_CMP, HOLDERS_OF_IMMEDIATE, NEW_RULE, family, kind,
    },
};

impl Rule {
    /// Reads the rule of a message of the kernel (`NFT_MSG_NEWRULE`), with its header; `None` if the message is of another
    /// kind, or malformed.
    #[must_use]
    pub fn read(message: &[u8]) -> Option<Self> {
        if kind(message) != Some(NEW_RULE) {
            return None;
        }
        let table = TableName::new(family(message)?, "");
        let mut found = Self::new(&table, "", Vec::new(), &[]);
        each(message.get(HEADERS..)?, |kind, attribute| {
            let value = attribute.get(HEADER..)?;
            match kind {
                RULE_TABLE => text(value)?.clone_into(&mut found.table.name),
                RULE_CHAIN => text(value)?.clone_into(&mut found.chain),
                RULE_HANDLE => found.handle = u64::from_be_bytes(value.try_into().ok()?),
                RULE_USERDATA => found.userdata = value.to_vec(),
                RULE_EXPRESSIONS => each(value, |kind, item| {
                    if kind == LIST_ELEMENT {
                        found.expressions.push(expression(item.get(HEADER..)?)?);
                    }
                    Some(())
                })?,
                _ => {}
            }
            Some(())
        })?;
        Some(found)
    }
}

/// Reads an expression of a rule's list. One without data, which none of ours is, is kept by its name.
fn expression(item: &[u8]) -> Option<Expression> {
    let (mut name, mut found) = (None, None);
    each(item, |kind, attribute| {
        let value = attribute.get(HEADER..)?;
        match kind {
            EXPRESSION_NAME => name = Some(text(value)?),
            EXPRESSION_DATA if found.is_none() => found = Some(data(name, value)?),
            _ => {}
        }
        Some(())
    })?;
    let expression_type = || name.unwrap_or_default().to_owned();
    let nothing = || Expressions::Other { expression_type: expression_type(), attributes: vec![] };
    Some(found.unwrap_or_else(nothing))
}

fn data(name: Option<&str>, bytes: &[u8]) -> Option<Expression> {
    Some(match name {
        Some("bitwise") => Expressions::Bitwise(attributes::<Bitwise>(bytes, HOLDERS_OF_BITWISE)?),
        Some("cmp") => Expressions::Cmp(attributes::<Cmp>(bytes, HOLDERS_OF_CMP)?),
        Some("immediate") => {
            Expressions::Immediate(attributes::<Immediate>(bytes, HOLDERS_OF_IMMEDIATE)?)
        }
        Some("lookup") => Expressions::Lookup(attributes::<Lookup>(bytes, &[])?),
        Some("meta") => Expressions::Meta(attributes::<Meta>(bytes, &[])?),
        Some("payload") => Expressions::Payload(attributes::<Payload>(bytes, &[])?),
        Some(other) => Expressions::Other {
            expression_type: other.to_owned(),
            attributes: attributes::<DefaultNla>(bytes, &[])?,
        },
        None => Expressions::Unknown(attributes::<DefaultNla>(bytes, &[])?),
    })
}

fn attributes<T: for<'a> Parseable<NlaBuffer<&'a [u8]>>>(
    bytes: &[u8],
    holders: &[u16],
) -> Option<Vec<T>> {
    let mut found = Vec::with_capacity(4);
    each(bytes, |kind, attribute| {
        if holders.contains(&kind) {
            Attributes(attribute.get(HEADER..)?).next()?;
        }
        found.push(T::parse(&NlaBuffer::new(attribute)).ok()?);
        Some(())
    })?;
    Some(found)
}

#[cfg(any(test, fuzzing))]
pub use law::assert_same;

#[cfg(any(test, fuzzing))]
mod law {
    use netlink_packet_netfilter::{
        NetfilterMessage, NetfilterMessageInner,
        nftables::{
            ExpressionAttribute, Expressions, ListAttribute, NfTablesMessage, RuleAttribute,
        },
    };

    use super::super::object::{Rule, TableName};
    use super::Expression;

    impl Rule {
        /// Reads a rule as the library does.
        #[must_use]
        pub fn decoded(message: NetfilterMessage) -> Option<Self> {
            let table = TableName { family: message.header.family, name: String::new() };
            let NetfilterMessageInner::NfTables(NfTablesMessage::NewRule(rule)) = message.inner
            else {
                return None;
            };
            let mut found = Self::new(&table, "", Vec::new(), &[]);
            for attribute in rule.attributes {
                match attribute {
                    RuleAttribute::Table(name) => found.table.name = name,
                    RuleAttribute::Chain(name) => found.chain = name,
                    RuleAttribute::Handle(handle) => found.handle = handle,
                    RuleAttribute::UserData(userdata) => found.userdata = userdata,
                    RuleAttribute::Expressions(list) => {
                        found.expressions = list.into_iter().filter_map(expression).collect();
                    }
                    _ => {}
                }
            }
            Some(found)
        }
    }

    fn expression(item: ListAttribute<ExpressionAttribute>) -> Option<Expression> {
        let ListAttribute::Element(attributes) = item else { return None };
        let mut name = String::new();
        for attribute in attributes {
            match attribute {
                ExpressionAttribute::Data(expression) => return Some(expression),
                ExpressionAttribute::Name(text) => name = text,
                _ => {}
            }
        }
        Some(Expressions::Other { expression_type: name, attributes: Vec::new() })
    }

    /// Asserts that the library reads the same rule. Returns it.
    ///
    /// # Panics
    /// Panics if it reads another one.
    #[must_use]
    pub fn assert_same(message: &[u8], decoded: Rule) -> Rule {
        let found = Rule::read(message);
        let parts = |rule: Rule| {
            let Rule { table, chain, handle, userdata, expressions } = rule;
            (table, chain, handle, userdata, expressions)
        };
        assert_eq!(found.map(parts), Some(parts(decoded.clone())));
        decoded
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
    use netlink_packet_netfilter::NetfilterMessage;

    use super::*;
    use crate::firewall::nftables::foreign_translation;

    const CORPUS: [&[u8]; 2] = [
        include_bytes!("../../../../../fuzz/corpus/nftables/foreign_rules"),
        include_bytes!("../../../../../fuzz/corpus/nftables/rules"),
    ];

    #[test]
    fn rules_are_read_as_the_library_reads_them() {
        let (mut count, mut missed) = (0, 0);
        for mut messages in CORPUS {
            while let Some(length) = messages.first_chunk() {
                let length = usize::try_from(u32::from_ne_bytes(*length)).unwrap();
                let (message, rest) = messages.split_at(length);
                let decoded = NetlinkMessage::<NetfilterMessage>::deserialize(message).unwrap();
                // The end of the listing is another message.
                if let NetlinkPayload::InnerMessage(inner) = decoded.payload {
                    let rule = assert_same(message, Rule::decoded(inner).unwrap());
                    missed += foreign_translation::fuzz(message, &rule);
                    count += 1;
                }
                messages = rest;
            }
        }
        assert!(count > 30 && missed > 0, "{count}, {missed}");
    }
}
