//! Waiting for something to happen to a file, through inotify where there is one.
//!
//! Advisory: an event can be missing (a network file system, a limit on watches), so who waits looks
//! again after a while anyway.

#[cfg(target_os = "linux")]
pub(crate) use linux::Watch;
#[cfg(not(target_os = "linux"))]
pub(crate) use none::Watch;

/// What was told since the last time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
pub(crate) enum Told {
    Nothing,
    Something,
    /// A file that was watched is none any more, and what made it out may belong to another.
    Gone,
}

#[cfg(target_os = "linux")]
mod linux {
    use std::fs::File;
    use std::mem::MaybeUninit;
    use std::os::fd::{AsRawFd, OwnedFd};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};

    use super::Told;
    use crate::sys::{host, retried};

    /// A user has 128 of them on most systems, for all programs. One process takes no more than this.
    const MOST: usize = 16;
    static TAKEN: AtomicUsize = AtomicUsize::new(0);

    /// So many that nobody uses stay open: to close one that has watched takes the kernel up to 13 ms
    /// (measured on Linux 6), to take a watch back 1 µs.
    const KEPT: usize = 4;
    static IDLE: Mutex<Vec<Arc<Instance>>> = Mutex::new(Vec::new());

    /// Tells when a file that others have open for writing is closed, or loses a name.
    #[derive(Debug)]
    pub(crate) struct Watch {
        instance: Arc<Instance>,
        watched: Option<i32>,
    }

    #[derive(Debug)]
    struct Instance {
        events: OwnedFd,
        /// A forked process shares it with its parent, which goes on using it.
        pid: u32,
        _place: Place,
    }

    /// One of the [`MOST`].
    #[derive(Debug)]
    struct Place;

    impl Place {
        fn take() -> Option<Place> {
            let more = |taken| (taken < MOST).then_some(taken + 1);
            let taken = TAKEN.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
            taken.ok().map(|_| Place)
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            TAKEN.fetch_sub(1, Ordering::Relaxed);
        }
    }

    impl Instance {
        fn new() -> Option<Instance> {
            let place = Place::take()?;
            let flags = CreateFlags::CLOEXEC | CreateFlags::NONBLOCK;
            let events = retried("inotify-init", || inotify::init(flags)).ok()?;
            Some(Instance {
                events,
                pid: host::pid(),
                _place: place,
            })
        }

        /// Nobody waits for the list: this process may have been forked while it was locked.
        fn idle() -> Option<Arc<Instance>> {
            let kept = IDLE.try_lock().ok()?.pop()?;
            (kept.pid == host::pid()).then_some(kept)
        }
    }

    impl Watch {
        /// `None` where there is none, or no more.
        pub(crate) fn new() -> Option<Watch> {
            let instance = Instance::idle().or_else(|| Instance::new().map(Arc::new))?;
            Some(Watch {
                instance,
                watched: None,
            })
        }

        /// Watches an open file, whatever its name is by now, and no other. `false`: that is not
        /// possible.
        pub(crate) fn watch(&mut self, file: &File) -> bool {
            self.forget();
            let path = format!("/proc/thread-self/fd/{}", file.as_raw_fd());
            let events = WatchFlags::CLOSE_WRITE | WatchFlags::ATTRIB | WatchFlags::DELETE_SELF;
            let added = retried("inotify-add", || {
                inotify::add_watch(&self.instance.events, &*path, events)
            });
            self.watched = added.ok();
            self.watched.is_some()
        }

        /// What is told of it from now on would be told to the next.
        fn forget(&mut self) {
            let ours = self.instance.pid == host::pid();
            if let Some(watched) = self.watched.take().filter(|_| ours) {
                // It fails where the file is gone.
                let _ = inotify::remove_watch(&self.instance.events, watched);
                self.drain();
            }
        }

        /// Sleeps until something happens, or `time` has passed.
        pub(crate) fn wait(&self, time: Duration) -> Told {
            let Ok(time) = Timespec::try_from(time) else {
                return Told::Nothing;
            };
            let mut polled = [PollFd::new(&self.instance.events, PollFlags::IN)];
            // An error means only that the lock is tried a little earlier.
            if poll(&mut polled, Some(&time)).is_ok_and(|ready| ready > 0) {
                self.drain()
            } else {
                Told::Nothing
            }
        }

        /// What has happened is seen by looking, not by what is told of it.
        pub(crate) fn drain(&self) -> Told {
            let gone = ReadFlags::IGNORED | ReadFlags::QUEUE_OVERFLOW;
            let mut buffer = [MaybeUninit::uninit(); 4096];
            let mut events = inotify::Reader::new(&self.instance.events, &mut buffer);
            let mut told = Told::Nothing;
            while let Ok(event) = events.next() {
                if event.events().intersects(gone) {
                    told = Told::Gone;
                } else if told == Told::Nothing {
                    told = Told::Something;
                }
            }
            told
        }
    }

    impl Drop for Watch {
        fn drop(&mut self) {
            self.forget();
            if let Ok(mut idle) = IDLE.try_lock() {
                if idle.len() < KEPT {
                    idle.push(Arc::clone(&self.instance));
                }
            }
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        // One test, because the watches of all threads are counted together.
        #[test]
        fn watches_tell_what_happens_and_are_few() {
            let hold = || -> Vec<Watch> { (0..2 * MOST).map_while(|_| Watch::new()).collect() };
            let held = hold().len(); // fewer than the most if other programs have them
            assert!(held <= MOST, "{held}");
            assert_eq!(hold().len(), held);

            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("file");
            let Some(mut watch) = Watch::new() else {
                return; // the system has no more of them at this moment
            };
            let file = File::create_new(&path).unwrap();
            assert!(watch.watch(&file));
            assert_eq!(watch.wait(Duration::ZERO), Told::Nothing);
            drop(File::options().write(true).open(&path).unwrap());
            assert_eq!(watch.wait(Duration::ZERO), Told::Something);
            assert_eq!(watch.drain(), Told::Nothing);
            #[allow(clippy::disallowed_methods)] // by somebody else
            std::fs::remove_file(&path).unwrap();
            assert_eq!(watch.wait(Duration::ZERO), Told::Something);
            drop(file);
            assert_eq!(watch.wait(Duration::ZERO), Told::Gone);

            // Kept open, and deaf to what its last user watched.
            let (other, events) = (
                File::create_new(&path).unwrap(),
                watch.instance.events.as_raw_fd(),
            );
            assert!(watch.watch(&other));
            drop(watch);
            drop(File::options().write(true).open(&path).unwrap());
            let watch = Watch::new().unwrap();
            assert_eq!(watch.instance.events.as_raw_fd(), events);
            assert_eq!(watch.wait(Duration::ZERO), Told::Nothing);
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod none {
    use std::fs::File;
    use std::time::Duration;

    use super::Told;

    /// There is none here.
    #[derive(Debug)]
    pub(crate) enum Watch {}

    impl Watch {
        pub(crate) fn new() -> Option<Watch> {
            None
        }

        pub(crate) fn watch(&mut self, _file: &File) -> bool {
            match *self {}
        }

        pub(crate) fn wait(&self, _time: Duration) -> Told {
            match *self {}
        }

        pub(crate) fn drain(&self) -> Told {
            match *self {}
        }
    }
}
