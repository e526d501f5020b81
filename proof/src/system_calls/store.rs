//! Values that show whether they are whole, and a store of either kind.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use larder::{
    Barrier, CheckpointOptions, CheckpointStore, DirLease, Durability, GcReport, KVDirStore,
    KVFileStore, PathKey, StoreOptions, Value, ValueWriter, Wait,
};

use super::checkpoints::key as checkpoint_key;
use crate::checkpoints::FILE;

const NO_STORE: &str = "checkpoints are in no store";

pub(super) const OLD: &str = "old";
pub(super) const NEW: &str = "new";
pub(super) const AGAIN: &str = "again";
/// The old value, with metadata that it did not have.
pub(super) const DESCRIBED: &str = "described";

/// What operations are about, and (the last) what none but a `clear` may touch.
pub(super) const KEYS: [&str; 5] = ["one", "two", "three", "four", "beside"];
pub(super) const BESIDE: usize = 4;

/// What each of the keys has.
pub(super) type State = [Option<&'static str>; 5];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Files,
    Sealed,
    Trees,
    /// A file of checkpoints, in a directory of its own.
    Checkpoints,
}

/// How a store is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Setting {
    None,
    Data,
    Full,
    /// `Full`, with one `syncfs` for a batch.
    FullSyncfs,
}

impl Setting {
    pub(super) const ALL: [Setting; 4] = [
        Setting::None,
        Setting::Data,
        Setting::Full,
        Setting::FullSyncfs,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Setting::None => "none",
            Setting::Data => "data",
            Setting::Full => "full",
            Setting::FullSyncfs => "full-syncfs",
        }
    }

    pub(super) fn is_full(self) -> bool {
        matches!(self, Setting::Full | Setting::FullSyncfs)
    }

    fn checkpoint_options(self) -> CheckpointOptions {
        CheckpointOptions::new().durability(match self {
            Setting::None | Setting::Data => Durability::Data,
            Setting::Full | Setting::FullSyncfs => Durability::Full,
        })
    }

    fn options(self) -> StoreOptions {
        // So that each hit notes its use.
        let options = StoreOptions::new().touch_after(Duration::ZERO);
        match self {
            Setting::None => options.durability(Durability::None),
            Setting::Data => options.durability(Durability::Data),
            Setting::Full => options.durability(Durability::Full),
            Setting::FullSyncfs => options
                .durability(Durability::Full)
                .barrier(Barrier::FileSystem),
        }
    }
}

/// Long enough for several writes, so that a torn one would be seen.
fn pieces(word: &str) -> [Vec<u8>; 3] {
    let word = if word == DESCRIBED { OLD } else { word };
    [10_000, 20_000, 100].map(|len| vec![word.as_bytes()[0]; len])
}

pub(super) fn write_value(w: &mut ValueWriter, word: &str) -> anyhow::Result<()> {
    if word == DESCRIBED {
        w.set_metadata(DESCRIBED.as_bytes())?;
    }
    write_pieces(w, word)
}

pub(super) fn write_pieces(w: &mut impl Write, word: &str) -> anyhow::Result<()> {
    for piece in pieces(word) {
        w.write_all(&piece)?;
    }
    Ok(())
}

pub(super) fn word_of(mut value: Value) -> anyhow::Result<&'static str> {
    let mut bytes = Vec::new();
    value.read_to_end(&mut bytes)?;
    let word = word_of_bytes(&bytes)?;
    match value.metadata() {
        [] => Ok(word),
        known if known == DESCRIBED.as_bytes() && word == OLD => Ok(DESCRIBED),
        other => bail!("{word:?} has metadata {other:?}"),
    }
}

pub(super) fn word_of_bytes(bytes: &[u8]) -> anyhow::Result<&'static str> {
    [OLD, NEW, AGAIN]
        .into_iter()
        .find(|word| pieces(word).concat() == bytes)
        .with_context(|| format!("a torn value of {} bytes", bytes.len()))
}

/// A value as text.
pub(super) fn text_of(word: &str) -> String {
    String::from_utf8_lossy(&pieces(word).concat()).into_owned()
}

/// A tree has files, directories, one of them empty, and a link.
fn contents(word: &str) -> [(&'static str, String); 2] {
    [("a", word.repeat(3000)), ("sub/b", format!("{word} too"))]
}

pub(super) fn fill(tree: &Path, word: &str) -> anyhow::Result<()> {
    std::fs::create_dir_all(tree.join("sub/empty"))?;
    std::os::unix::fs::symlink("../a", tree.join("sub/link"))?;
    for (name, text) in contents(word) {
        std::fs::write(tree.join(name), text)?;
    }
    Ok(())
}

pub(super) fn word_in(tree: &Path) -> anyhow::Result<&'static str> {
    let names = listing(tree)?;
    let whole = ["a", "sub/", "sub/b", "sub/empty/", "sub/link"];
    if !names.iter().eq(whole) {
        bail!("a torn tree, with {names:?}");
    }
    for word in [OLD, NEW, AGAIN] {
        let has = |(name, text): (&str, String)| -> anyhow::Result<bool> {
            Ok(std::fs::read_to_string(tree.join(name))? == text)
        };
        if contents(word)
            .map(has)
            .into_iter()
            .all(|has| matches!(has, Ok(true)))
        {
            return Ok(word);
        }
    }
    bail!("a torn tree, a mixture")
}

