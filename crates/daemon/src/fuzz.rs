//! Functions that fuzzing calls. Each takes bytes of guests and of servers, and panics if a law is broken.

/// Reads a message of DNS as one of a guest, and as one of an upstream.
///
/// # Panics
/// Panics if an answer to it would be too large, or have more addresses than a guest is told.
pub fn dns(data: &[u8]) {
    crate::names::fuzz(data);
}

#[cfg(test)]
mod tests {
    use riklet_testkit::fuzz::replay;

    #[test]
    fn dns() {
        replay("dns", super::dns);
    }
}
