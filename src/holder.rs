//! Who holds a lock, as far as the holder told. Plain data; no I/O.

use std::fmt::{self, Write};
use std::time::SystemTime;

/// What is known of the process that holds a key's exclusive lock.
///
/// It displays as a line for people, without control characters; the fields are as they were written.
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
            write!(f, " on {}", Printable(host))?;
        }
        if let Some(held) = self.since.and_then(|since| since.elapsed().ok()) {
            write!(f, " for {} s", held.as_secs())?;
        }
        match &self.label {
            Some(label) => write!(f, " ({})", Printable(label)),
            None => Ok(()),
        }
    }
}

/// Somebody's text with nothing in it that a terminal would obey.
pub(crate) struct Printable<'a>(pub(crate) &'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match is_obeyed(c) {
            true => write!(f, "{}", c.escape_default()),
            false => f.write_char(c),
        })
    }
}

/// Whether a terminal does something other than to show this, or shows what is around it in another order.
fn is_obeyed(c: char) -> bool {
    let turns_or_breaks = matches!(
        c,
        '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    c.is_control() || turns_or_breaks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_cannot_reach_the_terminal() {
        let holder = Holder {
            pid: 7,
            host: Some("vm\r".into()),
            since: None,
            label: Some("a\n\u{1b}[2J\u{202e}é".into()),
        };
        let shown = holder.to_string();
        assert_eq!(shown, "process 7 on vm\\r (a\\n\\u{1b}[2J\\u{202e}é)");
    }
}
