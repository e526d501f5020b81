//! Just enough of HTTP/1.1 for the servers of the examples: GET on loopback, one request for each
//! connection, bodies of known length.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::Context;

/// Longer than any request of ours.
const MAX_HEAD_BYTES: u64 = 16 << 10;

/// The fields of a request, by their names in lower case.
pub(crate) type Fields = HashMap<String, String>;

/// Answers each request, in a thread of its own, until the process ends. What is no GET has no path.
pub(crate) fn serve(
    answer: impl Fn(&str, &Fields, &mut TcpStream) -> io::Result<()> + Send + Sync + 'static,
) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .context("cannot listen on a port of 127.0.0.1")?;
    let address = listener.local_addr()?;
    let answer = Arc::new(answer);
    let accept = move || {
        for connection in listener.incoming() {
            // A connection that fails is the client's to complain of.
            let Ok(mut connection) = connection else {
                continue;
            };
            let answer = Arc::clone(&answer);
            let answer = move || {
                let (path, fields) = read_request(&connection)?;
                answer(&path, &fields, &mut connection)
            };
            let _ = thread::Builder::new().spawn(answer);
        }
    };
    thread::Builder::new().spawn(accept)?;
    Ok(address)
}

/// Everything of a response but its body. `fields` are whole lines.
pub(crate) fn send_head(
    connection: &mut TcpStream,
    status: &str,
    fields: &str,
    body_len: usize,
) -> io::Result<()> {
    write!(
        connection,
        "HTTP/1.1 {status}\r\n{fields}Content-Length: {body_len}\r\nConnection: close\r\n\r\n"
    )
}

fn read_request(connection: &TcpStream) -> io::Result<(String, Fields)> {
    connection.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut head = BufReader::new(connection.take(MAX_HEAD_BYTES));
    let mut line = String::new();
    head.read_line(&mut line)?;
    let path = line
        .strip_prefix("GET ")
        .and_then(|rest| rest.split(' ').next());
    let path = path.unwrap_or_default().to_owned();
    let mut fields = Fields::new();
    loop {
        line.clear();
        head.read_line(&mut line)?;
        let Some((name, value)) = line.split_once(':') else {
            return Ok((path, fields));
        };
        fields.insert(name.to_lowercase(), value.trim().to_owned());
    }
}
