//! What a package manager does with `larder` for what is so large that it should not be fetched twice:
//! downloads that go on where a killed process stopped.
//!
//! ```text
//! cargo run --release --features checkpoint --example resume_download
//! cargo run --release --features checkpoint --example resume_download -- --kills 30 --seed 7
//! ```
//!
//! The bytes that have arrived are in a partial file in the store's directory, below `larder-partial/`, and a
//! `CheckpointStore` there says how many of them are there for certain, and of which version. `download`
//! is the part to read:
//!
//! - Every few MiB the partial file is synced, and then the checkpoint is stored. Whoever comes next asks for
//!   the rest with `Range` and `If-Range`, and writes over what lies beyond the checkpoint.
//! - Another `ETag` makes it start anew, whatever the server has to say to `If-Range`.
//! - The key's lock in the store is that of the partial file too: one process downloads, the others wait,
//!   and if it is killed the next goes on.
//! - What is complete is copied into the store, which checks its length and digest. Then the checkpoint
//!   and the partial file go.
//!
//! This program serves files over loopback and starts itself again as workers that download them. It kills
//! them with SIGKILL when the server has sent a random number of bytes, and starts others, until the
//! file is in the store. If a worker asked for anything but what was missing, if a restart fetched
//! a whole interval again, if a checkpoint was ahead of its file, if what is published is not what was served, or if
//! anything is left over, that is a failure.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, bail};

#[path = "../common/http.rs"]
mod http;
mod server;
mod download;
mod worker;
mod parent;

const HELP: &str = "\
Downloads files with processes that are killed, and fetches little of them twice.

Usage: resume_download [--kills N] [--seed N]

  --kills N   how often the largest download is killed at random (default: 8)
  --seed N    what is served, and after how many bytes who gets them is killed (default: random)
";

fn main() -> ExitCode {
    match run(std::env::args_os().skip(1).collect()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            // If standard error is closed there is nobody to tell.
            let _ = writeln!(std::io::stderr(), "resume_download: {err:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Vec<OsString>) -> anyhow::Result<()> {
    // Only this program itself asks for that.
    if let [role, store, url] = &arguments[..] {
        if role == "--as-worker" {
            return worker::run(store.as_ref(), &url.to_string_lossy());
        }
    }
    let (mut kills, mut seed) = (8, fastrand::u64(..));
    let mut arguments = arguments.iter().map(|argument| argument.to_string_lossy());
    while let Some(name) = arguments.next() {
        let mut number = || {
            let value = arguments.next().unwrap_or_default();
            let number = value.parse().ok();
            number.with_context(|| format!("{name} takes a number, not {value:?}"))
        };
        match &*name {
            "--kills" => kills = number()?,
            "--seed" => seed = number()?,
            "--help" | "-h" => return Ok(std::io::stdout().write_all(HELP.as_bytes())?),
            _ => bail!("there is no option {name:?}\n{HELP}"),
        }
    }
    parent::run(kills, seed)
}
