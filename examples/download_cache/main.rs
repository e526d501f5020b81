//! What a package manager does with `larder`: many processes, one download for each archive, one
//! unpacked tree.
//!
//! ```text
//! cargo run --release --example download_cache                  # twice: the second run only hits
//! cargo run --release --example download_cache -- --workers 16
//! cargo run --release --example download_cache -- http://127.0.0.1:8000/serde-1.0.0.crate
//! cargo run --release --example download_cache -- --help
//! ```
//!
//! This program starts itself again as a number of worker processes, which all want the same
//! archives, each in an order of its own. For each archive a worker
//!
//! 1. asks a `KVFileStore` for it under its URL. One worker downloads it, stating the length that
//!    the server announced and checking the SHA-256 before it says that the value is good; workers
//!    that ask meanwhile wait and are told for whom; the others find it there.
//! 2. asks a `KVDirStore` for the unpacked tree under the archive's digest, and holds a lease of it
//!    for as long as it uses the tree.
//!
//! Without URLs it serves archives to itself over loopback, slowly, so that the workers meet. At the
//! end it prints who hit, waited and downloaded, and compares that with what was missing before, with
//! what the stores have now, and with the requests that the server saw. If these do not agree, that
//! is a failure.
//!
//! Interrupt it wherever you like. The workers just die; nothing half written is ever visible, the
//! locks die with their holders, and the next run sweeps what was left in the stores' `tmp/` and
//! downloads what is missing.

use std::io::Write;
use std::process::ExitCode;

mod digest;
mod package;
mod options;
mod archives;
#[path = "../common/http.rs"]
mod http;
mod server;
mod stores;
mod event;
mod worker;
mod progress;
mod tally;
mod parent;

use options::Command;

fn main() -> ExitCode {
    let command = match options::parse(std::env::args_os().skip(1)) {
        Ok(command) => command,
        Err(err) => {
            complain(&format!("{err:#}\nTry --help."));
            return ExitCode::from(2);
        }
    };
    let result = match command {
        Command::Help => help(),
        Command::Run(options) => parent::run(&options),
        Command::Work { index, store } => worker::run(index, &store),
    };
    result.unwrap_or_else(|err| {
        complain(&format!("{err:#}"));
        ExitCode::FAILURE
    })
}

fn help() -> anyhow::Result<ExitCode> {
    std::io::stdout().write_all(options::HELP.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// On standard error, and if that is closed there is nobody to tell.
fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "download_cache: {text}");
}
