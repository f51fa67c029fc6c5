//! The shaping of an interface: a token bucket (tc-tbf(8)) for what its guest is sent, and one for what its guest sends.
//! Pure.
//!
//! The kernel shapes what leaves by an interface. What a guest is sent leaves by its TAP. What a guest sends arrives there,
//! and is led through the *twin* of the TAP, an interface of the kind `ifb` that nothing else uses. It exists only if
//! there is a limit for that.

use std::fmt;

use crate::{
    address::{InterfaceName, Slot},
    model::{BitRate, Limits},
    workload::alias,
};

/// A token bucket, as the kernel keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bucket {
    /// The bytes that may pass in a second.
    pub bytes_per_second: u64,
    /// The bytes that may wait. Others are dropped.
    pub queue: u32,
}

impl Bucket {
    /// The time for which tokens are kept, as a share of a second. A machine under load serves the queue late.
    const BURSTS: u64 = 100;
    /// The time for which a packet waits at most, as a share of a second.
    const QUEUES: u64 = 20;
    const MOST_BURST: u64 = 2 << 20;
    const LEAST_QUEUE: u64 = 128 << 10;
    const MOST_QUEUE: u64 = 16 << 20;

    /// Returns the bucket of a rate.
    #[must_use]
    pub fn of(rate: BitRate) -> Self {
        let bytes_per_second = rate.bytes();
        let queue = (bytes_per_second / Self::QUEUES).clamp(Self::LEAST_QUEUE, Self::MOST_QUEUE);
        Self { bytes_per_second, queue: u32::try_from(queue).unwrap_or(u32::MAX) }
    }

    /// Returns the bytes that may pass at once after a pause, on an interface with this MTU. The kernel drops a packet that
    /// is longer. One that it would make several of is divided first.
    #[must_use]
    pub fn burst(self, mtu: u32) -> u32 {
        let least = 2 * u64::from(mtu.max(8 << 10));
        let burst =
            (self.bytes_per_second / Self::BURSTS).clamp(least, Self::MOST_BURST.max(least));
        u32::try_from(burst).unwrap_or(u32::MAX)
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match BitRate::of_bytes(self.bytes_per_second) {
            Some(rate) => rate.fmt(f),
            None => write!(f, "{} bytes a second", self.bytes_per_second),
        }
    }
}

/// The shaping that an interface must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Shaping {
    /// The bucket for what its guest is sent.
    pub to_guest: Option<Bucket>,
    /// The bucket for what its guest sends.
    pub from_guest: Option<Bucket>,
}

impl Shaping {
    /// Returns the shaping for these limits.
    #[must_use]
    pub fn of(limits: Limits) -> Self {
        let (to_guest, from_guest) = (limits.ingress, limits.egress);
        Self { to_guest: to_guest.map(Bucket::of), from_guest: from_guest.map(Bucket::of) }
    }

    /// Reports whether there is none.
    #[must_use]
    pub const fn is_none(&self) -> bool {
        self.to_guest.is_none() && self.from_guest.is_none()
    }
}

/// The shaping that an interface has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ShapingState {
    /// Our bucket for what its guest is sent.
    pub to_guest: Option<Bucket>,
    /// Our bucket for what its guest sends, if everything that leads there is in place.
    pub from_guest: Option<Bucket>,
    /// The twin, if there is one.
    pub twin: Option<Twin>,
}

/// The twin of a TAP.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Twin {
    /// Its alias; `None` if it has none, as between its creation and its completion.
    pub alias: Option<String>,
}

impl Twin {
    /// The end of the names of twins.
    const SUFFIX: &'static str = "-egress";
    /// The number of the first twin, "RJ", as TAPs have [`crate::guard::interface_number`].
    const FIRST: u32 = 0x524a_0000;

    /// Returns the name of the twin of a slot's TAP: `rik<slot>-egress`.
    #[must_use]
    #[expect(
        clippy::missing_panics_doc,
        clippy::expect_used,
        reason = "`rik`, at most five digits and seven letters are fifteen bytes, a valid interface name"
    )]
    pub fn name(slot: Slot) -> InterfaceName {
        let name = format!("{}{}", slot.interface(), Self::SUFFIX);
        InterfaceName::try_from(&*name).expect("a valid name")
    }

    /// Returns the slot whose TAP has the twin of this name.
    #[must_use]
    pub fn slot(name: &str) -> Option<Slot> {
        Slot::of_interface(name.strip_suffix(Self::SUFFIX)?)
    }

    /// Returns the slot whose TAP, or its twin, has this name.
    #[must_use]
    pub fn slot_of_either(name: &str) -> Option<Slot> {
        Slot::of_interface(name).or_else(|| Self::slot(name))
    }

    /// Returns the number that the twin of a slot's TAP is created with.
    #[must_use]
    pub fn number(slot: Slot) -> u32 {
        Self::FIRST + u32::from(slot.number())
    }

    /// Returns the slot whose TAP has the twin of this number.
    #[must_use]
    pub fn of_number(number: u32) -> Option<Slot> {
        u16::try_from(number.checked_sub(Self::FIRST)?).ok().map(Slot::new)
    }

    /// Reports whether a twin is ours to delete. If other records have a claim, nothing is done at all; one without an alias
    /// was not completed.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.alias.is_none() || alias::mark(self.alias.as_deref()).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_twin_is_named_and_numbered_after_its_slot_and_is_no_tap() {
        for number in [0, 7, 65_535] {
            let slot = Slot::new(number);
            let name = Twin::name(slot);
            assert_eq!(Twin::slot(name.as_str()), Some(slot));
            assert_eq!(Twin::of_number(Twin::number(slot)), Some(slot));
            assert_eq!(Slot::of_interface(name.as_str()), None);
            assert_ne!(Twin::number(slot), crate::guard::interface_number(slot));
        }
        assert_eq!(Twin::name(Slot::new(65_535)).as_str(), "rik65535-egress");
        for other in ["rik5", "rik05-egress", "rikx-egress", "-egress", "rik5-egress2"] {
            assert_eq!(Twin::slot(other), None, "{other}");
        }
        assert_eq!(Twin::of_number(crate::guard::interface_number(Slot::new(7))), None);
        assert_eq!(Twin::of_number(0), None);
    }

    #[test]
    fn a_bucket_grows_with_its_rate_within_bounds() {
        let bucket = |rate: &str| {
            let bucket = Bucket::of(rate.parse().unwrap());
            (bucket.bytes_per_second, bucket.burst(1500), bucket.queue, bucket.to_string())
        };
        for (rate, expected) in [
            ("8kbit", (1_000, 16 << 10, 128 << 10)),
            ("100Mbit", (12_500_000, 125_000, 625_000)),
            ("1Gbit", (125_000_000, 1_250_000, 6_250_000)),
            ("10Gbit", (1_250_000_000, 2 << 20, 16 << 20)),
        ] {
            let (bytes, burst, queue) = expected;
            assert_eq!(bucket(rate), (bytes, burst, queue, rate.to_owned()));
        }
        assert_eq!(Bucket::of(BitRate::MIN).burst(65_535), 131_070, "a packet fits");
        let odd = Bucket { bytes_per_second: 1, queue: 1 };
        assert_eq!(odd.to_string(), "1 bytes a second");
    }
}
