//! Runs programs: children that never outlive this program, and commands that run to their end.
//!
//! The kernel signals a child when the *thread* that forked it ends (`prctl(2)`, `PR_SET_PDEATHSIG`), and test
//! frameworks use a short-lived thread for each test. So one thread that lives as long as the process forks them all.

use std::fmt::Display;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;
use std::{fs, io, thread};

use crate::clock::Stopwatch;
use crate::error::{Context, Error, Result};
use crate::lock::lock;
use crate::processor;

/// A signal by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// `SIGTERM`: end in order.
    Terminate,
    /// `SIGINT`: what Ctrl-C sends.
    Interrupt,
    /// `SIGHUP`: what a terminal that is closed sends.
    HangUp,
    /// `SIGQUIT`: for `PostgreSQL`, end without cleaning up.
    Quit,
    /// `SIGKILL`: end at once.
    Kill,
    /// `SIGSTOP`: pause.
    Stop,
    /// `SIGCONT`: resume.
    Continue,
}

impl Signal {
    fn number(self) -> libc::c_int {
        match self {
            Self::Terminate => libc::SIGTERM,
            Self::Interrupt => libc::SIGINT,
            Self::HangUp => libc::SIGHUP,
            Self::Quit => libc::SIGQUIT,
            Self::Kill => libc::SIGKILL,
            Self::Stop => libc::SIGSTOP,
            Self::Continue => libc::SIGCONT,
        }
    }
}

/// A child process. Dropping this ends it; when the whole program dies, the kernel does.
#[derive(Debug)]
pub struct Process {
    child: Child,
    exit: Option<ExitStatus>,
}

/// How long a process may take to end after `SIGTERM` before it is killed.
const GRACE: Duration = Duration::from_secs(5);

/// The pause between two looks at a process. Short, since benches measure how long a start takes.
const PAUSE: Duration = Duration::from_millis(2);

/// The same in a task.
const TASK_PAUSE: Duration = Duration::from_millis(10);

/// Where the output of a process goes, so that errors can quote it.
#[derive(Debug, Clone, Copy)]
pub enum Output<'a> {
    /// Into this file.
    File(&'a Path),
    /// Nowhere, or to this program's own output.
    NotKept,
}

impl Output<'_> {
    /// The end of an error: that of the output, if it is kept.
    fn end(self) -> String {
        let Self::File(path) = self else {
            return String::new();
        };
        let text = fs::read(path).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        if text.is_empty() {
            ". Its log is empty.".into()
        } else {
            format!(". Its log ends with:\n{}", end_of_log(&text))
        }
    }
}

struct Order {
    command: Command,
    reply: Sender<io::Result<Child>>,
}

/// The inbox of the thread that forks.
fn forker() -> Result<&'static Mutex<Sender<Order>>> {
    static FORKER: OnceLock<Result<Mutex<Sender<Order>>>> = OnceLock::new();
    let start = || {
        let (orders, inbox) = channel();
        thread::Builder::new()
            .name("forker".into())
            .spawn(move || fork_all(&inbox))
            .context("start the thread that forks")?;
        Ok(Mutex::new(orders))
    };
    FORKER.get_or_init(start).as_ref().map_err(Error::clone)
}

