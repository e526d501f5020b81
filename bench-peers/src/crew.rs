//! The processes that use one store: started, filled, set to work together.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::peers::Variant;
use crate::work::{Size, Work};
use crate::worker::{self, Turn};

struct Member {
    process: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Member {
    fn start(variant: &Variant, dir: &Path, size: &Size, number: usize) -> Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .arg(worker::ROLE)
            .arg(variant.id)
            .arg(dir)
            .args([size.id, &number.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let orders = process.stdin.take();
        let answers = BufReader::new(process.stdout.take().context("no pipe")?);
        Ok(Member {
            process,
            orders,
            answers,
        })
    }

    fn tell(&mut self, line: &str) -> Result<()> {
        let orders = self.orders.as_mut().context("no pipe")?;
        Ok(writeln!(orders, "{line}")?)
    }

    fn hear(&mut self) -> Result<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        ensure!(line.ends_with('\n'), "a worker has failed");
        line.truncate(line.len() - 1);
        Ok(line)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.orders = None; // the end of its orders is the end of it
        let _ = self.process.wait();
    }
}

/// How much a process does in a turn.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Amount {
    Operations(u64),
    /// As much as it can in so many nanoseconds.
    Nanos(u64),
}

/// All processes of one variant on one store.
pub(crate) struct Crew {
    pub(crate) variant: &'static Variant,
    dir: PathBuf,
    size: &'static Size,
    members: Vec<Member>,
}

impl Crew {
    /// Starts one process, which makes the store and fills it.
    pub(crate) fn start(
        variant: &'static Variant,
        dir: &Path,
        size: &'static Size,
    ) -> Result<Self> {
        let mut crew = Crew {
            variant,
            dir: dir.join(variant.id),
            size,
            members: Vec::new(),
        };
        crew.grow_to(1)?;
        crew.fill()?;
        Ok(crew)
    }

    pub(crate) fn grow_to(&mut self, processes: usize) -> Result<()> {
        while self.members.len() < processes {
            let number = self.members.len();
            let mut member = Member::start(self.variant, &self.dir, self.size, number)?;
            member.hear().with_context(|| self.variant.id)?;
            self.members.push(member);
        }
        Ok(())
    }

    pub(crate) fn fill(&mut self) -> Result<()> {
        self.members[0].tell("fill")?;
        self.members[0].hear().with_context(|| self.variant.id)?;
        Ok(())
    }

    /// Lets so many processes work together. How many operations they did, and in how many seconds, from
    /// the moment they all began to the one in which the last was done.
    pub(crate) fn work(
        &mut self,
        work: Work,
        processes: usize,
        amount: Amount,
    ) -> Result<(u64, f64)> {
        self.grow_to(processes)?;
        // Time for the orders to arrive.
        let begin = worker::now() + 1_000_000 + 50_000 * processes as u64;
        for (number, member) in self.members[..processes].iter_mut().enumerate() {
            let turn = match amount {
                Amount::Operations(operations) => Turn {
                    work,
                    operations,
                    first: number as u64 * operations,
                    begin,
                    end: u64::MAX,
                    thorough: false,
                },
                Amount::Nanos(nanos) => Turn {
                    work,
                    operations: u64::MAX,
                    first: number as u64 * 7,
                    begin,
                    end: begin + nanos,
                    thorough: true,
                },
            };
            member.tell(&turn.line())?;
        }
        let (mut all, mut last) = (0, begin);
        for member in &mut self.members[..processes] {
            let line = member.hear().with_context(|| self.variant.id)?;
            let (done, ended) = line.split_once(' ').context("not understood")?;
            all += done.parse::<u64>()?;
            last = last.max(ended.parse()?);
        }
        Ok((all, (last - begin) as f64 / 1e9))
    }
}
