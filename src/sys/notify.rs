//! Waiting for something to happen to a file, through inotify where there is one.
//!
//! Advisory: an event can be missing (a network file system, a limit on watches), so who waits looks
//! again after a while anyway.

#[cfg(target_os = "linux")]
pub(crate) use linux::Watch;
#[cfg(not(target_os = "linux"))]
pub(crate) use none::Watch;

#[cfg(target_os = "linux")]
mod linux {
    use std::fs::File;
    use std::mem::MaybeUninit;
    use std::os::fd::{AsRawFd, OwnedFd};
    use std::time::Duration;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

    use crate::sys::retried;

    /// Tells when a file that others have open for writing is closed, or loses a name.
    #[derive(Debug)]
    pub(crate) struct Watch {
        events: OwnedFd,
    }

    impl Watch {
        /// `None` where there is none, or no more.
        pub(crate) fn new() -> Option<Watch> {
            let flags = CreateFlags::CLOEXEC | CreateFlags::NONBLOCK;
            let events = retried("inotify-init", || inotify::init(flags)).ok()?;
            Some(Watch { events })
        }

        /// Watches an open file, whatever its name is by now. `false`: that is not possible.
        pub(crate) fn add(&self, file: &File) -> bool {
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            let events = WatchFlags::CLOSE_WRITE | WatchFlags::ATTRIB | WatchFlags::DELETE_SELF;
            retried("inotify-add", || {
                inotify::add_watch(&self.events, &*path, events)
            })
            .is_ok()
        }

        /// Sleeps until something happens, or `time` has passed.
        pub(crate) fn wait(&self, time: Duration) {
            let Ok(time) = Timespec::try_from(time) else {
                return;
            };
            let mut polled = [PollFd::new(&self.events, PollFlags::IN)];
            // An error means only that the lock is tried a little earlier.
            if poll(&mut polled, Some(&time)).is_ok_and(|ready| ready > 0) {
                self.drain();
            }
        }

        /// What has happened is seen by looking, not by what is told of it.
        pub(crate) fn drain(&self) {
            let mut buffer = [MaybeUninit::uninit(); 4096];
            while rustix::io::read(&self.events, &mut buffer)
                .is_ok_and(|(told, _)| !told.is_empty())
            {}
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod none {
    use std::fs::File;
    use std::time::Duration;

    /// There is none here.
    #[derive(Debug)]
    pub(crate) enum Watch {}

    impl Watch {
        pub(crate) fn new() -> Option<Watch> {
            None
        }

        pub(crate) fn add(&self, _file: &File) -> bool {
            match *self {}
        }

        pub(crate) fn wait(&self, _time: Duration) {
            match *self {}
        }

        pub(crate) fn drain(&self) {
            match *self {}
        }
    }
}
