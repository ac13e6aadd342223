//! A [`Breaker`] as bytes, for a store that others read.

use crate::answered::{Answered, Witness};
use crate::breaker::{
    Breaker, BreakerSettings, Lease, MAX_PROBES, Openings, ProbeId, Probes, State,
};
use crate::callers::{Caller, Complaints, Share, TOLD_APART, Tally};
use crate::evidence::{Callers, Row};
use crate::time::Instant;
use crate::window::{BUCKETS, Counts, Parts, Window};

/// The first byte. It changes with the layout, and a breaker of another layout is not read.
const LAYOUT: u8 = 5;

const CLOSED: u8 = 0;
const OPEN: u8 = 1;
const HALF_OPEN: u8 = 2;

/// The length of a breaker in bytes.
pub(crate) const SNAPSHOT_LEN: usize = 1 + 1 + 8 + 4 + 8 + 4 + 4 // layout, state, until, ...
    + 4 + 4 + TALLY_LEN + 8 + 4 // row
    + TALLY_LEN + 8 + 2 * (1 + 4 + 8) // callers
    + 8 + 8 + BUCKETS * 24 // window
    + 8 // health checks
    + 4 + 4 + 4 + 4 + 8 + MAX_PROBES * 17; // probes
const TALLY_LEN: usize = TOLD_APART * 16 + 12;

impl Breaker {
    /// The breaker in a layout of fixed length, little-endian, with a version.
    pub fn to_bytes(&self) -> [u8; SNAPSHOT_LEN] {
        let mut bytes = [0; SNAPSHOT_LEN];
        let mut out = Writer { rest: &mut bytes };
        out.u8(LAYOUT);
        let (state, until) = match self.state {
            State::Closed => (CLOSED, Instant::default()),
            State::Open { until } => (OPEN, until),
            State::HalfOpen => (HALF_OPEN, Instant::default()),
        };
        out.u8(state);
        out.u64(until.as_nanos());
        out.u32(self.generation);
        out.u64(self.since.as_nanos());
        out.u32(self.openings.reached);
        out.u32(self.openings.unreachable);
        out.row(&self.row);
        out.callers(&self.callers);
        let window = self.window.parts();
        out.u64(window.width);
        out.u64(window.newest);
        for counts in window.buckets {
            out.words([
                counts.total,
                counts.failures,
                counts.weak,
                counts.slow,
                counts.unanswered,
                counts.in_scopes,
            ]);
        }
        out.u64(self.not_checked_before.as_nanos());
        out.u32(self.probes.admitted);
        out.u32(self.probes.expired);
        // Only a half-open breaker has more of them.
        if self.state == State::HalfOpen {
            out.probes_in_flight(&self.probes);
            debug_assert!(out.rest.is_empty());
        }
        bytes
    }

    /// Reads a breaker. Returns `None` if `bytes` are not of this layout.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != SNAPSHOT_LEN {
            return None;
        }
        let mut input = Reader { rest: bytes };
        if input.u8()? != LAYOUT {
            return None;
        }
        let state = input.u8()?;
        let until = Instant::from_nanos(input.u64()?);
        let state = match state {
            CLOSED => State::Closed,
            OPEN => State::Open { until },
            HALF_OPEN => State::HalfOpen,
            _ => return None,
        };
        let generation = input.u32()?;
        let since = Instant::from_nanos(input.u64()?);
        let openings = Openings {
            reached: input.u32()?,
            unreachable: input.u32()?,
        };
        let (row, callers) = (input.row()?, input.callers()?);
        let (width, newest) = (input.u64()?, input.u64()?);
        let mut buckets = [Counts::default(); BUCKETS];
        for counts in &mut buckets {
            let [total, failures, weak, slow, unanswered, in_scopes] = input.words()?;
            *counts = Counts {
                total,
                failures,
                weak,
                slow,
                unanswered,
                in_scopes,
            };
        }
        let not_checked_before = input.instant()?;
        let mut probes = Probes {
            admitted: input.u32()?,
            expired: input.u32()?,
            ..Probes::default()
        };
        if state == State::HalfOpen {
            input.probes_in_flight(&mut probes)?;
        }
        Some(Self {
            state,
            generation: generation.max(1),
            since,
            openings,
            row,
            callers,
            window: Window::from_parts(Parts {
                width,
                newest,
                buckets,
            }),
            probes,
            not_checked_before,
        })
    }

    /// Adapts a breaker that one process has left to the next one, whose clock may differ: its probes
    /// are gone, nothing has happened after `now`, and from `now` it stays open no longer than
    /// `settings` allow.
    #[must_use]
    pub fn resumed(mut self, settings: &BreakerSettings, now: Instant) -> Self {
        self.probes.leases = [None; MAX_PROBES];
        self.since = self.since.min(now);
        self.row.since = self.row.since.min(now);
        self.callers = Callers::default();
        self.not_checked_before = Instant::default();
        if let State::Open { until } = &mut self.state {
            let longest = settings.open.jitter.apply(settings.open.max, u64::MAX);
            *until = (*until).min(now.after(longest));
        }
        let window = self.window.parts();
        if window.newest > now.as_nanos() / window.width {
            self.window = Window::new(settings.window);
        }
        self
    }
}

