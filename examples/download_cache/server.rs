//! A small, slow HTTP/1.1 server on loopback that counts what it is asked for.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::archives::Archive;
use crate::http;
use crate::package::Package;

/// In how many pieces a body is sent, with a pause after each.
const PIECES: usize = 16;

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
        let requests = archives.iter().map(|_| AtomicUsize::new(0)).collect();
        let shelf = Arc::new(Shelf { archives, requests });
        let shared = Arc::clone(&shelf);
        let address = http::serve(move |path, _, connection| answer(path, connection, &shared))?;
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

fn answer(path: &str, connection: &mut TcpStream, shelf: &Shelf) -> io::Result<()> {
    let place = shelf.archives.iter().position(|a| path == path_of(a));
    let Some(place) = place else {
        return http::send_head(connection, "404 Not Found", "", 0);
    };
    shelf.requests[place].fetch_add(1, Ordering::Relaxed);
    let body = &shelf.archives[place].bytes;
    let fields = "Content-Type: application/gzip\r\n";
    http::send_head(connection, "200 OK", fields, body.len())?;
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
