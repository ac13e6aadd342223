//! A network between two programs that fails on demand.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use levee_policy::random::SplitMix64;
use levee_redis_session::proof::QUESTION;
use socket2::{SockFilter, SockRef};

use crate::clock::Stopwatch;
use crate::error::{Context, Result};
use crate::lock::lock;

/// Forwards bytes, and loses a reply, or all from then on, on demand.
#[derive(Debug)]
pub struct Relay {
    /// Where it listens.
    pub address: SocketAddr,
    lose: Arc<Mutex<Option<Vec<u8>>>>,
    count: Arc<AtomicU64>,
    listener: Arc<TcpListener>,
    connections: Arc<Mutex<Vec<Connection>>>,
}

/// How a connection is lost without being closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// No packet is answered any more, as behind a firewall that has forgotten the connection.
    Dropped,
    /// What arrives is acknowledged, and goes nowhere, not even that the other end closes: as with a peer that hangs.
    Swallowed,
}

#[derive(Debug)]
struct Connection {
    ends: [TcpStream; 2],
    swallows: Arc<AtomicBool>,
}

/// Makes the kernel drop all packets for a socket before it sees them.
fn drop_packets(socket: &impl AsFd) -> Result<()> {
    // The filter program "return 0 bytes of the packet" (BPF_RET | BPF_K).
    let nothing = SockFilter::new(0x06, 0, 0, 0);
    SockRef::from(socket)
        .attach_filter(&[nothing])
        .context("filter a socket")
}

impl Relay {
    /// Starts forwarding to `upstream`.
    pub fn to(upstream: SocketAddr) -> Result<Self> {
        let (listener, address) = listen()?;
        let relay = Self {
            address,
            lose: Arc::default(),
            count: Arc::default(),
            listener: Arc::new(listener),
            connections: Arc::default(),
        };
        let (lose, count) = (relay.lose.clone(), relay.count.clone());
        let (listener, connections) = (relay.listener.clone(), relay.connections.clone());
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(upstream) else {
                    continue;
                };
                let swallows = Arc::new(AtomicBool::new(false));
                if let (Ok(one), Ok(other)) = (client.try_clone(), server.try_clone()) {
                    lock(&connections).push(Connection {
                        ends: [one, other],
                        swallows: swallows.clone(),
                    });
                }
                pass(client, server, lose.clone(), count.clone(), swallows);
            }
        });
        Ok(relay)
    }

    /// Loses all connections that it has, without closing them. New ones work.
    pub fn silence(&self, silence: Silence) -> Result<()> {
        for connection in lock(&self.connections).iter() {
            match silence {
                Silence::Dropped => connection.ends.iter().try_for_each(drop_packets)?,
                Silence::Swallowed => connection.swallows.store(true, Ordering::SeqCst),
            }
        }
        Ok(())
    }

    /// As [`Self::silence`], and nobody can connect any more: attempts are not answered.
    pub fn isolate(&self, silence: Silence) -> Result<()> {
        drop_packets(&*self.listener)?;
        self.silence(silence)
    }

    /// The next command with this word reaches Redis and is executed, but its reply and the connection are lost.
    pub fn lose_reply_to(&self, word: &str) {
        *lock(&self.lose) = Some(word.as_bytes().to_vec());
    }

    /// How many replies were lost.
    pub fn lost(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }
}

fn listen() -> Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen on 127.0.0.1")?;
    let address = listener.local_addr().context("the address of a listener")?;
    Ok((listener, address))
}

/// Whether a command has this word as a whole: `CLIENT SETINFO` of a probe is no `SET`.
fn has_word(bytes: &[u8], word: &[u8]) -> bool {
    bytes.windows(word.len()).enumerate().any(|(at, part)| {
        let before = at.checked_sub(1).and_then(|at| bytes.get(at));
        let after = bytes.get(at + word.len());
        part == word
            && before.is_none_or(|byte| *byte == b'\n')
            && after.is_none_or(|byte| b" \r".contains(byte))
    })
}

