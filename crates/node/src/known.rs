//! The rules of the firewall that an operation left, for the next one.
//!
//! A command reads the rules before it changes any, which takes iptables as long as the change itself. The kernel numbers
//! the transactions of nf_tables. If the number is still that of the end of the last operation, nobody has changed any rule
//! since, so nothing needs to be read.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    os::unix::fs::MetadataExt,
};

use super::{NodeError, host::Host, session::Context};
use crate::store::{Setting, Store};
use riklet_core::{
    firewall::{Backend, Change, iptables},
    plan::Step,
};
use riklet_kernel::{Firewall, Kernel, RulesetVersion};

/// The rules before an operation.
#[derive(Debug)]
pub(crate) struct KnownRules {
    backend: Backend,
    version: RulesetVersion,
    /// A hash of the rules as they must be, and of the program that writes them.
    meaning: u64,
    /// True if they are as the last operation left them, which found and made them so.
    stand: bool,
}

impl<K: Kernel> Context<'_, K> {
    /// Returns what is known of the rules; `None` if they have to be read. A long-lived process hears of changes instead.
    pub(crate) fn known_rules(
        &mut self,
        store: &Store,
        host: &Host,
    ) -> Result<Option<KnownRules>, NodeError> {
        let Some(base_ruleset) = host.base_ruleset.as_ref().filter(|_| !self.cache.is_kept())
        else {
            return Ok(None);
        };
        let backend = host.backend;
        let Some(version) = self.kernel.ruleset_version(backend)? else { return Ok(None) };
        let mut hasher = DefaultHasher::new();
        format!("{:?} {backend:?} {base_ruleset:?}", program()).hash(&mut hasher);
        let meaning = hasher.finish();
        let recorded = store.setting(Setting::Ruleset)?;
        let stand = recorded.is_some_and(|recorded| recorded == text(&version, meaning));
        Ok(Some(KnownRules { backend, version, meaning, stand }))
    }
}

impl KnownRules {
    /// Reports whether they need not be read.
    pub(crate) const fn stand(&self) -> bool {
        self.stand
    }

    /// Returns the setting for the next operation, after these steps were done; `None` if somebody else may have changed
    /// rules as well.
    pub(crate) fn after(
        &self,
        done: &[Step],
        kernel: &mut impl Firewall,
    ) -> Result<Option<String>, NodeError> {
        let mut transactions = 0;
        for step in done {
            match step {
                Step::Firewall(_, Change::Delta { remove, .. })
                    if remove.len() < iptables::MANY =>
                {
                    transactions += 1;
                }
                Step::Firewall(..)
                | Step::OpenPassage(..)
                | Step::ClosePassage(_)
                | Step::RemoveEmptyTables(..) => return Ok(None),
                _ => {}
            }
        }
        if self.stand && transactions == 0 {
            return Ok(None);
        }
        let now = kernel.ruleset_version(self.backend)?;
        let now = now.filter(|now| now.follows(&self.version, transactions));
        Ok(now.map(|now| text(&now, self.meaning)))
    }
}

fn text(version: &RulesetVersion, meaning: u64) -> String {
    format!("{version} {meaning:016x}")
}

/// Returns what tells this program from other versions of it, which may write other rules: its file.
fn program() -> Option<(u64, u64, u64, i64, i64)> {
    let file = fs::metadata("/proc/self/exe").ok()?;
    Some((file.dev(), file.ino(), file.size(), file.mtime(), file.mtime_nsec()))
}
