//! A finding: one line of what the host has or lacks, with a remedy.

use riklet_kernel::KernelError;
use serde::Serialize;

use crate::error::chain;

/// The severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    Ok,
    /// Works, with something worth knowing.
    Note,
    /// Could not be looked at by this user.
    Unseen,
    /// Does not work without a remedy.
    Fail,
}

/// The result of one check.
#[derive(Debug, Serialize)]
pub(super) struct Finding {
    pub(super) level: Level,
    subject: &'static str,
    found: String,
    advice: Option<String>,
}

impl Finding {
    pub(super) fn ok(subject: &'static str, found: impl Into<String>) -> Self {
        Self { level: Level::Ok, subject, found: found.into(), advice: None }
    }

    pub(super) fn note(
        subject: &'static str,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self { level: Level::Note, subject, found: found.into(), advice: Some(advice.into()) }
    }

    pub(super) fn unseen(subject: &'static str, why: impl Into<String>) -> Self {
        let advice = Some("run it as root to see it".to_owned());
        Self { level: Level::Unseen, subject, found: why.into(), advice }
    }

    pub(super) fn fail(
        subject: &'static str,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self { level: Level::Fail, subject, found: found.into(), advice: Some(advice.into()) }
    }
}

fn level(level: Level) -> &'static str {
    match level {
        Level::Ok => "ok",
        Level::Note => "note",
        Level::Unseen => "?",
        Level::Fail => "FAIL",
    }
}

pub(super) fn row(finding: &Finding) -> Vec<Vec<String>> {
    let Finding { level: how, subject, found, advice } = finding;
    let mut rows = vec![vec![level(*how).to_owned(), (*subject).to_owned(), found.clone()]];
    rows.extend(advice.iter().map(|a| vec![String::new(), String::new(), format!("-> {a}")]));
    rows
}

pub(super) fn unreadable(
    subject: &'static str,
    error: &KernelError,
    advice: &'static str,
) -> Finding {
    if error.refusal().is_permission() {
        return Finding::unseen(subject, chain(error));
    }
    Finding::fail(subject, chain(error), advice)
}
