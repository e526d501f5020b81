//! The `larder` command as a user drives it: through pipes, and on a pseudo-terminal.

// In tests a failed unwrap is a failed test, and they set up files as they like.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods
)]

mod basics;
mod checking;
mod collecting;
mod input;
mod processes;
mod support;
mod terminal;
