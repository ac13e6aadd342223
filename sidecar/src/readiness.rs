//! Which parts work, as the last probes saw it.

use prometheus::{IntGaugeVec, Registry, register_int_gauge_vec_with_registry};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

pub const PART_UP: &str = "levee_part_up";

/// How often Redis and the database are probed.
pub const PROBE_EVERY: Duration = Duration::from_secs(1);

/// How long a probe may take.
pub const PROBE_WITHIN: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartState {
    /// Not probed yet.
    Unknown,
    Ready,
    /// With the reason.
    Down(String),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    pub is_stopping: bool,
    pub states: BTreeMap<String, PartState>,
}

/// The state of all parts.
#[derive(Clone, Debug)]
pub struct Readiness {
    parts: Arc<watch::Sender<Parts>>,
    up: IntGaugeVec,
}

impl Readiness {
    /// # Errors
    /// `registry` already has a metric of this name.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let help = "1 if the part works, as its last probe saw it.";
        Ok(Self {
            parts: Arc::new(watch::Sender::new(Parts::default())),
            up: register_int_gauge_vec_with_registry!(PART_UP, help, &["part"], registry)?,
        })
    }

    /// A part that works from now on.
    pub fn ready(&self, name: &str) {
        self.set(name, PartState::Ready);
    }

    /// A part that is probed.
    pub fn probed(&self, name: &str) -> Part {
        self.set(name, PartState::Unknown);
        Part {
            name: name.to_owned(),
            readiness: self.clone(),
        }
    }

    /// The part does not exist any more.
    pub fn remove(&self, name: &str) {
        self.parts.send_modify(|parts| {
            parts.states.remove(name);
        });
        let _ = self.up.remove_label_values(&[name]);
    }

    pub fn stopping(&self) {
        self.parts.send_modify(|parts| parts.is_stopping = true);
    }

    pub fn parts(&self) -> Parts {
        self.parts.borrow().clone()
    }

    /// Waits until every part was probed.
    pub async fn known(&self) {
        let is_known = |parts: &Parts| !parts.states.values().any(|s| *s == PartState::Unknown);
        let _ = self.parts.subscribe().wait_for(is_known).await;
    }

    /// Returns the state before.
    fn set(&self, name: &str, state: PartState) -> Option<PartState> {
        let up = self.up.with_label_values(&[name]);
        up.set(i64::from(state == PartState::Ready));
        let mut before = None;
        self.parts.send_modify(|parts| {
            before = parts.states.insert(name.to_owned(), state);
        });
        before
    }
}

/// One part that is probed.
#[derive(Clone, Debug)]
pub struct Part {
    name: String,
    readiness: Readiness,
}

impl Part {
    /// For a part that logs itself what happened to it.
    pub fn is(&self, state: PartState) {
        self.readiness.set(&self.name, state);
    }

    pub fn works(&self) {
        if let Some(PartState::Down(_)) = self.readiness.set(&self.name, PartState::Ready) {
            log::info!(part = self.name.as_str(); "answers again");
        }
    }

    pub fn is_down(&self, why: &str) {
        let before = self
            .readiness
            .set(&self.name, PartState::Down(why.to_owned()));
        if !matches!(before, Some(PartState::Down(_))) {
            log::warn!(part = self.name.as_str(); "is down: {why}");
        }
    }

    /// Takes the result of a probe that was bounded by [`PROBE_WITHIN`].
    pub fn saw(&self, probe: Result<Result<(), String>, tokio::time::error::Elapsed>) {
        match probe {
            Ok(Ok(())) => self.works(),
            Ok(Err(why)) => self.is_down(&why),
            Err(_) => {
                let within = humantime::format_duration(PROBE_WITHIN);
                self.is_down(&format!("no answer within {within}"));
            }
        }
    }
}
