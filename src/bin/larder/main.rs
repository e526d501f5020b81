//! The `larder` command: what the stores do, for the shell.
//!
//! Each group of commands is a module; `args` says what can be typed, `stop` what the process ends with.
//! The binary reads the environment, prints and handles signals, so that the library need not.

mod output;
mod stop;
mod units;
mod keys;
mod args;
mod signals;
mod command;
mod store;
mod files;
mod dirs;
mod list;
mod proc;
mod locks;
mod check;
mod collect;
mod pins;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use args::{Args, Command};
use stop::Stop;

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(err) => return stop::of_parsing(&err),
    };
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(stop) => stop.exit_code(),
    }
}

fn run(args: Args) -> Result<(), Stop> {
    let place = store::Place::new(args.store);
    match args.command {
        Command::GetOrSet(args) => files::get_or_set(&place, &args),
        Command::Get(args) => files::get(&place, &args),
        Command::Set(args) => files::set(&place, &args),
        Command::Rm(args) => files::rm(&place, &args),
        Command::Path(key) => files::path(&place, &key),
        Command::Verify(key) => check::verify(&place, &key),
        Command::Contains(args) => files::contains(&place, &args),
        Command::Dir { command } => dirs::run(&place, &command),
        Command::Ls(args) => list::ls(&place, &args),
        Command::Locks(args) => locks::locks(&place, &args),
        Command::Gc(args) => collect::gc(&place, &args),
        Command::Pin(key) => pins::pin(&place, &key),
        Command::Unpin(key) => pins::unpin(&place, &key),
        Command::Pins(args) => pins::pins(&place, &args),
        Command::Stats(args) => check::stats(&place, &args),
        Command::Check(args) => check::check(&place, &args),
        Command::Sweep(args) => collect::sweep(&place, &args),
        Command::Clear(args) => collect::clear(&place, &args),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "larder", &mut script);
            output::write(&script)
        }
    }
}
