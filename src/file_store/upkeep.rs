//! What keeps a store of files in order: listing, collecting, pinning, counting, checking.

use std::time::Duration;

use crate::check::{self, CheckOptions, CheckReport, Finding, RepairReport};
use crate::collect;
use crate::entries::{Entries, Entry};
use crate::error::Result;
use crate::file_store::KVFileStore;
use crate::gc;
use crate::key::PathKey;
use crate::layout::EntryPath;
use crate::lock;
use crate::pins::{self, Pin};
use crate::policy::GcPolicy;
use crate::publish;
use crate::report::GcReport;
use crate::stats::{self, Stats};

impl KVFileStore {
    /// All entries, in no order, as they are found. Being listed does not count as a use.
    ///
    /// What is published or removed while the iteration goes on may or may not be seen. An
    /// [`Entry`](crate::Entry) is a key, of whatever is there when it is used.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let store = larder::KVFileStore::new(dir.path())?;
    /// use std::time::{Duration, SystemTime};
    /// use larder::{ErrorKind, Wait};
    ///
    /// // Remove what was not used for 30 days. The time of the last use is only as exact as
    /// // `touch_after`, an hour by default.
    /// let old = SystemTime::now() - Duration::from_secs(30 * 24 * 60 * 60);
    /// let without_waiting = store.with_wait(Wait::TryOnce);
    /// for entry in store.entries() {
    ///     let entry = entry?;
    ///     if entry.last_used().is_some_and(|used| used < old) {
    ///         match without_waiting.remove(&entry) {
    ///             Err(err) if err.kind() == ErrorKind::Busy => {} // somebody is at it
    ///             removed => drop(removed?),
    ///         }
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn entries(&self) -> Entries {
        Entries::new(&self.root)
    }

    /// Removes every value whose key is neither locked by anybody nor pinned, and what dead processes left
    /// behind.
    ///
    /// # Errors
    ///
    /// [`Io`](crate::ErrorKind::Io) or [`ReadOnly`](crate::ErrorKind::ReadOnly). What cannot be
    /// removed because it is in use, pinned, or another user's, is no error but in the report.
    pub fn clear(&self) -> Result<GcReport> {
        collect::clear(&self.root)
    }

    /// Removes what dead processes left behind: staged values, lock files, empty directories.
    /// Nothing that a live process uses, and no value.
    ///
    /// It walks the whole store, so it is for now and then. Nothing sweeps by itself, but for
    /// [`gc`](Self::gc) and [`clear`](Self::clear).
    ///
    /// # Errors
    ///
    /// As [`clear`](Self::clear).
    pub fn sweep(&self) -> Result<GcReport> {
        collect::sweep(&self.root)
    }

    /// Removes the least recently used values until the policy's limits hold, and what dead processes left
    /// behind.
    ///
    /// No value goes that is in use, pinned, or was used within the policy's
    /// [`min_idle`](GcPolicy::min_idle); what was to go and was kept is in the report, and others go in its
    /// place. One process at a time collects: a second waits for it, as this view of the store waits for
    /// locks. It works on a full disk.
    ///
    /// # Errors
    ///
    /// [`Busy`](crate::ErrorKind::Busy) and [`Cancelled`](crate::ErrorKind::Cancelled) as this view waits;
    /// [`Io`](crate::ErrorKind::Io) or [`ReadOnly`](crate::ErrorKind::ReadOnly). What may not be removed is
    /// no error but in the report.
    pub fn gc(&self, policy: &GcPolicy) -> Result<GcReport> {
        gc::collect(&self.root, &self.waiting, policy, None)
    }

    /// As [`gc`](Self::gc), but nothing for which `keep` says `true`: what somebody still refers to.
    ///
    /// It is asked about each value that is to go, without any lock, so that it may use the store.
    ///
    /// # Errors
    ///
    /// As [`gc`](Self::gc).
    pub fn gc_keeping(
        &self,
        policy: &GcPolicy,
        keep: impl FnMut(&Entry) -> bool,
    ) -> Result<GcReport> {
        gc::collect(&self.root, &self.waiting, policy, Some(Box::new(keep)))
    }

    /// As [`gc`](Self::gc), if the last collection by anybody ended at least `interval` ago; a new store
    /// counts as collected. `None`: it is not due, which costs one `stat`, or another process is at it,
    /// which is not waited for.
    ///
    /// # Errors
    ///
    /// As [`gc`](Self::gc), without `Busy` and `Cancelled`.
    pub fn gc_if_due(&self, policy: &GcPolicy, interval: Duration) -> Result<Option<GcReport>> {
        gc::collect_if_due(&self.root, policy, interval)
    }

