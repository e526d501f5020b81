//! How a store is opened: the builder, and what can be chosen.
//!
//! Plain data; `root` acts on it, and each store adds the method that opens it.

use std::time::Duration;

use crate::marker::Share;

/// What a published value survives.
///
/// Whatever is chosen, a value is absent or whole after an error, a panic or a kill of any process.
/// The durability decides about power cuts and crashes of the whole system:
///
/// | | before the rename | after it | a power cut can leave |
/// | --- | --- | --- | --- |
/// | `None` | nothing | nothing | absent, whole, or torn; a sealed value or a tree: absent or whole |
/// | `Data` | `fdatasync` of the value | nothing | absent or whole |
/// | `Full` | the same | `fsync` of every directory on the way to it | what returned `Ok` is there |
///
/// For a tree, "of the value" is every file and directory in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Durability {
    /// Leaves it to the system when anything reaches the disk.
    None,
    /// A value that is visible after a power cut is whole.
    #[default]
    Data,
    /// A value whose call returned `Ok` is there after a power cut.
    Full,
}

/// How a batch, or a tree of many files, is made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Barrier {
    /// Syncs each file, several at a time. Takes time for what was staged, and for that only.
    PerFile,
    /// One `syncfs`. The fastest way for many small files on a quiet disk, but it also waits for
    /// whatever anybody else has written to the file system. Where the platform has no `syncfs`,
    /// the same as `PerFile`.
    FileSystem,
}

/// When what was stored is checked against its digest, where the store has one: in a sealed store of
/// files, and for trees that were published with one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Verify {
    /// Never. What was published with [`Durability::None`] may be torn after a power cut, and nobody
    /// sees it.
    Never,
    /// Once after each boot or mount, what was published with [`Durability::None`] before it: at its
    /// first use, which reads all of it. What a power cut tore is then absent.
    ///
    /// What was published in the same boot through the same mount is whole, because it is in the
    /// system's memory until it is on the disk. (Which the disk may have failed to take: such errors
    /// of the kernel's own writing are not seen here.) That it was checked is noted in it for others. Where
    /// that cannot be, because it is somebody else's or the system tells no boot or mount (Linux before 6.8,
    /// other systems, network file systems), each handle checks what it uses once.
    #[default]
    OncePerBoot,
    /// Each time that it is opened or leased.
    Always,
}

/// How to open a store, or to create one.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// use larder::{Durability, StoreOptions};
///
/// let store = StoreOptions::new()
///     .durability(Durability::Full)
///     .open_file_store(dir.path().join("metadata"))?;
/// # drop(store);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "options do nothing until a store is opened with them"]
pub struct StoreOptions {
    pub(crate) durability: Durability,
    pub(crate) touch_after: Duration,
    pub(crate) adopt: bool,
    pub(crate) share: Option<Share>,
    pub(crate) create: bool,
    pub(crate) read_only: bool,
    pub(crate) read_only_trees: bool,
    pub(crate) barrier: Option<Barrier>,
    pub(crate) sealed: Option<bool>,
    pub(crate) verify: Verify,
    pub(crate) digest_trees: bool,
}

impl Default for StoreOptions {
    fn default() -> Self {
        StoreOptions {
            durability: Durability::default(),
            touch_after: Duration::from_secs(60 * 60),
            adopt: false,
            share: None,
            create: true,
            read_only: false,
            read_only_trees: false,
            barrier: None,
            sealed: None,
            verify: Verify::default(),
            digest_trees: false,
        }
    }
}

impl StoreOptions {
    /// The defaults: [`Durability::Data`], an hour between touches, created if it is missing,
    /// private.
    pub fn new() -> Self {
        Self::default()
    }

    /// What published values survive. Each handle decides for what it publishes itself.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// How old the record of an entry's last use may be before a hit renews it. An hour by default.
    /// Zero renews it at each hit: right where a cache was unpacked from an archive and everything
    /// in it looks equally fresh. Where it is longer than an hour, who collects the store must keep what was used
    /// within twice that time ([`GcPolicy::min_idle`](crate::GcPolicy::min_idle)), also with the command.
    ///
    /// The record is a value's access time, or the modification time of what a store of directories
    /// keeps beside each tree. A value's modification time is never touched; its change time moves.
    /// On overlayfs nothing is renewed, because it would copy the whole value to the upper layer.
    pub fn touch_after(mut self, age: Duration) -> Self {
        self.touch_after = age;
        self
    }

