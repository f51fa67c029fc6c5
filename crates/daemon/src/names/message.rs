//! DNS messages (RFC 1035): what a guest asks, what an upstream answers, and what the guest is told. Pure.

use std::net::IpAddr;

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{DNSClass, Name, RData, Record, RecordType},
};
use riklet_core::model::Family;

/// The largest message by UDP that is sent to anybody: it fits every path (RFC 9715, section 3).
const LARGEST: u16 = 1232;
/// The most addresses of one answer that a guest is told. The rest is left out.
const MOST_ADDRESSES: usize = 32;
/// The most aliases that lead from a name to its addresses. More are a mistake of the zone, and so is a circle.
const MOST_ALIASES: usize = 16;
/// The length of a message's header.
const HEADER: usize = 12;

/// A question of a guest.
#[derive(Debug, Clone)]
pub(super) struct Question {
    id: u16,
    recursion_desired: bool,
    query: Query,
    /// The size of the largest answer by UDP; `None` if the guest does not know EDNS.
    payload: Option<u16>,
}

/// An answer of an upstream, as far as a guest is told of it.
#[derive(Debug, Clone)]
pub(super) struct Found {
    code: ResponseCode,
    aliases: Vec<Record>,
    /// The name that has the addresses.
    owner: Name,
    /// The addresses, each with the seconds for which it is valid.
    pub(super) addresses: Vec<(IpAddr, u32)>,
    /// Says for how long a negative answer is valid.
    authority: Option<Record>,
}

