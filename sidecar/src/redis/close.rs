//! Closing a client's connection so that what was written arrives: a socket that is closed with bytes unread resets the
//! connection, and so do bytes that arrive later, which takes back what is still on its way.

use std::io;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// How often to look whether the client has everything.
const LOOK: Duration = Duration::from_millis(5);

/// How long a client that has everything may still close by itself.
const GRACE: Duration = Duration::from_millis(25);

/// Returns once the client has closed, or has received everything and taken no notice, or `within` is over.
pub async fn close(mut client: TcpStream, within: Duration) {
    let _ = client.shutdown().await;
    let done = async {
        tokio::select! {
            () = ended(&client) => {}
            () = delivered(&client) => {}
        }
    };
    let _ = tokio::time::timeout(within, done).await;
}

/// What the client sends meanwhile is dropped.
async fn ended(client: &TcpStream) {
    let mut rest = [0; 4096];
    while client.readable().await.is_ok() {
        match client.try_read(&mut rest) {
            Ok(1..) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(0) | Err(_) => return,
        }
    }
}

/// The client's kernel has everything. It keeps that for the client when the connection is reset.
async fn delivered(client: &TcpStream) {
    while !is_acknowledged(client) {
        tokio::time::sleep(LOOK).await;
    }
    tokio::time::sleep(GRACE).await;
}

/// The other end has acknowledged all that was sent, the end included.
#[cfg(target_os = "linux")]
fn is_acknowledged(client: &TcpStream) -> bool {
    use std::os::fd::AsRawFd;

    let mut waiting: libc::c_int = 0;
    #[allow(unsafe_code, reason = "neither tokio nor rustix has this request")]
    // SAFETY: the descriptor is open, and the kernel writes one integer, which outlives the call (`SIOCOUTQ`, tcp(7)).
    let result = unsafe { libc::ioctl(client.as_raw_fd(), libc::TIOCOUTQ, &raw mut waiting) };
    result == 0 && waiting == 0
}

/// Elsewhere it is not known.
#[cfg(not(target_os = "linux"))]
fn is_acknowledged(_: &TcpStream) -> bool {
    false
}
