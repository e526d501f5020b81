//! Who does what, while it goes on, on standard error: a row for each worker on a terminal, and a line
//! now and then where it is none.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{BinaryBytes, MultiProgress, ProgressBar, ProgressStyle};
use larder::Outcome;

use crate::event::{Event, Step};

pub(crate) struct Progress {
    rows: Vec<Row>,
    labels: Vec<String>,
    /// `None` where standard error is no terminal.
    multi: Option<MultiProgress>,
    ticked: Instant,
}

/// How often the times of those who wait move on.
pub(crate) const TICK: Duration = Duration::from_millis(100);

/// What is known of a worker.
struct Row {
    pid: u32,
    bar: ProgressBar,
    /// What it does, and since when.
    doing: String,
    since: Instant,
    /// It waits: the row tells how long.
    waits: bool,
}

impl Progress {
    /// `labels` are the packages', in the order of their numbers.
    pub(crate) fn new(labels: Vec<String>) -> Self {
        let multi = io::stderr().is_terminal().then(MultiProgress::new);
        Progress {
            rows: Vec::new(),
            labels,
            multi,
            ticked: Instant::now(),
        }
    }

    /// Shows the next worker.
    pub(crate) fn add(&mut self, pid: u32) -> anyhow::Result<()> {
        let bar = match &self.multi {
            Some(multi) => multi.add(ProgressBar::new(self.labels.len() as u64)),
            None => ProgressBar::hidden(),
        };
        let style = "{prefix:>10} {bar:16} {pos:>3}/{len} {wide_msg}";
        bar.set_style(ProgressStyle::with_template(style)?.progress_chars("=> "));
        bar.set_prefix(format!("worker {}", self.rows.len()));
        self.rows.push(Row {
            pid,
            bar,
            doing: "starts".to_owned(),
            since: Instant::now(),
            waits: false,
        });
        Ok(())
    }

    /// Shows what a worker told.
    pub(crate) fn show(&mut self, worker: usize, event: &Event) {
        let (doing, worth_a_line) = self.describe(event);
        if worth_a_line && self.multi.is_none() {
            line(&format!("worker {worker} {doing}"));
        }
        let row = &mut self.rows[worker];
        let waits = match event {
            Event::Waits { waited, .. } => Some(*waited),
            _ => None,
        };
        let now = Instant::now();
        row.since = waits
            .and_then(|waited| now.checked_sub(waited))
            .unwrap_or(now);
        row.waits = waits.is_some();
        row.doing = doing;
        if matches!(
            event,
            Event::Has {
                step: Step::Unpack,
                ..
            }
        ) {
            row.bar.inc(1);
        }
        row.draw();
    }

    /// What an event says, and whether it is news enough for a line of its own.
    fn describe(&self, event: &Event) -> (String, bool) {
        let label = |package: &usize| self.labels.get(*package).map_or("?", |label| label);
        match event {
            Event::Waits {
                step,
                package,
                waited,
                holder,
            } => {
                let what = match step {
                    Step::Download => "for",
                    Step::Unpack => "for the tree of",
                };
                let who = self.name(holder.as_ref());
                // It is told again each second; once is enough for a line.
                let first = *waited < Duration::from_secs(1);
                (format!("waits {what} {} from {who}", label(package)), first)
            }
            Event::Makes { step, package } => {
                let (does, news) = match step {
                    Step::Download => ("downloads", true),
                    Step::Unpack => ("unpacks", false),
                };
                (format!("{does} {}", label(package)), news)
            }
            Event::Downloaded { package, bytes, of } => {
                let of = of.map_or(String::new(), |of| format!(" of {}", BinaryBytes(of)));
                let bytes = BinaryBytes(*bytes);
                (format!("downloads {}: {bytes}{of}", label(package)), false)
            }
            Event::Has {
                package, outcome, ..
            } => {
                let how = match outcome {
                    Outcome::Computed => "made",
                    Outcome::Waited => "waited for",
                    _ => "found",
                };
                (format!("{how} {}", label(package)), false)
            }
            Event::Done => ("is done".to_owned(), false),
            Event::Failed(_) => ("failed".to_owned(), true),
        }
    }

    /// A holder is a worker of ours, or some process of another run or on another machine.
    fn name(&self, holder: Option<&(u32, String)>) -> String {
        let Some((pid, host)) = holder else {
            return "somebody".to_owned();
        };
        match self.rows.iter().position(|row| row.pid == *pid) {
            Some(worker) => format!("worker {worker} (process {pid} on {host})"),
            None => format!("process {pid} on {host}"),
        }
    }

    /// Brings the times of those who wait up to date.
    pub(crate) fn tick(&mut self) {
        if self.ticked.elapsed() >= TICK {
            self.ticked = Instant::now();
            for row in self.rows.iter().filter(|row| row.waits) {
                row.draw();
            }
        }
    }

    /// Takes the rows off the terminal.
    pub(crate) fn finish(self) {
        if let Some(multi) = &self.multi {
            let _ = multi.clear();
        }
    }
}

impl Row {
    fn draw(&self) {
        let doing = &self.doing;
        if self.waits {
            // The time first: a narrow terminal cuts the end off.
            let waited = self.since.elapsed().as_secs_f64();
            self.bar.set_message(format!("{waited:.1} s: {doing}"));
        } else {
            self.bar.set_message(doing.clone());
        }
    }
}

/// A line that is no result. If standard error is closed, nobody misses it.
pub(crate) fn line(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}
