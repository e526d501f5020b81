//! How long to wait for a lock, who is told, and who can end it.
//!
//! Owns deadlines, cancellation and the pace of looking again; may watch a lock file through `sys`.
//! Invariant: a wait that is given up leaves nothing behind, because nothing was left waiting in the
//! kernel.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Repr, Result};
use crate::holder::Holder;
use crate::outcome::Outcome;
use crate::sys::FileId;
use crate::sys::notify::{Told, Watch};

/// What a call does when the lock that it needs is held by somebody else.
///
/// Set for a view of a store with `with_wait`. It bounds waiting only: a closure runs as long as it
/// runs.
///
/// A plain `Block` sleeps in the kernel until the lock is free. A wait that can be ended or seen (a
/// timeout, a [`CancelToken`], a callback) sleeps until the kernel tells that something happened to the
/// lock file (inotify), and looks again at intervals from 0.25 ms to 16 ms anyway, which is all there
/// is on other systems, on network file systems, and past the system's limit on watches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Wait {
    /// Waits for as long as it takes.
    #[default]
    Block,
    /// Waits for this long, then fails with [`Busy`](crate::ErrorKind::Busy).
    Timeout(Duration),
    /// Does not wait: fails with [`Busy`](crate::ErrorKind::Busy) at once.
    TryOnce,
}

/// Ends waits from another thread.
///
/// Clones are the same token. Once cancelled it stays so: every wait that has it fails with
/// [`Cancelled`](crate::ErrorKind::Cancelled), the ones going on and the ones to come. It does not
/// stop what needs no waiting, nor a closure. A wait may see it only after one of its pauses, of at most
/// 16 ms.
#[derive(Clone, Default)]
pub struct CancelToken(Arc<Cancelled>);

#[derive(Default)]
struct Cancelled {
    flag: Mutex<bool>,
    changed: Condvar,
}

impl CancelToken {
    /// A token that is not cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancels. From any thread, any number of times.
    pub fn cancel(&self) {
        *self.0.flag.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.changed.notify_all();
    }

    /// Whether it was cancelled.
    pub fn is_cancelled(&self) -> bool {
        *self.0.flag.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sleeps for `time`, or until it is cancelled.
    fn sleep(&self, time: Duration) {
        let flag = self.0.flag.lock().unwrap_or_else(PoisonError::into_inner);
        // A spurious wake-up only means that the lock is tried a little earlier.
        if !*flag {
            drop(self.0.changed.wait_timeout(flag, time));
        }
    }
}

impl fmt::Debug for CancelToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CancelToken")
            .field(&self.is_cancelled())
            .finish()
    }
}

/// What a waiter is told while it waits.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WaitInfo {
    /// The absolute path of the value that is waited for.
    pub path: PathBuf,
    /// How long this call has waited so far.
    pub waited: Duration,
    /// Who holds the lock, where that is known. It is not when the holders are readers of a tree,
    /// which leave no record.
    pub holder: Option<Holder>,
}

type OnWait = Arc<dyn Fn(&WaitInfo) + Send + Sync>;

/// How one view of a store waits.
#[derive(Clone, Default)]
pub(crate) struct Waiting {
    pub(crate) wait: Wait,
    pub(crate) cancel: Option<CancelToken>,
    pub(crate) on_wait: Option<OnWait>,
}

impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiting")
            .field("wait", &self.wait)
            .field("cancel", &self.cancel)
            .field("on_wait", &self.on_wait.is_some())
            .finish()
    }
}

impl Waiting {
    /// One call's waiting, from now on.
    pub(crate) fn start(&self) -> Pacer<'_> {
        Pacer {
            waiting: self,
            began: None,
            pause: FIRST_PAUSE,
            watched: None,
            watch: None,
            deaf: Duration::ZERO,
            next_report: Duration::ZERO,
        }
    }
}

/// The first pause between two looks at a busy lock, and the longest. They double in between, so
/// that a waiter costs less than a hundred looks a second.
const FIRST_PAUSE: Duration = Duration::from_micros(250);
const LONGEST_PAUSE: Duration = Duration::from_millis(16);

/// How often a waiter hears of it after the first time.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// The waiting of one call, over all the locks that it may have to try.
pub(crate) struct Pacer<'a> {
    waiting: &'a Waiting,
    began: Option<Instant>,
    pause: Duration,
    /// The lock file that is watched, or was found not to be watchable.
    watched: Option<FileId>,
    watch: Option<Watch>,
    /// How much of the next pause nothing that happens to the lock file ends. Others that try the lock
    /// are told of as well, so without it two could wake each other for ever.
    deaf: Duration,
    next_report: Duration,
}