impl Question {
    /// Reads a message of a guest. An error is the answer to a message that asks nothing; `None` if it has none.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, Option<Vec<u8>>> {
        let message = Message::from_vec(bytes).map_err(|_error| malformed(bytes))?;
        let metadata = message.metadata;
        if metadata.message_type == MessageType::Response {
            return Err(None);
        }
        let refused = |code| {
            let mut answer = Message::error_msg(metadata.id, metadata.op_code, code);
            answer.add_queries(message.queries.iter().take(1).cloned());
            answer.to_vec().ok()
        };
        if metadata.op_code != OpCode::Query {
            return Err(refused(ResponseCode::NotImp));
        }
        let [query] = &*message.queries else { return Err(refused(ResponseCode::FormErr)) };
        if query.query_class() != DNSClass::IN {
            return Err(refused(ResponseCode::Refused));
        }
        // RFC 6891, section 6.1.3: the answer names the version that is known.
        if message.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
            let mut answer =
                Message::error_msg(metadata.id, metadata.op_code, ResponseCode::BADVERS);
            answer.add_query(query.clone()).set_edns(edns());
            return Err(answer.to_vec().ok());
        }
        Ok(Self {
            id: metadata.id,
            recursion_desired: metadata.recursion_desired,
            query: query.clone(),
            payload: message.edns.as_ref().map(|_| message.max_payload()),
        })
    }

    /// Returns the name that is asked for, in lower case; `None` if a label has octets that names in policies never have, such
    /// as a dot.
    pub(super) fn name(&self) -> Option<String> {
        let is_plain = |octet: &u8| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_');
        let label = |label: &[u8]| {
            let text = std::str::from_utf8(label).ok().filter(|_| label.iter().all(is_plain));
            text.map(str::to_ascii_lowercase)
        };
        let labels: Option<Vec<_>> = self.query.name().iter().map(label).collect();
        labels.map(|labels| labels.join("."))
    }

    /// Returns the question in words, of a bounded length and without control characters.
    pub(super) fn words(&self) -> String {
        let name: String = self.query.name().to_ascii().chars().take(256).collect();
        format!("{} {}", self.query.query_type(), name.trim_end_matches('.'))
    }

    /// Returns the family of the addresses that it asks for; `None` if it asks for something else.
    pub(super) fn family(&self) -> Option<Family> {
        match self.query.query_type() {
            RecordType::A => Some(Family::V4),
            RecordType::AAAA => Some(Family::V6),
            _ => None,
        }
    }

    /// Returns the question as an upstream is asked it.
    pub(super) fn for_upstream(&self, id: u16) -> Option<Vec<u8>> {
        let mut message = Message::new(id, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(self.query.clone());
        message.set_edns(edns());
        message.to_vec().ok()
    }

    /// Reads the answer of an upstream to the question with this number; `None` if it is none: somebody else may send those.
    pub(super) fn answered(&self, id: u16, bytes: &[u8]) -> Option<Upstream> {
        let message = Message::from_vec(bytes).ok()?;
        let metadata = message.metadata;
        let answers = metadata.id == id && metadata.message_type == MessageType::Response;
        let [query] = &*message.queries else { return None };
        let is_same = query.name() == self.query.name()
            && query.query_type() == self.query.query_type()
            && query.query_class() == self.query.query_class();
        if !answers || !is_same {
            return None;
        }
        if metadata.truncation {
            return Some(Upstream::Truncated);
        }
        Some(match metadata.response_code {
            ResponseCode::NoError | ResponseCode::NXDomain => {
                self.found(&message).map_or(Upstream::Failed, |found| Upstream::Found(found.into()))
            }
            _ => Upstream::Failed,
        })
    }

    /// Follows the aliases of an answer; `None` if there are too many.
    fn found(&self, message: &Message) -> Option<Found> {
        let mut owner = self.query.name().clone();
        let mut aliases = Vec::new();
        let answers = || message.answers.iter().filter(|record| record.dns_class == DNSClass::IN);
        let addresses = loop {
            let of_owner = || answers().filter(|record| record.name == owner);
            let address = |record: &Record| match &record.data {
                RData::A(address) => Some((IpAddr::from(address.0), record.ttl)),
                RData::AAAA(address) => Some((IpAddr::from(address.0), record.ttl)),
                _ => None,
            };
            let wanted = |(address, _): &(IpAddr, _)| self.family() == Some(Family::of(*address));
            let addresses = of_owner().filter_map(address).filter(wanted);
            let addresses: Vec<_> = addresses.take(MOST_ADDRESSES).collect();
            let alias = |record: &Record| match &record.data {
                RData::CNAME(target) => Some((target.0.clone(), record.clone())),
                _ => None,
            };
            let alias = of_owner().find_map(alias).filter(|_| addresses.is_empty());
            let Some((target, alias)) = alias else { break addresses };
            if aliases.len() == MOST_ALIASES {
                return None;
            }
            aliases.push(Record::from_rdata(owner, alias.ttl, alias.data));
            owner = target;
        };
        let is_authority = |record: &&Record| matches!(record.data, RData::SOA(_));
        let authority = message.authorities.iter().find(is_authority);
        let authority = authority.filter(|_| addresses.is_empty()).cloned();
        let code = message.metadata.response_code;
        Some(Found { code, aliases, owner, addresses, authority })
    }

    /// Returns the answer that the guest is told: these addresses of those that were found.
    pub(super) fn found_answer(
        &self,
        found: Found,
        addresses: &[(IpAddr, u32)],
        told: impl Fn(u32) -> u32,
    ) -> Message {
        let Found { code, aliases, owner, authority, .. } = found;
        let mut answer = self.answer(code);
        for mut alias in aliases {
            alias.ttl = told(alias.ttl);
            answer.add_answer(alias);
        }
        for (address, seconds) in addresses {
            let data = match *address {
                IpAddr::V4(address) => RData::A(address.into()),
                IpAddr::V6(address) => RData::AAAA(address.into()),
            };
            answer.add_answer(Record::from_rdata(owner.clone(), told(*seconds), data));
        }
        answer.add_authorities(authority);
        answer
    }

    /// Returns the answer that the name is not allowed.
    pub(super) fn refused(&self) -> Message {
        self.answer(ResponseCode::Refused)
    }

    /// Returns the answer that the name has nothing of what is asked for.
    pub(super) fn nothing(&self) -> Message {
        self.answer(ResponseCode::NoError)
    }

    /// Returns the answer that nobody knows at present.
    pub(super) fn failed(&self) -> Message {
        self.answer(ResponseCode::ServFail)
    }

    fn answer(&self, code: ResponseCode) -> Message {
        let mut message = Message::error_msg(self.id, OpCode::Query, code);
        message.metadata.recursion_desired = self.recursion_desired;
        message.metadata.recursion_available = true;
        message.add_query(self.query.clone());
        if self.payload.is_some() {
            message.set_edns(edns());
        }
        message
    }

    /// Returns the octets of an answer by UDP. One that is too large for the guest is cut, and says so.
    pub(super) fn by_udp(&self, answer: &Message) -> Option<Vec<u8>> {
        let most = usize::from(self.payload.unwrap_or(512).min(LARGEST));
        let bytes = answer.to_vec().ok()?;
        if bytes.len() <= most { Some(bytes) } else { answer.truncate().to_vec().ok() }
    }
}

