//! Waiting for a condition, with a bound. No test sleeps for luck.

use std::fmt::Display;
use std::future::Future;
use std::time::Duration;

use crate::clock::Stopwatch;

/// A bound for what takes milliseconds on an idle machine, and must not fail on a busy one.
pub const GENEROUS: Duration = Duration::from_secs(20);

/// How long to wait between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// The same where a look costs more, such as the start of a program.
const BLOCKING_PAUSE: Duration = Duration::from_millis(50);

/// Asks `look` again and again until it answers `Ok`, and gives that back.
///
/// `Err` tells what was seen instead; when `bound` is over, the test ends with the last one. A look that hangs counts
/// as over too.
pub async fn until<T, S, F, Fut>(what: &str, bound: Duration, mut look: F) -> T
where
    S: Display,
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, S>>,
{
    let waited = Stopwatch::start();
    let mut last = String::from("nothing yet");
    loop {
        let left = bound.saturating_sub(waited.elapsed());
        match tokio::time::timeout(left.max(PAUSE), look()).await {
            Ok(Ok(found)) => return found,
            Ok(Err(seen)) => last = seen.to_string(),
            Err(_) => last = format!("{last} (and the last look did not come back)"),
        }
        assert!(
            waited.elapsed() < bound,
            "waited {bound:?} for {what}; last seen: {last}"
        );
        tokio::time::sleep(PAUSE).await;
    }
}

/// [`until`] for what is at hand without waiting.
pub async fn until_now<T, S: Display>(
    what: &str,
    bound: Duration,
    mut look: impl FnMut() -> Result<T, S>,
) -> T {
    until(what, bound, || std::future::ready(look())).await
}

/// [`until`] for tests without a runtime: `look` may take its time, such as a program that is run.
pub fn until_blocking<T, S: Display>(
    what: &str,
    bound: Duration,
    mut look: impl FnMut() -> Result<T, S>,
) -> T {
    let waited = Stopwatch::start();
    loop {
        match look() {
            Ok(found) => return found,
            Err(seen) => assert!(
                waited.elapsed() < bound,
                "waited {bound:?} for {what}; last seen: {seen}"
            ),
        }
        std::thread::sleep(BLOCKING_PAUSE);
    }
}

/// Looks at `holds` for the whole of `span`, and ends the test as soon as it doesn't.
///
/// For promises of the kind "nothing more happens": the span bounds what such a test can show.
pub async fn stays<S: Display>(
    what: &str,
    span: Duration,
    mut holds: impl FnMut() -> Result<(), S>,
) {
    let waited = Stopwatch::start();
    while waited.elapsed() < span {
        if let Err(seen) = holds() {
            panic!(
                "{what} did not stay so: after {:?}: {seen}",
                waited.elapsed()
            );
        }
        tokio::time::sleep(PAUSE).await;
    }
}
