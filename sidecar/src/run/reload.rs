//! Reads the configuration again, and puts into force what can be changed while the process runs.

use super::running::Running;
use crate::admin::reloaded::{Outcome, Reloaded};
use crate::check;
use crate::check::levee::Valid;
use crate::config::Config;
use crate::parts::redis;
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
/// Something can't be started. Nothing has changed then.
async fn apply(running: &mut Running, mut new: Config) -> Result<Reloaded> {
    let kept = keep(&running.config, &mut new);
    descriptors::fit(&mut new)?;
    let mut changed = Vec::new();
    apply_redis(running, &new, &mut changed).await?;
    let old = &running.config;
    if old.token != new.token {
        changed.push("admin.token".to_owned());
    }
    if old.log.level != new.log.level {
        log::set_max_level(new.log.level);
        changed.push("log.level".to_owned());
    }
    if old.stop_within != new.stop_within {
        changed.push("stop_within".to_owned());
    }
    if old.envoy != new.envoy {
        running.end_envoy();
        running.start_envoy(new.envoy.as_ref())?;
        changed.push("envoy".to_owned());
    }
    if running.config.database != new.database {
        running.end_database();
        running.start_database(new.database.as_ref())?;
        changed.push("database".to_owned());
    }
    running.config = new;
    Ok(Reloaded {
        outcome: Outcome::Applied,
        changed,
        kept,
        errors: Vec::new(),
    })
}

/// Takes back in `new` what can't be changed. Returns the keys.
fn keep(old: &Config, new: &mut Config) -> Vec<String> {
    let mut kept = Vec::new();
    if old.admin != new.admin {
        kept.push("admin.listen".to_owned());
        new.admin = old.admin;
    }
    if old.log.format != new.log.format {
        kept.push("log.format".to_owned());
        new.log.format = old.log.format;
    }
    if old.memory != new.memory {
        kept.push("limits.memory".to_owned());
        new.memory = old.memory;
    }
    if old.state != new.state {
        kept.push("state".to_owned());
        new.state.clone_from(&old.state);
    }
    for (place, new) in new.redis.iter_mut().enumerate() {
        let Some(old) = old.redis.iter().find(|old| old.name == new.name) else {
            continue;
        };
        if old.listen != new.listen {
            kept.push(format!("redis[{place}].listen"));
            new.listen = old.listen;
        }
        if old.upstream != new.upstream {
            kept.push(format!("redis[{place}].upstream"));
            new.upstream.clone_from(&old.upstream);
        }
    }
    kept
}

/// # Errors
/// A new upstream can't be built or can't listen.
async fn apply_redis(running: &mut Running, new: &Config, changed: &mut Vec<String>) -> Result<()> {
    let mut added = Vec::new();
    for config in &new.redis {
        if running
            .redis
            .iter()
            .any(|redis| redis.config.name == config.name)
        {
            continue;
        }
        let built = redis::build(
            config,
            &running.families,
            running.buffers.clone(),
            running.clock,
        );
        let listening = built.and_then(|upstream| {
            let listener = running.sockets.listen(&config.name, config.listen)?;
            Ok((config, upstream, listener))
        });
        match listening {
            Ok(new) => added.push(new),
            Err(error) => {
                running.families.remove(&config.name);
                for (config, _, _) in added {
                    running.families.remove(&config.name);
                }
                return Err(error);
            }
        }
    }
    let is_gone = |name: &str| new.redis.iter().all(|redis| redis.name != name);
    while let Some(place) = running
        .redis
        .iter()
        .position(|redis| is_gone(&redis.config.name))
    {
        changed.extend(
            running
                .redis
                .get(place)
                .map(|redis| format!("redis/{} (removed)", redis.config.name)),
        );
        running.end_redis(place);
    }
    for config in &new.redis {
        let place = running
            .redis
            .iter()
            .position(|redis| redis.config.name == config.name && redis.config != *config);
        if let Some(place) = place {
            running.reconfigure_redis(place, config);
            changed.push(format!("redis/{}", config.name));
        }
    }
    for (config, upstream, listener) in added {
        running.serve_redis(config, upstream, listener).await?;
        changed.push(format!("redis/{} (new)", config.name));
    }
    Ok(())
}
