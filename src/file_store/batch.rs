//! Many small values at the cost of one barrier.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crate::digest::Expect;
use crate::durable;
use crate::error::{IoContext, Result};
use crate::file_store::writer::ValueWriter;
use crate::key::PathKey;
use crate::layout::EntryPath;
use crate::lock::{self, Waiting};
use crate::options::{Barrier, Durability};
use crate::publish;
use crate::recency;
use crate::root::Root;
use crate::staging::{BATCH_PREFIX, StagedDir, StagedFile};
use crate::sys::{self, Stamp, clock};

/// Values that are staged one by one and then made durable and published together; see
/// [`KVFileStore::batch`](crate::KVFileStore::batch).
///
/// Dropped without [`commit`](Self::commit), it leaves nothing.
#[derive(Debug)]
#[must_use = "nothing is published until it is committed"]
pub struct Batch {
    root: Arc<Root>,
    waiting: Waiting,
    /// And since when.
    staged: Option<(StagedDir, SystemTime)>,
    /// The last value staged for each key, and the keys in the order in which they came.
    values: HashMap<EntryPath, PathBuf>,
    order: Vec<EntryPath>,
    count: u64,
}

impl Batch {
    pub(super) fn new(root: &Arc<Root>, waiting: &Waiting) -> Self {
        Batch {
            root: Arc::clone(root),
            waiting: waiting.clone(),
            staged: None,
            values: HashMap::new(),
            order: Vec::new(),
            count: 0,
        }
    }

    /// Runs `f` to write a value for `key`. It is published by [`commit`](Self::commit); of two
    /// values for equal keys the last one wins.
    ///
    /// # Errors
    ///
    /// As [`KVFileStore::set`](crate::KVFileStore::set). What was staged before stays staged: go on
    /// without this one, or drop the batch.
    pub fn set<K: PathKey + ?Sized>(
        &mut self,
        key: &K,
        f: impl FnOnce(&mut ValueWriter) -> anyhow::Result<()>,
    ) -> Result<()> {
        let entry = EntryPath::of(key)?;
        self.root.check_writable("stage a value", &entry)?;
        publish::is_there(&self.root, &entry)?;
        let (staged, _) = match &mut self.staged {
            Some(staged) => staged,
            none => none.insert((StagedDir::new(&self.root, BATCH_PREFIX)?, clock::now())),
        };
        let file = StagedFile::inside(staged, &self.count.to_string())?;
        self.count += 1;
        let file = ValueWriter::fill(&self.root, key, &entry, file, &Expect::new(), f)?;
        publish::close_file(&self.root, file.file())
            .writing("take the value's write permission", || {
                self.root.absolute(file.path())
            })?;
        if self.syncs_each_file() {
            sys::begin_to_write(file.file());
        }
        let path = file.into_published();
        if self.values.insert(entry.clone(), path).is_none() {
            self.order.push(entry);
        }
        Ok(())
    }

    fn syncs_each_file(&self) -> bool {
        let options = &self.root.options;
        let barrier = options.barrier.unwrap_or(Barrier::PerFile);
        options.durability != Durability::None && !durable::is_by_file_system(barrier)
    }

    /// Makes all values durable, then publishes them, one key's lock at a time, in the order in
    /// which their keys were first set. Returns how many were published.
    ///
    /// A batch is not atomic: a reader may see some of its values before others.
    ///
    /// # Errors
    ///
    /// If the values cannot be made durable, none is published. If publishing one fails, or its lock
    /// is not to be had, those before it are published and those after it are not.
    pub fn commit(self) -> Result<usize> {
        let Some((staged, since)) = &self.staged else {
            return Ok(0);
        };
        let root = &self.root;
        // A collection must not find old what has only now become a value.
        if recency::is_due(root, *since) {
            for path in self.values.values() {
                // Not allowed everywhere, and no value is lost for it: what goes too early is computed again.
                let _ = root.dir.stamp(path, Stamp::Accessed);
            }
        }
        if root.options.durability != Durability::None {
            let paths: Vec<&Path> = self
                .order
                .iter()
                .map(|entry| &*self.values[entry])
                .collect();
            let synced = if self.syncs_each_file() {
                durable::each(root, &paths, durable::data)
            } else {
                staged.sync_file_system()
            };
            synced.writing("make the batch durable", || root.absolute(staged.path()))?;
        }
        for entry in &self.order {
            let lock = lock::exclusive(root, entry, &mut self.waiting.start())?;
            publish::rename_file(&lock, &self.values[entry])?;
        }
        if root.options.durability == Durability::Full {
            let dirs: BTreeSet<&Path> =
                self.order.iter().flat_map(EntryPath::directories).collect();
            // The deepest first. One that is gone took its value with it, so somebody removed it.
            for path in dirs.into_iter().rev() {
                let synced = sys::absent_is_none(root.dir.open_dir(path))
                    .and_then(|dir| dir.map_or(Ok(()), |dir| dir.sync()));
                synced.writing("sync a directory of the batch", || root.absolute(path))?;
            }
            root.dir
                .sync()
                .writing("sync the base directory", || root.path().to_path_buf())?;
        }
        Ok(self.order.len())
    }
}
