//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lexopt::prelude::{Long, ValueExt};

use crate::peers::{VARIANTS, Variant};
use crate::work::{SIZES, Size, Work};

pub(crate) const USAGE: &str = "\
Usage: cargo run --release --manifest-path bench-peers/Cargo.toml -- [OPTION…]

  --dir DIR        where the stores are made; the result depends on its file system
                   [default: the directory for temporary files]
  --peer NAME      only variants whose name contains this; larder, for the ratios, always
  --size SIZE      only values of 1k, 64k or 4m
  --processes N    only with so many processes [default: 1, 2, 8 and 32]
  --work WORK      only hit, miss, mixed or set
  --rounds N       how often each takes its turn after one that does not count [default: 5]
  --turn MS        how long a turn is to take [default: 60]
  --quick          3 rounds of 20 ms, with 1 and 8 processes
  --syncs          count the calls that make a set durable instead, with strace

All but --dir, --rounds, --turn and the last two can be given several times.";

pub(crate) struct Args {
    pub(crate) dir: PathBuf,
    pub(crate) variants: Vec<&'static Variant>,
    pub(crate) sizes: Vec<&'static Size>,
    pub(crate) processes: Vec<usize>,
    pub(crate) works: Vec<Work>,
    pub(crate) rounds: usize,
    pub(crate) turn: Duration,
    pub(crate) syncs: bool,
}

impl Args {
    /// `None`: only the usage was asked for.
    pub(crate) fn parse() -> Result<Option<Self>> {
        let mut dir = std::env::temp_dir();
        let (mut peers, mut sizes) = (Vec::<String>::new(), Vec::new());
        let (mut processes, mut works) = (Vec::new(), Vec::new());
        let (mut rounds, mut turn) = (None, None);
        let (mut quick, mut syncs) = (false, false);
        let mut parser = lexopt::Parser::from_env();
        while let Some(arg) = parser.next()? {
            match arg {
                Long("dir") => dir = parser.value()?.into(),
                Long("peer") => peers.push(parser.value()?.parse()?),
                Long("size") => {
                    let id = parser.value()?.string()?;
                    sizes.push(Size::parse(&id).context("--size is 1k, 64k or 4m")?);
                }
                Long("processes") => match parser.value()?.parse()? {
                    0 => bail!("--processes is at least 1"),
                    number => processes.push(number),
                },
                Long("work") => {
                    let name = parser.value()?.string()?;
                    let work = Work::parse(&name);
                    works.push(work.context("--work is hit, miss, mixed or set")?);
                }
                Long("rounds") => rounds = Some(parser.value()?.parse::<usize>()?.max(1)),
                Long("turn") => turn = Some(parser.value()?.parse::<u64>()?),
                Long("quick") => quick = true,
                Long("syncs") => syncs = true,
                Long("help") => return Ok(None),
                other => return Err(other.unexpected().into()),
            }
        }
        let wanted = |variant: &&'static Variant| {
            peers.is_empty()
                || variant.is_larder()
                || peers.iter().any(|peer| variant.id.contains(&**peer))
        };
        let or = |given: Vec<usize>, default: &[usize]| match given.is_empty() {
            true => default.to_vec(),
            false => given,
        };
        Ok(Some(Args {
            dir,
            variants: VARIANTS.iter().filter(wanted).collect(),
            sizes: match sizes.is_empty() {
                true => SIZES.iter().collect(),
                false => sizes,
            },
            processes: or(processes, if quick { &[1, 8] } else { &[1, 2, 8, 32] }),
            works: Work::ALL
                .into_iter()
                .filter(|work| works.is_empty() || works.contains(work))
                .collect(),
            rounds: rounds.unwrap_or(if quick { 3 } else { 5 }),
            turn: Duration::from_millis(turn.unwrap_or(if quick { 20 } else { 60 })),
            syncs,
        }))
    }
}
