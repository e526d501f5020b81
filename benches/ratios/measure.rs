//! Measuring several ways of doing the same work in turn, so that what else the machine does falls on
//! all of them, and a ratio is taken within one turn.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

/// One way to do a row's work: does it so many times, and tells how long that took.
pub(crate) type Way<'a> = Box<dyn FnMut(u32) -> Duration + 'a>;

/// What came out for one way.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    pub(crate) way: &'static str,
    /// Of one operation: the median over all turns.
    pub(crate) micros: f64,
    /// To the first way: the median over all turns, and the quartiles.
    pub(crate) ratio: f64,
    pub(crate) quartiles: [f64; 2],
}

/// Work on the first of `count` things, the second, and so on, and then again on the first.
pub(crate) fn round_robin<'a>(count: usize, mut work: impl FnMut(usize) + 'a) -> Way<'a> {
    let mut next = 0;
    Box::new(move |times| {
        let began = Instant::now();
        for _ in 0..times {
            work(next);
            next = (next + 1) % count;
        }
        began.elapsed()
    })
}

/// Does the work when nothing is left to be written of what was done before.
pub(crate) fn settled<'a>(dir: &Path, mut way: Way<'a>) -> Way<'a> {
    let dir = File::open(dir).unwrap();
    Box::new(move |times| {
        rustix::fs::syncfs(&dir).unwrap();
        way(times)
    })
}

/// Does the work `each` times per turn in each way, for so many turns after one that does not count.
/// The order rotates, so that none is always the first.
pub(crate) fn in_turn(
    turns: usize,
    each: u32,
    ways: &mut [(&'static str, Way<'_>)],
) -> Vec<Figure> {
    let mut micros = vec![Vec::new(); ways.len()];
    for turn in 0..=turns {
        for step in 0..ways.len() {
            let index = (turn + step) % ways.len();
            let took = (ways[index].1)(each).as_secs_f64() * 1e6 / f64::from(each);
            if turn > 0 {
                micros[index].push(took);
            }
        }
    }
    let first = micros[0].clone();
    let figures = ways.iter().zip(&micros).map(|((way, _), micros)| {
        let ratios = micros.iter().zip(&first).map(|(own, first)| own / first);
        let mut ratios: Vec<f64> = ratios.collect();
        Figure {
            way,
            micros: quantile(&mut micros.clone(), 0.5),
            ratio: quantile(&mut ratios, 0.5),
            quartiles: [0.25, 0.75].map(|part| quantile(&mut ratios, part)),
        }
    });
    figures.collect()
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss
)]
fn quantile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = (values.len() - 1) as f64;
    values[(last * part).round() as usize]
}
