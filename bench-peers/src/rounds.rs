//! Rounds in which each variant takes its turn, so that what else the machine does falls on all of them,
//! and a ratio is taken within one round.

use std::fs::File;
use std::path::Path;

use anyhow::Result;

use crate::args::Args;
use crate::crew::{Amount, Crew};
use crate::peers::Variant;
use crate::work::{MIXED, Size, Work};

/// What came out for one variant at one work with so many processes.
pub(crate) struct Figure {
    pub(crate) variant: &'static Variant,
    pub(crate) work: Work,
    /// Operations per second of all processes together: the median over the rounds.
    pub(crate) rate: f64,
    /// To larder's of the same durability: the median over the rounds, and the quartiles.
    pub(crate) ratio: f64,
    pub(crate) quartiles: [f64; 2],
}

/// No turn writes more than this, unless it takes that for each process to write one value.
const MOST_WRITTEN: u64 = 128 << 20;

/// Everything for one size of values, in stores of its own below `dir`.
pub(crate) fn measure(args: &Args, dir: &Path, size: &'static Size) -> Result<Vec<Figure>> {
    let mut crews = Vec::new();
    for &variant in &args.variants {
        crews.push(Crew::start(variant, dir, size)?);
    }
    let mut figures = Vec::new();
    for &work in &args.works {
        for &processes in &args.processes {
            eprintln!("{}, {}, {processes} processes", size.name, work.name());
            let mut taking_part: Vec<&mut Crew> = crews
                .iter_mut()
                .filter(|crew| work.writes() || crew.variant.reads)
                .collect();
            figures.extend(rounds(args, dir, size, work, processes, &mut taking_part)?);
        }
    }
    Ok(figures)
}

fn rounds(
    args: &Args,
    dir: &Path,
    size: &Size,
    work: Work,
    processes: usize,
    crews: &mut [&mut Crew],
) -> Result<Vec<Figure>> {
    let file_system = File::open(dir)?;
    let turn = u64::try_from(args.turn.as_nanos())?;
    let mut amounts = vec![Amount::Nanos(turn); crews.len()];
    let mut rates = vec![Vec::new(); crews.len()];
    for round in 0..=args.rounds {
        for step in 0..crews.len() {
            let index = (round + step) % crews.len();
            let crew = &mut crews[index];
            if work.writes() {
                if crew.variant.grows {
                    crew.fill()?;
                }
                // What the one before has left to be written is not to be waited for by this one.
                rustix::fs::syncfs(&file_system)?;
            }
            let (done, seconds) = crew.work(work, processes, amounts[index])?;
            if round == 0 {
                amounts[index] = Amount::Operations(each(work, size, processes, done));
            } else {
                rates[index].push(done as f64 / seconds);
            }
        }
    }
    let figures = crews.iter().zip(&rates).map(|(crew, rates_of_it)| {
        let variant = crew.variant;
        let base = crews.iter().position(|other| {
            let other = other.variant;
            other.is_larder() && (!work.writes() || other.durability == variant.durability)
        });
        let ratios = base.map_or(&[][..], |base| &rates[base]);
        let ratios = rates_of_it.iter().zip(ratios).map(|(own, base)| own / base);
        let mut ratios: Vec<f64> = ratios.collect();
        Figure {
            variant,
            work,
            rate: quantile(&mut rates_of_it.clone(), 0.5),
            ratio: quantile(&mut ratios, 0.5),
            quartiles: [0.25, 0.75].map(|part| quantile(&mut ratios, part)),
        }
    });
    Ok(figures.collect())
}

/// How many operations each process has to do, if all together did so many in the time of a turn.
fn each(work: Work, size: &Size, processes: usize, done: u64) -> u64 {
    let processes = processes as u64;
    let mut all = done;
    if work.writes() {
        let part = if work == Work::Mixed { MIXED } else { 1 };
        all = all.min(MOST_WRITTEN / size.bytes as u64 * part);
    }
    let each = (all / processes).max(1);
    match work {
        // So that exactly one operation of so many is a `set`.
        Work::Mixed => each.next_multiple_of(MIXED / greatest_common_divisor(MIXED, processes)),
        _ => each,
    }
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 {
        a
    } else {
        greatest_common_divisor(b, a % b)
    }
}

fn quantile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1) as f64;
    let at = (last * part).round() as usize;
    values.get(at).copied().unwrap_or(f64::NAN)
}
