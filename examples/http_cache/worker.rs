//! One worker: a program that wants some URLs, as one of several that know nothing of each other but
//! the store's directory.

use std::io::{self, BufRead, Read, Write};
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use ureq::http::Request;

use crate::cache::HttpCache;
use crate::site::sha256;

/// Each line of standard input is a round: what time it is, and the URLs to get. Tells of each of them,
/// in a line, where it came from, its status, its SHA-256 and its `ETag`.
pub(crate) fn run(language: &str, store: &Path) -> anyhow::Result<()> {
    let cache = HttpCache::open(store)?;
    for line in io::stdin().lock().lines() {
        let line = line.context("cannot read what to get")?;
        let mut words = line.split(' ');
        let seconds = words.next().unwrap_or_default().parse();
        let now =
            SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.context("what time is it?")?);
        for url in words {
            let request = Request::get(url).header("accept-language", language);
            let (request, ()) = request.body(())?.into_parts();
            let mut answer = cache.get(&request, now)?;
            let mut body = Vec::new();
            let read = answer.body.read_to_end(&mut body);
            read.with_context(|| format!("cannot read {url}"))?;
            let tag = answer.headers.get("etag").map(|tag| tag.to_str());
            writeln!(
                io::stdout(),
                "{:?} {} {} {}",
                answer.source,
                answer.status.as_u16(),
                sha256(&body),
                tag.transpose()?.unwrap_or("-")
            )?;
        }
    }
    Ok(())
}
