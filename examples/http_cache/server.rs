//! A small HTTP/1.1 server on loopback that counts what it is asked for.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::http::{self, Fields};
use crate::site::{Requests, Run, SORTS, Sort, sha256};

/// How long it thinks, so that workers that ask at once do meet.
const PAUSE: Duration = Duration::from_millis(10);

const LAST_MODIFIED: &str = "Wed, 01 Jan 2025 00:00:00 GMT";

/// The server. Its threads end with the process.
#[derive(Debug)]
pub(crate) struct Server {
    address: SocketAddr,
    site: Arc<Site>,
}

#[derive(Debug)]
struct Site {
    run: Run,
    round: AtomicUsize,
    requests: Mutex<[Requests; SORTS.len()]>,
}

impl Server {
    pub(crate) fn start(run: Run) -> anyhow::Result<Self> {
        let site = Arc::new(Site {
            run,
            round: AtomicUsize::new(0),
            requests: Mutex::default(),
        });
        let shared = Arc::clone(&site);
        let address = http::serve(move |path, fields, to| shared.answer(path, fields, to))?;
        Ok(Server { address, site })
    }

    pub(crate) fn url(&self, sort: Sort) -> String {
        format!("http://{}{}", self.address, sort.path())
    }

    pub(crate) fn begin(&self, round: usize) {
        self.site.round.store(round, Ordering::SeqCst);
    }

    /// What it was asked for until now, in the order of [`SORTS`].
    pub(crate) fn requests(&self) -> [Requests; SORTS.len()] {
        let requests = self.site.requests.lock();
        *requests.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Site {
    fn answer(&self, path: &str, fields: &Fields, connection: &mut TcpStream) -> io::Result<()> {
        let Some(place) = SORTS.iter().position(|sort| sort.path() == path) else {
            return send(connection, "404 Not Found", "", b"");
        };
        let (sort, round) = (SORTS[place], self.round.load(Ordering::SeqCst));
        thread::sleep(PAUSE);
        let header = |name: &str| fields.get(name).map_or("", String::as_str);
        let body = sort.body(header("accept-language"), self.run, round);
        let tag = format!("\"{}\"", sha256(&body));
        let (validator, unchanged) = match sort {
            Sort::Dated => (
                format!("Last-Modified: {LAST_MODIFIED}\r\n"),
                header("if-modified-since") == LAST_MODIFIED,
            ),
            _ => (format!("ETag: {tag}\r\n"), header("if-none-match") == tag),
        };
        let vary = match sort {
            Sort::Varying => "Vary: Accept-Language\r\n",
            _ => "",
        };
        let head = format!(
            "Cache-Control: {}\r\n{validator}{vary}",
            sort.cache_control()
        );
        let count = |note: fn(&mut Requests)| {
            let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
            note(&mut requests[place]);
        };
        if sort.fails(self.run, round) {
            count(|requests| requests.failed += 1);
            send(connection, "503 Service Unavailable", "", b"")
        } else if unchanged {
            count(|requests| requests.unchanged += 1);
            send(connection, "304 Not Modified", &head, b"")
        } else {
            count(|requests| requests.whole += 1);
            send(connection, "200 OK", &head, &body)
        }
    }
}

fn send(connection: &mut TcpStream, status: &str, head: &str, body: &[u8]) -> io::Result<()> {
    http::send_head(connection, status, head, body.len())?;
    connection.write_all(body)
}
