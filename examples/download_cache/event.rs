//! What a worker tells its parent: a line for each event, on its standard output.

use std::io::{self, Write};
use std::time::Duration;

use anyhow::{Context, bail};
use larder::{Outcome, WaitInfo};

/// The two things that are made once, in the order of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Download,
    Unpack,
}

/// Packages are named by their place in the list that every worker was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// It waits for somebody who is making the same thing.
    Waits {
        step: Step,
        package: usize,
        waited: Duration,
        /// Process id and host, where they are known.
        holder: Option<(u32, String)>,
    },
    /// It makes the thing itself.
    Makes { step: Step, package: usize },
    /// It has downloaded this much.
    Downloaded {
        package: usize,
        bytes: u64,
        of: Option<u64>,
    },
    /// It has the thing.
    Has {
        step: Step,
        package: usize,
        outcome: Outcome,
        took: Duration,
    },
    /// It has everything.
    Done,
    /// It gives up.
    Failed(String),
}

impl Event {
    pub(crate) fn waits(step: Step, package: usize, info: &WaitInfo) -> Self {
        let holder = info.holder.as_ref().map(|holder| {
            let host = holder.host.clone().unwrap_or_default();
            (holder.pid, host)
        });
        Event::Waits {
            step,
            package,
            waited: info.waited,
            holder,
        }
    }

    /// Tells the parent.
    ///
    /// An error means that nobody listens any more, and the worker ends: there is no other way to
    /// learn that the parent was killed.
    pub(crate) fn tell(&self) -> anyhow::Result<()> {
        let mut line = self.to_line();
        line.push('\n');
        let mut out = io::stdout().lock();
        out.write_all(line.as_bytes())
            .and_then(|()| out.flush())
            .context("nobody listens to this worker any more")
    }

    fn to_line(&self) -> String {
        match self {
            Event::Waits {
                step,
                package,
                waited,
                holder,
            } => {
                let (pid, host) = match holder {
                    Some((pid, host)) => (*pid, one_line(host)),
                    None => (0, String::new()),
                };
                let ms = waited.as_millis();
                format!("waits\t{}\t{package}\t{ms}\t{pid}\t{host}", step.name())
            }
            Event::Makes { step, package } => format!("makes\t{}\t{package}", step.name()),
            Event::Downloaded { package, bytes, of } => {
                let of = of.map_or(String::new(), |of| of.to_string());
                format!("downloaded\t{package}\t{bytes}\t{of}")
            }
            Event::Has {
                step,
                package,
                outcome,
                took,
            } => {
                let outcome = match outcome {
                    Outcome::Waited => "waited",
                    Outcome::Computed => "computed",
                    _ => "hit",
                };
                let ms = took.as_millis();
                format!("has\t{}\t{package}\t{outcome}\t{ms}", step.name())
            }
            Event::Done => "done".to_owned(),
            Event::Failed(why) => format!("failed\t{}", one_line(why)),
        }
    }

    pub(crate) fn from_line(line: &str) -> anyhow::Result<Self> {
        Self::parse(line).with_context(|| format!("a worker said {line:?}"))
    }

    fn parse(line: &str) -> anyhow::Result<Self> {
        let fields: Vec<_> = line.split('\t').collect();
        let ms = |text: &str| text.parse().map(Duration::from_millis);
        Ok(match fields[..] {
            ["waits", step, package, waited, pid, host] => Event::Waits {
                step: Step::from_name(step)?,
                package: package.parse()?,
                waited: ms(waited)?,
                holder: match pid.parse()? {
                    0 => None,
                    pid => Some((pid, host.to_owned())),
                },
            },
            ["makes", step, package] => Event::Makes {
                step: Step::from_name(step)?,
                package: package.parse()?,
            },
            ["downloaded", package, bytes, of] => Event::Downloaded {
                package: package.parse()?,
                bytes: bytes.parse()?,
                of: match of {
                    "" => None,
                    of => Some(of.parse()?),
                },
            },
            ["has", step, package, outcome, took] => Event::Has {
                step: Step::from_name(step)?,
                package: package.parse()?,
                outcome: match outcome {
                    "hit" => Outcome::Hit,
                    "waited" => Outcome::Waited,
                    "computed" => Outcome::Computed,
                    _ => bail!("{outcome:?} is no outcome"),
                },
                took: ms(took)?,
            },
            ["done"] => Event::Done,
            ["failed", why] => Event::Failed(why.to_owned()),
            _ => bail!("that is no event"),
        })
    }
}

impl Step {
    fn name(self) -> &'static str {
        match self {
            Step::Download => "download",
            Step::Unpack => "unpack",
        }
    }

    fn from_name(name: &str) -> anyhow::Result<Self> {
        match name {
            "download" => Ok(Step::Download),
            "unpack" => Ok(Step::Unpack),
            _ => bail!("{name:?} is no step"),
        }
    }
}

/// What others wrote, such as an error from a server, must not look like another event.
fn one_line(text: &str) -> String {
    text.replace(|c: char| c.is_control(), " ")
}
