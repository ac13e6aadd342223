//! The service behind the proxies: cheap and constant. Its own CPU time is not counted.
//!
//! The path determines the answer: `.../small` and `.../large` get 200 with a body of that size, `/failing/...` gets 500,
//! `/tenth/...` gets 500 for every tenth request, `/switched/...` while the switch is on.

use anyhow::{Context, Result};
use levee_harness::processor;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Length of the body of a large answer, in bytes.
pub const LARGE: usize = 64 * 1024;
/// Length of the body of a small answer, in bytes.
pub const SMALL: usize = 100;
/// The longest head of a request.
const MAX_HEAD: usize = 16 * 1024;

/// The service. It runs on its own thread until the program ends.
#[derive(Debug)]
pub struct Backend {
    /// The port on which it listens.
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
    /// Starts the service on these CPUs.
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

    /// Sets whether `/switched/...` fails.
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
    processor::pin(cpus)?;
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
        // If a connection ends early, the proxy has closed it.
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
