//! How an async program uses a store: on its blocking threads, with a bound on how many may wait.
//!
//! ```text
//! cargo run --release --example async_host
//! ```
//!
//! Every call that may wait is made in `spawn_blocking`. That alone is not enough. A tokio runtime has
//! a limited number of blocking threads (512 unless told otherwise; 16 here), and what finds none free
//! is queued behind everything that was queued before. Now a few hundred tasks ask for keys that are
//! missing. One of them for each key, the leader, computes; the others wait for its `flock`, each on a
//! thread of the pool. Soon every thread is a leader's or a waiter's. But a leader's closure needs the
//! pool too, as soon as it does anything that tokio does there: `tokio::fs`, the resolution of a host
//! name, a `spawn_blocking` of its own. That goes to the end of the queue, behind calls that are to
//! wait for this very leader. Nothing moves any more, and the library cannot know: to it, the leader is
//! alive and computing.
//!
//! So a semaphore bounds how many tasks may be in a call that can wait. With `t` threads in the pool,
//! and closures that need at most `n` of them at a time besides their own, `t / (n + 1)` permits are
//! always enough to be safe: there is a thread for each permit and for all that its closure does, even
//! if all of them are leaders. What else uses the pool must end by itself. (A weaker bound makes
//! progress too: with one thread that no permit can take, closures have that one, but they queue for
//! it.) Who waits for a permit is an async task and takes no thread at all. Hits need neither lock nor
//! permit, so they are looked for first.
//!
//! The other half is giving up. Dropping the future of a `spawn_blocking` stops nothing: its thread
//! would wait on, and keep its permit. So each call has a [`CancelToken`], and a guard that lives in
//! the future cancels it when the future is dropped, by a timeout, a `select!` or an abort. That ends
//! the wait at once. A closure that runs is not stopped: it finishes its value, which the next one who
//! asks finds.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use larder::{CancelToken, ErrorKind, KVFileStore, ValueWriter};
use tokio::runtime::{Builder, Handle};
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::timeout;

/// The size of the pool: small, so that a few hundred waiters are too many, as some thousands are for
/// the usual one.
const BLOCKING_THREADS: usize = 16;

/// Each closure here needs one blocking thread besides its own.
const PERMITS: usize = BLOCKING_THREADS / 2;

const TASKS: usize = 500;
const KEYS: usize = 10;

/// A store as the async side sees it.
#[derive(Clone)]
struct AsyncStore {
    store: KVFileStore,
    /// One permit for each call that may wait.
    permits: Arc<Semaphore>,
}

/// Cancels a call's waits when the future that it is part of is dropped.
struct CancelOnDrop(CancelToken);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl AsyncStore {
    fn new(store: &KVFileStore, permits: usize) -> Self {
        AsyncStore {
            store: store.clone(),
            permits: Arc::new(Semaphore::new(permits)),
        }
    }

    /// The value of `key`. The closure runs on a blocking thread, in one task of one process.
    async fn get_or_set(
        &self,
        key: String,
        f: impl FnOnce(&mut ValueWriter) -> anyhow::Result<()> + Send + 'static,
    ) -> anyhow::Result<Vec<u8>> {
        // One `open`, which waits for nobody, on this thread: shorter than the way to another one.
        // Where the store is on a slow disk it would be done in `spawn_blocking` as well.
        if let Some(bytes) = self.store.read(&key)? {
            return Ok(bytes);
        }
        let permit = Arc::clone(&self.permits).acquire_owned().await?;
        let token = CancelToken::new();
        let guard = CancelOnDrop(token.clone());
        let store = self.store.with_cancel(&token);
        let call = spawn_blocking(move || {
            // Given back by the thread when it is done, not by the future when it is dropped.
            let _permit = permit;
            // The future may have been dropped while this was queued.
            ensure!(!token.is_cancelled(), "nobody wants {key} any more");
            let mut value = store.get_or_set(&key, f)?;
            let mut bytes = Vec::new();
            value.read_to_end(&mut bytes)?;
            Ok(bytes)
        });
        let bytes = call.await.context("the call panicked")?;
        drop(guard);
        bytes
    }

    /// Returns when no call is going on any more.
    async fn idle(&self, permits: usize) -> anyhow::Result<()> {
        let all = self.permits.acquire_many(u32::try_from(permits)?).await?;
        drop(all);
        Ok(())
    }
}

