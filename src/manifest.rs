//! The manifest of a tree: one line for everything in it, and what differs from it now.
//!
//! Reads through `sys`; `docs/format.md` has the format. Follows no symbolic link. Invariant: two trees
//! have the same manifest only if their names, modes, link targets and contents are the same; times
//! and owners are not in it.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::thread;

use data_encoding::{HEXLOWER, HEXUPPER};

use crate::digest;
use crate::outcome::Integrity;
use crate::parallel;
use crate::root::Root;
use crate::sys::{Kind, Meta};

const OWNER_BITS: u32 = 0o700;

/// Lists a tree and reads all its files.
///
/// `root_mode` are the permission bits of its root, where those of the moment are not what counts.
pub(crate) fn of_tree(root: &Root, tree: &Path, root_mode: Option<u32>) -> io::Result<String> {
    let mut found = list(root, tree)?;
    if let Some((_, meta)) = found.first_mut() {
        // A rename may need the owner's write bit, and who is killed then does not take it off again.
        meta.mode = root_mode.unwrap_or(meta.mode) & !OWNER_BITS;
    }
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let lines = parallel::map(&found, threads, |(inside, meta)| {
        line(root, tree, inside, meta)
    })?;
    Ok(lines.concat())
}

/// Everything in a tree, by path below it; first its root, which is `.`.
fn list(root: &Root, tree: &Path) -> io::Result<Vec<(PathBuf, Meta)>> {
    let mut found = vec![(PathBuf::from("."), root.dir.stat(tree)?)];
    let mut left = vec![PathBuf::new()];
    while let Some(dir) = left.pop() {
        for name in root.dir.list(tree.join(&dir))? {
            let inside = dir.join(name.name);
            let meta = root.dir.stat(tree.join(&inside))?;
            if meta.kind == Kind::Dir {
                left.push(inside.clone());
            }
            found.push((inside, meta));
        }
    }
    Ok(found)
}

fn line(root: &Root, tree: &Path, inside: &Path, meta: &Meta) -> io::Result<String> {
    let path = escape(inside.as_os_str().as_bytes());
    let mode = meta.mode;
    Ok(match meta.kind {
        Kind::Dir => format!("d {mode:04o} {path}\n"),
        Kind::File => {
            let file = root.dir.open_quietly(tree.join(inside))?;
            let digest = HEXLOWER.encode(&digest::of_file(&file, meta.len)?);
            format!("f {mode:04o} {path} {} {digest}\n", meta.len)
        }
        Kind::Link => {
            let target = root.dir.read_link(tree.join(inside))?;
            format!("l 0777 {path} {}\n", escape(target.as_bytes()))
        }
        Kind::Other => format!("o {mode:04o} {path}\n"),
    })
}

/// A name without spaces, control characters, or bytes that are not ASCII: those are `%XX`.
fn escape(bytes: &[u8]) -> String {
    let mut escaped = String::with_capacity(bytes.len());
    for &byte in bytes {
        match byte {
            b'%' | 0..=b' ' | 0x7f.. => escaped.push_str(&format!("%{byte:02X}")),
            _ => escaped.push(byte.into()),
        }
    }
    escaped
}

fn unescape(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut pieces = text.split('%');
    bytes.extend_from_slice(pieces.next().unwrap_or_default().as_bytes());
    for piece in pieces {
        // Not at a character's end, in what is no name that was written here.
        let (hex, rest) = piece.as_bytes().split_at(piece.len().min(2));
        bytes.push(
            HEXUPPER
                .decode(hex)
                .ok()
                .and_then(|byte| byte.first().copied())
                .unwrap_or(b'?'),
        );
        bytes.extend_from_slice(rest);
    }
    std::ffi::OsString::from_vec(bytes).into()
}

/// What became of a tree since it was published.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TreeReport {
    /// Whether the tree is what was published; [`Unknown`](Integrity::Unknown) if it was published
    /// without a digest.
    pub integrity: Integrity,
    /// What has another content, mode, kind or link target. Paths are relative to the tree, which is
    /// `.` itself.
    pub changed: Vec<PathBuf>,
    /// What is not there any more.
    pub missing: Vec<PathBuf>,
    /// What was not there.
    pub added: Vec<PathBuf>,
}

impl TreeReport {
    /// A report without names: nothing differs, or what differs cannot be told.
    pub(crate) fn of(integrity: Integrity) -> Self {
        TreeReport {
            integrity,
            changed: Vec::new(),
            missing: Vec::new(),
            added: Vec::new(),
        }
    }

    /// What differs between the manifest of a tree when it was published, and now.
    pub(crate) fn between(then: &str, now: &str) -> Self {
        let (then, now) = (by_path(then), by_path(now));
        let mut report = TreeReport::of(Integrity::Unknown);
        for (path, line) in &then {
            match now.get(path) {
                None => report.missing.push(unescape(path)),
                Some(other) if other != line => report.changed.push(unescape(path)),
                Some(_) => {}
            }
        }
        let added = now.keys().filter(|path| !then.contains_key(*path));
        report.added = added.map(|path| unescape(path)).collect();
        let lists = [&report.changed, &report.missing, &report.added];
        report.integrity = if lists.into_iter().all(Vec::is_empty) {
            Integrity::Whole
        } else {
            Integrity::Damaged
        };
        report
    }
}

/// The lines of a manifest, by what they are about.
fn by_path(manifest: &str) -> BTreeMap<&str, &str> {
    let lines = manifest.lines();
    lines
        .map(|line| (line.split(' ').nth(2).unwrap_or_default(), line))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_can_be_written() {
        let all: Vec<u8> = (1..=255).collect();
        let escaped = escape(&all);
        assert!(escaped.bytes().all(|byte| byte.is_ascii_graphic()));
        assert_eq!(unescape(&escaped).as_os_str().as_bytes(), all);
    }

    #[test]
    fn no_name_is_too_strange() {
        for (text, name) in [
            ("%", "?"),
            ("%2", "?"),
            ("%zzé", "?é"),
            ("a%41%%42", "aA?B"),
        ] {
            assert_eq!(unescape(text), Path::new(name));
        }
        let _ = unescape("%1é"); // a character where its second half begins
    }

    #[test]
    fn what_differs_is_told() {
        let then = "d 0755 .\nf 0644 a 1 00\nf 0644 b%20c 1 00\nl 0777 d e\n";
        assert_eq!(TreeReport::between(then, then).integrity, Integrity::Whole);
        let now = "d 0755 .\nf 0644 a 1 01\nl 0777 d e\no 0644 x\n";
        let report = TreeReport::between(then, now);
        assert_eq!(report.integrity, Integrity::Damaged);
        assert_eq!(report.changed, [Path::new("a")]);
        assert_eq!(report.missing, [Path::new("b c")]);
        assert_eq!(report.added, [Path::new("x")]);
    }
}