impl Pacer<'_> {
    /// Whether nobody can end this wait or hear of it, so that it may sleep in the kernel.
    pub(super) fn may_block(&self) -> bool {
        matches!(self.waiting.wait, Wait::Block)
            && self.waiting.cancel.is_none()
            && self.waiting.on_wait.is_none()
    }

    /// Notes that this call had to wait.
    pub(super) fn note_wait(&mut self) {
        self.began.get_or_insert_with(Instant::now);
    }

    /// How what this call has found came to it.
    pub(crate) fn outcome(&self) -> Outcome {
        if self.began.is_some() {
            Outcome::Waited
        } else {
            Outcome::Hit
        }
    }

    /// Sleeps until the lock of `file` is worth another try, and tells the waiter for whom. Fails
    /// when the caller does not want to wait any longer.
    pub(super) fn pause(
        &mut self,
        path: &Path,
        file: (&File, FileId),
        holder: impl Fn() -> Option<Holder>,
    ) -> Result<()> {
        let began = *self.began.get_or_insert_with(Instant::now);
        let waited = began.elapsed();
        let busy = |waited| Repr::Busy {
            path: path.to_path_buf(),
            waited,
            holder: holder(),
        };
        let mut pause = self.pause;
        match self.waiting.wait {
            Wait::TryOnce => return Err(busy(Duration::ZERO).into()),
            Wait::Timeout(limit) if waited >= limit => return Err(busy(waited).into()),
            Wait::Timeout(limit) => pause = pause.min(limit - waited),
            Wait::Block => {}
        }
        if self.just_watches(file) {
            return Ok(());
        }
        self.sleep(pause);
        if self.is_cancelled() {
            return Err(Repr::Cancelled {
                path: path.to_path_buf(),
                waited: began.elapsed(),
                holder: holder(),
            }
            .into());
        }
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        // The first report comes after the first pause: a holder that has just taken the lock has
        // by then written down who it is, and who waits only for a moment hears nothing.
        let waited = began.elapsed();
        if let Some(on_wait) = &self.waiting.on_wait {
            if waited >= self.next_report {
                self.next_report = waited + REPORT_INTERVAL;
                on_wait(&WaitInfo {
                    path: path.to_path_buf(),
                    waited,
                    holder: holder(),
                });
            }
        }
        Ok(())
    }

    /// From the second pause on, watches the lock file. `true`: from now on; so the lock has to be
    /// tried once more before there is a sleep, because it may have become free before.
    fn just_watches(&mut self, (file, id): (&File, FileId)) -> bool {
        if self.pause == FIRST_PAUSE || self.watched == Some(id) {
            return false;
        }
        self.watched = Some(id);
        let watch = self.watch.take().or_else(Watch::new);
        self.watch = watch.and_then(|mut watch| watch.watch(file).then_some(watch));
        self.watch.is_some()
    }

    /// Forgets what happened up to now to what is watched: the caller is about to look for himself.
    pub(super) fn disregard_events(&mut self) {
        if let Some(watch) = &self.watch {
            let told = watch.drain();
            self.note_gone(told);
        }
    }

    /// Another file may have the number of one that is gone: what is there next is watched anew.
    fn note_gone(&mut self, told: Told) {
        if told == Told::Gone {
            self.watched = None;
        }
    }

    fn is_cancelled(&self) -> bool {
        let cancel = self.waiting.cancel.as_ref();
        cancel.is_some_and(CancelToken::is_cancelled)
    }

    /// Being cancelled ends it at once where nothing is watched, else at the end of the pause.
    fn sleep(&mut self, time: Duration) {
        let deaf = match &self.watch {
            Some(_) => self.deaf.min(time),
            None => time,
        };
        if !deaf.is_zero() {
            match &self.waiting.cancel {
                Some(token) => token.sleep(deaf),
                None => std::thread::sleep(deaf),
            }
        }
        let Some(watch) = &self.watch else { return };
        if self.is_cancelled() {
            return;
        }
        let told = watch.wait(time - deaf);
        self.deaf = match told {
            Told::Nothing => Duration::ZERO,
            Told::Something | Told::Gone => (deaf * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE),
        };
        self.note_gone(told);
    }
}
