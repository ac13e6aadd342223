//! Which of two processes that listen at the same address gets new connections.

use std::io;
use tokio::net::TcpListener;

/// From here on, new connections go to the process that listens beside this one, if there is one.
///
/// Otherwise the kernel would distribute them over both (`SO_REUSEPORT`), and reset those whose handshake ends while the
/// listener is being closed. The kernel numbers the sockets in the order in which they came and moves the last one to a
/// place that becomes free, so of two the later has the number 1. A number that there is not is ignored.
///
/// # Errors
/// The socket does not share its address.
#[cfg(target_os = "linux")]
pub fn steer_to_successor(listener: &TcpListener) -> io::Result<()> {
    use std::mem::size_of_val;
    use std::os::fd::AsRawFd;

    let mut program = [libc::sock_filter {
        code: RETURN,
        jt: 0,
        jf: 0,
        k: 1,
    }];
    let program = libc::sock_fprog {
        len: 1,
        filter: program.as_mut_ptr(),
    };
    let length = libc::socklen_t::try_from(size_of_val(&program)).map_err(io::Error::other)?;
    #[allow(
        unsafe_code,
        reason = "neither the standard library nor tokio has this option"
    )]
    // SAFETY: the descriptor is open, and the kernel copies the program, whose pointer and length are right, during the call.
    let result = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const program).cast(),
            length,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Elsewhere there is no such option, and the kernel decides.
#[cfg(not(target_os = "linux"))]
pub fn steer_to_successor(_: &TcpListener) -> io::Result<()> {
    Ok(())
}

/// `BPF_RET | BPF_K`: the result is the number in the instruction.
#[cfg(target_os = "linux")]
const RETURN: u16 = 0x06;
