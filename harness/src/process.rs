//! Child processes that never outlive their parent.
//!
//! The kernel signals a child when the *thread* that forked it ends (`prctl(2)`, `PR_SET_PDEATHSIG`), and test
//! frameworks use a short-lived thread for each test. So one thread that lives as long as the process forks them all.

use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;
use std::{fs, io, thread};

use crate::clock::Stopwatch;
use crate::error::{Error, Result};
use crate::processor;

/// A signal by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Please end.
    Terminate,
    /// What Ctrl-C sends.
    Interrupt,
    /// End without being orderly about it. What that is depends on the program.
    Quit,
    /// End at once.
    Kill,
    /// Stand still.
    Stop,
    /// Go on.
    Continue,
}

impl Signal {
    fn number(self) -> libc::c_int {
        match self {
            Self::Terminate => libc::SIGTERM,
            Self::Interrupt => libc::SIGINT,
            Self::Quit => libc::SIGQUIT,
            Self::Kill => libc::SIGKILL,
            Self::Stop => libc::SIGSTOP,
            Self::Continue => libc::SIGCONT,
        }
    }
}

/// A child process. It is ended when this is dropped, and by the kernel when the whole program dies.
#[derive(Debug)]
pub struct Process {
    child: Child,
    exit: Option<ExitStatus>,
}

/// How long a process may take to end by itself before it is killed.
const GRACE: Duration = Duration::from_secs(5);

struct Order {
    command: Command,
    reply: Sender<io::Result<Child>>,
}

fn forker() -> &'static Mutex<Sender<Order>> {
    static FORKER: OnceLock<Mutex<Sender<Order>>> = OnceLock::new();
    FORKER.get_or_init(|| {
        let (orders, inbox): (Sender<Order>, Receiver<Order>) = channel();
        thread::Builder::new()
            .name("forker".into())
            .spawn(move || {
                for Order { mut command, reply } in inbox {
                    // If nobody waits for the child any more, dropping it here would leave it running.
                    if let Err(unwanted) = reply.send(command.spawn())
                        && let Ok(mut child) = unwanted.0
                    {
                        let _ = child.kill();
                        let _ = child.wait();
                    }
                }
            })
            .expect("start the thread that forks");
        Mutex::new(orders)
    })
}

