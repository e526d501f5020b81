//! Why the process ends before its work is done, and with which status.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use larder::ErrorKind;

use crate::output;

/// What ends a command early.
#[derive(Debug)]
pub(crate) enum Stop {
    /// There is no such value: 1. A sentence, unless the status is all that was asked for.
    Absent(Option<String>),
    /// What was typed makes no sense: 2.
    Usage(String),
    /// CMD failed, and its status is ours. A sentence where CMD itself could not say anything.
    Command(u8, Option<String>),
    /// A signal asked this process to end: 128 and its number.
    Signal(i32),
    /// Nobody reads the output any more.
    ClosedPipe,
    /// Any other error: 3.
    Failed(anyhow::Error),
}

impl Stop {
    /// Says why, and returns the status to end with.
    pub(crate) fn exit_code(self) -> ExitCode {
        let (status, sentence) = match self {
            Stop::Absent(sentence) => (1, sentence),
            Stop::Usage(sentence) => (2, Some(sentence)),
            Stop::Command(status, sentence) => (status, sentence),
            Stop::Signal(signal) => (status_of_signal(signal), None),
            Stop::ClosedPipe => {
                // As every other tool ends whose reader went: by the signal, without a word.
                let _ = signal_hook::low_level::emulate_default_handler(libc::SIGPIPE);
                (status_of_signal(libc::SIGPIPE), None)
            }
            Stop::Failed(err) => (3, Some(format!("{err:#}"))),
        };
        if let Some(sentence) = sentence {
            tell(&sentence);
        }
        ExitCode::from(status)
    }
}

/// Says on standard error what went wrong.
pub(crate) fn tell(sentence: &str) {
    // There may be anybody's paths in it.
    let sentence = match io::stderr().is_terminal() {
        true => output::printable(sentence),
        false => sentence.to_owned(),
    };
    // Where standard error is closed there is nobody to tell.
    let _ = writeln!(io::stderr(), "larder: {sentence}");
}

/// As shells have it.
pub(crate) fn status_of_signal(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(u8::MAX)
}

/// Prints what the parser has to say: help and the version too come as errors.
pub(crate) fn of_parsing(err: &clap::Error) -> ExitCode {
    match err.print() {
        Err(io_err) if io_err.kind() == io::ErrorKind::BrokenPipe => Stop::ClosedPipe.exit_code(),
        _ => ExitCode::from(u8::try_from(err.exit_code()).unwrap_or(2)),
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl std::error::Error for Stop {}

impl From<anyhow::Error> for Stop {
    /// A closure's own `Stop` comes back as it went in.
    fn from(err: anyhow::Error) -> Self {
        err.downcast::<Stop>().unwrap_or_else(Stop::Failed)
    }
}

impl From<larder::Error> for Stop {
    fn from(err: larder::Error) -> Self {
        match err.downcast_ref::<Stop>() {
            Some(stop) => stop.again(),
            None if err.kind() == ErrorKind::InvalidKey => Stop::Usage(err.to_string()),
            None => Stop::Failed(err.into()),
        }
    }
}

impl Stop {
    /// The library lends a closure's error and does not give it back.
    fn again(&self) -> Stop {
        match self {
            Stop::Absent(sentence) => Stop::Absent(sentence.clone()),
            Stop::Usage(sentence) => Stop::Usage(sentence.clone()),
            Stop::Command(status, sentence) => Stop::Command(*status, sentence.clone()),
            Stop::Signal(signal) => Stop::Signal(*signal),
            Stop::ClosedPipe => Stop::ClosedPipe,
            Stop::Failed(err) => Stop::Failed(anyhow::anyhow!("{err:#}")),
        }
    }
}
