//! What is served, and what a server of it has to be asked: pure.

use std::fmt::Write;

use ring::digest::{SHA256, digest};

/// How many processes ask, and how often.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) workers: usize,
    pub(crate) rounds: usize,
}

/// Simulated, from one round to the next: more than the short `max-age`.
pub(crate) const SECONDS_PER_ROUND: u64 = 60;

pub(crate) const BODY_BYTES: usize = 48 * 1024;

pub(crate) const LANGUAGES: [&str; 2] = ["en", "de"];

/// One resource of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sort {
    /// Fresh for a day.
    Long,
    /// Fresh for ten seconds, with an `ETag`.
    Tagged,
    /// The same, with a `Last-Modified`.
    Dated,
    /// The same as `Tagged`, and another one from the middle round on.
    Changing,
    /// To be asked for each time.
    Always,
    /// Not to be stored.
    Secret,
    /// In two languages.
    Varying,
    /// The server fails in the last round; what is stale may be used.
    Failing,
    /// The server fails in the last round; what is stale must not be used.
    Strict,
}

pub(crate) const SORTS: [Sort; 9] = [
    Sort::Long,
    Sort::Tagged,
    Sort::Dated,
    Sort::Changing,
    Sort::Always,
    Sort::Secret,
    Sort::Varying,
    Sort::Failing,
    Sort::Strict,
];

/// Requests by their answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Requests {
    /// 200.
    pub(crate) whole: usize,
    /// 304.
    pub(crate) unchanged: usize,
    /// 503.
    pub(crate) failed: usize,
}

impl Sort {
    pub(crate) fn path(self) -> String {
        format!("/{self:?}").to_lowercase()
    }

    pub(crate) fn cache_control(self) -> &'static str {
        match self {
            Sort::Long => "max-age=86400",
            Sort::Tagged | Sort::Dated | Sort::Changing | Sort::Varying => "max-age=10",
            Sort::Always => "no-cache",
            Sort::Secret => "no-store",
            Sort::Failing => "max-age=10, stale-if-error=86400",
            Sort::Strict => "max-age=10, stale-if-error=86400, must-revalidate",
        }
    }

    pub(crate) fn body(self, language: &str, run: Run, round: usize) -> Vec<u8> {
        let mut text = self.path();
        if self == Sort::Changing && round >= run.rounds / 2 {
            text.push_str(" is new");
        }
        if self == Sort::Varying {
            text.push_str(&format!(" in {language}"));
        }
        text.into_bytes()
            .into_iter()
            .cycle()
            .take(BODY_BYTES)
            .collect()
    }

    pub(crate) fn fails(self, run: Run, round: usize) -> bool {
        matches!(self, Sort::Failing | Sort::Strict) && round + 1 == run.rounds
    }

    /// What the cache has to ask a server, with all that its workers want.
    pub(crate) fn expected(self, run: Run) -> Requests {
        let wanted = run.workers * run.rounds;
        let variants = run.workers.min(LANGUAGES.len());
        let (whole, unchanged, failed) = match self {
            Sort::Long => (1, 0, 0),
            Sort::Tagged | Sort::Dated => (1, run.rounds - 1, 0),
            Sort::Changing => (2, run.rounds - 2, 0),
            Sort::Always => (1, wanted - 1, 0),
            Sort::Secret => (wanted, 0, 0),
            Sort::Varying => (variants, variants * (run.rounds - 1), 0),
            // Nothing is learnt of a failure, so each worker tries for itself.
            Sort::Failing | Sort::Strict => (1, run.rounds - 2, run.workers),
        };
        Requests {
            whole,
            unchanged,
            failed,
        }
    }

    /// How many values it takes in the store.
    pub(crate) fn stored(self, run: Run) -> usize {
        match self {
            Sort::Secret => 0,
            // One says that there are others.
            Sort::Varying => 1 + run.workers.min(LANGUAGES.len()),
            _ => 1,
        }
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    let mut hex = String::new();
    for byte in digest(&SHA256, bytes).as_ref() {
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}
