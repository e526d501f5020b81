//! The fault seam: every call that `sys` makes passes here first.
//!
//! With the feature `__fault` a test can have the process killed before its n-th call, or have
//! that call fail or wait. Without it, all of this compiles to nothing.

#[cfg(not(feature = "__fault"))]
#[inline(always)]
pub(super) fn before(_call: &'static str) -> std::io::Result<()> {
    Ok(())
}

#[cfg(feature = "__fault")]
pub(super) use armed::before;
#[cfg(feature = "__fault")]
pub use armed::{Fault, arm, calls, disarm, go_on, pause_before};

#[cfg(feature = "__fault")]
mod armed {
    use std::io;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Condvar, Mutex, PoisonError};

    /// What happens to a call.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Fault {
        /// The process dies by SIGKILL before the call.
        Kill,
        /// The call is not made and fails with this error number.
        Fail(i32),
    }

    struct Seam {
        calls: Vec<&'static str>,
        planned: Vec<(usize, Fault)>,
        paused: Option<usize>,
    }

    static ARMED: AtomicBool = AtomicBool::new(false);
    static SEAM: Mutex<Seam> = Mutex::new(Seam {
        calls: Vec::new(),
        planned: Vec::new(),
        paused: None,
    });
    static GOES_ON: Condvar = Condvar::new();

    /// From now on counts calls; those of these numbers, counted from 0, meet their faults, once.
    pub fn arm(planned: impl IntoIterator<Item = (usize, Fault)>) {
        let mut seam = SEAM.lock().unwrap_or_else(PoisonError::into_inner);
        seam.calls.clear();
        seam.planned = planned.into_iter().collect();
        seam.paused = None;
        ARMED.store(true, Ordering::SeqCst);
    }

    /// Ends the counting; returns the names of the calls that were made since `arm`.
    pub fn disarm() -> Vec<&'static str> {
        ARMED.store(false, Ordering::SeqCst);
        let mut seam = SEAM.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut seam.calls)
    }

    /// Has the call of this number wait, before it is made, until [`go_on`]; after `arm`.
    pub fn pause_before(call: usize) {
        SEAM.lock().unwrap_or_else(PoisonError::into_inner).paused = Some(call);
    }

    /// Ends the pause.
    pub fn go_on() {
        SEAM.lock().unwrap_or_else(PoisonError::into_inner).paused = None;
        GOES_ON.notify_all();
    }

    /// How many calls were made since `arm`.
    pub fn calls() -> usize {
        let seam = SEAM.lock().unwrap_or_else(PoisonError::into_inner);
        seam.calls.len()
    }

    #[inline]
    pub(crate) fn before(call: &'static str) -> io::Result<()> {
        if ARMED.load(Ordering::Relaxed) {
            count(call)
        } else {
            Ok(())
        }
    }

    #[cold]
    fn count(call: &'static str) -> io::Result<()> {
        let mut seam = SEAM.lock().unwrap_or_else(PoisonError::into_inner);
        let number = seam.calls.len();
        seam.calls.push(call);
        let waits = |seam: &mut Seam| seam.paused == Some(number);
        let seam = GOES_ON
            .wait_while(seam, waits)
            .unwrap_or_else(PoisonError::into_inner);
        match seam.planned.iter().find(|(at, _)| *at == number) {
            None => Ok(()),
            Some((_, Fault::Fail(errno))) => Err(io::Error::from_raw_os_error(*errno)),
            Some((_, Fault::Kill)) => {
                let _ = rustix::process::kill_process(
                    rustix::process::getpid(),
                    rustix::process::Signal::KILL,
                );
                // SIGKILL cannot be caught, so this line is never reached for long.
                loop {
                    std::thread::park();
                }
            }
        }
    }
}
