//! A network between a proxy and Redis that fails at single commands, as a script says.
//!
//! What it drops never arrives later: a command reaches Redis at once or not at all.

use std::fmt::Debug;
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use levee_redis_session::resp::{CommandScanner, ReplyScanner};
use socket2::SockRef;

use crate::error::{Context, Result};
use crate::frames;
use crate::lock::lock;

/// What becomes of a command on its way, and of its reply on the way back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Nothing happens.
    Passes,
    /// It is executed. Its reply is lost, and the connection is closed.
    ReplyLost,
    /// It is executed. Half of its reply arrives, and the connection is closed.
    ReplyCut,
    /// It is executed. Its reply takes this long.
    ReplyLate(Duration),
    /// It is executed, and then the connection stops without a word.
    SilenceAfter,
    /// The connection stops without a word before it.
    SilenceBefore,
    /// The connection is closed before it.
    Closed,
    /// Half of it arrives, and the connection is closed.
    Cut,
}

/// What becomes of a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Welcome {
    /// It leads to Redis.
    Passes,
    /// It is accepted and closed, as by a balancer that has nothing behind it.
    Closed,
}

/// Says what goes wrong.
pub trait Script: Debug + Send {
    /// There is a new connection.
    fn connection(&mut self) -> Welcome;
    /// A command is about to be passed on.
    fn command(&mut self, command: &[u8]) -> Fate;
}

/// Nothing goes wrong.
#[derive(Clone, Copy, Debug)]
pub struct Calm;

impl Script for Calm {
    fn connection(&mut self) -> Welcome {
        Welcome::Passes
    }

    fn command(&mut self, _: &[u8]) -> Fate {
        Fate::Passes
    }
}

/// See the [module](self). Only for connections where each command has one reply.
#[derive(Debug)]
pub struct Trouble {
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    script: Mutex<Box<dyn Script>>,
    lost: AtomicU64,
}

impl Trouble {
    /// Starts forwarding to `upstream`, without trouble.
    pub fn before(upstream: SocketAddr) -> Result<Self> {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen on 127.0.0.1")?;
        let address = listener.local_addr().context("the address of a listener")?;
        let shared = Arc::new(Shared {
            script: Mutex::new(Box::new(Calm)),
            lost: AtomicU64::new(0),
        });
        let of_all = shared.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // Dropping the client closes it.
                if lock(&of_all.script).connection() == Welcome::Passes
                    && let Ok(server) = TcpStream::connect(upstream)
                {
                    forward(&client, &server, &of_all);
                }
            }
        });
        Ok(Self { address, shared })
    }

    /// From now on `script` says what goes wrong, on connections that are there too.
    pub fn follow(&self, script: impl Script + 'static) {
        *lock(&self.shared.script) = Box::new(script);
    }

    /// How many replies of Redis did not arrive, or not whole.
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::SeqCst)
    }
}

/// One connection, in one direction.
struct Way {
    from: TcpStream,
    to: TcpStream,
    /// The connection has stopped without a word.
    is_silent: Arc<AtomicBool>,
    shared: Arc<Shared>,
}

/// Whether a connection goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    GoesOn,
    Ends,
}

fn forward(client: &TcpStream, server: &TcpStream, shared: &Arc<Shared>) {
    let is_silent = Arc::new(AtomicBool::new(false));
    let way = |from: &TcpStream, to: &TcpStream| {
        to.set_nodelay(true).ok()?;
        Some(Way {
            from: from.try_clone().ok()?,
            to: to.try_clone().ok()?,
            is_silent: is_silent.clone(),
            shared: shared.clone(),
        })
    };
    let (Some(there), Some(back)) = (way(client, server), way(server, client)) else {
        return;
    };
    let (fates, replies) = channel();
    thread::spawn(move || there.pass_commands(&fates));
    thread::spawn(move || back.pass_replies(&replies));
}

impl Way {
    fn pass_commands(mut self, fates: &Sender<Fate>) {
        let (mut scanner, mut bytes, mut at) = (CommandScanner::default(), Vec::new(), 0);
        while self.read(&mut bytes) == Next::GoesOn {
            // What is no command goes to Redis, which closes the connection.
            while let Ok(progress) = scanner.advance(bytes.get(at..).unwrap_or_default()) {
                let Some(command) = frames::take(&mut bytes, &mut at, progress) else {
                    break;
                };
                if self.pass_command(&command, fates) == Next::Ends {
                    self.close();
                    return;
                }
            }
        }
        self.close();
    }

