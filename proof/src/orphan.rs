//! Processes that end with the one that started them, so that none is left behind by Ctrl-C.

use anyhow::ensure;
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

/// From now on this process is killed when its parent dies.
pub(crate) fn die_with_parent() -> anyhow::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // It may have died before that.
    ensure!(getppid() != Some(Pid::INIT), "the parent is gone");
    Ok(())
}