/// The answer of an upstream.
#[derive(Debug)]
pub(super) enum Upstream {
    /// The addresses that it found, or none.
    Found(Box<Found>),
    /// The whole answer is to be asked for by TCP.
    Truncated,
    /// It failed, or refuses.
    Failed,
}

/// Returns the outcome of a question with this answer, as metrics name it.
pub(super) const fn outcome(answer: &Message) -> &'static str {
    match answer.metadata.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain => "answered",
        ResponseCode::Refused => "refused",
        _ => "failed",
    }
}

/// Returns a number for a question that nobody can guess.
pub(super) fn random() -> u16 {
    Message::query().metadata.id
}

fn edns() -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(LARGEST);
    edns
}

/// Returns the answer to a message that cannot be read, if it is a question.
fn malformed(bytes: &[u8]) -> Option<Vec<u8>> {
    let [first, second, flags, ..] = *bytes.get(..HEADER)? else { return None };
    let id = u16::from_be_bytes([first, second]);
    let answer = Message::error_msg(id, OpCode::Query, ResponseCode::FormErr);
    if flags & 0x80 == 0 { answer.to_vec().ok() } else { None }
}

/// Reads a message as one of a guest, and as one of an upstream.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(bytes: &[u8]) {
    let bytes = bytes.get(..super::upstream::LONGEST).unwrap_or(bytes);
    if let Ok(question) = Question::read(bytes) {
        assert!(question.words().len() < 300);
        if let Some(name) = question.name() {
            assert!(name.bytes().all(|octet| octet.is_ascii_graphic()));
        }
        for answer in [question.refused(), question.nothing(), question.failed()] {
            let bytes = question.by_udp(&answer).unwrap_or_default();
            assert!(bytes.len() <= LARGEST.into());
        }
        if let Some(Upstream::Found(found)) = question.answered(question.id, bytes) {
            assert!(found.addresses.len() <= MOST_ADDRESSES);
        }
    }
    let id = bytes.first_chunk().map_or(0, |id| u16::from_be_bytes(*id));
    if let Ok(message) = Message::from_vec(bytes)
        && let [query] = &*message.queries
    {
        let (recursion_desired, payload) = (true, None);
        let question = Question { id, recursion_desired, query: query.clone(), payload };
        if let Some(Upstream::Found(found)) = question.answered(id, bytes) {
            assert!(found.addresses.len() <= MOST_ADDRESSES);
            let addresses = found.addresses.clone();
            let answer = question.found_answer(*found, &addresses, |seconds| seconds);
            let bytes = question.by_udp(&answer).unwrap_or_default();
            assert!(bytes.len() <= 512);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use hickory_proto::rr::rdata::CNAME;

    use super::*;

    fn asked(name: &str, kind: RecordType) -> Vec<u8> {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        message.to_vec().unwrap()
    }

    fn question(name: &str) -> Question {
        Question::read(&asked(name, RecordType::A)).unwrap()
    }

    fn a(name: &str, address: [u8; 4]) -> Record {
        Record::from_rdata(
            Name::from_ascii(name).unwrap(),
            60,
            RData::A(Ipv4Addr::from(address).into()),
        )
    }

    fn alias(name: &str, target: &str) -> Record {
        let target = CNAME(Name::from_ascii(target).unwrap());
        Record::from_rdata(Name::from_ascii(name).unwrap(), 60, RData::CNAME(target))
    }

    fn answer(name: &str, records: &[Record]) -> Message {
        let mut message = Message::response(9, OpCode::Query);
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
        message.add_answers(records.iter().cloned());
        message
    }

    fn found(name: &str, records: &[Record]) -> Found {
        let bytes = answer(name, records).to_vec().unwrap();
        match question(name).answered(9, &bytes) {
            Some(Upstream::Found(found)) => *found,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_name_with_other_octets_than_those_of_policies_is_none() {
        assert_eq!(question("API.Example.com.").name().unwrap(), "api.example.com");
        assert_eq!(question(".").name().unwrap(), "");
        assert_eq!(question("a\\.example.org.").name(), None);
        for label in [&b"\xc3\xbc"[..], b"a\0", b"a b", b"*"] {
            let name = Name::from_labels([label, b"example", b"org"]).unwrap();
            let mut message = Message::new(7, MessageType::Query, OpCode::Query);
            message.add_query(Query::query(name, RecordType::A));
            let question = Question::read(&message.to_vec().unwrap()).unwrap();
            assert_eq!(question.name(), None, "{label:?}");
            assert!(
                question.words().chars().all(|letter| letter.is_ascii_graphic() || letter == ' ')
            );
        }
    }

    #[test]
    fn what_asks_nothing_is_answered_with_an_error_or_not_at_all() {
        let code = |bytes: &[u8]| {
            let answer = Question::read(bytes).unwrap_err()?;
            Some(Message::from_vec(&answer).unwrap().metadata.response_code)
        };
        assert_eq!(code(b"short"), None);
        assert_eq!(code(&[0xff; 40]), None);
        assert_eq!(code(&[0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 99]), Some(ResponseCode::FormErr));
        let mut response = asked("a.example.", RecordType::A);
        response[2] |= 0x80;
        assert_eq!(code(&response), None, "an answer would be answered for ever");
        let mut later = Message::new(7, MessageType::Query, OpCode::Query);
        later.add_query(Query::query(Name::from_ascii("a.example.").unwrap(), RecordType::A));
        let mut edns = edns();
        edns.set_version(1);
        later.set_edns(edns);
        let number = code(&later.to_vec().unwrap()).map(u16::from);
        assert_eq!(number, Some(u16::from(ResponseCode::BADVERS)));
        let mut update = asked("a.example.", RecordType::A);
        update[2] |= 5 << 3;
        assert_eq!(code(&update), Some(ResponseCode::NotImp));
    }

    #[test]
    fn only_the_answer_to_the_question_counts() {
        let question = question("api.example.com.");
        let right = answer("API.example.com.", &[a("api.example.com.", [203, 0, 113, 7])]);
        let counts =
            |id, message: &Message| question.answered(id, &message.to_vec().unwrap()).is_some();
        assert!(counts(9, &right));
        assert!(!counts(8, &right), "another number");
        assert!(!counts(9, &answer("evil.example.com.", &[])), "another name");
        let mut asked = right.clone();
        asked.metadata.message_type = MessageType::Query;
        assert!(!counts(9, &asked), "a question");
        let mut none = right;
        none.queries.clear();
        assert!(!counts(9, &none), "no question");
    }

    #[test]
    fn addresses_are_found_by_aliases_only() {
        let addresses = |records: &[Record]| {
            found("www.example.com.", records)
                .addresses
                .into_iter()
                .map(|(a, _)| a)
                .collect::<Vec<_>>()
        };
        let seven = Ipv4Addr::new(203, 0, 113, 7);
        let records = [
            a("cdn.example.net.", [203, 0, 113, 7]),
            alias("WWW.example.com.", "edge.example.net."),
            alias("edge.example.net.", "cdn.example.net."),
            a("other.example.net.", [203, 0, 113, 9]),
        ];
        assert_eq!(addresses(&records), [seven]);
        assert_eq!(found("www.example.com.", &records).aliases.len(), 2);
        assert!(addresses(&[a("other.example.net.", [203, 0, 113, 9])]).is_empty());
        let nothing = found("www.example.com.", &records[1..3]);
        assert_eq!((nothing.addresses.len(), nothing.aliases.len()), (0, 2));
        let many: Vec<_> = (0..=255).map(|n| a("www.example.com.", [203, 0, 113, n])).collect();
        assert_eq!(addresses(&many).len(), MOST_ADDRESSES);
    }

    #[test]
    fn only_addresses_of_the_family_that_is_asked_for_are_found() {
        let name = || Name::from_ascii("www.example.com.").unwrap();
        let seven = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7);
        let aaaa = Record::from_rdata(name(), 60, RData::AAAA(seven.into()));
        let mut message = Message::response(9, OpCode::Query);
        message.add_query(Query::query(name(), RecordType::AAAA));
        message.add_answers([a("www.example.com.", [203, 0, 113, 7]), aaaa.clone()]);
        let question = Question::read(&asked("www.example.com.", RecordType::AAAA)).unwrap();
        let Some(Upstream::Found(found)) = question.answered(9, &message.to_vec().unwrap()) else {
            panic!("no answer");
        };
        assert_eq!(found.addresses, [(seven.into(), 60)]);
        let answer = question.found_answer(*found, &[(seven.into(), 60)], |seconds| seconds);
        assert_eq!(answer.answers, [aaaa]);
        let records = [a("www.example.com.", [203, 0, 113, 7]), answer.answers[0].clone()];
        let found = self::found("www.example.com.", &records).addresses;
        assert_eq!(found, [([203, 0, 113, 7].into(), 60)]);
    }

    #[test]
    fn aliases_in_a_circle_or_too_many_are_a_failure() {
        let outcome = |records: &[Record]| {
            let bytes = answer("0.example.", records).to_vec().unwrap();
            question("0.example.").answered(9, &bytes).unwrap()
        };
        let chain = |length: usize| {
            let link = |n: usize| alias(&format!("{n}.example."), &format!("{}.example.", n + 1));
            let end = a(&format!("{length}.example."), [203, 0, 113, 7]);
            (0..length).map(link).chain([end]).collect::<Vec<_>>()
        };
        let longest = outcome(&chain(MOST_ALIASES));
        assert!(matches!(longest, Upstream::Found(found) if found.addresses.len() == 1));
        // Without addresses, it would say that the name has none.
        assert!(matches!(outcome(&chain(MOST_ALIASES + 1)), Upstream::Failed));
        let circle = [alias("0.example.", "1.example."), alias("1.example.", "0.example.")];
        assert!(matches!(outcome(&circle), Upstream::Failed));
        let itself = [alias("0.example.", "0.example.")];
        assert!(matches!(outcome(&itself), Upstream::Failed));
    }

    #[test]
    fn an_answer_that_is_too_large_is_cut() {
        let question = question("www.example.com.");
        let many: Vec<_> = (0..40).map(|n| a("www.example.com.", [203, 0, 113, n])).collect();
        let found = found("www.example.com.", &many);
        let addresses = found.addresses.clone();
        let answer = question.found_answer(found, &addresses, |_| 30);
        assert!(answer.answers.iter().all(|record| record.ttl == 30));
        let cut = Message::from_vec(&question.by_udp(&answer).unwrap()).unwrap();
        assert!(cut.metadata.truncation && cut.answers.is_empty());
        let small = question.by_udp(&question.refused()).unwrap();
        let small = Message::from_vec(&small).unwrap();
        assert_eq!((small.metadata.id, small.metadata.response_code), (7, ResponseCode::Refused));
    }

    proptest::proptest! {
        #[test]
        fn any_octets_are_read(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            fuzz(&bytes);
        }

        #[test]
        fn changed_messages_are_read(place in 0..200_usize, octet: u8) {
            let records = [alias("www.example.com.", "a.example."), a("a.example.", [203, 0, 113, 7])];
            for mut bytes in [asked("www.example.com.", RecordType::A), answer("www.example.com.", &records).to_vec().unwrap()] {
                let place = place % bytes.len();
                bytes[place] = octet;
                fuzz(&bytes);
            }
        }
    }
}
