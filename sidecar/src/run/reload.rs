//! Reads the configuration again, and puts into force what can be changed while the process runs.

use super::plan::{Effective, plan};
use super::running::Running;
use crate::admin::reloaded::{Outcome, Reloaded};
use crate::check;
use crate::check::levee::Valid;
use crate::config::Config;
use crate::{descriptors, yaml};
use anyhow::Result;
use prometheus::{
    IntCounterVec, IntGauge, Registry, register_int_counter_vec_with_registry,
    register_int_gauge_with_registry,
};
use std::path::Path;

pub const RELOADS: &str = "levee_config_reloads_total";
pub const LAST_SUCCESSFUL: &str = "levee_config_last_reload_successful";

#[derive(Clone, Debug)]
pub struct ReloadMetrics {
    reloads: IntCounterVec,
    last_successful: IntGauge,
}

impl ReloadMetrics {
    /// # Errors
    /// `registry` already has one of the names.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let help = "Times that the configuration was read again.";
        let metrics = Self {
            reloads: register_int_counter_vec_with_registry!(
                RELOADS,
                help,
                &["outcome"],
                registry
            )?,
            last_successful: register_int_gauge_with_registry!(
                LAST_SUCCESSFUL,
                "1 if the configuration that was read last is in force.",
                registry
            )?,
        };
        for outcome in Outcome::ALL {
            metrics.reloads.with_label_values(&[outcome.name()]);
        }
        metrics.last_successful.set(1);
        Ok(metrics)
    }

    fn count(&self, outcome: Outcome) {
        self.reloads.with_label_values(&[outcome.name()]).inc();
        self.last_successful
            .set(i64::from(outcome == Outcome::Applied));
    }
}

/// Reads `file` and applies it. If that fails, everything stays as it was. The log says what happened.
pub(super) async fn reload(
    running: &mut Running,
    file: &Path,
    metrics: &ReloadMetrics,
) -> Reloaded {
    let reloaded = match read(file) {
        Err(errors) => Reloaded {
            outcome: Outcome::Invalid,
            errors,
            ..Reloaded::default()
        },
        Ok(new) => match apply(running, new).await {
            Ok(reloaded) => reloaded,
            Err(error) => Reloaded {
                outcome: Outcome::Failed,
                errors: vec![format!("{error:#}")],
                ..Reloaded::default()
            },
        },
    };
    metrics.count(reloaded.outcome);
    say(&reloaded, file);
    reloaded
}

/// # Errors
/// All mistakes, as `levee check` prints them.
fn read(file: &Path) -> Result<Config, Vec<String>> {
    let text =
        yaml::read_file(file).map_err(|error| vec![format!("{} {error}", file.display())])?;
    match check::levee::read(&text) {
        // An editor or `cp` empties a file before it writes it, and that must not end all parts.
        Ok(Valid { document, .. }) if document.root.is_null() => Err(vec![format!(
            "{} is empty, which would end all parts; to do so, stop the process",
            file.display()
        )]),
        Ok(Valid {
            config, warnings, ..
        }) => {
            for warning in warnings {
                log::warn!(file = file.display().to_string(), line = warning.line; "{}", warning.message);
            }
            Ok(config)
        }
        Err(mut findings) => {
            findings.sort_by_key(|finding| finding.severity);
            Err(findings.iter().map(|finding| finding.show(file)).collect())
        }
    }
}

fn say(reloaded: &Reloaded, file: &Path) {
    let list = |items: &[String]| match items {
        [] => "nothing".to_owned(),
        items => items.join(", "),
    };
    for error in &reloaded.errors {
        log::error!("{error}");
    }
    let file = file.display();
    if reloaded.outcome == Outcome::Applied {
        log::info!(
            "{file} was read again; changed: {}",
            list(&reloaded.changed)
        );
    } else {
        log::error!("{file} was read again and rejected: the old configuration stays in force");
    }
    for key in &reloaded.kept {
        log::warn!("{key} has changed, which needs a restart: the old value stays in force");
    }
}

/// # Errors
/// The configuration can't take force. Nothing has changed then.
async fn apply(running: &mut Running, new: Config) -> Result<Reloaded> {
    let Effective { mut config, kept } =
        Effective::new(&running.config, new).map_err(anyhow::Error::msg)?;
    descriptors::fit(&mut config)?;
    let plan = plan(&running.config, config);
    let changed = plan.changed.clone();
    running.apply(plan).await?;
    Ok(Reloaded {
        outcome: Outcome::Applied,
        changed,
        kept,
        errors: Vec::new(),
    })
}
