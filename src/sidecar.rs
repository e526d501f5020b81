//! The sidecar: what a store of directories knows of a tree, in a file beside it.
//!
//! Owns the format of `REST.larder`. Reads through `sys`; `publish` puts it in place before the tree.
//! Invariant: a sidecar that is missing, torn, foreign, or of another tree vouches for nothing.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use data_encoding::HEXLOWER;

use crate::digest::{self, OURS_LEN};
use crate::error::{Error, IoContext, Result};
use crate::layout::EntryPath;
use crate::lock::record::{escape, unescape};
use crate::root::Root;
use crate::sys::{self, Errno, Kind, Meta, host};
use crate::trust::Standing;

const FIRST_LINE: &str = "larder-tree 1";
/// What the first line of any version begins with.
const ANY_VERSION: &[u8] = b"larder-tree ";
const LAST_LINE: &str = "\nend\n";
/// Bytes of the text. The manifest, if there is one, comes after it.
const MAX_BYTES: usize = 4096;
const MAX_LABEL: usize = 1024;

/// A tree's root: its inode, and when that was created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TreeId {
    pub(crate) inode: u64,
    pub(crate) born: Option<(i64, u32)>,
}

impl TreeId {
    /// Of the tree that is at this path.
    pub(crate) fn at(root: &Root, path: &Path) -> io::Result<Self> {
        let meta = root.dir.stat(path)?;
        Ok(Self::of(root, path, &meta))
    }

    pub(crate) fn of(root: &Root, path: &Path, meta: &Meta) -> Self {
        TreeId {
            inode: meta.id.inode(),
            born: root.dir.born(path),
        }
    }

    pub(crate) fn is(&self, other: &TreeId) -> bool {
        let same_birth = match (self.born, other.born) {
            (Some(one), Some(other)) => one == other,
            _ => true,
        };
        self.inode == other.inode && same_birth
    }

    fn render(&self) -> String {
        match self.born {
            Some((seconds, nanos)) => format!("{} {seconds}.{nanos:09}", self.inode),
            None => self.inode.to_string(),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let (inode, born) = match text.split_once(' ') {
            Some((inode, born)) => {
                let (seconds, nanos) = born.split_once('.')?;
                (inode, Some((seconds.parse().ok()?, nanos.parse().ok()?)))
            }
            None => (text, None),
        };
        Some(TreeId {
            inode: inode.parse().ok()?,
            born,
        })
    }
}

/// What a tree's sidecar says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sidecar {
    /// The tree is being deleted where it stands: it reads as absent.
    pub(crate) dead: bool,
    /// Which tree this is about.
    pub(crate) tree: TreeId,
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    pub(crate) standing: Standing,
    /// The tree that is there until this one takes its place, and its standing: the sidecar comes
    /// first, so somebody killed in between leaves the old tree with the new sidecar.
    pub(crate) replaces: Option<(TreeId, Standing)>,
    pub(crate) label: Option<String>,
    pub(crate) manifest: Option<ManifestId>,
}

/// Which manifest follows the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ManifestId {
    pub(crate) len: u64,
    pub(crate) digest: [u8; OURS_LEN],
}

impl ManifestId {
    pub(crate) fn of(manifest: &str) -> Self {
        ManifestId {
            len: manifest.len() as u64,
            digest: digest::of_parts(&[manifest.as_bytes()]),
        }
    }
}

impl Sidecar {
    /// The text, without the manifest.
    pub(crate) fn render(&self) -> String {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let mut text = format!(
            "{FIRST_LINE}\nstate={}\nid={:x}-{:x}-{:x}\ntree={}\nfiles={}\nbytes={}\nstanding={}\n",
            if self.dead { "dead" } else { "live" },
            host::pid(),
            now.as_nanos(),
            self.tree.inode,
            self.tree.render(),
            self.files,
            self.bytes,
            self.standing.render(),
        );
        if let Some((tree, standing)) = &self.replaces {
            text.push_str(&format!("replaces={}\n", tree.render()));
            text.push_str(&format!("replaced-standing={}\n", standing.render()));
        }
        if let Some(label) = &self.label {
            text.push_str(&format!("label={}\n", escape(label, MAX_LABEL)));
        }
        if let Some(manifest) = &self.manifest {
            let digest = HEXLOWER.encode(&manifest.digest);
            text.push_str(&format!("manifest={} sha256={digest}\n", manifest.len));
        }
        text.push_str(&LAST_LINE[1..]);
        text
    }

    /// Reads a sidecar of this many bytes from its beginning. `None` unless all of it is there.
    /// Also where its manifest begins.
    pub(crate) fn parse(start: &[u8], len: u64) -> Option<(Self, u64)> {
        let last = LAST_LINE.as_bytes();
        let text_len = start.windows(last.len()).position(|piece| piece == last)?;
        let text = std::str::from_utf8(&start[..text_len]).ok()?;
        let text_len = (text_len + last.len()) as u64;
        let mut lines = text.split('\n');
        if lines.next() != Some(FIRST_LINE) {
            return None;
        }
        let mut sidecar = Sidecar::default();
        let (mut state, mut tree, mut files, mut bytes, mut standing) =
            (None, None, None, None, None);
        let (mut replaces, mut replaced) = (None, None);
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
                "tree" => tree = Some(TreeId::parse(value)?),
                "files" => files = Some(value.parse().ok()?),
                "bytes" => bytes = Some(value.parse().ok()?),
                "standing" => standing = Some(Standing::parse(value)?),
                "replaces" => replaces = Some(TreeId::parse(value)?),
                "replaced-standing" => replaced = Some(Standing::parse(value)?),
                "label" => sidecar.label = Some(unescape(value)),
                "manifest" => {
                    let (len, digest) = value.split_once(" sha256=")?;
                    sidecar.manifest = Some(ManifestId {
                        len: len.parse().ok()?,
                        digest: HEXLOWER.decode(digest.as_bytes()).ok()?.try_into().ok()?,
                    });
                }
                _ => {}
            }
        }
        sidecar.dead = state?;
        sidecar.tree = tree?;
        sidecar.files = files?;
        sidecar.bytes = bytes?;
        sidecar.standing = standing?;
        sidecar.replaces = replaces.zip(replaced);
        let manifest = sidecar.manifest.map_or(0, |manifest| manifest.len);
        (text_len.checked_add(manifest) == Some(len)).then_some((sidecar, text_len))
    }
}