    /// Pins a key: no collection takes its value, nor does [`clear`](Self::clear), until
    /// [`unpin`](Self::unpin). [`remove`](Self::remove) does all the same. `false`: there is no value now;
    /// the pin then holds for one that comes.
    ///
    /// The pin is on the disk when this returns, whatever the store's durability is.
    ///
    /// # Errors
    ///
    /// [`Io`](crate::ErrorKind::Io) or [`ReadOnly`](crate::ErrorKind::ReadOnly);
    /// [`Busy`](crate::ErrorKind::Busy) and [`Cancelled`](crate::ErrorKind::Cancelled) as this view waits
    /// for who may be removing the value: the key is pinned then.
    pub fn pin<K: PathKey + ?Sized>(&self, key: &K) -> Result<bool> {
        let entry = EntryPath::of(key)?;
        pins::pin(&self.root, &entry)?;
        if !publish::is_there(&self.root, &entry)? {
            return Ok(false);
        }
        // Whoever looked for the pin before it was there is done when the lock is ours.
        let _lock = lock::exclusive(&self.root, &entry, &mut self.waiting.start())?;
        publish::is_there(&self.root, &entry)
    }

    /// Takes a pin away. `false`: there was none.
    ///
    /// # Errors
    ///
    /// [`Io`](crate::ErrorKind::Io) or [`ReadOnly`](crate::ErrorKind::ReadOnly).
    pub fn unpin<K: PathKey + ?Sized>(&self, key: &K) -> Result<bool> {
        pins::unpin(&self.root, &EntryPath::of(key)?)
    }

    /// The keys that are pinned, in the order of their paths. A [`Pin`] is a key.
    ///
    /// # Errors
    ///
    /// [`Io`](crate::ErrorKind::Io). What is no pin is passed over; [`check`](Self::check) tells it.
    pub fn pins(&self) -> Result<Vec<Pin>> {
        pins::list(&self.root)
    }

    /// Whether a key is pinned.
    ///
    /// # Errors
    ///
    /// [`Io`](crate::ErrorKind::Io).
    pub fn is_pinned<K: PathKey + ?Sized>(&self, key: &K) -> Result<bool> {
        pins::is_pinned(&self.root, &EntryPath::of(key)?)
    }

    /// What is in the store, in numbers, and what this handle has found so far. Walks the whole store;
    /// does not count as a use. Who holds what is known of the processes that this one's pid namespace
    /// shows.
    ///
    /// ```
    /// # fn main() -> larder::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = larder::KVFileStore::new(dir.path())?;
    /// store.get("absent")?;
    /// let stats = store.stats()?;
    /// assert_eq!((stats.entries, stats.misses), (0, 1));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Io`](crate::ErrorKind::Io).
    pub fn stats(&self) -> Result<Stats> {
        stats::of(&self.root)
    }

    /// Looks at everything on the disk and says what is not as it should be. Changes nothing, and
    /// waits for nobody; what other processes are just doing is no finding. It does not read values:
    /// [`check_each`](Self::check_each) does if it is asked to.
    ///
    /// Every regular file whose path a key can have is a value, whoever put it there: keys may be any path,
    /// so a foreign file is not told from a value, and `gc` and `clear` take it like one.
    ///
    /// ```
    /// # fn main() -> larder::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = larder::KVFileStore::new(dir.path())?;
    /// std::os::unix::fs::symlink("/tmp", store.base().join("link")).unwrap();
    /// let report = store.check()?;
    /// assert_eq!(report.findings[0].kind, larder::FindingKind::Foreign);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Io`](crate::ErrorKind::Io) if not even the base directory can be read; what cannot be read
    /// below it is a finding.
    pub fn check(&self) -> Result<CheckReport> {
        check::check(&self.root)
    }

    /// The same, with a choice, and every finding as it is found. The report that is returned counts, and
    /// has no findings in it.
    ///
    /// What a live process could explain is looked at twice, a quarter of a second apart; if it
    /// is less than a minute old, again after 2 s. A process that is stopped in the middle of a call for
    /// longer can seem dead.
    ///
    /// # Errors
    ///
    /// As [`check`](Self::check).
    pub fn check_each(
        &self,
        options: &CheckOptions,
        found: impl FnMut(Finding),
    ) -> Result<CheckReport> {
        check::each(&self.root, options, found)
    }

    /// Mends what [`check`](Self::check) finds mendable: takes away what dead processes left and what
    /// is damaged, takes write bits off, makes `tmp/`, `gc.lock`, `CACHEDIR.TAG` and `larder-spare`
    /// anew. What is foreign, in use or another user's stays, and is in the report.
    ///
    /// # Errors
    ///
    /// [`ReadOnly`](crate::ErrorKind::ReadOnly), [`Io`](crate::ErrorKind::Io), or
    /// [`FormatMismatch`](crate::ErrorKind::FormatMismatch) if the store lost its marker; then nothing
    /// was touched.
    pub fn repair(&self) -> Result<RepairReport> {
        self.repair_with(&CheckOptions::new())
    }

    /// The same for what a check with these options finds.
    ///
    /// # Errors
    ///
    /// As [`repair`](Self::repair).
    pub fn repair_with(&self, options: &CheckOptions) -> Result<RepairReport> {
        check::repair(&self.root, options)
    }
}