impl Process {
    /// Starts `command`. When this program dies, the kernel sends it `at_our_end`.
    pub fn spawn(mut command: Command, at_our_end: Signal) -> io::Result<Self> {
        let parent = std::process::id();
        let signal = at_our_end.number();
        // SAFETY: between fork and exec only async-signal-safe calls are made, and nothing is allocated.
        #[allow(
            unsafe_code,
            reason = "the standard library has no safe way to set the parent-death signal"
        )]
        unsafe {
            command.pre_exec(move || {
                if libc::prctl(libc::PR_SET_PDEATHSIG, signal) != 0 {
                    return Err(io::Error::last_os_error());
                }
                // The parent may have died before the call above.
                if u32::try_from(libc::getppid()) != Ok(parent) {
                    return Err(io::Error::from_raw_os_error(libc::ESRCH));
                }
                Ok(())
            });
        }
        let (reply, answer) = channel();
        forker()
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .send(Order { command, reply })
            .expect("the forking thread lives as long as the process");
        let child = answer
            .recv()
            .expect("the forking thread answers each order")?;
        Ok(Self { child, exit: None })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its exit status, if it has ended.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        if self.exit.is_none() {
            self.exit = self.child.try_wait().ok().flatten();
        }
        self.exit
    }

    /// Sends it a signal, unless it has ended.
    pub fn signal(&mut self, signal: Signal) {
        if self.exit_status().is_none() {
            send(self.id(), signal);
        }
    }

    /// Sends a signal to it and then to each of its children, unless it has ended.
    pub fn signal_with_children(&mut self, signal: Signal) {
        if self.exit_status().is_none() {
            send(self.id(), signal);
            for child in children_of(self.id()) {
                child.signal(signal);
            }
        }
    }

    /// Sends it a signal and waits at most `bound` until it has ended, and each child that it had too. Those who stand
    /// still go on. False: it has not ended, or a child had to be killed.
    pub fn end_by(&mut self, signal: Signal, bound: Duration) -> bool {
        let children = children_of(self.id());
        self.signal(signal);
        self.signal(Signal::Continue);
        for child in &children {
            child.signal(Signal::Continue);
        }
        let waited = Stopwatch::start();
        if self.wait(bound).is_none() {
            return false;
        }
        while children.iter().any(Known::is_running) {
            if waited.elapsed() > bound {
                for child in children {
                    child.signal(Signal::Kill);
                }
                return false;
            }
            thread::sleep(Duration::from_millis(5));
        }
        true
    }

    /// Waits until it has ended, at most `bound`. Blocks the thread.
    pub fn wait(&mut self, bound: Duration) -> Option<ExitStatus> {
        let waited = Stopwatch::start();
        while self.exit_status().is_none() && waited.elapsed() < bound {
            thread::sleep(Duration::from_millis(5));
        }
        self.exit
    }

    /// Ends it: politely first, by force when it takes too long. Its own children too, if they outlive it.
    pub fn end(&mut self) -> ExitStatus {
        let children = children_of(self.id());
        self.signal(Signal::Terminate);
        let exit = if let Some(exit) = self.wait(GRACE) {
            exit
        } else {
            self.signal(Signal::Kill);
            self.wait(GRACE)
                .unwrap_or_else(|| ExitStatus::from_raw(libc::SIGKILL))
        };
        for child in children {
            child.signal(Signal::Kill);
        }
        exit
    }

    /// CPU time of it and its children. An error if one has ended.
    pub fn cpu_time(&self) -> io::Result<Duration> {
        self.family().map(processor::cpu_time).sum()
    }

    /// Resident memory of it and its children, in KiB.
    pub fn resident_kib(&self) -> u64 {
        self.family().map(processor::resident_kib).sum()
    }

    fn family(&self) -> impl Iterator<Item = u32> {
        std::iter::once(self.id()).chain(self.children())
    }

    /// Waits until something listens at `address`, at most `bound`. An error if this process ends before.
    pub fn wait_until_it_listens(&mut self, address: SocketAddr, bound: Duration) -> Result<()> {
        let waited = Stopwatch::start();
        while let Err(error) = TcpStream::connect(address) {
            if let Some(exit) = self.exit_status() {
                return Err(Error::new(format!("it has ended ({exit})")));
            }
            if waited.elapsed() > bound {
                let message = format!("nothing listens at {address} after {bound:?}: {error}");
                return Err(Error::new(message));
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// The ids of its children at this moment.
    pub fn children(&self) -> Vec<u32> {
        children_of(self.id())
            .into_iter()
            .map(|child| child.id)
            .collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.exit_status().is_none() {
            self.end();
        }
    }
}

/// Whether a process with this id is there and is not a zombie.
pub fn is_running(id: u32) -> bool {
    stat(id).is_some_and(|stat| stat.state != 'Z' && stat.state != 'X')
}

/// A process by id and start time, so that an id that was given out anew is not mistaken for it.
#[derive(Debug)]
struct Known {
    id: u32,
    started: u64,
}

impl Known {
    /// Sends it a signal, if it is still there.
    fn signal(&self, signal: Signal) {
        if stat(self.id).is_some_and(|now| now.started == self.started) {
            send(self.id, signal);
        }
    }

    /// Whether it is still there, and is not a zombie.
    fn is_running(&self) -> bool {
        is_running(self.id) && stat(self.id).is_some_and(|now| now.started == self.started)
    }
}

fn send(id: u32, signal: Signal) {
    let Ok(id) = libc::pid_t::try_from(id) else {
        return;
    };
    // SAFETY: kill(2) takes no pointers. The id is a child's that was not waited for, or one checked by start time.
    #[allow(unsafe_code, reason = "the standard library can only send SIGKILL")]
    unsafe {
        libc::kill(id, signal.number());
    }
}

struct Stat {
    state: char,
    parent: u32,
    started: u64,
}

/// Reads `/proc/<id>/stat` (see `proc_pid_stat(5)`). The name in it may hold blanks and brackets: the fields begin after
/// the last closing one.
fn stat(id: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
    })
}

fn children_of(parent: u32) -> Vec<Known> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|id: u32| {
            let stat = stat(id)?;
            (stat.parent == parent).then_some(Known {
                id,
                started: stat.started,
            })
        })
        .collect()
}
