//! Waits for a condition, within a bound, instead of sleeping for a guessed time.

use std::fmt::Display;
use std::future::Future;
use std::time::Duration;

use crate::clock::Stopwatch;
use crate::error::{Error, Result};

/// A bound for what takes milliseconds on an idle machine, and must not fail on a busy one.
pub const GENEROUS: Duration = Duration::from_secs(20);

/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(10);

fn timed_out(what: &str, bound: Duration, seen: &str) -> Error {
    Error::new(format!("waited {bound:?} for {what}; last seen: {seen}"))
}

/// Calls `look` until it returns `Ok`, and returns that value.
///
/// `Err` says what was seen instead. When `bound` is over, the error has the last of these. A look that hangs ends at the
/// bound too.
pub async fn until<T, S, F, Fut>(what: &str, bound: Duration, mut look: F) -> Result<T>
where
    S: Display,
    F: FnMut() -> Fut,
    Fut: Future<Output = std::result::Result<T, S>>,
{
    let waited = Stopwatch::start();
    let mut last = String::from("nothing yet");
    loop {
        let left = bound.saturating_sub(waited.elapsed());
        match tokio::time::timeout(left.max(PAUSE), look()).await {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(seen)) => last = seen.to_string(),
            Err(_) => last = format!("{last} (and the last look did not come back)"),
        }
        if waited.elapsed() >= bound {
            return Err(timed_out(what, bound, &last));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// [`until`] for a look that returns at once.
pub async fn until_now<T, S: Display>(
    what: &str,
    bound: Duration,
    mut look: impl FnMut() -> std::result::Result<T, S>,
) -> Result<T> {
    until(what, bound, || std::future::ready(look())).await
}

/// [`until`] without a runtime. `look` may take its time, such as a program that is run.
pub fn until_blocking<T, S: Display>(
    what: &str,
    bound: Duration,
    mut look: impl FnMut() -> std::result::Result<T, S>,
) -> Result<T> {
    let waited = Stopwatch::start();
    loop {
        match look() {
            Ok(found) => return Ok(found),
            Err(seen) if waited.elapsed() >= bound => {
                return Err(timed_out(what, bound, &seen.to_string()));
            }
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

/// Checks `holds` for the whole of `span`, and fails as soon as it fails.
///
/// For promises of the kind "nothing more happens": the span bounds what such a test can show.
pub async fn stays<S: Display>(
    what: &str,
    span: Duration,
    mut holds: impl FnMut() -> std::result::Result<(), S>,
) -> Result<()> {
    let waited = Stopwatch::start();
    while waited.elapsed() < span {
        if let Err(seen) = holds() {
            let after = waited.elapsed();
            return Err(Error::new(format!(
                "{what} did not stay so: after {after:?}: {seen}"
            )));
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}
