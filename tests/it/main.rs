//! The integration tests, in one binary: each module is one claim about the stores.
//!
//! Where the claim is about processes, the tests start real ones: this binary again, in a role of
//! `worker`. Nothing here sleeps for a fixed time; what must happen is waited for, with a deadline.

// In tests a failed unwrap is a failed test, and files are made behind the stores' backs on purpose.
#![allow(
    clippy::disallowed_methods,
    clippy::exit,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used
)]

mod bad_input;
mod basics;
mod check;
mod checkpoint;
mod checkpoint_crash;
mod checkpoint_owners;
mod collecting;
mod damage;
mod damaged_trees;
mod dogpile;
mod faults;
mod layers;
mod leases;
mod limits;
mod lock_deletion;
mod model;
mod mounts;
mod permissions;
mod posy;
mod renames;
mod sealed;
mod sealed_file;
mod support;
mod sweeping;
mod threads;
mod verified;
mod waiting;
mod worker;
