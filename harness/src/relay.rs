//! What lies between two programs, and does what no real network does on demand.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use levee_policy::random::SplitMix64;

use crate::clock::Stopwatch;

/// Passes bytes on, until it is told to lose a reply.
#[derive(Debug)]
pub struct Relay {
    /// Where it listens.
    pub address: SocketAddr,
    lose: Arc<Mutex<Option<Vec<u8>>>>,
    count: Arc<AtomicU64>,
}

impl Relay {
    /// Begins to pass on to `upstream`.
    pub fn to(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("listen");
        let relay = Self {
            address: listener.local_addr().expect("an address"),
            lose: Arc::default(),
            count: Arc::default(),
        };
        let (lose, count) = (relay.lose.clone(), relay.count.clone());
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(upstream) else {
                    continue;
                };
                pass(client, server, lose.clone(), count.clone());
            }
        });
        relay
    }

    /// The next command with these bytes reaches Redis and is executed, but its reply is lost, and the
    /// connection with it.
    pub fn lose_reply_to(&self, bytes: &str) {
        *self.lose.lock().expect("no thread has failed") = Some(bytes.as_bytes().to_vec());
    }

    /// How many replies were lost.
    pub fn lost(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }
}

fn pass(
    client: TcpStream,
    server: TcpStream,
    lose: Arc<Mutex<Option<Vec<u8>>>>,
    count: Arc<AtomicU64>,
) {
    let loses = Arc::new(Mutex::new(false));
    let copies = (client.try_clone(), server.try_clone(), loses.clone());
    thread::spawn(move || {
        let (Ok(mut client), Ok(mut server), loses) = copies else {
            return;
        };
        let mut chunk = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = client.read(&mut chunk) {
            let bytes = &chunk[..read];
            let mut wanted = lose.lock().expect("no thread has failed");
            let is_it = wanted
                .as_ref()
                .is_some_and(|wanted| bytes.windows(wanted.len()).any(|part| part == wanted));
            if is_it {
                *wanted = None;
                *loses.lock().expect("no thread has failed") = true;
            }
            drop(wanted);
            if server.write_all(bytes).is_err() {
                break;
            }
        }
        let _ = server.shutdown(Shutdown::Both);
    });
    thread::spawn(move || {
        let (mut client, mut server) = (client, server);
        let mut chunk = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = server.read(&mut chunk) {
            if *loses.lock().expect("no thread has failed") {
                count.fetch_add(1, Ordering::SeqCst);
                break;
            }
            if client.write_all(&chunk[..read]).is_err() {
                break;
            }
        }
        let _ = client.shutdown(Shutdown::Both);
        let _ = server.shutdown(Shutdown::Both);
    });
}

/// A server that takes each connection and closes it at once, and knows when that was.
#[derive(Debug)]
pub struct Dead {
    /// Where it listens.
    pub address: SocketAddr,
    at: Arc<Mutex<Vec<Duration>>>,
}

impl Dead {
    /// Begins.
    pub fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("listen");
        let address = listener.local_addr().expect("an address");
        let at: Arc<Mutex<Vec<Duration>>> = Arc::default();
        let seen = at.clone();
        let clock = Stopwatch::start();
        thread::spawn(move || {
            for client in listener.incoming() {
                seen.lock()
                    .expect("no thread has failed")
                    .push(clock.elapsed());
                drop(client);
            }
        });
        Self { address, at }
    }

    /// When connections came, since the start.
    pub fn attempts(&self) -> Vec<Duration> {
        self.at.lock().expect("no thread has failed").clone()
    }
}

/// A server that answers each connection's first bytes by its own, one after the other, and closes.
pub fn answering(answers: Vec<Vec<u8>>) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("listen");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for (client, answer) in listener.incoming().flatten().zip(answers) {
            let mut client = client;
            let _ = client.read(&mut [0; 1024]);
            let _ = client.write_all(&answer);
        }
    });
    address
}

/// Passes bytes on, and cuts each connection after a number of bytes that nobody knows before: in the middle of
/// commands, of replies, or between them.
#[derive(Debug)]
pub struct Flaky {
    /// Where it listens.
    pub address: SocketAddr,
    cuts: Arc<AtomicU64>,
    calm: Arc<AtomicBool>,
}

impl Flaky {
    /// Begins to pass on to `upstream`, at most so many bytes on a connection in each direction.
    pub fn to(upstream: SocketAddr, seed: u64, most_bytes: u64) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("listen");
        let flaky = Self {
            address: listener.local_addr().expect("an address"),
            cuts: Arc::default(),
            calm: Arc::default(),
        };
        let (cuts, calm) = (flaky.cuts.clone(), flaky.calm.clone());
        let mut random = SplitMix64::new(seed);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(upstream) else {
                    continue;
                };
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let _ = to.set_nodelay(true);
                    let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) else {
                        continue;
                    };
                    let most = random.next_u64() % most_bytes;
                    let (cuts, calm) = (cuts.clone(), calm.clone());
                    thread::spawn(move || pass_some(from, to, most, &cuts, &calm));
                }
            }
        });
        flaky
    }

    /// How many connections were cut.
    pub fn cuts(&self) -> u64 {
        self.cuts.load(Ordering::SeqCst)
    }

    /// Cuts no more.
    pub fn calm_down(&self) {
        self.calm.store(true, Ordering::SeqCst);
    }
}

fn pass_some(
    mut from: TcpStream,
    mut to: TcpStream,
    mut left: u64,
    cuts: &AtomicU64,
    calm: &AtomicBool,
) {
    let mut chunk = vec![0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut chunk) {
        let is_last = read as u64 > left && !calm.load(Ordering::SeqCst);
        let passed = if is_last {
            cuts.fetch_add(1, Ordering::SeqCst);
            usize::try_from(left).unwrap_or(read)
        } else {
            read
        };
        if to.write_all(&chunk[..passed]).is_err() || is_last {
            break;
        }
        left = left.saturating_sub(read as u64);
    }
    // Bytes that have come are still handed over: both ends see an orderly close.
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
