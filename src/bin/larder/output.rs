//! Standard output, which carries values and listings and nothing else, and progress for people.

use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value as Json;

use crate::stop::Stop;

/// A value of which it is worth telling how far it is.
const LONG: u64 = 1 << 20;

const TICK: Duration = Duration::from_millis(120);

/// Writes to standard output.
pub(crate) fn write(bytes: &[u8]) -> Result<(), Stop> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(bytes).and_then(|()| stdout.flush());
    written.map_err(|err| failed(err, "cannot write to standard output"))
}

pub(crate) fn line(text: &str) -> Result<(), Stop> {
    write(format!("{text}\n").as_bytes())
}

/// A path as it is, whatever its bytes; a terminal would obey some of them.
pub(crate) fn path(path: &Path) -> Result<(), Stop> {
    if io::stdout().is_terminal() {
        return line(&printable(&path.to_string_lossy()));
    }
    let mut line = path.as_os_str().as_bytes().to_vec();
    line.push(b'\n');
    write(&line)
}

pub(crate) fn json(value: &Json) -> Result<(), Stop> {
    line(&value.to_string())
}

/// Copies a value to standard output.
pub(crate) fn copy(mut from: impl Read, len: u64) -> Result<(), Stop> {
    let progress = bytes_bar(Some(len));
    let mut buffer = vec![0; 128 << 10];
    let mut stdout = io::stdout().lock();
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
            Err(err) => return Err(failed(err, "cannot read the value")),
        };
        let written = stdout.write_all(&buffer[..read]);
        written.map_err(|err| failed(err, "cannot write to standard output"))?;
        progress.inc(read as u64);
    }
    let flushed = stdout.flush();
    progress.finish_and_clear();
    flushed.map_err(|err| failed(err, "cannot write to standard output"))
}

fn failed(err: io::Error, doing: &'static str) -> Stop {
    if err.kind() == io::ErrorKind::BrokenPipe {
        return Stop::ClosedPipe;
    }
    Stop::Failed(anyhow::Error::new(err).context(doing))
}

/// How many bytes went by. Seen on a terminal only, as everything of `indicatif`, and not where the
/// bytes themselves go there.
pub(crate) fn bytes_bar(len: Option<u64>) -> ProgressBar {
    if io::stdout().is_terminal() || len.is_some_and(|len| len < LONG) {
        return ProgressBar::hidden();
    }
    let (bar, template) = match len {
        Some(len) => (
            ProgressBar::new(len),
            "{bar:30} {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}",
        ),
        None => (
            ProgressBar::new_spinner(),
            "{spinner} {binary_bytes}, {binary_bytes_per_sec}",
        ),
    };
    let bar = bar.with_style(style(template));
    bar.enable_steady_tick(TICK);
    bar
}

/// A line that says what is being waited for or done.
pub(crate) fn spinner() -> ProgressBar {
    let spinner = ProgressBar::new_spinner().with_style(style("{spinner} {msg}"));
    spinner.enable_steady_tick(TICK);
    spinner
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

/// `1 entry`, `2 entries`.
pub(crate) fn count(n: u64, one: &str, more: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { more })
}

/// Whether a terminal does something other than to show this, or shows what is around it in another order.
fn is_obeyed(c: char) -> bool {
    let turns_or_breaks = matches!(
        c,
        '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    c.is_control() || turns_or_breaks
}

/// A path or label with nothing in it that a terminal would obey.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let escaped = is_obeyed(c).then(|| c.escape_default());
            let plain = escaped.is_none().then_some(c);
            escaped.into_iter().flatten().chain(plain)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_escaped() {
        let text = "a\u{1b}[31m\u{7}\n\u{202e}gpj\u{2066}\u{2069}\u{200e}\u{200f}\u{2028}\u{2029}é";
        let shown = "a\\u{1b}[31m\\u{7}\\n\\u{202e}gpj\\u{2066}\\u{2069}\\u{200e}\\u{200f}\\u{2028}\\u{2029}é";
        assert_eq!(printable(text), shown);
    }
}
