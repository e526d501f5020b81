//! A small, slow HTTP/1.1 server on loopback that counts what it is asked for.
//!
//! Just enough for this example: GET, one request for each connection, bodies of known length.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Context;

use crate::archives::Archive;
use crate::package::Package;

/// In how many pieces a body is sent, with a pause after each.
const PIECES: usize = 16;

/// Longer than any request of ours.
const MAX_HEAD_BYTES: u64 = 16 << 10;

/// The server. Its threads end with the process.
#[derive(Debug)]
pub(crate) struct Server {
    address: SocketAddr,
    shelf: Arc<Shelf>,
}

#[derive(Debug)]
struct Shelf {
    archives: Vec<Archive>,
    /// How often each was asked for, in the same order.
    requests: Vec<AtomicUsize>,
}

impl Server {
    pub(crate) fn start(archives: Vec<Archive>) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .context("cannot listen on a port of 127.0.0.1")?;
        let address = listener.local_addr()?;
        let requests = archives.iter().map(|_| AtomicUsize::new(0)).collect();
        let shelf = Arc::new(Shelf { archives, requests });
        let shared = Arc::clone(&shelf);
        thread::Builder::new().spawn(move || accept(&listener, &shared))?;
        Ok(Server { address, shelf })
    }

    /// What is served, in the order of [`requests`](Self::requests).
    pub(crate) fn packages(&self) -> Vec<Package> {
        let package = |archive: &Archive| {
            let path = path_of(archive);
            let url = format!("http://{}{path}", self.address);
            Package::served(url, &path, archive.sha256.clone())
        };
        self.shelf.archives.iter().map(package).collect()
    }

    /// How often each package was asked for until now.
    pub(crate) fn requests(&self) -> Vec<usize> {
        let counts = self.shelf.requests.iter();
        counts.map(|count| count.load(Ordering::Relaxed)).collect()
    }
}

fn path_of(archive: &Archive) -> String {
    format!("/archives/{}", archive.name)
}

fn accept(listener: &TcpListener, shelf: &Arc<Shelf>) {
    for connection in listener.incoming() {
        // A connection that fails is the client's to complain of.
        let Ok(connection) = connection else { continue };
        let shelf = Arc::clone(shelf);
        let answer = move || {
            let _ = answer(connection, &shelf);
        };
        let _ = thread::Builder::new().spawn(answer);
    }
}

fn answer(mut connection: TcpStream, shelf: &Shelf) -> io::Result<()> {
    connection.set_read_timeout(Some(Duration::from_secs(10)))?;
    let path = read_request(&connection)?;
    let place = shelf
        .archives
        .iter()
        .position(|a| path.as_deref() == Some(&*path_of(a)));
    let Some(place) = place else {
        return connection.write_all(
            b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        );
    };
    shelf.requests[place].fetch_add(1, Ordering::Relaxed);
    let body = &shelf.archives[place].bytes;
    write!(
        connection,
        "HTTP/1.1 200 OK\r\nContent-Type: application/gzip\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        body.len()
    )?;
    let pause = time_for(place) / PIECES as u32;
    for piece in body.chunks(body.len().div_ceil(PIECES).max(1)) {
        connection.write_all(piece)?;
        thread::sleep(pause);
    }
    Ok(())
}

/// How long an archive takes: from 0.3 to 0.6 s, whatever its size.
fn time_for(place: usize) -> Duration {
    Duration::from_millis(300 + 70 * (place as u64 % 5))
}

/// The path that is asked for; `None` for what is no GET.
fn read_request(connection: &TcpStream) -> io::Result<Option<String>> {
    let mut head = BufReader::new(connection.take(MAX_HEAD_BYTES));
    let mut first = String::new();
    head.read_line(&mut first)?;
    let mut line = String::new();
    while head.read_line(&mut line)? > 2 {
        line.clear();
    }
    let mut words = first.split_whitespace();
    let get = words.next() == Some("GET");
    Ok(words.next().filter(|_| get).map(str::to_owned))
}
