//! The service behind the proxies: cheap and constant. Its own CPU time is not counted.
//!
//! By the path: `.../small` and `.../large` are answered 200 with a body of that size; `/failing/...` is answered 500;
//! `/tenth/...` at each tenth request; `/switched/...` while the switch says so.

use crate::system;
use anyhow::{Context, Result};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Bytes in the body of a large answer.
pub const LARGE: usize = 64 * 1024;
/// Bytes in the body of a small one.
pub const SMALL: usize = 100;
/// A request's head is not longer.
const MAX_HEAD: usize = 16 * 1024;

/// The service, on a thread of its own until the program ends.
#[derive(Debug)]
pub struct Backend {
    /// Where it listens.
    pub port: u16,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    small: Vec<u8>,
    large: Vec<u8>,
    failure: Vec<u8>,
    fails: AtomicBool,
    tenths: AtomicU64,
}

impl Backend {
    /// Starts it on these CPUs.
    pub fn start(cpus: &[usize]) -> Result<Self> {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("the service has no port")?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let state = Arc::new(State {
            small: answer("200 OK", SMALL),
            large: answer("200 OK", LARGE),
            failure: answer("500 Internal Server Error", SMALL),
            fails: AtomicBool::new(false),
            tenths: AtomicU64::new(0),
        });
        let (cpus, shared) = (cpus.to_vec(), Arc::clone(&state));
        thread::Builder::new()
            .name("service".into())
            .spawn(move || {
                if let Err(error) = serve_on(&cpus, listener, shared) {
                    eprintln!("error: the service has ended: {error:#}");
                }
            })?;
        Ok(Self { port, state })
    }

    /// Whether `/switched/...` fails from now on.
    pub fn switch(&self, fails: bool) {
        self.state.fails.store(fails, Ordering::SeqCst);
    }
}

fn answer(status: &str, size: usize) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {size}\r\n\r\n"
    );
    let mut bytes = head.into_bytes();
    bytes.resize(bytes.len() + size, b'x');
    bytes
}

fn serve_on(cpus: &[usize], listener: TcpListener, state: Arc<State>) -> Result<()> {
    system::pin(cpus)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(accept(listener, state))
}

async fn accept(listener: TcpListener, state: Arc<State>) -> Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        // One that ends early was ended by the proxy.
        tokio::spawn(serve(stream, Arc::clone(&state)));
    }
}

async fn serve(mut stream: TcpStream, state: Arc<State>) -> Result<()> {
    let mut buffer = Vec::with_capacity(4096);
    loop {
        let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") else {
            if buffer.len() > MAX_HEAD || stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
            continue;
        };
        let path = buffer
            .split(|byte| *byte == b' ')
            .nth(1)
            .unwrap_or_default();
        stream.write_all(state.answer(path)).await?;
        buffer.drain(..end + 4);
    }
}

impl State {
    fn answer(&self, path: &[u8]) -> &[u8] {
        let fails = match path {
            [b'/', b'f', b'a', b'i', b'l', ..] => true,
            [b'/', b't', b'e', b'n', b't', b'h', ..] => {
                self.tenths.fetch_add(1, Ordering::Relaxed) % 10 == 9
            }
            [b'/', b's', b'w', b'i', b't', ..] => self.fails.load(Ordering::Relaxed),
            _ => false,
        };
        if fails {
            &self.failure
        } else if path.ends_with(b"/large") {
            &self.large
        } else {
            &self.small
        }
    }
}
