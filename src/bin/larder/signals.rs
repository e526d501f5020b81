//! Signals that ask to end: they end waits, and reads from pipes.
//!
//! Invariant: after [`Interrupt::watch`] no signal ends the process by itself until
//! [`Interrupt::over`], so that what was begun can be taken back.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use larder::CancelToken;
use rustix::event::{PollFd, PollFlags, poll};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::stop::Stop;

/// Whether this process was asked to end.
pub(crate) struct Interrupt {
    signal: Arc<AtomicI32>,
    token: CancelToken,
    /// Has something to read from the first signal on, for good.
    woken: UnixStream,
    is_over: Arc<AtomicBool>,
}

impl Interrupt {
    /// From now on, notes the signals that ask to end.
    pub(crate) fn watch() -> Result<Self, Stop> {
        let watching = Self::try_watch();
        watching.map_err(|err| {
            anyhow::Error::new(err)
                .context("cannot watch for signals")
                .into()
        })
    }

    fn try_watch() -> io::Result<Self> {
        let (woken, mut wake) = UnixStream::pair()?;
        let interrupt = Interrupt {
            signal: Arc::default(),
            token: CancelToken::new(),
            woken,
            is_over: Arc::default(),
        };
        // What whoever started this has it ignore stays so, as with `nohup`.
        let ignored = ignored();
        let watched: Vec<i32> = [SIGINT, SIGTERM, SIGHUP, SIGQUIT]
            .into_iter()
            .filter(|signal| ignored >> (signal - 1) & 1 == 0)
            .collect();
        for &signal in &watched {
            let is_over = Arc::clone(&interrupt.is_over);
            signal_hook::flag::register_conditional_default(signal, is_over)?;
        }
        let mut signals = Signals::new(watched)?;
        let (noted, token) = (Arc::clone(&interrupt.signal), interrupt.token.clone());
        std::thread::spawn(move || {
            for signal in signals.forever() {
                // The first one counts.
                let _ = noted.compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst);
                token.cancel();
                let _ = wake.write_all(&[0]);
            }
        });
        Ok(interrupt)
    }

    /// Nothing is left to take back: signals end the process again.
    pub(crate) fn over(&self) {
        self.is_over.store(true, Ordering::SeqCst);
    }

    /// Ends waits for locks.
    pub(crate) fn token(&self) -> &CancelToken {
        &self.token
    }

    /// Fails if a signal came.
    pub(crate) fn check(&self) -> Result<(), Stop> {
        match self.signal.load(Ordering::SeqCst) {
            0 => Ok(()),
            signal => Err(Stop::Signal(signal)),
        }
    }

    /// What can be read from this, until a signal comes, which is an error.
    pub(crate) fn reading<R: Read + AsFd>(&self, from: R) -> Reading<'_, R> {
        Reading {
            from,
            interrupt: self,
        }
    }

    /// Sleeps until there is something to read, or a signal came.
    fn poll_with(&self, other: BorrowedFd<'_>) -> io::Result<()> {
        let fds = &mut [
            PollFd::new(&self.woken, PollFlags::IN),
            PollFd::new(&other, PollFlags::IN),
        ];
        poll(fds, None)?;
        Ok(())
    }
}

/// See [`Interrupt::reading`].
pub(crate) struct Reading<'a, R> {
    from: R,
    interrupt: &'a Interrupt,
}

impl<R: Read + AsFd> Read for Reading<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.interrupt.poll_with(self.from.as_fd())?;
        self.interrupt.check().map_err(io::Error::other)?;
        self.from.read(into)
    }
}

/// Which signals this process was started to ignore, one bit each. None where that cannot be known.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}