    /// Makes a store of a directory that is not empty and has no marker, whatever is in it.
    ///
    /// Without this, such a directory is adopted only if everything at its top is a directory named
    /// `tmp`, by one base64url character, or after a digest algorithm, with directories of one
    /// character below, as in a store that posy's kvstore wrote; otherwise opening it is
    /// [`FormatMismatch`](crate::ErrorKind::FormatMismatch) and nothing is touched. A directory with
    /// a `CACHEDIR.TAG` or with names of this crate's own but without a marker is never adopted: it
    /// may be a store whose marker was lost.
    pub fn adopt(mut self, adopt: bool) -> Self {
        self.adopt = adopt;
        self
    }

    /// Who may use the store. Chosen when a store is created and remembered in its marker; to ask
    /// for another share than the marker's is
    /// [`FormatMismatch`](crate::ErrorKind::FormatMismatch).
    ///
    /// With [`Share::Group`], everything in the store can be read and written by the base
    /// directory's group, whatever the umask of the process that wrote it; give the directory to the
    /// right group with `chgrp` before the first use, or create the store as a process of that
    /// group. A published value keeps its group's write bit, because Linux
    /// (`fs.protected_hardlinks`) lets nobody hard-link another user's file that he cannot write.
    pub fn shared(mut self, share: Share) -> Self {
        self.share = Some(share);
        self
    }

    /// Whether a store is created where there is none: no directory, or an empty one. `true` by
    /// default; with `false` that is an error ([`Io`](crate::ErrorKind::Io), `NotFound`).
    pub fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// Opens the store for hits only: nothing is written, not even a lock file or a time.
    ///
    /// What would have to write is [`ReadOnly`](crate::ErrorKind::ReadOnly). A store on a read-only
    /// mount, or one that the process has no permission to write, can be opened without this too and
    /// then fails in the same way when it has to write.
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// Takes the write permission off every file and directory of a tree before it is published, so
    /// that nobody changes it by accident. Trees are removed all the same. Off by default; files of
    /// a store of files are always published so.
    pub fn read_only_trees(mut self, read_only_trees: bool) -> Self {
        self.read_only_trees = read_only_trees;
        self
    }

    /// Whether the values of a store of files are sealed: each file has, after the value, its length and
    /// digest, the key's label, and metadata that is published with the value.
    ///
    /// Chosen when a store is created and remembered in its marker; to ask for the other is
    /// [`FormatMismatch`](crate::ErrorKind::FormatMismatch), and so is to seal a directory that has
    /// values already. A store is not sealed by default: its files are the values, and other programs
    /// can read, link and map them.
    pub fn sealed(mut self, sealed: bool) -> Self {
        self.sealed = Some(sealed);
        self
    }

    /// When what was stored is checked against its digest. Each handle decides for what it reads
    /// itself.
    pub fn verify(mut self, verify: Verify) -> Self {
        self.verify = verify;
        self
    }

    /// Whether a tree is published with a digest of everything in it: names, permission bits, link
    /// targets and contents, not times and owners. Off by default, but for [`Durability::None`], where
    /// it always is, unless its owner himself may not read all of it. Publishing reads every file for it, on as many threads as there are processors,
    /// while it is still in memory.
    ///
    /// It is what [`KVDirStore::verify`](crate::KVDirStore::verify) compares with, and
    /// [`verify`](Self::verify). A tree that somebody has written into since is not what was published.
    pub fn digest_trees(mut self, digest_trees: bool) -> Self {
        self.digest_trees = digest_trees;
        self
    }

    /// How batches and trees are made durable. By default batches and small trees are synced file
    /// by file, and trees of 64 files or more with one `syncfs`.
    pub fn barrier(mut self, barrier: Barrier) -> Self {
        self.barrier = Some(barrier);
        self
    }
}