/// What a leader does: it needs a blocking thread besides the one that it is on.
fn compute(w: &mut ValueWriter, computed: &AtomicUsize) -> anyhow::Result<()> {
    // Opens a connection, say. Until then everybody else has asked, too.
    std::thread::sleep(Duration::from_millis(50));
    let bytes = Handle::current().block_on(async {
        // This is what `tokio::fs::read` is inside.
        spawn_blocking(|| b"the value".to_vec()).await
    })?;
    computed.fetch_add(1, Ordering::Relaxed);
    Ok(w.write_all(&bytes)?)
}

/// 500 tasks ask for ten keys. How many of them got a value, before `limit` if there is one.
async fn ask(
    store: &AsyncStore,
    prefix: &'static str,
    computed: &Arc<AtomicUsize>,
    limit: Duration,
) -> anyhow::Result<usize> {
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let (store, computed) = (store.clone(), Arc::clone(computed));
        tasks.spawn(async move {
            let key = format!("{prefix} {}", task % KEYS);
            let value = store.get_or_set(key, move |w| compute(w, &computed));
            timeout(limit, value).await
        });
    }
    let mut served = 0;
    while let Some(task) = tasks.join_next().await {
        if let Ok(value) = task.context("a task panicked")? {
            ensure!(value? == b"the value", "that is another value");
            served += 1;
        }
    }
    Ok(served)
}

/// Without a bound: everybody waits for leaders who wait for a thread.
async fn unbounded(store: &KVFileStore) -> anyhow::Result<String> {
    let store = AsyncStore::new(store, TASKS);
    let computed = Arc::new(AtomicUsize::new(0));
    let served = ask(&store, "unbounded", &computed, Duration::from_millis(400)).await?;
    // All of them have given up by now, which cancelled the waits, which gave leaders their threads.
    let began = Instant::now();
    timeout(Duration::from_secs(10), store.idle(TASKS))
        .await
        .context("the pool is still stuck although everybody gave up")??;
    Ok(format!(
        "unbounded:  {served} of {TASKS} tasks had their value when they gave up after 0.4 s; then \
         the pool was free after {:.1} ms",
        began.elapsed().as_secs_f64() * 1000.0
    ))
}

/// With a bound: the same tasks, the same pool.
async fn bounded(store: &KVFileStore) -> anyhow::Result<String> {
    let store = AsyncStore::new(store, PERMITS);
    let computed = Arc::new(AtomicUsize::new(0));
    let began = Instant::now();
    let served = ask(&store, "bounded", &computed, Duration::from_secs(30)).await?;
    let computed = computed.load(Ordering::Relaxed);
    ensure!(
        served == TASKS,
        "only {served} of {TASKS} tasks had their value after 30 s"
    );
    ensure!(computed == KEYS, "{KEYS} keys took {computed} computations");
    Ok(format!(
        "bounded:    {served} of {TASKS} tasks had their value after {:.0} ms; {computed} \
         computations for {KEYS} keys",
        began.elapsed().as_secs_f64() * 1000.0
    ))
}

/// The async side gives up while somebody else, who could be in another process, holds the key.
async fn cancelled(store: &KVFileStore) -> anyhow::Result<String> {
    let elsewhere = store.clone();
    let held = spawn_blocking(move || elsewhere.lock("slow")).await??;
    // With one permit: if the wait went on, nobody else could ask.
    let store = AsyncStore::new(store, 1);
    let slow = store.get_or_set("slow".to_owned(), |_| {
        bail!("somebody else is computing this")
    });
    ensure!(
        timeout(Duration::from_millis(100), slow).await.is_err(),
        "the wait ended although the key is locked"
    );
    let began = Instant::now();
    timeout(Duration::from_secs(10), store.idle(1))
        .await
        .context("the wait goes on although nobody wants the value")??;
    let took = began.elapsed();

    // Where it matters who gave up, the error's kind tells.
    let token = CancelToken::new();
    token.cancel();
    let view = store.store.with_cancel(&token);
    let outcome = spawn_blocking(move || view.get_or_set("slow", |_| Ok(()))).await?;
    let kind = outcome.err().map(|err| err.kind());
    ensure!(
        kind == Some(ErrorKind::Cancelled),
        "a cancelled call ended with {kind:?}"
    );
    drop(held);
    Ok(format!(
        "cancelled:  the thread of a call that nobody wanted any more was free after {:.1} ms",
        took.as_secs_f64() * 1000.0
    ))
}

fn main() -> anyhow::Result<()> {
    let dir = tempfile::tempdir().context("cannot create a temporary directory")?;
    let store = KVFileStore::new(dir.path().join("cache"))?;
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_time()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        let mut out = std::io::stdout();
        writeln!(out, "{}", unbounded(&store).await?)?;
        writeln!(out, "{}", bounded(&store).await?)?;
        writeln!(out, "{}", cancelled(&store).await?)?;
        anyhow::Ok(())
    })
}
