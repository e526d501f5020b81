//! A small HTTP/1.1 server on loopback that sends the rest of a file to who has its beginning.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use data_encoding::BASE64;
use fastrand::Rng;
use larder::ArtifactHash;
use ring::digest::{SHA256, digest};

use crate::http::{self, Fields};

const PIECE: usize = 64 << 10;

pub(crate) const WHOLE: &str = "200 OK";
pub(crate) const REST: &str = "206 Partial Content";
pub(crate) const NO_REST: &str = "416 Range Not Satisfiable";

/// One version of a file.
pub(crate) struct Content {
    bytes: Vec<u8>,
    pub(crate) sha256: ArtifactHash,
}

/// What was asked, and what was answered.
pub(crate) struct Exchange {
    /// The range's first byte; zero where none was asked for.
    pub(crate) asked: u64,
    pub(crate) status: &'static str,
    sent: Arc<AtomicU64>,
}

/// The server. Its threads end with the process.
pub(crate) struct Server {
    address: SocketAddr,
    desk: Arc<Desk>,
}

#[derive(Default)]
struct Desk(Mutex<State>);

#[derive(Default)]
struct State {
    files: HashMap<String, File>,
    exchanges: Vec<Exchange>,
    stop: Option<Stop>,
}

#[derive(Clone)]
struct File {
    content: Arc<Content>,
    heeds_if_range: bool,
}

struct Stop {
    after: u64,
    then: Box<dyn FnOnce() + Send>,
}

impl Content {
    pub(crate) fn random(len: u64, random: &mut Rng) -> anyhow::Result<Arc<Self>> {
        let mut bytes = vec![0; len as usize];
        random.fill(&mut bytes);
        let sha256 = ArtifactHash::new("sha256", digest(&SHA256, &bytes).as_ref())?;
        Ok(Arc::new(Content { bytes, sha256 }))
    }

    pub(crate) fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn etag(&self) -> String {
        format!("\"{}\"", BASE64.encode(&self.sha256.digest()[..6]))
    }

    /// The status, the head and the body for who wants what begins at `first`.
    fn part(&self, first: Option<u64>) -> (&'static str, String, &[u8]) {
        let len = self.len();
        if first.is_some_and(|first| first >= len) {
            return (NO_REST, format!("Content-Range: bytes */{len}\r\n"), &[]);
        }
        let digest = BASE64.encode(self.sha256.digest());
        let etag = self.etag();
        let mut head = format!("ETag: {etag}\r\nRepr-Digest: sha-256=:{digest}:\r\n");
        let Some(first) = first else {
            return (WHOLE, head, &self.bytes);
        };
        let last = len - 1;
        head.push_str(&format!("Content-Range: bytes {first}-{last}/{len}\r\n"));
        (REST, head, &self.bytes[first as usize..])
    }
}

impl Exchange {
    /// Bytes of the body, up to now. If the client dies, some of them never arrive.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Server {
    pub(crate) fn start() -> anyhow::Result<Self> {
        let desk = Arc::new(Desk::default());
        let shared = Arc::clone(&desk);
        let address = http::serve(move |path, fields, to| shared.answer(path, fields, to))?;
        Ok(Server { address, desk })
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Serves this from now on. There are servers that have no regard for `If-Range`.
    pub(crate) fn put(&self, path: &str, content: &Arc<Content>, heeds_if_range: bool) {
        let file = File {
            content: Arc::clone(content),
            heeds_if_range,
        };
        self.desk.state().files.insert(path.to_owned(), file);
    }

    /// Has the next body stop after so many bytes, or where it ends, and calls `then`. The connection stays,
    /// and nothing more comes until the client is gone.
    pub(crate) fn stop_next(&self, after: u64, then: impl FnOnce() + Send + 'static) {
        let then = Box::new(then);
        self.desk.state().stop = Some(Stop { after, then });
    }

    /// What it was asked since the last call of this.
    pub(crate) fn take_exchanges(&self) -> Vec<Exchange> {
        std::mem::take(&mut self.desk.state().exchanges)
    }
}

impl Desk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, path: &str, fields: &Fields, connection: &mut TcpStream) -> io::Result<()> {
        let Some(file) = self.state().files.get(path).cloned() else {
            return http::send_head(connection, "404 Not Found", "", 0);
        };
        let asked = first_of_range(fields);
        let (status, head, body) = file
            .content
            .part(asked.filter(|_| file.is_meant_by(fields)));
        let sent = Arc::new(AtomicU64::new(0));
        let stop = {
            let mut state = self.state();
            state.exchanges.push(Exchange {
                asked: asked.unwrap_or(0),
                status,
                sent: Arc::clone(&sent),
            });
            state.stop.take_if(|_| !body.is_empty())
        };
        http::send_head(connection, status, &head, body.len())?;
        let most = stop.as_ref().map_or(u64::MAX, |stop| stop.after);
        let most = most.min(body.len() as u64) as usize;
        for piece in body[..most].chunks(PIECE) {
            // Counted first, so that who has all of it finds all of it counted.
            sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
            connection.write_all(piece)?;
        }
        if let Some(stop) = stop {
            (stop.then)();
            connection.set_read_timeout(None)?;
            let _ = connection.read(&mut [0])?;
        }
        Ok(())
    }
}

impl File {
    /// Whether a request for a range is for one of this version.
    fn is_meant_by(&self, fields: &Fields) -> bool {
        let etag = fields.get("if-range").filter(|_| self.heeds_if_range);
        etag.is_none_or(|etag| *etag == self.content.etag())
    }
}

/// Of a range `N-`. Others may be passed over, and are.
fn first_of_range(fields: &Fields) -> Option<u64> {
    let range = fields.get("range")?.strip_prefix("bytes=")?;
    range.strip_suffix('-')?.parse().ok()
}
