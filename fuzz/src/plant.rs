//! A tree as a closure makes it, and a model of it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use arbitrary::Arbitrary;

use crate::body::Ending;
use crate::scratch::{Deliberate, Thing, above};

/// What to put into an empty directory.
#[derive(Arbitrary, Clone, Debug)]
pub struct Plant {
    items: Vec<Item>,
    root_mode: DirMode,
    pub ending: Ending,
}

#[derive(Arbitrary, Clone, Debug)]
enum Item {
    File(Spot, u8, FileMode),
    Dir(Spot, DirMode),
    Link(Spot, Points),
    /// A second name for a file.
    HardLink(Spot, Spot),
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Spot {
    A,
    B,
    InA,
    InDirectory,
    DeepInside,
    Directory,
    /// Names that mean something to a store elsewhere.
    Lock,
    Sidecar,
    Tmp,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum FileMode {
    Plain,
    Executable,
    Secret,
    ReadOnly,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum DirMode {
    Plain,
    Secret,
    ReadOnly,
    /// Its owner cannot even enter it.
    Closed,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Points {
    Beside,
    AtADirectory,
    /// At something that is none of the store's business.
    Outside,
    Nowhere,
}

/// Something in a tree, with the permission bits that its maker gave it.
pub type Nodes = BTreeMap<PathBuf, (Thing, u32)>;

/// A tree that is published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    pub nodes: Nodes,
    pub root_mode: u32,
}

impl Spot {
    fn path(self) -> PathBuf {
        PathBuf::from(match self {
            Spot::A => "a",
            Spot::B => "b",
            Spot::InA => "a/c",
            Spot::InDirectory => "d/a",
            Spot::DeepInside => "d/e/f/g",
            Spot::Directory => "d",
            Spot::Lock => "d.lock",
            Spot::Sidecar => "a.larder",
            Spot::Tmp => "tmp/t-",
        })
    }
}

impl FileMode {
    fn bits(self) -> u32 {
        match self {
            FileMode::Plain => 0o644,
            FileMode::Executable => 0o755,
            FileMode::Secret => 0o600,
            FileMode::ReadOnly => 0o444,
        }
    }
}

impl DirMode {
    fn bits(self) -> u32 {
        match self {
            DirMode::Plain => 0o755,
            DirMode::Secret => 0o700,
            DirMode::ReadOnly => 0o555,
            DirMode::Closed => 0,
        }
    }
}

impl Plant {
    /// The model of what `fill` makes. `outside` is what a link to the outside points at.
    #[must_use]
    pub fn tree(&self, outside: &Path) -> Tree {
        let mut nodes = Nodes::new();
        for item in self.items.iter().take(8) {
            let (path, node) = match item {
                Item::File(at, seed, mode) => {
                    let bytes = vec![*seed; usize::from(*seed)];
                    (at.path(), (Thing::File(bytes), mode.bits()))
                }
                Item::Dir(at, mode) => (at.path(), (Thing::Dir, mode.bits())),
                Item::Link(at, points) => {
                    let target = match points {
                        Points::Beside => "a".into(),
                        Points::AtADirectory => "d".into(),
                        Points::Outside => outside.to_path_buf(),
                        Points::Nowhere => "../../nowhere".into(),
                    };
                    (at.path(), (Thing::Link(target), 0o777))
                }
                Item::HardLink(at, to) => match nodes.get(&to.path()) {
                    Some(node @ (Thing::File(_), _)) => (at.path(), node.clone()),
                    _ => continue,
                },
            };
            let is_dir = |path: &Path| {
                nodes
                    .get(path)
                    .is_none_or(|(thing, _)| *thing == Thing::Dir)
            };
            if nodes.contains_key(&path) || !above(&path).all(is_dir) {
                continue;
            }
            for dir in above(&path) {
                let plain = (Thing::Dir, DirMode::Plain.bits());
                nodes.entry(dir.to_path_buf()).or_insert(plain);
            }
            nodes.insert(path, node);
        }
        Tree {
            nodes,
            root_mode: self.root_mode.bits(),
        }
    }

    /// Makes it in an empty directory.
    pub fn fill(&self, dir: &Path, outside: &Path) -> anyhow::Result<()> {
        let tree = self.tree(outside);
        tree.make_files(dir)?;
        self.link(dir, &tree)?;
        tree.set_modes(dir)?;
        match self.ending {
            Ending::Ok | Ending::IgnoringErrors => Ok(()),
            Ending::Error => Err(Deliberate.into()),
            Ending::Panic => Deliberate::unwind(),
        }
    }

    /// Makes one file of what the model takes for two of the same contents.
    fn link(&self, dir: &Path, tree: &Tree) -> anyhow::Result<()> {
        for item in self.items.iter().take(8) {
            if let Item::HardLink(at, to) = item {
                let (at, to) = (at.path(), to.path());
                let (a, b) = (tree.nodes.get(&at), tree.nodes.get(&to));
                if at != to && a == b && matches!(a, Some((Thing::File(_), _))) {
                    fs::remove_file(dir.join(&at))?;
                    fs::hard_link(dir.join(&to), dir.join(&at))?;
                }
            }
        }
        Ok(())
    }
}

impl Tree {
    /// Makes it in an empty directory.
    pub fn make(&self, dir: &Path) -> anyhow::Result<()> {
        self.make_files(dir)?;
        self.set_modes(dir)
    }

    fn make_files(&self, dir: &Path) -> anyhow::Result<()> {
        assert_eq!(fs::read_dir(dir)?.count(), 0, "a staged tree is not empty");
        for (path, (thing, _)) in &self.nodes {
            let path = dir.join(path);
            match thing {
                Thing::Dir => fs::create_dir(path)?,
                Thing::File(bytes) => fs::write(path, bytes)?,
                Thing::Link(target) => symlink(target, path)?,
            }
        }
        Ok(())
    }

    fn set_modes(&self, dir: &Path) -> anyhow::Result<()> {
        for (path, (thing, mode)) in self.nodes.iter().rev() {
            if !matches!(thing, Thing::Link(_)) {
                fs::set_permissions(dir.join(path), PermissionsExt::from_mode(*mode))?;
            }
        }
        Ok(fs::set_permissions(
            dir,
            PermissionsExt::from_mode(self.root_mode),
        )?)
    }

    /// A tree of one small file.
    #[must_use]
    pub fn short(name: &str) -> Self {
        let file = (Thing::File(name.into()), FileMode::Plain.bits());
        Tree {
            nodes: [(name.into(), file)].into(),
            root_mode: DirMode::Plain.bits(),
        }
    }

    /// As a client makes it that publishes it by hand: with the usual permission bits.
    #[must_use]
    pub fn plain(mut self) -> Self {
        for (thing, mode) in self.nodes.values_mut() {
            *mode = match thing {
                Thing::Dir => 0o755,
                Thing::File(_) => 0o644,
                Thing::Link(_) => 0o777,
            };
        }
        self.root_mode = 0o755;
        self
    }

    /// As a store publishes it.
    #[must_use]
    pub fn published(mut self, group: bool, read_only: bool) -> Self {
        let sealed = |mode: u32| match (read_only, group) {
            (false, _) => mode,
            (true, false) => mode & !0o222,
            (true, true) => (mode | 0o060) & !0o202,
        };
        let dir_mode = |mode: u32| {
            let mode = mode | 0o500;
            sealed(if group { mode | 0o2070 } else { mode })
        };
        let file_mode = |mode: u32| match group {
            true if mode & 0o100 != 0 => sealed(mode | 0o070),
            true => sealed(mode | 0o060),
            false => sealed(mode),
        };
        for (thing, mode) in self.nodes.values_mut() {
            *mode = match thing {
                Thing::Dir => dir_mode(*mode),
                Thing::File(_) => file_mode(*mode),
                Thing::Link(_) => *mode,
            };
        }
        self.root_mode = dir_mode(self.root_mode);
        self
    }

    /// How many regular files there are, and how many bytes are in them.
    #[must_use]
    pub fn sizes(&self) -> (u64, u64) {
        let lens = self.nodes.values().filter_map(|(thing, _)| match thing {
            Thing::File(bytes) => Some(bytes.len() as u64),
            _ => None,
        });
        (lens.clone().count() as u64, lens.sum())
    }

    /// Fails unless this is what is at a path.
    pub fn check(&self, path: &Path) {
        assert_eq!(crate::scratch::listing(path), self.nodes, "{path:?}");
        let mode = fs::symlink_metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, self.root_mode, "{path:?} has mode {mode:o}");
    }
}
