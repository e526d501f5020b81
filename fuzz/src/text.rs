//! Texts as the library writes them, and ways to spoil them.

use arbitrary::Arbitrary;

/// One thing that befalls a text. Positions are taken modulo its length.
#[derive(Arbitrary, Clone, Debug)]
pub enum Edit {
    Replace {
        at: u16,
        by: u8,
    },
    Insert {
        at: u16,
        bytes: Vec<u8>,
    },
    Delete {
        at: u16,
        len: u8,
    },
    Truncate {
        at: u16,
    },
    /// A line once more, somewhere else.
    Repeat {
        line: u8,
        before: u8,
    },
    DeleteLine {
        line: u8,
    },
    /// Another value after a line's `=`.
    Value {
        line: u8,
        value: Vec<u8>,
    },
}

/// A text after those edits, one after the other.
pub fn edited(mut text: Vec<u8>, edits: &[Edit]) -> Vec<u8> {
    for edit in edits.iter().take(16) {
        text = applied(text, edit);
    }
    text
}

fn applied(mut text: Vec<u8>, edit: &Edit) -> Vec<u8> {
    let position = |at: u16| usize::from(at) % (text.len() + 1);
    match edit {
        Edit::Replace { at, by } => {
            let at = position(*at);
            if let Some(byte) = text.get_mut(at) {
                *byte = *by;
            }
        }
        Edit::Insert { at, bytes } => {
            let at = position(*at);
            text.splice(at..at, bytes.iter().copied());
        }
        Edit::Delete { at, len } => {
            let at = position(*at);
            let end = (at + usize::from(*len)).min(text.len());
            text.drain(at..end);
        }
        Edit::Truncate { at } => text.truncate(position(*at)),
        Edit::Repeat { line, before } => {
            let mut lines = lines(&text);
            let again = lines[usize::from(*line) % lines.len()].clone();
            let before = usize::from(*before) % (lines.len() + 1);
            lines.insert(before, again);
            return lines.join(&b'\n');
        }
        Edit::DeleteLine { line } => {
            let mut lines = lines(&text);
            let line = usize::from(*line) % lines.len();
            lines.remove(line);
            return lines.join(&b'\n');
        }
        Edit::Value { line, value } => {
            let mut lines = lines(&text);
            let line = usize::from(*line) % lines.len();
            let line = &mut lines[line];
            let name = line.iter().position(|&byte| byte == b'=');
            line.truncate(name.map_or(line.len(), |at| at + 1));
            line.extend_from_slice(value);
            return lines.join(&b'\n');
        }
    }
    text
}

/// At least one, if only an empty one.
fn lines(text: &[u8]) -> Vec<Vec<u8>> {
    text.split(|&byte| byte == b'\n')
        .map(<[u8]>::to_vec)
        .collect()
}

/// A line's worth of text, escaped as the format says: `%` and control characters as `%XX`.
pub fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        if c == '%' || c.is_control() {
            let bytes = c.to_string().into_bytes();
            escaped.extend(bytes.iter().map(|byte| format!("%{byte:02X}")));
        } else {
            escaped.push(c);
        }
    }
    escaped
}

/// What is left of a whole text that was cut off at the end of one of its lines, or before its
/// `end` was whole.
pub fn cuts(text: &str) -> impl Iterator<Item = &[u8]> {
    let ends = text.match_indices('\n').map(|(at, _)| at);
    let before_the_end = text.len() - "end\n".len();
    ends.flat_map(|at| [at, at + 1])
        .filter(move |&at| at <= before_the_end)
        .chain([before_the_end + 1, before_the_end + 2])
        .map(|at| &text.as_bytes()[..at])
}
