//! The holder's record: what the exclusive holder of a key writes into its lock file.
//!
//! Text, and asking whether the process it names still lives. Nobody's correctness rests on
//! it. Invariant: what is torn, foreign, or left by a dead process is "unknown", never a holder.

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::holder::Holder;
use crate::sys;
use crate::sys::host::{self, Host};

/// Longer files are no records.
pub(crate) const MAX_BYTES: usize = 4096;

const FIRST_LINE: &str = "larder-lock 1";
/// What a label may take of it, escaped.
const MAX_LABEL: usize = 1024;

/// Whether a file of this content, of which more than [`MAX_BYTES`] are enough, can be a lock file: it
/// is empty, or a record was begun in it. Nobody syncs a record, so a power cut can leave zeros in its
/// place; a file of somebody else may well begin with zeros, so all of it must be.
pub(crate) fn can_be_in_a_lock_file(content: &[u8]) -> bool {
    let all = FIRST_LINE.as_bytes();
    let is_zeros = content.len() <= MAX_BYTES && content.iter().all(|&byte| byte == 0);
    is_zeros || content.starts_with(&all[..content.len().min(all.len())])
}

/// The text for a lock that this process took just now.
fn render(label: Option<&str>) -> String {
    let host = host::this();
    let pid = host::pid();
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let mut text = format!("{FIRST_LINE}\npid={pid}\n");
    let mut line = |name: &str, value: &str| {
        text.push_str(name);
        text.push('=');
        text.push_str(&escape(value, MAX_LABEL));
        text.push('\n');
    };
    line("host", &host.name);
    line(
        "start",
        &format!("{}.{:09}", since.as_secs(), since.subsec_nanos()),
    );
    if let Some(boot_id) = &host.boot_id {
        line("boot", boot_id);
    }
    if let Some(namespace) = &host.pid_namespace {
        line("pidns", namespace);
    }
    if let Some(start) = host::own_start() {
        line("pidstart", &start.to_string());
    }
    line("nonce", &nonce(pid, since));
    if let Some(label) = label {
        line("label", label);
    }
    text.push_str("end\n");
    text
}

/// Writes the record of a lock that this process took just now.
pub(super) fn announce(file: &File, label: Option<&str>) -> io::Result<()> {
    // A process that was killed may have left a longer one.
    sys::truncate(file, 0)?;
    sys::write_at(file, render(label).as_bytes(), 0)
}

/// Tells this attempt apart from every other of any process.
fn nonce(pid: u32, since: Duration) -> String {
    static ATTEMPTS: AtomicU64 = AtomicU64::new(0);
    let attempt = ATTEMPTS.fetch_add(1, Ordering::Relaxed);
    format!("{pid:x}-{:x}-{attempt:x}", since.as_nanos())
}

/// The holder that a record names, if it can be one: the record is whole, and its process is not
/// known to be gone.
pub(super) fn live_holder(bytes: &[u8]) -> Option<Holder> {
    let record = Record::parse(bytes)?;
    record.may_live(host::this()).then_some(record.holder)
}

#[derive(Debug, PartialEq, Eq)]
struct Record {
    holder: Holder,
    boot_id: Option<String>,
    pid_namespace: Option<String>,
    pid_start: Option<u64>,
}

impl Record {
    /// Reads a record up to its `end` line; what follows is from an earlier, longer one.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let whole = &bytes[..bytes.len().min(MAX_BYTES)];
        let end = whole.windows(5).position(|window| window == b"\nend\n")?;
        let text = std::str::from_utf8(&whole[..end]).ok()?;
        let mut lines = text.split('\n');
        if lines.next() != Some(FIRST_LINE) {
            return None;
        }
        let mut pid = None;
        let (mut host, mut since, mut label) = (None, None, None);
        let (mut boot_id, mut pid_namespace, mut pid_start) = (None, None, None);
        for line in lines {
            let (name, value) = line.split_once('=')?;
            let text = || Some(unescape(value));
            match name {
                "pid" => pid = Some(value.parse().ok().filter(|&pid| pid != 0)?),
                "host" => host = text(),
                "start" => since = Some(parse_time(value)?),
                "label" => label = text(),
                "boot" => boot_id = text(),
                "pidns" => pid_namespace = text(),
                "pidstart" => pid_start = Some(value.parse().ok()?),
                _ => {}
            }
        }
        Some(Record {
            holder: Holder {
                pid: pid?,
                host,
                since,
                label,
            },
            boot_id,
            pid_namespace,
            pid_start,
        })
    }

    /// Whether its process can still be there.
    fn may_live(&self, here: &Host) -> bool {
        let same_machine = self.holder.host.as_deref() == Some(&here.name);
        if self.boot_id.is_none() || here.boot_id.is_none() || self.boot_id != here.boot_id {
            // Another machine that shares the file system cannot be asked; an earlier boot of this
            // one is over.
            return !same_machine;
        }
        if self.pid_namespace.is_none() || self.pid_namespace != here.pid_namespace {
            // A container beside this one: its pids mean nothing here.
            return true;
        }
        match self.pid_start {
            Some(start) => host::start_of(self.holder.pid) == Some(start),
            None => true,
        }
    }
}