/// Everything below a directory, by relative path, with a slash after directories.
pub(super) fn listing(base: &Path) -> anyhow::Result<BTreeSet<String>> {
    fn walk(base: &Path, dir: &Path, found: &mut BTreeSet<String>) -> anyhow::Result<()> {
        for entry in std::fs::read_dir(dir)? {
            let path = entry?.path();
            let name = path.strip_prefix(base)?.to_string_lossy().into_owned();
            if path.symlink_metadata()?.is_dir() {
                found.insert(format!("{name}/"));
                walk(base, &path, found)?;
            } else {
                found.insert(name);
            }
        }
        Ok(())
    }
    let mut found = BTreeSet::new();
    walk(base, base, &mut found).with_context(|| format!("list {}", base.display()))?;
    Ok(found)
}

/// A store of either kind, or a file of checkpoints.
#[derive(Debug)]
pub(super) enum Store {
    Files(KVFileStore),
    Trees(KVDirStore),
    Checkpoints(CheckpointStore<String>),
}

impl Store {
    /// It waits for no lock: after a process has died there is none to wait for.
    pub(super) fn open(kind: Kind, setting: Setting, base: &Path) -> larder::Result<Store> {
        let options = setting.options();
        Ok(match kind {
            Kind::Files | Kind::Sealed => {
                let options = options.sealed(kind == Kind::Sealed);
                Store::Files(options.open_file_store(base)?.with_wait(Wait::TryOnce))
            }
            Kind::Trees => Store::Trees(options.open_dir_store(base)?.with_wait(Wait::TryOnce)),
            Kind::Checkpoints => {
                let opened = setting.checkpoint_options().open(base.join(FILE))?;
                Store::Checkpoints(opened.with_wait(Wait::TryOnce))
            }
        })
    }

    pub(super) fn files(&self) -> anyhow::Result<&KVFileStore> {
        match self {
            Store::Files(store) => Ok(store),
            _ => bail!("no store of files"),
        }
    }

    pub(super) fn trees(&self) -> anyhow::Result<&KVDirStore> {
        match self {
            Store::Trees(store) => Ok(store),
            _ => bail!("no store of trees"),
        }
    }

    pub(super) fn checkpoints(&self) -> anyhow::Result<&CheckpointStore<String>> {
        match self {
            Store::Checkpoints(checkpoints) => Ok(checkpoints),
            _ => bail!("no checkpoints"),
        }
    }

    pub(super) fn word(&self, key: &str) -> anyhow::Result<Option<&'static str>> {
        match self {
            Store::Files(store) => store.get(key)?.map(word_of).transpose(),
            Store::Trees(store) => {
                let lease: Option<DirLease> = store.get(key)?;
                lease.map(|lease| word_in(&lease)).transpose()
            }
            Store::Checkpoints(checkpoints) => {
                let found = checkpoints.get(&checkpoint_key(key))?;
                found
                    .map(|found| word_of_bytes(found.state.as_bytes()))
                    .transpose()
            }
        }
    }

    pub(super) fn put(&self, key: &str, word: &str) -> anyhow::Result<()> {
        match self {
            Store::Checkpoints(checkpoints) => {
                checkpoints.update(&checkpoint_key(key), |_| Ok(text_of(word)))?;
            }
            Store::Files(store) => drop(store.set(key, |w| write_value(w, word))?),
            Store::Trees(store) => drop(store.replace(key, |tree| fill(tree, word))?),
        }
        Ok(())
    }

    pub(super) fn lock(&self, key: &str) -> anyhow::Result<()> {
        match self {
            Store::Checkpoints(_) => bail!(NO_STORE),
            Store::Files(store) => drop(store.lock(key)?),
            Store::Trees(store) => drop(store.lock(key)?),
        }
        Ok(())
    }

    pub(super) fn sweep(&self) -> anyhow::Result<GcReport> {
        match self {
            Store::Files(store) => Ok(store.sweep()?),
            Store::Trees(store) => Ok(store.sweep()?),
            Store::Checkpoints(_) => bail!(NO_STORE),
        }
    }

    pub(super) fn clear(&self) -> anyhow::Result<GcReport> {
        match self {
            Store::Files(store) => Ok(store.clear()?),
            Store::Trees(store) => Ok(store.clear()?),
            Store::Checkpoints(_) => bail!(NO_STORE),
        }
    }

    /// The entries' keys.
    pub(super) fn entries(&self) -> anyhow::Result<BTreeSet<PathBuf>> {
        let entries = match self {
            Store::Files(store) => store.entries(),
            Store::Trees(store) => store.entries(),
            Store::Checkpoints(_) => bail!(NO_STORE),
        };
        let keys = entries.map(|entry| Ok(entry?.key()));
        keys.collect()
    }
}
