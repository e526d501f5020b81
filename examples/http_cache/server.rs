//! A small HTTP/1.1 server on loopback that counts what it is asked for.
//!
//! Just enough for this example: GET, one request for each connection, conditional ones too.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::Context;

use crate::site::{Requests, Run, SORTS, Sort, sha256};

/// How long it thinks, so that workers that ask at once do meet.
const PAUSE: Duration = Duration::from_millis(10);

/// Longer than any request of ours.
const MAX_HEAD_BYTES: u64 = 16 << 10;

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
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .context("cannot listen on a port of 127.0.0.1")?;
        let address = listener.local_addr()?;
        let site = Arc::new(Site {
            run,
            round: AtomicUsize::new(0),
            requests: Mutex::default(),
        });
        let shared = Arc::clone(&site);
        thread::Builder::new().spawn(move || accept(&listener, &shared))?;
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

fn accept(listener: &TcpListener, site: &Arc<Site>) {
    for connection in listener.incoming() {
        // A connection that fails is the client's to complain of.
        let Ok(connection) = connection else { continue };
        let site = Arc::clone(site);
        let answer = move || {
            let _ = site.answer(connection);
        };
        let _ = thread::Builder::new().spawn(answer);
    }
}

impl Site {
    fn answer(&self, mut connection: TcpStream) -> io::Result<()> {
        connection.set_read_timeout(Some(Duration::from_secs(10)))?;
        let (path, headers) = read_request(&connection)?;
        let Some(place) = SORTS.iter().position(|sort| sort.path() == path) else {
            return send(&mut connection, "404 Not Found", "", b"");
        };
        let (sort, round) = (SORTS[place], self.round.load(Ordering::SeqCst));
        thread::sleep(PAUSE);
        let header = |name: &str| headers.get(name).map_or("", String::as_str);
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
            send(&mut connection, "503 Service Unavailable", "", b"")
        } else if unchanged {
            count(|requests| requests.unchanged += 1);
            send(&mut connection, "304 Not Modified", &head, b"")
        } else {
            count(|requests| requests.whole += 1);
            send(&mut connection, "200 OK", &head, &body)
        }
    }
}

fn send(connection: &mut TcpStream, status: &str, head: &str, body: &[u8]) -> io::Result<()> {
    write!(
        connection,
        "HTTP/1.1 {status}\r\n{head}Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )?;
    connection.write_all(body)
}

/// The path that is asked for, and the headers by their names in lower case.
fn read_request(connection: &TcpStream) -> io::Result<(String, HashMap<String, String>)> {
    let mut head = BufReader::new(connection.take(MAX_HEAD_BYTES));
    let mut line = String::new();
    head.read_line(&mut line)?;
    let path = line
        .strip_prefix("GET ")
        .and_then(|rest| rest.split(' ').next());
    let path = path.unwrap_or_default().to_owned();
    let mut headers = HashMap::new();
    loop {
        line.clear();
        head.read_line(&mut line)?;
        let Some((name, value)) = line.split_once(':') else {
            return Ok((path, headers));
        };
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
}
