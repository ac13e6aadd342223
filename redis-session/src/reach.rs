//! Whether Redis can be reached, as far as all of its clients together know.

use levee_policy::backoff::Backoff;
use levee_policy::time::Instant;
use std::time::Duration;

/// For so long a script makes Redis silent: then it answers `-BUSY` (`busy-reply-threshold`, 5 s by default), and half a second
/// more until that has come.
pub(crate) const SCRIPT_SILENCE: Duration = Duration::from_millis(5500);

/// How late what has waited for it may notice that it is over.
const LATE: Duration = Duration::from_millis(500);

/// Scripts that Redis may be executing, one after the other.
#[derive(Clone, Copy, Debug)]
struct Scripts {
    /// Connections on which there are scripts without an answer.
    connections: u32,
    /// When the one that is executed now can have begun: when the first went out, or at Redis' last answer.
    since: Instant,
}

/// It can't be reached. One client at a time tries for all.
#[derive(Debug)]
struct Outage {
    since: Instant,
    /// The last attempt that failed.
    confirmed: Instant,
    attempts: u32,
    next: Instant,
    /// What went wrong first.
    why: String,
}

/// The upstream is known not to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gone {
    pub lasted: Duration,
    pub why: String,
}

#[derive(Debug, Default)]
pub(crate) struct Reach {
    outage: Option<Outage>,
    scripts: Option<Scripts>,
}

impl Reach {
    /// There was no connection since `since`, or one on which Redis has not answered. The next attempt is due at `next`.
    pub fn failed(&mut self, why: &str, since: Instant, next: Instant, now: Instant) {
        let outage = self.outage.get_or_insert_with(|| Outage {
            since,
            confirmed: now,
            attempts: 0,
            next,
            why: why.to_owned(),
        });
        outage.since = outage.since.min(since);
        outage.confirmed = now;
    }

    /// A command has waited for its deadline in vain. If Redis could not be reached before, it still can't be.
    pub const fn waited_in_vain(&mut self, now: Instant) {
        if let Some(outage) = &mut self.outage {
            outage.confirmed = now;
        }
    }

    /// Redis has answered at `at` on a new connection. An answer from before the last failure says nothing.
    pub fn answered(&mut self, at: Instant) {
        if self
            .outage
            .as_ref()
            .is_some_and(|outage| outage.confirmed <= at)
        {
            self.outage = None;
        }
    }

    /// The last attempt did not fail.
    pub const fn is_given(&self) -> bool {
        self.outage.is_none()
    }

    /// Whether waiting would be in vain: attempts have failed for `limit`.
    pub fn gone(&self, limit: Duration, now: Instant) -> Option<Gone> {
        let outage = self.outage.as_ref()?;
        if outage.confirmed.since(outage.since) < limit {
            return None;
        }
        Some(Gone {
            lasted: now.since(outage.since),
            why: outage.why.clone(),
        })
    }

    /// Whether a waiting client may connect now.
    ///
    /// # Errors
    /// Not yet, and when to ask again.
    pub fn turn(&mut self, backoff: &Backoff, random: u64, now: Instant) -> Result<Turn, Instant> {
        let Some(outage) = &mut self.outage else {
            return Ok(Turn::Free);
        };
        if now < outage.next {
            // Asking is cheap, so all are back soon after the one that gets through.
            return Err(now.after(backoff.wait(0, random)));
        }
        outage.attempts = outage.attempts.saturating_add(1);
        outage.next = now.after(backoff.wait(outage.attempts, random));
        Ok(Turn::ForAll)
    }

    // ---- scripts

    /// A script went out on a connection that had none. It explains no silence that has begun before.
    pub fn script_sent(&mut self, now: Instant) {
        let scripts = self.scripts.get_or_insert(Scripts {
            connections: 0,
            since: now,
        });
        scripts.connections = scripts.connections.saturating_add(1);
    }

    /// A script is answered, and there are others on its connection.
    pub const fn script_answered(&mut self, now: Instant) {
        if let Some(scripts) = &mut self.scripts {
            scripts.since = now;
        }
    }

    /// All scripts of a connection are answered.
    pub fn scripts_ended(&mut self, now: Instant) {
        self.script_answered(now);
        self.scripts_left();
        self.scripts = self.scripts.filter(|scripts| scripts.connections > 0);
    }

    /// A connection is lost on which there were scripts. Redis may still execute them.
    pub const fn scripts_left(&mut self) {
        if let Some(scripts) = &mut self.scripts {
            scripts.connections = scripts.connections.saturating_sub(1);
        }
    }

    /// Redis has answered a question that was asked at `asked`.
    pub fn answered_question(&mut self, asked: Instant, now: Instant) {
        self.answered(now);
        if let Some(scripts) = &mut self.scripts {
            scripts.since = scripts.since.max(asked);
        }
        // What was left behind is not executed any more.
        self.scripts = self.scripts.filter(|scripts| scripts.connections > 0);
    }

    /// How long it may make sense to wait for a Redis that a script holds up.
    pub fn held_up_until(&self) -> Option<Instant> {
        self.scripts
            .map(|scripts| scripts.since.after(SCRIPT_SILENCE))
    }

    /// Redis may be silent since it executes a script.
    pub fn is_held_up(&self, now: Instant) -> bool {
        self.held_up_until()
            .is_some_and(|until| now < until.after(LATE))
    }
}

/// Why a client may connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Nothing is known against it.
    Free,
    /// It tries for all who wait.
    ForAll,
}