struct Writer<'a> {
    rest: &'a mut [u8],
}

impl Writer<'_> {
    fn put<const N: usize>(&mut self, value: [u8; N]) {
        let (head, rest) = std::mem::take(&mut self.rest).split_at_mut(N);
        head.copy_from_slice(&value);
        self.rest = rest;
    }
    fn u8(&mut self, value: u8) {
        self.put([value]);
    }
    fn u32(&mut self, value: u32) {
        self.put(value.to_le_bytes());
    }
    fn u64(&mut self, value: u64) {
        self.put(value.to_le_bytes());
    }
    fn words<const N: usize>(&mut self, values: [u32; N]) {
        let (head, rest) = std::mem::take(&mut self.rest).split_at_mut(4 * N);
        for (word, value) in head.as_chunks_mut().0.iter_mut().zip(values) {
            *word = value.to_le_bytes();
        }
        self.rest = rest;
    }
    fn probes_in_flight(&mut self, probes: &Probes) {
        self.u32(probes.successes);
        self.u32(probes.held_long.hash());
        self.u64(probes.wanted.as_nanos());
        for lease in probes.leases {
            self.u8(u8::from(lease.is_some()));
            let lease = lease.unwrap_or(Lease {
                probe: ProbeId(0),
                caller: Caller::UNKNOWN,
                expires: Instant::default(),
            });
            self.u32(lease.probe.0);
            self.u32(lease.caller.hash());
            self.u64(lease.expires.as_nanos());
        }
    }
    fn tally(&mut self, tally: &Tally) {
        for Share { caller, complaints } in tally.shares {
            let Complaints {
                strong,
                weak,
                unanswered,
            } = complaints;
            self.words([caller.hash(), strong, weak, unanswered]);
        }
        let others = tally.others;
        self.words([others.strong, others.weak, others.unanswered]);
    }
    fn row(&mut self, row: &Row) {
        self.u32(row.length);
        self.u32(row.strong_run);
        self.tally(&row.by_caller);
        self.u64(row.since.as_nanos());
        self.u32(row.again_after_secs);
    }
    fn callers(&mut self, callers: &Callers) {
        self.tally(&callers.complaints);
        self.u64(callers.faded.as_nanos());
        for witness in callers.answered.0 {
            self.u8(u8::from(witness.is_some()));
            let witness = witness.unwrap_or(Witness {
                caller: Caller::UNKNOWN,
                at: Instant::default(),
            });
            self.u32(witness.caller.hash());
            self.u64(witness.at.as_nanos());
        }
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*head)
    }
    fn u8(&mut self) -> Option<u8> {
        self.take().map(u8::from_le_bytes)
    }
    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }
    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }
    fn words<const N: usize>(&mut self) -> Option<[u32; N]> {
        let (head, rest) = self.rest.split_at_checked(4 * N)?;
        let mut values = [0; N];
        for (value, word) in values.iter_mut().zip(head.as_chunks().0) {
            *value = u32::from_le_bytes(*word);
        }
        self.rest = rest;
        Some(values)
    }
    fn caller(&mut self) -> Option<Caller> {
        self.u32().map(Caller::from_hash)
    }
    fn instant(&mut self) -> Option<Instant> {
        self.u64().map(Instant::from_nanos)
    }
    fn probes_in_flight(&mut self, probes: &mut Probes) -> Option<()> {
        probes.successes = self.u32()?;
        probes.held_long = self.caller()?;
        probes.wanted = self.instant()?;
        for place in &mut probes.leases {
            let is_held = self.u8()? == 1;
            let lease = Lease {
                probe: ProbeId(self.u32()?),
                caller: self.caller()?,
                expires: self.instant()?,
            };
            *place = is_held.then_some(lease);
        }
        Some(())
    }
    fn tally(&mut self) -> Option<Tally> {
        let mut shares = [Share::default(); TOLD_APART];
        for share in &mut shares {
            let [caller, strong, weak, unanswered] = self.words()?;
            *share = Share {
                caller: Caller::from_hash(caller),
                complaints: Complaints {
                    strong,
                    weak,
                    unanswered,
                },
            };
        }
        let [strong, weak, unanswered] = self.words()?;
        Some(Tally {
            shares,
            others: Complaints {
                strong,
                weak,
                unanswered,
            },
        })
    }
    fn row(&mut self) -> Option<Row> {
        Some(Row {
            length: self.u32()?,
            strong_run: self.u32()?,
            by_caller: self.tally()?,
            since: self.instant()?,
            again_after_secs: self.u32()?,
        })
    }
    fn callers(&mut self) -> Option<Callers> {
        let complaints = self.tally()?;
        let faded = self.instant()?;
        let mut answered = Answered::default();
        for witness in &mut answered.0 {
            let is_known = self.u8()? == 1;
            let known = Witness {
                caller: self.caller()?,
                at: self.instant()?,
            };
            *witness = is_known.then_some(known);
        }
        Some(Callers {
            complaints,
            faded,
            answered,
        })
    }
}