/// What stands beside a tree.
#[derive(Debug)]
pub(crate) struct Beside {
    /// What is there instead of a tree is being deleted. That is said of whatever is there: the root
    /// of a tree in a lower overlay layer changes its birth time when the first file in it goes.
    pub(crate) dead: bool,
    pub(crate) said: Said,
    /// When the entry was last used: the sidecar's modification time.
    pub(crate) used: SystemTime,
}

/// What a sidecar's file is.
#[derive(Debug)]
pub(crate) enum Said {
    /// A whole one, perhaps about another tree.
    Whole {
        sidecar: Box<Sidecar>,
        file: File,
        /// Where in the file its manifest begins.
        manifest_at: u64,
    },
    /// What a power cut, or somebody else, has left of one.
    Torn,
    /// No file.
    Foreign,
    /// A later version's: its first line.
    FromTheFuture(String),
}

impl Beside {
    /// What is known of the tree that is there now.
    pub(crate) fn about(self, root: &Root, entry: &EntryPath, meta: &Meta) -> Option<Sidecar> {
        match self.said {
            Said::Whole { sidecar, .. }
                if sidecar.tree.is(&TreeId::of(root, entry.value(), meta)) =>
            {
                Some(*sidecar)
            }
            _ => None,
        }
    }
}

/// Looks at the sidecar of an entry. `None` if there is none.
pub(crate) fn beside(root: &Root, entry: &EntryPath) -> io::Result<Option<Beside>> {
    let file = match root.dir.open_read(entry.sidecar()) {
        // A symbolic link, or a socket.
        Err(err) if sys::is(&err, Errno::LOOP) || sys::is(&err, Errno::NXIO) => {
            let found = root.dir.look(entry.sidecar())?;
            return match found {
                Some(meta) if meta.kind == Kind::File => Err(err), // it changed just now
                found => Ok(found.map(|meta| Beside {
                    dead: false,
                    said: Said::Foreign,
                    used: meta.modified,
                })),
            };
        }
        opened => sys::absent_is_none(opened)?,
    };
    let Some(file) = file else {
        return Ok(None);
    };
    let meta = sys::fstat(&file)?;
    let said = match meta.kind {
        Kind::File => said(file, &meta)?,
        _ => Said::Foreign,
    };
    Ok(Some(Beside {
        dead: matches!(&said, Said::Whole { sidecar, .. } if sidecar.dead),
        said,
        used: meta.modified,
    }))
}

/// Refuses an entry beside which something stands that no store makes, and that none may take away: an
/// error if there is anything but a file where its sidecar should be. `false`: there is nothing.
pub(crate) fn check_regular(root: &Root, entry: &EntryPath) -> Result<bool> {
    let found = root.dir.look(entry.sidecar());
    let found = found.reading("look for what was known of a tree", || {
        root.absolute(entry.value())
    })?;
    match found {
        Some(meta) if meta.kind != Kind::File => Err(irregular(root, entry)),
        found => Ok(found.is_some()),
    }
}

pub(crate) fn irregular(root: &Root, entry: &EntryPath) -> Error {
    Error::corrupt(
        root.absolute(entry.sidecar()),
        "there is no file where what is known of a tree should be; move it away",
    )
}

fn said(file: File, meta: &Meta) -> io::Result<Said> {
    let start = sys::read_start(&file, MAX_BYTES)?;
    if let Some((sidecar, manifest_at)) = Sidecar::parse(&start, meta.len) {
        return Ok(Said::Whole {
            sidecar: Box::new(sidecar),
            file,
            manifest_at,
        });
    }
    let mut lines = start.split_inclusive(|&byte| byte == b'\n');
    let first = lines.next().and_then(|line| line.strip_suffix(b"\n"));
    Ok(match first {
        Some(line) if line.starts_with(ANY_VERSION) && line != FIRST_LINE.as_bytes() => {
            Said::FromTheFuture(String::from_utf8_lossy(line).into_owned())
        }
        _ => Said::Torn,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::Witness;

    #[test]
    fn what_is_written_is_read() {
        let tree = TreeId {
            inode: 7,
            born: Some((-3, 999_999_999)),
        };
        let none = Standing {
            barrier: false,
            witness: Witness::of([5; 16], 77),
        };
        for dead in [false, true] {
            let sidecar = Sidecar {
                dead,
                tree,
                files: 10,
                bytes: u64::MAX,
                standing: none,
                replaces: Some((
                    TreeId {
                        inode: 8,
                        born: None,
                    },
                    Standing::default(),
                )),
                label: Some("a\nb=c%".into()),
                manifest: Some(ManifestId::of("lines")),
            };
            let text = sidecar.render();
            let len = text.len() as u64;
            assert_eq!(
                Sidecar::parse(text.as_bytes(), len + 5),
                Some((sidecar, len))
            );
            assert_eq!(Sidecar::parse(text.as_bytes(), len + 4), None);
            for cut in 0..text.len() {
                assert_eq!(
                    Sidecar::parse(&text.as_bytes()[..cut], len + 5),
                    None,
                    "{cut}"
                );
            }
        }
    }
}
