//! A terminal that is refreshed, and restored at the end.

use super::{read, render};
use crate::fetch::Origin;
use anyhow::Result;
use console::Term;
use std::fmt::Write as _;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// To the alternate screen, without a cursor. Leaving it restores the terminal's content.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
/// Lines overwrite the old ones, which avoids flicker.
const HOME: &str = "\x1b[H";
const ERASE_REST_OF_LINE: &str = "\x1b[K";
const ERASE_BELOW: &str = "\x1b[J";

pub(super) struct Size {
    rows: usize,
    pub(super) columns: usize,
}

/// The terminal's size, or the traditional 80 columns by 24 rows if unknown.
pub(super) fn size(terminal: &Term) -> Size {
    let (rows, columns) = terminal.size_checked().unwrap_or((24, 80));
    Size {
        rows: usize::from(rows).max(2),
        columns: usize::from(columns).max(20),
    }
}

/// Refreshes the terminal until SIGINT, SIGTERM or SIGHUP.
pub(super) async fn keep(terminal: &Term, admin: &Origin, every: Duration) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let mut resized = signal(SignalKind::window_change())?;
    let _screen = Screen::enter(terminal)?;
    let mut turn = tokio::time::interval(every);
    turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut status = None;
    loop {
        tokio::select! {
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
            _ = hang_up.recv() => return Ok(()),
            _ = resized.recv() => {}
            // Both waits in one branch, so a signal interrupts either.
            new = async { turn.tick().await; read::read(admin).await } => status = Some(new),
        }
        if let Some(status) = &status {
            let Size { rows, columns } = size(terminal);
            // A character in the last column would be erased with the rest of the line.
            terminal.write_str(&frame(render::render(status, columns - 1), rows))?;
        }
    }
}

/// The whole screen as one write.
fn frame(mut lines: Vec<String>, rows: usize) -> String {
    if lines.len() > rows {
        let hidden = lines.len() - (rows - 1);
        lines.truncate(rows - 1);
        lines.push(format!("... {hidden} more lines; --once prints all"));
    }
    let mut text = HOME.to_owned();
    let last = lines.len().saturating_sub(1);
    for (place, line) in lines.iter().enumerate() {
        let end = if place == last { "" } else { "\r\n" };
        let _ = write!(text, "{line}{ERASE_REST_OF_LINE}{end}");
    }
    text + ERASE_BELOW
}

struct Screen<'a>(&'a Term);

impl<'a> Screen<'a> {
    fn enter(terminal: &'a Term) -> Result<Self> {
        terminal.write_str(ENTER)?;
        Ok(Self(terminal))
    }
}

impl Drop for Screen<'_> {
    fn drop(&mut self) {
        let _ = self.0.write_str(LEAVE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_no_higher_than_the_screen_and_says_what_is_hidden() {
        let lines = |count: usize| (0..count).map(|line| line.to_string()).collect();
        assert_eq!(frame(lines(2), 2), "\x1b[H0\x1b[K\r\n1\x1b[K\x1b[J");
        assert_eq!(
            frame(lines(5), 3),
            "\x1b[H0\x1b[K\r\n1\x1b[K\r\n... 3 more lines; --once prints all\x1b[K\x1b[J"
        );
    }
}
