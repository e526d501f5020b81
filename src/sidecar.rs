//! The sidecar: what a store of directories knows of a tree, in a file beside it.
//!
//! Owns the format of `REST.larder`. Reads through `sys`; `publish` puts it in place before the tree.
//! Invariant: a sidecar that is missing, torn, foreign, or of another tree vouches for nothing.

use std::io;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::layout::EntryPath;
use crate::lock::record::{escape, unescape};
use crate::options::Durability;
use crate::root::Root;
use crate::sys::{self, Kind, Meta, host};

const FIRST_LINE: &str = "larder-tree 1";
const MAX_BYTES: usize = 4096;
const MAX_LABEL: usize = 1024;

/// What a tree's sidecar says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sidecar {
    /// The tree is being deleted where it stands: it reads as absent.
    pub(crate) dead: bool,
    /// Which tree this is about: its root's inode, and when that was created.
    pub(crate) inode: u64,
    pub(crate) born: Option<(i64, u32)>,
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    pub(crate) label: Option<String>,
}

impl Sidecar {
    pub(crate) fn render(&self, durability: Durability) -> String {
        let durability = match durability {
            Durability::None => "none",
            Durability::Data => "data",
            Durability::Full => "full",
        };
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let mut text = format!(
            "{FIRST_LINE}\nstate={}\nid={:x}-{:x}-{:x}\ninode={}\n",
            if self.dead { "dead" } else { "live" },
            host::pid(),
            now.as_nanos(),
            self.inode,
            self.inode,
        );
        if let Some((seconds, nanos)) = self.born {
            text.push_str(&format!("born={seconds}.{nanos:09}\n"));
        }
        text.push_str(&format!(
            "files={}\nbytes={}\ndurability={durability}\n",
            self.files, self.bytes
        ));
        if let Some(boot_id) = &host::this().boot_id {
            text.push_str(&format!("boot={}\n", escape(boot_id, MAX_LABEL)));
        }
        if let Some(label) = &self.label {
            text.push_str(&format!("label={}\n", escape(label, MAX_LABEL)));
        }
        text.push_str("end\n");
        text
    }

    /// Reads a sidecar. `None` unless it is whole.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?.strip_suffix("\nend\n")?;
        let mut lines = text.split('\n');
        if lines.next() != Some(FIRST_LINE) {
            return None;
        }
        let mut sidecar = Sidecar::default();
        let (mut state, mut inode, mut files, mut bytes) = (None, None, None, None);
        for line in lines {
            let (name, value) = line.split_once('=')?;
            match name {
                "state" => {
                    state = Some(match value {
                        "live" => false,
                        "dead" => true,
                        _ => return None,
                    });
                }
                "inode" => inode = Some(value.parse().ok()?),
                "born" => {
                    let (seconds, nanos) = value.split_once('.')?;
                    sidecar.born = Some((seconds.parse().ok()?, nanos.parse().ok()?));
                }
                "files" => files = Some(value.parse().ok()?),
                "bytes" => bytes = Some(value.parse().ok()?),
                "label" => sidecar.label = Some(unescape(value)),
                _ => {}
            }
        }
        sidecar.dead = state?;
        sidecar.inode = inode?;
        sidecar.files = files?;
        sidecar.bytes = bytes?;
        Some(sidecar)
    }

    /// Whether this is about the tree whose root is at `path` now.
    fn fits(&self, root: &Root, path: &Path, tree: &Meta) -> bool {
        self.inode == tree.id.inode()
            && match (self.born, root.dir.born(path)) {
                (Some(then), Some(now)) => then == now,
                _ => true,
            }
    }
}

/// What stands beside a tree.
#[derive(Debug)]
pub(crate) struct Beside {
    /// What is there instead of a tree is being deleted. That is said of whatever is there: the root
    /// of a tree in a lower overlay layer changes its birth time when the first file in it goes.
    pub(crate) dead: bool,
    /// What the sidecar says, if it is whole. It may be about another tree.
    said: Option<Sidecar>,
    /// When the entry was last used: the sidecar's modification time.
    pub(crate) used: SystemTime,
}

impl Beside {
    /// What is known of the tree that is there now.
    pub(crate) fn about(self, root: &Root, entry: &EntryPath, tree: &Meta) -> Option<Sidecar> {
        self.said
            .filter(|sidecar| sidecar.fits(root, entry.value(), tree))
    }
}

/// Looks at the sidecar of an entry. `None` if there is none.
pub(crate) fn beside(root: &Root, entry: &EntryPath) -> io::Result<Option<Beside>> {
    let Some(file) = sys::absent_is_none(root.dir.open_read(entry.sidecar()))? else {
        return Ok(None);
    };
    let meta = sys::fstat(&file)?;
    let said = match meta.kind {
        Kind::File => Sidecar::parse(&sys::read_start(&file, MAX_BYTES)?),
        _ => None,
    };
    Ok(Some(Beside {
        dead: said.as_ref().is_some_and(|sidecar| sidecar.dead),
        said,
        used: meta.modified,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for dead in [false, true] {
            let sidecar = Sidecar {
                dead,
                inode: 7,
                born: Some((-3, 999_999_999)),
                files: 10,
                bytes: u64::MAX,
                label: Some("a\nb=c%".into()),
            };
            let text = sidecar.render(Durability::Data);
            assert_eq!(Sidecar::parse(text.as_bytes()), Some(sidecar));
            for len in 0..text.len() {
                assert_eq!(Sidecar::parse(&text.as_bytes()[..len]), None, "{len}");
            }
        }
    }
}