fn pass(
    client: TcpStream,
    server: TcpStream,
    lose: Arc<Mutex<Option<Vec<u8>>>>,
    count: Arc<AtomicU64>,
    swallows: Arc<AtomicBool>,
) {
    let loses = Arc::new(AtomicBool::new(false));
    let copies = (client.try_clone(), server.try_clone(), loses.clone());
    let swallows_too = swallows.clone();
    thread::spawn(move || {
        let swallows = swallows_too;
        let (Ok(mut client), Ok(mut server), loses) = copies else {
            return;
        };
        let mut chunk = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = client.read(&mut chunk) {
            let bytes = &chunk[..read];
            let mut wanted = lock(&lose);
            let is_it = wanted
                .as_ref()
                .is_some_and(|wanted| has_word(bytes, wanted));
            if is_it {
                *wanted = None;
                loses.store(true, Ordering::SeqCst);
            }
            drop(wanted);
            if swallows.load(Ordering::SeqCst) {
                continue;
            }
            if server.write_all(bytes).is_err() {
                break;
            }
        }
        if !swallows.load(Ordering::SeqCst) {
            let _ = server.shutdown(Shutdown::Both);
        }
    });
    thread::spawn(move || {
        let (mut client, mut server) = (client, server);
        let mut chunk = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = server.read(&mut chunk) {
            if loses.load(Ordering::SeqCst) {
                count.fetch_add(1, Ordering::SeqCst);
                break;
            }
            if swallows.load(Ordering::SeqCst) {
                continue;
            }
            if client.write_all(&chunk[..read]).is_err() {
                break;
            }
        }
        if !swallows.load(Ordering::SeqCst) {
            let _ = client.shutdown(Shutdown::Both);
            let _ = server.shutdown(Shutdown::Both);
        }
    });
}

/// A server that closes each connection at once and records when.
#[derive(Debug)]
pub struct Dead {
    /// Where it listens.
    pub address: SocketAddr,
    at: Arc<Mutex<Vec<Duration>>>,
}

impl Dead {
    /// Starts it.
    pub fn start() -> Result<Self> {
        let (listener, address) = listen()?;
        let at: Arc<Mutex<Vec<Duration>>> = Arc::default();
        let seen = at.clone();
        let clock = Stopwatch::start();
        thread::spawn(move || {
            for client in listener.incoming() {
                lock(&seen).push(clock.elapsed());
                drop(client);
            }
        });
        Ok(Self { address, at })
    }

    /// When connections came, since the start.
    pub fn attempts(&self) -> Vec<Duration> {
        lock(&self.at).clone()
    }
}

/// A server that sends one of `answers` on each connection, in order, after its first bytes other than PING, and closes it.
/// It answers a probe of the sidecar by closing.
pub fn answering(answers: Vec<Vec<u8>>) -> Result<SocketAddr> {
    let (listener, address) = listen()?;
    thread::spawn(move || {
        let mut answers = answers.into_iter().peekable();
        for mut client in listener.incoming().flatten() {
            let mut bytes = [0; 1024];
            let mut read = client.read(&mut bytes).unwrap_or(0);
            while &bytes[..read] == QUESTION {
                let _ = client.write_all(b"+PONG\r\n");
                read = client.read(&mut bytes).unwrap_or(0);
            }
            // How the client library of its probes begins, or a connection that was not needed.
            if read == 0 || String::from_utf8_lossy(&bytes[..read]).contains("SETINFO") {
                continue;
            }
            let Some(answer) = answers.next() else {
                return;
            };
            let _ = client.write_all(&answer);
            if answers.peek().is_none() {
                return;
            }
        }
    });
    Ok(address)
}

/// Forwards bytes, and cuts each connection after a random number of them: within commands, within replies, or between
/// them.
#[derive(Debug)]
pub struct Flaky {
    /// Where it listens.
    pub address: SocketAddr,
    cuts: Arc<AtomicU64>,
    calm: Arc<AtomicBool>,
}

impl Flaky {
    /// Starts forwarding to `upstream`, fewer than `most_bytes` on a connection in each direction.
    pub fn to(upstream: SocketAddr, seed: u64, most_bytes: u64) -> Result<Self> {
        let (listener, address) = listen()?;
        let flaky = Self {
            address,
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
        Ok(flaky)
    }

    /// How many connections were cut.
    pub fn cuts(&self) -> u64 {
        self.cuts.load(Ordering::SeqCst)
    }

    /// Stops cutting.
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
    // Bytes that were forwarded still arrive: both ends see an orderly close.
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