fn parse_time(value: &str) -> Option<SystemTime> {
    let (seconds, nanos) = value.split_once('.')?;
    let (seconds, nanos) = (seconds.parse().ok()?, nanos.parse::<u32>().ok()?);
    (nanos < 1_000_000_000)
        .then(|| UNIX_EPOCH.checked_add(Duration::new(seconds, nanos)))
        .flatten()
}

/// One line's worth of text: control characters and `%` become `%XX`; cut at `limit` bytes.
pub(crate) fn escape(text: &str, limit: usize) -> Cow<'_, str> {
    if text.len() <= limit && !text.chars().any(|c| c.is_control() || c == '%') {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::new();
    for c in text.chars() {
        let mut piece = String::new();
        if c.is_control() || c == '%' {
            for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                piece.push_str(&format!("%{byte:02X}"));
            }
        } else {
            piece.push(c);
        }
        if escaped.len() + piece.len() > limit {
            break;
        }
        escaped.push_str(&piece);
    }
    Cow::Owned(escaped)
}

/// The text that was escaped. What is no escape stands for itself.
pub(crate) fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let hex = (first == b'%')
            .then(|| after.get(..2))
            .flatten()
            .filter(|hex| hex.iter().all(u8::is_ascii_hexdigit))
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match hex {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// For the fuzz target: parses, and renders what was understood.
#[cfg(feature = "__fault")]
pub(crate) fn parse_for_fuzzing(bytes: &[u8]) -> Option<Holder> {
    Record::parse(bytes).map(|record| record.holder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let text = render(Some("a label\nof two lines, 100 %"));
        let holder = live_holder(text.as_bytes()).unwrap();
        assert_eq!(holder.pid, std::process::id());
        assert_eq!(
            holder.label.as_deref(),
            Some("a label\nof two lines, 100 %")
        );
        assert!(holder.since.unwrap() <= SystemTime::now());
    }

    #[test]
    fn every_truncation_is_unknown() {
        let text = render(Some("label"));
        for len in 0..text.len() {
            assert_eq!(live_holder(&text.as_bytes()[..len]), None, "{len}");
        }
    }

    #[test]
    fn a_lock_file_is_told_from_another() {
        // The zeros were seen after a power cut on ext4: the length was on disk, and the record not.
        for ours in [
            "",
            "larder-l",
            FIRST_LINE,
            "larder-lock 1\npid=1\n",
            "\0\0\0\0",
        ] {
            assert!(can_be_in_a_lock_file(ours.as_bytes()), "{ours}");
        }
        assert!(!can_be_in_a_lock_file(
            b"# This file is automatically generated by Cargo."
        ));
        assert!(!can_be_in_a_lock_file(b"\0\0\0\0a lock file"));
        assert!(!can_be_in_a_lock_file(&[0; MAX_BYTES + 1]));
    }

    #[test]
    fn what_follows_the_end_is_ignored() {
        let mut text = render(None).into_bytes();
        text.extend_from_slice(b"el=of an older record\nend\n\0\0");
        assert!(live_holder(&text).is_some());
    }

    #[test]
    fn a_dead_process_holds_nothing() {
        let text = render(None);
        let start = host::start_of(host::pid()).unwrap();
        let reused = text.replace(
            &format!("pidstart={start}"),
            &format!("pidstart={}", start + 1),
        );
        assert_eq!(live_holder(reused.as_bytes()), None);
        let boot = host::this().boot_id.clone().unwrap();
        let rebooted = text.replace(&boot, "00000000-0000-0000-0000-000000000000");
        assert_eq!(live_holder(rebooted.as_bytes()), None);
        let elsewhere = rebooted.replace(&format!("host={}", host::this().name), "host=elsewhere");
        assert_eq!(
            live_holder(elsewhere.as_bytes()).unwrap().host.as_deref(),
            Some("elsewhere")
        );
    }

    #[test]
    fn a_long_label_is_cut_between_characters() {
        let cut = escape("äöü%", 7).into_owned();
        assert_eq!(cut, "äöü");
        assert_eq!(unescape(&escape("50 %\u{7}é", 99)), "50 %\u{7}é");
    }
}