    fn pass_command(&mut self, command: &[u8], fates: &Sender<Fate>) -> Next {
        if self.is_silent() {
            return Next::GoesOn;
        }
        if self.has_been_left() {
            return Next::Ends;
        }
        let fate = lock(&self.shared.script).command(command);
        match fate {
            Fate::Closed => return Next::Ends,
            Fate::SilenceBefore => {
                self.is_silent.store(true, Ordering::SeqCst);
                return Next::GoesOn;
            }
            Fate::Cut => {
                let half = command.len() / 2;
                let _ = self.to.write_all(command.get(..half).unwrap_or_default());
                return Next::Ends;
            }
            _ => {}
        }
        let _ = fates.send(fate);
        match self.to.write_all(command) {
            Ok(()) => Next::GoesOn,
            Err(_) => Next::Ends,
        }
    }

    /// The sender has closed the connection, and must not be surprised by what still arrives.
    fn has_been_left(&self) -> bool {
        let look = libc::MSG_PEEK | libc::MSG_DONTWAIT;
        let mut byte = [MaybeUninit::uninit()];
        match SockRef::from(&self.from).recv_with_flags(&mut byte, look) {
            Ok(read) => read == 0,
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        }
    }

    fn pass_replies(mut self, fates: &Receiver<Fate>) {
        let (mut scanner, mut bytes, mut at) = (ReplyScanner::default(), Vec::new(), 0);
        while self.read(&mut bytes) == Next::GoesOn {
            while let Ok(progress) = scanner.advance(bytes.get(at..).unwrap_or_default()) {
                let Some(reply) = frames::take(&mut bytes, &mut at, progress) else {
                    break;
                };
                let fate = fates.try_recv().unwrap_or(Fate::Passes);
                if self.pass_reply(&reply, fate) == Next::Ends {
                    self.close();
                    return;
                }
            }
        }
        // A silent connection is closed when its client closes it.
        if !self.is_silent() {
            self.close();
        }
    }

    fn pass_reply(&mut self, reply: &[u8], fate: Fate) -> Next {
        if fate == Fate::SilenceAfter {
            self.is_silent.store(true, Ordering::SeqCst);
        }
        if let Fate::ReplyLate(wait) = fate {
            thread::sleep(wait);
        }
        let passed = match fate {
            _ if self.is_silent() => &[],
            Fate::ReplyLost => &[],
            Fate::ReplyCut => reply.get(..reply.len() / 2).unwrap_or_default(),
            _ => reply,
        };
        if passed.len() < reply.len() {
            self.shared.lost.fetch_add(1, Ordering::SeqCst);
        }
        match (self.to.write_all(passed), fate) {
            (Err(_), _) | (_, Fate::ReplyLost | Fate::ReplyCut) => Next::Ends,
            _ => Next::GoesOn,
        }
    }

    fn read(&mut self, bytes: &mut Vec<u8>) -> Next {
        let mut chunk = [0; 16 * 1024];
        match self.from.read(&mut chunk) {
            Ok(read @ 1..) => {
                bytes.extend_from_slice(&chunk[..read]);
                Next::GoesOn
            }
            _ => Next::Ends,
        }
    }

    fn is_silent(&self) -> bool {
        self.is_silent.load(Ordering::SeqCst)
    }

    fn close(&self) {
        for end in [&self.from, &self.to] {
            let _ = end.shutdown(Shutdown::Both);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::{Client, Redis, find_program};

    /// The fates of the commands to come, the last one first.
    #[derive(Debug)]
    struct List(Vec<Fate>);

    impl Script for List {
        fn connection(&mut self) -> Welcome {
            Welcome::Passes
        }

        fn command(&mut self, _: &[u8]) -> Fate {
            self.0.pop().unwrap_or(Fate::Passes)
        }
    }

    #[test]
    fn each_fate_does_what_it_says() {
        if find_program().is_none() {
            return;
        }
        let redis = Redis::start().unwrap();
        let trouble = Trouble::before(redis.address).unwrap();
        let late = Duration::from_millis(1);
        for (fate, reply, count) in [
            (Fate::Passes, ":1\r\n", ":1\r\n"),
            (Fate::ReplyLost, "", ":1\r\n"),
            (Fate::ReplyCut, "", ":1\r\n"),
            (Fate::ReplyLate(late), ":1\r\n", ":1\r\n"),
            (Fate::Closed, "", ":0\r\n"),
            (Fate::Cut, "", ":0\r\n"),
        ] {
            redis.client().unwrap().ask("SET a 0").unwrap();
            trouble.follow(List(vec![fate]));
            let mut client = Client::connect(trouble.address).unwrap();
            assert_eq!(client.ask("INCR a").unwrap(), reply, "{fate:?}");
            let counted = redis.client().unwrap().ask("INCRBY a 0").unwrap();
            assert_eq!(counted, count, "{fate:?}");
        }
        assert_eq!(trouble.lost(), 2);
    }
}