fn fork_all(inbox: &Receiver<Order>) {
    for Order { mut command, reply } in inbox {
        // If nobody waits for the child any more, dropping it here would leave it running.
        if let Err(unwanted) = reply.send(command.spawn())
            && let Ok(mut child) = unwanted.0
        {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Process {
    /// Starts `command`. When this program dies, the kernel sends `at_our_end`.
    ///
    /// The child gets a process group of its own, so that Ctrl-C in a terminal reaches only this program, which ends its
    /// children in the right order.
    pub fn spawn(mut command: Command, at_our_end: Signal) -> Result<Self> {
        let parent = std::process::id();
        let signal = at_our_end.number();
        let name = command.get_program().display().to_string();
        command.process_group(0);
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
        let forker_ended = || Error::new("the thread that forks has ended");
        lock(forker()?)
            .send(Order { command, reply })
            .map_err(|_| forker_ended())?;
        let child = answer
            .recv()
            .map_err(|_| forker_ended())?
            .context(format!("{name} can't be started"))?;
        Ok(Self { child, exit: None })
    }

    /// Waits until `look` succeeds. Fails when the process ends first, or when `bound` is over.
    ///
    /// The error names the process as `what`, says what was seen last, and shows the end of its output.
    pub fn until_ready<T, S: Display>(
        &mut self,
        what: &str,
        bound: Duration,
        output: Output,
        mut look: impl FnMut() -> std::result::Result<T, S>,
    ) -> Result<T> {
        let waited = Stopwatch::start();
        loop {
            let seen = match look() {
                Ok(found) => return Ok(found),
                Err(seen) => seen,
            };
            self.may_become_ready(what, waited, bound, output, &seen)?;
            thread::sleep(PAUSE);
        }
    }

    /// As [`Self::until_ready`], without blocking the thread: dropping the future ends the wait at once.
    pub async fn becomes_ready<T, S: Display>(
        &mut self,
        what: &str,
        bound: Duration,
        output: Output<'_>,
        mut look: impl AsyncFnMut() -> std::result::Result<T, S>,
    ) -> Result<T> {
        let waited = Stopwatch::start();
        loop {
            let seen = match look().await {
                Ok(found) => return Ok(found),
                Err(seen) => seen,
            };
            self.may_become_ready(what, waited, bound, output, &seen)?;
            tokio::time::sleep(TASK_PAUSE).await;
        }
    }

    /// An error if it has ended, or if the bound of a wait for `what` is over.
    fn may_become_ready(
        &mut self,
        what: &str,
        waited: Stopwatch,
        bound: Duration,
        output: Output,
        seen: &impl Display,
    ) -> Result<()> {
        self.check_alive(&format!("{what} didn't start"), output)?;
        if waited.elapsed() > bound {
            let end = output.end();
            return Err(Error::new(format!(
                "{what} wasn't ready within {bound:?} ({seen}){end}"
            )));
        }
        Ok(())
    }

    /// An error if it has ended: `what`, its exit status and the end of its output.
    pub fn check_alive(&mut self, what: &str, output: Output) -> Result<()> {
        match self.exit_status() {
            Some(exit) => Err(Error::new(format!("{what} ({exit}){}", output.end()))),
            None => Ok(()),
        }
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

    /// Sends a signal, resumes it and its children if they are stopped, and waits until all of them have ended, at most
    /// `bound`. Fails if the process has not ended by then, or if children had to be killed.
    pub fn end_by(&mut self, signal: Signal, bound: Duration) -> Result<()> {
        let children = children_of(self.id());
        self.signal(signal);
        self.signal(Signal::Continue);
        for child in &children {
            child.signal(Signal::Continue);
        }
        let waited = Stopwatch::start();
        if self.wait(bound).is_none() {
            let id = self.id();
            return Err(Error::new(format!(
                "process {id} has not ended within {bound:?} after {signal:?}"
            )));
        }
        while children.iter().any(Known::is_running) {
            if waited.elapsed() > bound {
                for child in children {
                    child.signal(Signal::Kill);
                }
                return Err(Error::new(format!(
                    "its children had to be killed {bound:?} after {signal:?}"
                )));
            }
            thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// Waits until it has ended, at most `bound`. Blocks the thread.
    pub fn wait(&mut self, bound: Duration) -> Option<ExitStatus> {
        let waited = Stopwatch::start();
        while self.exit_status().is_none() && waited.elapsed() < bound {
            thread::sleep(PAUSE);
        }
        self.exit
    }

    /// Ends it by `SIGTERM`, or by `SIGKILL` when that takes too long. Kills its children if they outlive it.
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

    /// Kills it and all processes of its group: what it has started, also what outlives it.
    pub fn kill_group(&mut self) {
        let group = self.id();
        self.signal(Signal::Kill);
        let members = known(|stat| stat.group == group);
        // If it has ended and its id was given to a process of somebody else, the group is that one's.
        let is_ours = self.exit.is_none() || members.iter().all(|member| member.id != group);
        if is_ours {
            for member in &members {
                member.signal(Signal::Kill);
            }
            let waited = Stopwatch::start();
            while members.iter().any(Known::is_running) && waited.elapsed() < GRACE {
                thread::sleep(PAUSE);
            }
        }
        self.wait(GRACE);
    }

    /// Waits until something listens at `address`, at most `bound`. The error is that of [`Self::until_ready`].
    pub fn until_it_listens(
        &mut self,
        what: &str,
        address: SocketAddr,
        bound: Duration,
        output: Output,
    ) -> Result<()> {
        self.until_ready(what, bound, output, || TcpStream::connect(address))
            .map(drop)
    }

    /// CPU time of it and its children. An error if one has ended.
    pub fn cpu_time(&self) -> io::Result<Duration> {
        self.family().map(processor::cpu_time).sum()
    }

    /// Resident memory of it and its children, in KiB. An error if one has ended.
    pub fn resident_kib(&self) -> io::Result<u64> {
        self.family().map(processor::resident_kib).sum()
    }

    /// How many descriptors it has open.
    pub fn descriptors(&self) -> io::Result<usize> {
        fs::read_dir(format!("/proc/{}/fd", self.id())).map(Iterator::count)
    }

    fn family(&self) -> impl Iterator<Item = u32> {
        std::iter::once(self.id()).chain(self.children())
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

/// The end of a log, indented: of its errors, if Envoy wrote any.
fn end_of_log(log: &str) -> String {
    let is_error = |line: &&str| line.contains("[error]") || line.contains("[critical]");
    let errors: Vec<&str> = log.lines().filter(is_error).collect();
    let lines = if errors.is_empty() {
        last_lines(log, SHOWN_LINES)
    } else {
        last_lines(&errors.join("\n"), SHOWN_LINES)
    };
    format!("  {}", lines.replace('\n', "\n  "))
}

const SHOWN_LINES: usize = 20;

/// The last `count` lines of a text.
pub fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines
        .get(lines.len().saturating_sub(count)..)
        .unwrap_or_default()
        .join("\n")
}

/// Runs a command to its end. Returns its standard output; if it fails, the error has both outputs.
pub fn output_of(command: &mut Command) -> Result<String> {
    let name = command.get_program().display().to_string();
    let output = command
        .output()
        .context(format!("{name} can't be started"))?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(printed);
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    Err(Error::new(format!(
        "{name} failed, {}:\n{printed}{complaint}",
        output.status
    )))
}

/// Whether a process with this id is there and is not a zombie.
pub fn is_running(id: u32) -> bool {
    stat(id).is_some_and(|stat| stat.state != 'Z' && stat.state != 'X')
}

/// A process by id and start time, so that another process with a reused id is not mistaken for it.
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
    group: u32,
    started: u64,
}

/// Reads `/proc/<id>/stat` (see `proc_pid_stat(5)`). The name in it may contain spaces and parentheses, so the fields are
/// read after the last closing one.
fn stat(id: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        group: fields.get(2)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
    })
}

fn children_of(parent: u32) -> Vec<Known> {
    known(|stat| stat.parent == parent)
}

/// All processes of which this is true.
fn known(is_wanted: impl Fn(&Stat) -> bool) -> Vec<Known> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|id: u32| {
            let stat = stat(id)?;
            is_wanted(&stat).then_some(Known {
                id,
                started: stat.started,
            })
        })
        .collect()
}
