//! Lines on their way to standard error. A thread writes them, so that nothing else waits for whoever reads them.

use prometheus::IntCounter;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// How many bytes of lines may wait. Audit lines have a reserve.
const MOST_BYTES: usize = 1 << 20;
const MOST_BYTES_WITH_AUDIT: usize = 2 << 20;

/// The pause before another attempt if standard error is not blocking and full.
const PAUSE: Duration = Duration::from_millis(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Importance {
    Ordinary,
    /// A line with `audit=true`.
    Audit,
}

#[derive(Clone, Debug)]
pub(super) struct Queue {
    shared: Arc<Shared>,
    /// All lines that were dropped.
    pub dropped: IntCounter,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
    /// The queue is empty, and its last line is written.
    written: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    entries: VecDeque<Entry>,
    bytes: usize,
    /// Lines dropped behind the last entry.
    dropped: u64,
    is_writing: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Entry {
    Line(String),
    /// This many lines are missing here.
    Dropped(u64),
}

impl Queue {
    /// Starts the thread. `notice` makes the line that says how many lines were dropped.
    pub fn start(
        dropped: IntCounter,
        out: impl Write + Send + 'static,
        notice: impl Fn(u64) -> String + Send + 'static,
    ) -> io::Result<Self> {
        let queue = Self {
            shared: Arc::default(),
            dropped,
        };
        let writer = Writer {
            queue: queue.clone(),
            out,
            notice,
            unreported: 0,
        };
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || writer.run())?;
        Ok(queue)
    }

    /// Takes a line with its line break. Never waits for the thread: without room the line is dropped.
    pub fn push(&self, line: String, importance: Importance) {
        if self.shared.lock().push(line, importance) {
            self.shared.arrived.notify_one();
        } else {
            self.dropped.inc();
        }
    }

    /// Waits until everything is written, at most `within`.
    pub fn flush(&self, within: Duration) {
        let waiting = self.shared.lock();
        let _ = self
            .shared
            .written
            .wait_timeout_while(waiting, within, |waiting| !waiting.is_done());
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Blocks until there is something to write.
    fn next(&self) -> Entry {
        let mut waiting = self.lock();
        waiting.is_writing = false;
        loop {
            if let Some(entry) = waiting.pop() {
                waiting.is_writing = true;
                return entry;
            }
            self.written.notify_all();
            waiting = self
                .arrived
                .wait(waiting)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Waiting {
    /// Returns whether there was room.
    fn push(&mut self, line: String, importance: Importance) -> bool {
        let most = match importance {
            Importance::Audit => MOST_BYTES_WITH_AUDIT,
            // After a drop, a slow reader gets half of the queue before the next lines, so that gaps are few.
            Importance::Ordinary if self.dropped > 0 => MOST_BYTES / 2,
            Importance::Ordinary => MOST_BYTES,
        };
        if self.bytes + line.len() > most {
            self.dropped += 1;
            return false;
        }
        if importance == Importance::Ordinary {
            self.mark_gap();
        }
        self.bytes += line.len();
        self.entries.push_back(Entry::Line(line));
        true
    }

    fn mark_gap(&mut self) {
        if self.dropped > 0 {
            let dropped = std::mem::take(&mut self.dropped);
            self.entries.push_back(Entry::Dropped(dropped));
        }
    }

    fn pop(&mut self) -> Option<Entry> {
        if self.entries.is_empty() {
            self.mark_gap();
        }
        let entry = self.entries.pop_front()?;
        if let Entry::Line(line) = &entry {
            self.bytes -= line.len();
        }
        Some(entry)
    }

    fn is_done(&self) -> bool {
        self.entries.is_empty() && self.dropped == 0 && !self.is_writing
    }
}

struct Writer<W, N> {
    queue: Queue,
    out: W,
    notice: N,
    /// Lines that were dropped or could not be written, and that no line has told of yet.
    unreported: u64,
}

impl<W: Write, N: Fn(u64) -> String> Writer<W, N> {
    fn run(mut self) {
        loop {
            match self.queue.shared.next() {
                Entry::Dropped(dropped) => {
                    self.unreported += dropped;
                    self.report();
                }
                Entry::Line(line) => {
                    self.report();
                    if self.write(&line).is_err() {
                        self.unreported += 1;
                        self.queue.dropped.inc();
                    }
                }
            }
        }
    }

    fn report(&mut self) {
        if self.unreported > 0 && self.write(&(self.notice)(self.unreported)).is_ok() {
            self.unreported = 0;
        }
    }

    fn write(&mut self, line: &str) -> io::Result<()> {
        let mut rest = line.as_bytes();
        while !rest.is_empty() {
            match self.out.write(rest) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(PAUSE),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, PipeReader, pipe};
    use std::sync::mpsc::channel;

    const GENEROUS: Duration = Duration::from_secs(20);
    const LENGTH: usize = 1000;
    /// More than a pipe and the queue hold.
    const MANY: usize = 3 * MOST_BYTES / LENGTH;

    fn start() -> (Queue, PipeReader) {
        let (reader, writer) = pipe().unwrap();
        let dropped = IntCounter::new("x", "x").unwrap();
        let notice = |dropped| format!("{dropped} dropped\n");
        (Queue::start(dropped, writer, notice).unwrap(), reader)
    }

    /// Lines as they come, each within a bound.
    fn lines(reader: PipeReader) -> impl FnMut() -> String {
        let (sender, receiver) = channel();
        thread::spawn(move || {
            for line in BufReader::new(reader).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        move || receiver.recv_timeout(GENEROUS).unwrap()
    }

    impl Queue {
        fn push_many(&self) {
            for number in 0..MANY {
                self.push(format!("{number:<LENGTH$}\n"), Importance::Ordinary);
            }
        }
    }

    #[test]
    fn lines_that_nobody_reads_are_dropped_counted_and_told_of_where_they_are_missing() {
        let (queue, reader) = start();
        queue.push_many();
        let dropped = queue.dropped.get();
        assert!(dropped > 0);
        let mut next = lines(reader);
        for number in 0..u64::try_from(MANY).unwrap() - dropped {
            assert_eq!(next().trim_end(), number.to_string());
        }
        assert_eq!(next(), format!("{dropped} dropped"));
        queue.push("next\n".to_owned(), Importance::Ordinary);
        assert_eq!(next(), "next");
        assert_eq!(queue.dropped.get(), dropped);
    }

    #[test]
    fn audit_lines_are_kept_when_others_are_dropped() {
        let (queue, reader) = start();
        queue.push_many();
        let dropped = queue.dropped.get();
        for _ in 0..100 {
            queue.push("audit\n".to_owned(), Importance::Audit);
        }
        assert_eq!(queue.dropped.get(), dropped);
        let mut next = lines(reader);
        while next() != "audit" {}
        for _ in 1..100 {
            assert_eq!(next(), "audit");
        }
    }

    #[test]
    fn a_flush_waits_for_the_last_line_but_not_for_ever() {
        let (queue, reader) = start();
        queue.push("x\n".to_owned(), Importance::Ordinary);
        queue.flush(GENEROUS);
        assert!(queue.shared.lock().is_done());
        queue.push_many();
        queue.flush(Duration::from_millis(10));
        assert!(!queue.shared.lock().is_done());
        drop(reader);
        queue.flush(GENEROUS);
        assert!(queue.shared.lock().is_done());
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted() {
        let (queue, reader) = start();
        drop(reader);
        for _ in 0..3 {
            queue.push("x\n".to_owned(), Importance::Ordinary);
        }
        queue.flush(GENEROUS);
        assert_eq!(queue.dropped.get(), 3);
    }
}
