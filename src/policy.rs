//! What a collection is to keep a store within: plain data.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::report::GcProgress;

/// Once over a limit, a collection goes on towards this part of it, unless told otherwise.
const STOP_AT_PERCENT: u8 = 90;

/// What a collection is to keep a store within, and what it must leave alone.
///
/// The least recently used entries go first, until all the limits hold. Without any limit nothing goes.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let store = larder::KVFileStore::new(dir.path().join("cache"))?;
/// use std::time::Duration;
/// use larder::GcPolicy;
///
/// let day = Duration::from_secs(24 * 60 * 60);
/// let policy = GcPolicy::default()
///     .max_age(30 * day)
///     .max_size(10 << 30)
///     .min_free(5 << 30);
/// // At the end of each run of a build tool: not due, this costs one `stat`.
/// if let Some(report) = store.gc_if_due(&policy, day)? {
///     assert_eq!(report.removed, 0);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
#[must_use = "a policy does nothing until a store is collected with it"]
pub struct GcPolicy {
    pub(crate) max_age: Option<Duration>,
    pub(crate) max_size_bytes: Option<u64>,
    pub(crate) max_entries: Option<u64>,
    pub(crate) min_free_bytes: Option<u64>,
    pub(crate) min_idle: Option<Duration>,
    stop_at_percent: Option<u8>,
    pub(crate) dry_run: bool,
    pub(crate) on_progress: Option<OnProgress>,
}

type OnProgress = Arc<dyn Fn(&GcProgress<'_>) + Send + Sync>;

impl GcPolicy {
    /// Nothing that was not used for longer than this stays.
    pub fn max_age(mut self, age: Duration) -> Self {
        self.max_age = Some(age);
        self
    }

    /// How many bytes the entries may take on disk: allocated blocks, of a tree everything in it and what
    /// the store keeps beside it.
    pub fn max_size(mut self, bytes: u64) -> Self {
        self.max_size_bytes = Some(bytes);
        self
    }

    /// How many entries there may be.
    pub fn max_entries(mut self, entries: u64) -> Self {
        self.max_entries = Some(entries);
        self
    }

    /// How many bytes are to be free for this user on the store's file system, whoever fills it.
    pub fn min_free(mut self, bytes: u64) -> Self {
        self.min_free_bytes = Some(bytes);
        self
    }

    /// Nothing that was used within this time goes, whatever the limits say, because somebody may have
    /// just been given its path. By default twice the store's
    /// [`touch_after`](crate::StoreOptions::touch_after), which is how inexact the time of the last use
    /// is. Each process has its own: if another one that uses the store has a larger one, give twice that.
    pub fn min_idle(mut self, idle: Duration) -> Self {
        self.min_idle = Some(idle);
        self
    }

    /// Once over the limit for size or entries, go on towards this many per cent of it (90 by default,
    /// rounded up), so that the next collection is not due at once; and free as much more than `min_free`.
    /// At most 100.
    ///
    /// As soon as the limit holds, an entry goes only if what is left is not less than that: a cache of
    /// one large value does not become an empty one.
    pub fn stop_at_percent(mut self, percent: u8) -> Self {
        self.stop_at_percent = Some(percent.min(100));
        self
    }

    /// Only finds out: the report says what would be removed and why, and nothing is.
    pub fn dry_run(mut self, dry_run: bool) -> Self {
        self.dry_run = dry_run;
        self
    }

    /// Calls this now and then while the store is looked through, and for each entry that is removed, on
    /// the thread that collects.
    pub fn on_progress(mut self, f: impl Fn(&GcProgress<'_>) + Send + Sync + 'static) -> Self {
        self.on_progress = Some(Arc::new(f));
        self
    }

    pub(crate) fn percent(&self) -> u8 {
        self.stop_at_percent.unwrap_or(STOP_AT_PERCENT)
    }

    /// Whether how large the entries are makes a difference.
    pub(crate) fn needs_sizes(&self) -> bool {
        self.max_size_bytes.is_some() || self.min_free_bytes.is_some()
    }

    pub(crate) fn tell(&self, progress: &GcProgress<'_>) {
        if let Some(on_progress) = &self.on_progress {
            on_progress(progress);
        }
    }
}

impl fmt::Debug for GcPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GcPolicy")
            .field("max_age", &self.max_age)
            .field("max_size_bytes", &self.max_size_bytes)
            .field("max_entries", &self.max_entries)
            .field("min_free_bytes", &self.min_free_bytes)
            .field("min_idle", &self.min_idle)
            .field("stop_at_percent", &self.percent())
            .field("dry_run", &self.dry_run)
            .field("on_progress", &self.on_progress.is_some())
            .finish()
    }
}
