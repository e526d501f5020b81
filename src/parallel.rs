//! The same work on many things, several at a time.
//!
//! Invariant: the first error ends it, and no thread outlives the call.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Does the work on each of the things, on at most so many threads; what came out, in their order.
pub(crate) fn map<T: Sync, R: Send>(
    things: &[T],
    at_once: usize,
    work: impl Fn(&T) -> io::Result<R> + Sync,
) -> io::Result<Vec<R>> {
    if things.len() < 4 {
        return things.iter().map(work).collect();
    }
    let next = AtomicUsize::new(0);
    let run = || {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(thing) = things.get(index) else {
                return Ok(done);
            };
            match work(thing) {
                Ok(result) => done.push((index, result)),
                Err(err) => {
                    next.store(things.len(), Ordering::Relaxed);
                    return Err(err);
                }
            }
        }
    };
    let mut done = std::thread::scope(|scope| {
        // Where no thread can be had, this one does the work of all.
        let helpers: Vec<_> = (1..at_once.min(things.len()))
            .map_while(|_| std::thread::Builder::new().spawn_scoped(scope, run).ok())
            .collect();
        let mut results = vec![run()];
        for helper in helpers {
            let result = helper.join();
            results.push(result.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        let mut done = Vec::with_capacity(things.len());
        for result in results {
            done.append(&mut result?);
        }
        io::Result::Ok(done)
    })?;
    done.sort_unstable_by_key(|(index, _)| *index);
    Ok(done.into_iter().map(|(_, result)| result).collect())
}
