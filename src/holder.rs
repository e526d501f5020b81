//! Who holds a lock, as far as the holder told. Plain data; no I/O.

use std::fmt;
use std::time::SystemTime;

/// What is known of the process that holds a key's exclusive lock.
///
/// It comes from a small record that the holder writes into its lock file. The record is a
/// courtesy to the people who wait: nothing in the protocol rests on it, and each part of it may
/// be missing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holder {
    /// The holder's process id, in the pid namespace of the machine named by [`host`](Self::host).
    pub pid: u32,
    /// The name of the machine (its node name, as `uname -n` prints it).
    pub host: Option<String>,
    /// Since when the lock is held, by the holder's clock.
    pub since: Option<SystemTime>,
    /// The label of the key, where the holder's key had one ([`PathKey::label`](crate::PathKey::label)).
    pub label: Option<String>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {}", self.pid)?;
        if let Some(host) = &self.host {
            write!(f, " on {host}")?;
        }
        if let Some(held) = self.since.and_then(|since| since.elapsed().ok()) {
            write!(f, " for {} s", held.as_secs())?;
        }
        match &self.label {
            Some(label) => write!(f, " ({label})"),
            None => Ok(()),
        }
    }
}
