//! Which parts work: those that are probed, as the last probe saw it, and those that report it themselves. `/readyz` and
//! the metric `levee_part_up` both show this.

use crate::exposition;
use crate::foreign_text::shown;
use prometheus::Registry;
use prometheus::core::{Collector, Desc};
use prometheus::proto::{MetricFamily, MetricType};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::watch;

pub const PART_UP: &str = "levee_part_up";

const HELP: &str = "1 if the part works, as /readyz says.";

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

impl PartState {
    fn down(why: &str) -> Self {
        Self::Down(shown(why))
    }
}

impl From<Option<String>> for PartState {
    /// The state of a part with this problem, if there is one.
    fn from(problem: Option<String>) -> Self {
        problem.map_or(Self::Ready, |why| Self::down(&why))
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    pub is_stopping: bool,
    pub states: BTreeMap<String, PartState>,
}

type Report = Box<dyn Fn() -> PartState + Send + Sync>;

/// Parts that report their own state.
#[derive(Default)]
struct Reports(RwLock<BTreeMap<String, Report>>);

impl fmt::Debug for Reports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reports")
    }
}

/// The state of all parts.
#[derive(Clone, Debug)]
pub struct Readiness {
    probed: Arc<watch::Sender<Parts>>,
    reports: Arc<Reports>,
}

impl Readiness {
    /// # Errors
    /// `registry` already has a metric of this name.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let readiness = Self {
            probed: Arc::new(watch::Sender::new(Parts::default())),
            reports: Arc::default(),
        };
        let labels = vec!["part".to_owned()];
        registry.register(Box::new(PartUp {
            description: Desc::new(PART_UP.to_owned(), HELP.to_owned(), labels, HashMap::new())?,
            readiness: readiness.clone(),
        }))?;
        Ok(readiness)
    }

    /// A part that reports its state whenever it is asked.
    pub fn reported(&self, name: &str, report: impl Fn() -> PartState + Send + Sync + 'static) {
        let mut reports = self
            .reports
            .0
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        reports.insert(name.to_owned(), Box::new(report));
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
        self.probed.send_modify(|parts| {
            parts.states.remove(name);
        });
        let mut reports = self
            .reports
            .0
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        reports.remove(name);
    }

    pub fn stopping(&self) {
        self.probed.send_modify(|parts| parts.is_stopping = true);
    }

    pub fn parts(&self) -> Parts {
        let mut parts = self.probed.borrow().clone();
        let reports = self
            .reports
            .0
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let reported = reports
            .iter()
            .map(|(name, report)| (name.clone(), report()));
        parts.states.extend(reported);
        parts
    }

    /// Waits until every part that is probed was probed.
    pub async fn known(&self) {
        let is_known = |parts: &Parts| !parts.states.values().any(|s| *s == PartState::Unknown);
        let _ = self.probed.subscribe().wait_for(is_known).await;
    }

    /// Returns the state before.
    fn set(&self, name: &str, state: PartState) -> Option<PartState> {
        let mut before = None;
        self.probed.send_modify(|parts| {
            before = parts.states.insert(name.to_owned(), state);
        });
        before
    }
}

/// The metric, computed whenever it is read.
struct PartUp {
    description: Desc,
    readiness: Readiness,
}

impl Collector for PartUp {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.description]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let parts = self.readiness.parts();
        let series = parts.states.iter().map(|(name, state)| {
            let up = f64::from(u8::from(*state == PartState::Ready));
            exposition::gauge(vec![exposition::label("part", name)], up)
        });
        vec![exposition::family(
            PART_UP,
            HELP,
            MetricType::GAUGE,
            series.collect(),
        )]
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
        let why = shown(why);
        let before = self.readiness.set(&self.name, PartState::Down(why.clone()));
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

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::TextEncoder;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn metric(registry: &Registry) -> Vec<String> {
        let page = TextEncoder::new().encode_to_string(&registry.gather());
        let page = page.unwrap();
        let lines = page.lines().filter(|line| !line.starts_with('#'));
        lines.map(str::to_owned).collect()
    }

    #[test]
    fn the_metric_shows_what_readyz_shows() {
        let registry = Registry::new();
        let readiness = Readiness::register(&registry).unwrap();
        let probed = readiness.probed("redis/x");
        let works = Arc::new(AtomicBool::new(true));
        let report = works.clone();
        readiness.reported("watchdog", move || {
            let problem = (!report.load(Ordering::SeqCst)).then(|| "no rights".to_owned());
            PartState::from(problem)
        });
        let [redis, watchdog] =
            ["redis/x", "watchdog"].map(|part| format!("{PART_UP}{{part=\"{part}\"}}"));
        assert_eq!(
            metric(&registry),
            [format!("{redis} 0"), format!("{watchdog} 1")]
        );
        probed.works();
        works.store(false, Ordering::SeqCst);
        assert_eq!(
            metric(&registry),
            [format!("{redis} 1"), format!("{watchdog} 0")]
        );
        let states = readiness.parts().states;
        assert_eq!(states["watchdog"], PartState::down("no rights"));
        readiness.remove("watchdog");
        readiness.remove("redis/x");
        assert!(metric(&registry).is_empty());
        assert_eq!(readiness.parts(), Parts::default());
    }
}
