use super::{Destination, Egress, NameRule, Proxy};

/// The destinations that one function may begin connections to, beyond published ports: a reach, and those that it names itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EgressPolicy {
    default: Option<Egress>,
    allow: Vec<Destination>,
    deny: Vec<Destination>,
    names: Vec<NameRule>,
    via: Option<Proxy>,
}

impl EgressPolicy {
    /// The most destinations that one policy names, allowed and denied each.
    pub const MAX: usize = 64;

    /// The most blocks that its destinations may fall into, where they overlap: each is an element of the firewall.
    pub const MAX_BLOCKS: usize = 256;

    /// The most names that one policy allows.
    pub const MAX_NAMES: usize = 5000;

    /// Creates a policy. `None` has the reach that the node's guests have.
    #[must_use]
    pub const fn new(
        default: Option<Egress>,
        allow: Vec<Destination>,
        deny: Vec<Destination>,
    ) -> Self {
        Self { default, allow, deny, names: vec![], via: None }
    }

    /// Adds the names that are allowed. Nothing else is reached then: without a default, it is `none`.
    #[must_use]
    pub fn with_names(mut self, names: Vec<NameRule>) -> Self {
        if !names.is_empty() {
            self.default = self.default.or(Some(Egress::None));
        }
        self.names = names;
        self
    }

    /// Leads connections to some ports to a proxy, whomever they are for. Nothing else is reached at these ports.
    #[must_use]
    pub fn with_proxy(self, via: Option<Proxy>) -> Self {
        Self { via, ..self }
    }

    /// Returns the proxy that connections to some ports are led to.
    #[must_use]
    pub const fn via(&self) -> Option<&Proxy> {
        self.via.as_ref()
    }

    /// Returns the reach beyond what is allowed and denied; `None` is that of the node's guests.
    #[must_use]
    pub const fn default_reach(&self) -> Option<Egress> {
        self.default
    }

    /// Returns what is allowed.
    #[must_use]
    pub fn allow(&self) -> &[Destination] {
        &self.allow
    }

    /// Reports whether it allows any names.
    #[must_use]
    pub fn has_names(&self) -> bool {
        !self.names.is_empty()
    }

    /// Returns the names that are allowed.
    #[must_use]
    pub fn names(&self) -> &[NameRule] {
        &self.names
    }

    /// Returns what is denied, also if it is allowed.
    #[must_use]
    pub fn deny(&self) -> &[Destination] {
        &self.deny
    }
}
