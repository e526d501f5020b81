//! The time of day, which a test can choose.

/// What time it is.
#[cfg(not(feature = "__fault"))]
#[inline]
pub(crate) fn now() -> std::time::SystemTime {
    std::time::SystemTime::now()
}

#[cfg(feature = "__fault")]
pub(crate) use chosen::now;
#[cfg(feature = "__fault")]
pub use chosen::set;

#[cfg(feature = "__fault")]
mod chosen {
    use std::sync::{Mutex, PoisonError};
    use std::time::SystemTime;

    static CHOSEN: Mutex<Option<SystemTime>> = Mutex::new(None);

    /// From now on it is this time in this process; `None`: what it is.
    pub fn set(time: Option<SystemTime>) {
        *CHOSEN.lock().unwrap_or_else(PoisonError::into_inner) = time;
    }

    pub(crate) fn now() -> SystemTime {
        let chosen = *CHOSEN.lock().unwrap_or_else(PoisonError::into_inner);
        chosen.unwrap_or_else(SystemTime::now)
    }
}
