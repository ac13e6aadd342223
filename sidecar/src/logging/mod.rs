//! The log: a line on standard error for each event, for people or for programs.
//!
//! Commands write each line where it comes up. `levee run` never waits for whoever reads its standard error: its lines
//! go through a bounded [queue].

mod line;
mod queue;

pub use line::Format;

use line::Pairs;
use log::{Level, LevelFilter, Log, Metadata, Record};
use prometheus::{IntCounter, Registry};
use queue::{Importance, Queue};
use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, Write as _};
use std::panic::{self, PanicHookInfo};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub const DROPPED: &str = "levee_log_lines_dropped_total";

/// How long the end of the process waits for lines to be written.
const FLUSH: Duration = Duration::from_secs(1);

static HAS_PROGRESS_BAR: AtomicBool = AtomicBool::new(false);
static FORMAT: OnceLock<Format> = OnceLock::new();
static QUEUE: OnceLock<Queue> = OnceLock::new();

/// If the terminal's last line has a progress bar, log lines overwrite it, and it redraws itself below them.
pub fn set_progress_bar(has_bar: bool) {
    HAS_PROGRESS_BAR.store(has_bar, Ordering::Relaxed);
}

/// Call once in a process. [`log::set_max_level`] changes the level later.
pub fn start(format: Format, level: LevelFilter) {
    let _ = FORMAT.set(format);
    // It fails if there is a logger already, which then stays.
    if log::set_logger(&Logger).is_ok() {
        log::set_max_level(level);
    }
}

/// From here on a thread writes all lines, and panics are lines of the log too. Call [`flush`] at the end of the process.
///
/// # Errors
/// There can be no thread.
pub fn write_in_background() -> anyhow::Result<()> {
    let queue = Queue::start(dropped()?, io::stderr(), notice)?;
    if QUEUE.set(queue).is_ok() {
        panic::set_hook(Box::new(log_panic));
    }
    Ok(())
}

/// Waits until all lines are written, for a second at most.
pub fn flush() {
    if let Some(queue) = QUEUE.get() {
        queue.flush(FLUSH);
    }
}

/// Registers [`DROPPED`].
///
/// # Errors
/// `registry` already has it.
pub fn register_metrics(registry: &Registry) -> prometheus::Result<()> {
    let dropped = match QUEUE.get() {
        Some(queue) => queue.dropped.clone(),
        None => dropped()?,
    };
    registry.register(Box::new(dropped))
}

fn dropped() -> prometheus::Result<IntCounter> {
    IntCounter::new(DROPPED, "Lines of the log that were not written.")
}

/// A line on standard error that is not part of the log.
pub fn print(line: String) {
    write(line, Importance::Ordinary);
}

fn write(mut line: String, importance: Importance) {
    line.push('\n');
    match QUEUE.get() {
        Some(queue) => queue.push(line, importance),
        None => {
            let _ = io::stderr().write_all(line.as_bytes());
        }
    }
}

struct Logger;

impl Log for Logger {
    /// Of other crates only warnings and errors are logged.
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("levee") || metadata.level() <= Level::Warn
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let pairs = Pairs::of(record);
        let importance = if pairs.is_audit() {
            Importance::Audit
        } else {
            Importance::Ordinary
        };
        let mut line = line(record, pairs);
        if HAS_PROGRESS_BAR.load(Ordering::Relaxed) {
            line.insert_str(0, "\r\x1b[2K");
        }
        write(line, importance);
    }

    fn flush(&self) {
        flush();
    }
}

fn line(record: &Record<'_>, pairs: Pairs) -> String {
    FORMAT.get().unwrap_or(&Format::Text).line(record, pairs)
}

fn notice(dropped: u64) -> String {
    let key_values = [("lines", dropped)];
    let text = format_args!("lines are missing here: standard error was not read");
    let record = Record::builder()
        .level(Level::Warn)
        .args(text)
        .key_values(&key_values)
        .build();
    line(&record, Pairs::of(&record)) + "\n"
}

fn log_panic(info: &PanicHookInfo<'_>) {
    let message = info.payload_as_str().unwrap_or("no message");
    let backtrace = Backtrace::capture();
    let backtrace = match backtrace.status() {
        BacktraceStatus::Captured => format!("\n{backtrace}"),
        _ => String::new(),
    };
    match info.location() {
        Some(location) => log::error!("panicked at {location}: {message}{backtrace}"),
        None => log::error!("panicked: {message}{backtrace}"),
    }
}
