//! What a package manager does with `larder` for what it asks servers again and again: an HTTP cache
//! that revalidates, shared by many processes.
//!
//! ```text
//! cargo run --release --example http_cache
//! cargo run --release --example http_cache -- --workers 16 --rounds 9
//! ```
//!
//! In a sealed store, the value is a response's body, and its metadata is what `http-cache-semantics`
//! knows of the response: a `CachePolicy`, with the headers in it. `cache` is the part to read:
//!
//! - What is fresh is read without a lock and without a request.
//! - What is stale or missing is asked for under its key's lock. Who waited for the lock looks again.
//! - To the answer 304, `set_metadata` publishes the new policy over the body that is there, which is
//!   neither sent nor written again. Another answer replaces both in one step.
//! - What must not be stored is passed on; what varies has a key for each variant; what the server fails
//!   to renew is used as far as `stale-if-error` and `must-revalidate` say.
//!
//! This program starts itself again as a number of worker processes, and serves them one resource of
//! each sort over loopback. In each round all of them ask for all of it, at once. The clock stands still
//! in a round, and is moved on by a minute between two: the policy takes the time as an argument. So it
//! is known beforehand what a server has to be asked; if it counted anything else, or a worker read a
//! body that was not the right one, that is a failure.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, bail};

#[path = "../common/http.rs"]
mod http;
mod site;
mod server;
mod cache;
mod worker;
mod parent;

const HELP: &str = "\
Asks for the same URLs with many processes through one HTTP cache.

Usage: http_cache [--workers N] [--rounds N]

  --workers N   how many processes ask, 1 to 256 (default: 8)
  --rounds N    how often, a simulated minute apart, 3 to 1000 (default: 5)
";

fn main() -> ExitCode {
    match run(std::env::args_os().skip(1).collect()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            // If standard error is closed there is nobody to tell.
            let _ = writeln!(std::io::stderr(), "http_cache: {err:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Vec<OsString>) -> anyhow::Result<()> {
    // Only this program itself asks for that.
    if let [role, language, store] = &arguments[..] {
        if role == "--as-worker" {
            return worker::run(&language.to_string_lossy(), store.as_ref());
        }
    }
    let mut run = site::Run {
        workers: 8,
        rounds: 5,
    };
    let mut arguments = arguments.iter().map(|argument| argument.to_string_lossy());
    while let Some(name) = arguments.next() {
        let mut number = |least, most| -> anyhow::Result<usize> {
            let value = arguments.next().unwrap_or_default();
            let number = value.parse().ok().filter(|n| (least..=most).contains(n));
            number.with_context(|| format!("{name} takes a number from {least} to {most}"))
        };
        match &*name {
            "--workers" => run.workers = number(1, 256)?,
            "--rounds" => run.rounds = number(3, 1000)?,
            "--help" | "-h" => {
                return Ok(std::io::stdout().write_all(HELP.as_bytes())?);
            }
            _ => bail!("there is no option {name:?}\n{HELP}"),
        }
    }
    parent::run(run)
}
