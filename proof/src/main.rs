//! What larder promises, tried from outside: real processes, real file systems, real kills.
//!
//! Each module is one way to try, with a fault that it was seen to find in `faults/`. All end with
//! status 0 when every promise held, and otherwise with a sentence that says which did not, and the
//! seed to do it again.

mod block_log;
mod check;
mod checkpoints;
mod clock;
mod content;
mod endurance;
mod expect;
mod history;
mod image;
mod kernel;
mod look;
mod orphan;
mod plan;
mod power;
mod residue;
mod scratch;
mod stores;
mod subject;
mod survives;
mod system_calls;
mod tally;
mod workload;
mod writers;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(about, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    way: Way,
}

#[derive(Debug, Subcommand)]
enum Way {
    /// Cut the power of a loop-mounted file system under load, and look at what is left
    Power(power::Options),
    /// Record every write of a file system under load, and look at what each flush would have left
    BlockLog(block_log::Options),
    /// Kill, and fail, a whole process at each of its system calls
    SystemCalls(system_calls::Options),
    /// What is killed and fails there: one operation
    #[command(hide = true)]
    SystemCallsWorker(system_calls::worker::Options),
    /// Record what processes do and see at the same time, and look for an order that explains it
    History(history::Options),
    /// One of the processes of a history
    #[command(hide = true)]
    Process(history::process::Options),
    /// Do very many operations in one process, and watch its memory and descriptors
    Endurance(endurance::Options),
    /// Be a process that a power cut takes
    #[command(hide = true)]
    Workload(workload::Options),
    /// Be a process that sees what a power cut left
    #[command(hide = true)]
    Look(look::Options),
}

fn main() -> ExitCode {
    match run(Arguments::parse().way) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("Error: {err:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(way: Way) -> anyhow::Result<()> {
    match way {
        Way::Power(options) => power::run(options),
        Way::BlockLog(options) => block_log::run(options),
        Way::SystemCalls(options) => system_calls::run(options),
        Way::SystemCallsWorker(options) => system_calls::worker::run(&options),
        Way::History(options) => history::run(options),
        Way::Process(options) => history::process::run(&options),
        Way::Endurance(options) => endurance::run(options),
        Way::Workload(options) => workload::run(options),
        Way::Look(options) => look::run(&options),
    }
}
