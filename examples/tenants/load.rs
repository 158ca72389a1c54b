//! The load: a client for each tenant, which loads documents and asks for their words.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::run::Failure;
use crate::service::MOST_WORDS;

/// The tenant that wants more than it may have.
pub(crate) const GREEDY: &str = "greedy";
const TENANTS: [&str; 4] = ["ada", "brook", "cara", GREEDY];
/// Documents of a tenant that keeps within its limit.
const DOCUMENTS: usize = 60;

/// What one client has seen.
#[derive(Default)]
pub(crate) struct Client {
    pub(crate) requests: usize,
    /// Documents that there was no room for.
    pub(crate) refused: usize,
    /// Answers that are neither that nor right.
    pub(crate) failed: usize,
}

/// What all have seen.
pub(crate) struct Load {
    clients: Vec<(&'static str, Client)>,
    length: Duration,
}

impl Load {
    pub(crate) fn of(&self, tenant: &str) -> &Client {
        let client = self.clients.iter().find(|(name, _)| *name == tenant);
        client.map_or(&self.clients[0].1, |(_, client)| client)
    }

    pub(crate) fn requests(&self) -> usize {
        self.clients.iter().map(|(_, client)| client.requests).sum()
    }

    pub(crate) fn seconds(&self) -> f64 {
        self.length.as_secs_f64()
    }

    /// Evicts all tenants.
    pub(crate) fn evict(&self, address: SocketAddr) -> Result<(), Failure> {
        let mut connection = Connection::new(address)?;
        for (tenant, _) in &self.clients {
            let (status, _) = connection.ask("DELETE", &format!("/{tenant}"), "")?;
            if status != 200 {
                return Err(format!("{tenant} is not evicted: {status}").into());
            }
        }
        Ok(())
    }
}

/// A connection that is kept open.
struct Connection(BufReader<TcpStream>);

impl Connection {
    fn new(address: SocketAddr) -> Result<Self, Failure> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Sends a request; returns the status and the text of the answer.
    fn ask(&mut self, method: &str, path: &str, body: &str) -> Result<(u16, String), Failure> {
        let length = body.len();
        let request = format!("{method} {path} HTTP/1.1\r\nHost: tenants\r\nContent-Length: {length}\r\n\r\n{body}");
        self.0.get_mut().write_all(request.as_bytes())?;
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        let status = line.split(' ').nth(1).ok_or("no status")?.parse()?;
        let mut answered = 0;
        loop {
            line.clear();
            if self.0.read_line(&mut line)? == 0 {
                return Err("the connection was closed".into());
            }
            let header = line.trim_end().to_ascii_lowercase();
            match header.strip_prefix("content-length:") {
                Some(value) => answered = value.trim().parse()?,
                None if header.is_empty() => break,
                None => {}
            }
        }
        let mut text = vec![0; answered];
        self.0.read_exact(&mut text)?;
        Ok((status, String::from_utf8(text)?))
    }
}

/// A document: so many words, of which each is there as often as the others, or once more.
fn document(seed: usize, words: usize) -> String {
    (0..words).map(|index| format!("word{:03} ", (index + seed) % 250)).collect()
}

/// One client at work until a moment.
fn work(address: SocketAddr, tenant: &str, until: Instant) -> Result<Client, Failure> {
    let mut connection = Connection::new(address)?;
    let mut client = Client::default();
    let mut loaded = 0;
    let mut step = 0;
    // Each has loaded what it wants, however short the time is.
    while Instant::now() < until || loaded < DOCUMENTS {
        client.requests += 1;
        step += 1;
        let words = 2500 + 100 * (loaded % 7);
        if loaded < DOCUMENTS || tenant == GREEDY && step % 4 == 0 {
            // The greedy one's are eight times as long.
            let text = document(loaded, if tenant == GREEDY { 8 * words } else { words });
            match connection.ask("PUT", &format!("/{tenant}/{loaded}"), &text)?.0 {
                201 => {}
                507 => client.refused += 1,
                _ => client.failed += 1,
            }
            loaded += 1;
            continue;
        }
        let (status, answer) = connection.ask("GET", &format!("/{tenant}/{}", step % loaded), "")?;
        let counted: usize = answer.lines().filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok()).sum();
        let is_right = status == 200 && answer.lines().count() == MOST_WORDS && counted >= 10 * MOST_WORDS;
        client.failed += usize::from(!(is_right || tenant == GREEDY && status == 404));
    }
    Ok(client)
}

/// Runs all clients for that long.
pub(crate) fn run(address: SocketAddr, length: Duration) -> Result<Load, Failure> {
    let begun = Instant::now();
    let clients = TENANTS.map(|tenant| (tenant, std::thread::spawn(move || work(address, tenant, begun + length))));
    let mut done = Vec::new();
    for (tenant, client) in clients {
        done.push((tenant, client.join().map_err(|_| "a client has panicked")??));
    }
    Ok(Load { clients: done, length: begun.elapsed() })
}
