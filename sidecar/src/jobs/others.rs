//! Whether others use the database, from looks at it that are a moment apart.

use levee_policy::time::Instant;
use std::time::Duration;

/// How often to look.
pub const LOOK_EVERY: Duration = Duration::from_millis(250);

/// A session that ran a statement within this time before a look is active. Ten statements a second are seen in two of
/// three looks, a health check each second in one of ten.
pub const RECENT: Duration = Duration::from_millis(100);

/// Of so many looks, two with active sessions show that the database is in use.
const BUSY_IN: u32 = 4;

/// After so many looks without active sessions it no longer is.
const QUIET_AFTER: u32 = 8;

/// Counts of transactions are up to a second old, so rates are taken over more than that.
const WINDOW: Duration = Duration::from_secs(2);

/// Transactions of others in a second, from which on the database is in use.
const BUSY_FROM: u64 = 10;

/// Transactions in a second of each session of another instance of Levee, such as that of a watchdog.
const OF_LEVEE: u64 = 2;

/// How others use the database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Usage {
    /// Not known, or not yet.
    #[default]
    Unknown,
    Quiet,
    Busy,
}

/// The sessions of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sessions {
    /// One of them runs a statement, or did so within [`RECENT`].
    Active,
    Still,
    /// Levee may not see what they do.
    Hidden,
    /// One of them does not say what it does, and none says that it is active.
    Untracked,
}

/// What a look at the database shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    pub sessions: Sessions,
    /// Transactions of all sessions, Levee's own included, from some time on.
    pub transactions: u64,
    /// Those of this process.
    pub own: u64,
    /// How many other sessions are Levee's, of this process or another.
    pub levee: u64,
}

/// A count of transactions.
#[derive(Clone, Copy, Debug)]
struct Count {
    at: Instant,
    all: u64,
    own: u64,
}

/// What the looks so far have shown.
#[derive(Clone, Copy, Debug, Default)]
pub struct Others {
    usage: Usage,
    /// Looks, the newest one in the lowest bit: 1 if there were active sessions.
    active: u32,
    looks: u32,
    count: Option<Count>,
}

impl Others {
    /// Adds a look.
    pub fn saw(&mut self, look: Look, now: Instant) -> Usage {
        self.usage = match look.sessions {
            Sessions::Active => self.by_sessions(1),
            Sessions::Still => self.by_sessions(0),
            Sessions::Hidden => self.by_transactions(look, now),
            Sessions::Untracked => {
                *self = Self::default();
                Usage::Unknown
            }
        };
        self.usage
    }

    fn by_sessions(&mut self, active: u32) -> Usage {
        let newest = |looks: u32| (1 << looks) - 1;
        self.active = self.active << 1 | active;
        self.looks = self.looks.saturating_add(1);
        let of_late = (self.active & newest(BUSY_IN)).count_ones();
        let was_busy = self.usage == Usage::Busy;
        let is_quiet = self.active & newest(QUIET_AFTER) == 0;
        if of_late >= self.looks.min(2) || was_busy && !is_quiet {
            Usage::Busy
        } else {
            Usage::Quiet
        }
    }

    fn by_transactions(&mut self, look: Look, now: Instant) -> Usage {
        let (all, own) = (look.transactions, look.own);
        let count = Count { at: now, all, own };
        let before = *self.count.get_or_insert(count);
        let elapsed = now.since(before.at);
        if elapsed < WINDOW {
            return self.usage;
        }
        self.count = Some(count);
        let own = own.saturating_sub(before.own);
        let others = all.saturating_sub(before.all).saturating_sub(own);
        // Some of Levee's own may be of the time before.
        let in_a_second = BUSY_FROM + OF_LEVEE * look.levee;
        let least = in_a_second * elapsed.as_secs() + own / 2;
        if others >= least {
            Usage::Busy
        } else {
            Usage::Quiet
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const START: Instant = Instant::from_nanos(0);

    fn look(sessions: Sessions) -> Look {
        Look {
            sessions,
            transactions: 0,
            own: 0,
            levee: 0,
        }
    }

    /// The usage after each look: `x` active, `.` still, `-` untracked.
    fn usages(looks: &str) -> String {
        let mut others = Others::default();
        let usages = looks.chars().map(|it| {
            let sessions = match it {
                'x' => Sessions::Active,
                '-' => Sessions::Untracked,
                _ => Sessions::Still,
            };
            match others.saw(look(sessions), START) {
                Usage::Busy => 'B',
                Usage::Quiet => 'q',
                Usage::Unknown => '?',
            }
        });
        usages.collect()
    }

    #[test]
    fn the_first_look_decides_and_later_ones_in_pairs() {
        assert_eq!(usages("....x....x...xx"), "qqqqqqqqqqqqqqB");
        assert_eq!(usages("x"), "B");
    }

    #[test]
    fn a_busy_database_is_quiet_only_after_two_seconds_without_anybody() {
        assert_eq!(usages("xx.......x........"), "BBBBBBBBBBBBBBBBBq");
    }

    #[test]
    fn a_health_check_each_second_does_not_make_a_database_busy() {
        let looks = ".x........".repeat(100);
        assert!(!usages(&looks).contains('B'));
    }

    #[test]
    fn sessions_that_do_not_say_what_they_do_are_not_taken_for_still() {
        assert_eq!(usages("..--.-x"), "qq??q?B");
    }

    #[test]
    fn without_the_right_to_see_sessions_transactions_are_counted() {
        for (others, own, levee, usage) in [
            (0, 0, 0, Usage::Quiet),
            (0, 40, 0, Usage::Quiet),
            (9, 0, 0, Usage::Quiet),
            (11, 0, 0, Usage::Busy),
            (1000, 40, 0, Usage::Busy),
            // Three other instances, each with its watchdog.
            (15, 0, 3, Usage::Quiet),
            (17, 0, 3, Usage::Busy),
        ] {
            let mut state = Others::default();
            let mut found = Vec::new();
            for step in 0..=16 {
                let seconds = u64::from(step / 4_u32);
                let look = Look {
                    sessions: Sessions::Hidden,
                    transactions: 1_000_000 + seconds * (others + own),
                    own: seconds * own,
                    levee,
                };
                let now = START.after(LOOK_EVERY * step);
                found.push(state.saw(look, now));
            }
            assert_eq!(found[7], Usage::Unknown);
            assert_eq!(found[8..], [usage; 9], "{others} {own} {levee}");
        }
    }

    proptest! {
        #[test]
        fn what_is_used_all_the_time_is_never_quiet(looks in prop::collection::vec(0u8..3, 1..60)) {
            // Of three looks in a row at least two are active.
            let looks: String = looks.iter().flat_map(|at| {
                let mut three = ['x'; 3];
                three[usize::from(*at)] = '.';
                three
            }).collect();
            let usages = usages(&looks);
            prop_assert!(!usages[3..].contains('q'), "{looks} {usages}");
        }
    }
}
