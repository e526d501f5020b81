//! Content of which every byte is known: which operation wrote it, for which place, and how long.
//!
//! What was written half, zeroed, cut off or mixed with something else is not recognised, and counts
//! as torn. Does no I/O but for reading trees.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The bytes of the header; a content is empty or at least as long.
pub(crate) const HEADER: usize = 32;
const MAGIC: &[u8; 8] = b"larder-p";

/// In place of a file's number.
const METADATA: usize = 0xffff;

/// From this many files on, the library makes a tree durable by one `syncfs`.
const MANY_FILES: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    Raw,
    Sealed,
    Tree,
}

impl Kind {
    pub(crate) const ALL: [Kind; 3] = [Kind::Raw, Kind::Sealed, Kind::Tree];

    /// The directory of its store.
    pub(crate) fn store(self) -> &'static str {
        match self {
            Kind::Raw => "raw",
            Kind::Sealed => "sealed",
            Kind::Tree => "trees",
        }
    }
}

/// A key of one of the stores. Only one process writes it, so the order of its operations is
/// known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    pub(crate) kind: Kind,
    pub(crate) writer: u8,
    pub(crate) index: u8,
}

impl Key {
    pub(crate) fn name(self) -> String {
        let kind = match self.kind {
            Kind::Raw => "raw",
            Kind::Sealed => "sealed",
            Kind::Tree => "tree",
        };
        format!("{kind}-{}-{}", self.writer, self.index)
    }

    /// Where a content belongs: this key, and for a tree the file in it.
    pub(crate) fn place(self, file: usize) -> u64 {
        let kind = self.kind as u64;
        (kind << 48) | (u64::from(self.writer) << 40) | (u64::from(self.index) << 32) | file as u64
    }

    pub(crate) fn metadata_place(self) -> u64 {
        self.place(METADATA)
    }
}

/// The content that an operation writes to a place.
pub(crate) fn bytes(number: u64, place: u64, len: usize) -> Vec<u8> {
    if len == 0 {
        return Vec::new();
    }
    assert!(len >= HEADER, "a content has room for its header");
    let mut bytes = Vec::with_capacity(len + 8);
    bytes.extend_from_slice(MAGIC);
    for field in [number, place, len as u64] {
        bytes.extend_from_slice(&field.to_le_bytes());
    }
    let mut rng = fastrand::Rng::with_seed(number ^ place.rotate_left(17));
    while bytes.len() < len {
        bytes.extend_from_slice(&rng.u64(..).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// The metadata that an operation gives a sealed value: in some, more than is read with the footer at
/// once.
pub(crate) fn metadata(number: u64, key: Key) -> Vec<u8> {
    let len = HEADER + (number % 1500) as usize;
    bytes(number, key.metadata_place(), len)
}

/// Which operation wrote these bytes, and for which place. `None`: no operation wrote them as they
/// are.
pub(crate) fn recognise(found: &[u8]) -> Option<(u64, u64)> {
    let field = |index: usize| {
        let bytes = found.get(index * 8..index * 8 + 8)?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    };
    let (number, place, len) = (field(1)?, field(2)?, field(3)?);
    let is_whole = found.starts_with(MAGIC)
        && len == found.len() as u64
        && found == bytes(number, place, found.len());
    is_whole.then_some((number, place))
}

/// What is at a path in a tree.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Node {
    File(Vec<u8>),
    Dir,
    Link(PathBuf),
}

/// The tree that an operation makes, by path.
pub(crate) fn tree(number: u64, key: Key) -> BTreeMap<PathBuf, Node> {
    let mut rng = fastrand::Rng::with_seed(!number);
    let mut nodes = BTreeMap::new();
    let file = |index, len| Node::File(bytes(number, key.place(index), len));
    nodes.insert("stamp".into(), file(0, HEADER + 8));
    nodes.insert("link".into(), Node::Link(format!("to-{number}").into()));
    nodes.insert("empty".into(), Node::Dir);
    nodes.insert("sub".into(), Node::Dir);
    nodes.insert("sub/inner".into(), Node::Dir);
    let is_large = rng.u8(..12) == 0;
    let files = if is_large {
        rng.usize(MANY_FILES..MANY_FILES + 20)
    } else {
        rng.usize(1..6)
    };
    for index in 1..=files {
        let len = match rng.u8(..8) {
            0 => 0,
            _ if is_large => rng.usize(HEADER..400),
            _ => rng.usize(HEADER..20_000),
        };
        let dir = rng.choice(["", "sub/", "sub/inner/"]).unwrap_or("");
        nodes.insert(format!("{dir}{index}").into(), file(index, len));
    }
    nodes
}

/// Makes a tree in an empty directory.
pub(crate) fn write_tree(at: &Path, nodes: &BTreeMap<PathBuf, Node>) -> io::Result<()> {
    for (path, node) in nodes {
        let path = at.join(path);
        match node {
            Node::Dir => fs::create_dir(path)?,
            Node::File(bytes) => fs::write(path, bytes)?,
            Node::Link(to) => std::os::unix::fs::symlink(to, path)?,
        }
    }
    // A database in a tree does so. A file system may write what was synced, and the name that it gets
    // later, ahead of all that was not.
    if nodes.len().is_multiple_of(2) {
        fs::File::open(at.join("stamp"))?.sync_all()?;
        fs::File::open(at)?.sync_all()?;
    }
    Ok(())
}

/// Which operation made the tree at this path, for this key; or what is wrong with it.
pub(crate) fn recognise_tree(at: &Path, key: Key) -> Result<u64, String> {
    let found = read_tree(at).map_err(|err| format!("it cannot be read: {err}"))?;
    let stamp = match found.get(Path::new("stamp")) {
        Some(Node::File(bytes)) => recognise(bytes).ok_or("its stamp is torn")?,
        _ => return Err("it has no stamp".to_owned()),
    };
    let made = tree(stamp.0, key);
    for (path, node) in &made {
        match found.get(path) {
            Some(there) if there == node => {}
            Some(_) => return Err(format!("{} in it is torn", path.display())),
            None => return Err(format!("{} in it is missing", path.display())),
        }
    }
    match found.keys().find(|path| !made.contains_key(*path)) {
        Some(path) => Err(format!("{} in it belongs to no tree", path.display())),
        None => Ok(stamp.0),
    }
}

fn read_tree(at: &Path) -> io::Result<BTreeMap<PathBuf, Node>> {
    let mut nodes = BTreeMap::new();
    let mut left = vec![PathBuf::new()];
    while let Some(dir) = left.pop() {
        for found in fs::read_dir(at.join(&dir))? {
            let found = found?;
            let path = dir.join(found.file_name());
            let kind = found.file_type()?;
            let node = if kind.is_dir() {
                left.push(path.clone());
                Node::Dir
            } else if kind.is_symlink() {
                Node::Link(fs::read_link(found.path())?)
            } else {
                Node::File(fs::read(found.path())?)
            };
            nodes.insert(path, node);
        }
    }
    Ok(nodes)
}
