//! Presets: cleanup jobs for common tables, with metrics and an admin path of their own.
//!
//! All that distinguishes a preset is its entry in [`PRESETS`]. The configuration, the admin interface and the
//! metrics iterate over that table.

use super::identifier::Identifier;
use super::reading::Reading;
use super::spec::{Action, Assignment, Condition, Spec, Value};
use crate::jobs::metrics::OwnNames;
use std::time::Duration;

#[derive(Debug)]
pub struct Preset {
    /// The value of `preset` in the configuration.
    pub name: &'static str,
    /// The admin path that runs its job.
    pub run_path: &'static str,
    pub metrics: OwnNames,
    /// The default of `older_than`. `None`: the preset doesn't have that key.
    pub older_than: Option<Duration>,
    spec: fn(older_than: Duration) -> Spec,
}

pub static PRESETS: [Preset; 2] = [
    Preset {
        name: "expired_tokens",
        run_path: "/v1/auth/cleanup",
        metrics: OwnNames {
            rows: "auth_cleanup_expired_tokens_total",
            failed: "auth_cleanup_failed_total",
            duration: "auth_cleanup_duration_seconds",
        },
        older_than: None,
        spec: expired_tokens,
    },
    Preset {
        name: "stale_calls",
        run_path: "/v1/video/cleanup",
        metrics: OwnNames {
            rows: "video_cleanup_stale_calls_total",
            failed: "video_cleanup_failed_total",
            duration: "video_cleanup_duration_seconds",
        },
        older_than: Some(Duration::from_hours(24)),
        spec: stale_calls,
    },
];

impl Preset {
    /// The preset with this name in the configuration.
    pub fn find(name: &str) -> Option<&'static Self> {
        PRESETS.iter().find(|preset| preset.name == name)
    }

    /// What its job does. `older_than` replaces the default, if the preset has one.
    pub fn spec(&self, older_than: Option<Duration>) -> Spec {
        (self.spec)(older_than.or(self.older_than).unwrap_or_default())
    }
}

impl PartialEq for Preset {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Preset {}

fn column(name: &str) -> Identifier {
    Identifier::new(name).expect("names in presets are valid")
}

fn set(name: &str, value: Value) -> Assignment {
    let column = column(name);
    Assignment { column, value }
}

/// Deletes tokens once they have expired.
fn expired_tokens(older_than: Duration) -> Spec {
    Spec {
        schema: None,
        table: column("email_verification_tokens"),
        key: vec![column("token_id")],
        order: column("expires_at"),
        conditions: vec![Condition::Before(column("expires_at"), older_than)],
        action: Action::Delete,
        reading: Reading::default(),
    }
}

/// Ends calls that are still ringing or active and began longer than `older_than` ago.
fn stale_calls(older_than: Duration) -> Spec {
    Spec {
        schema: None,
        table: column("calls"),
        key: vec![column("call_id")],
        order: column("started_at"),
        conditions: vec![
            Condition::In(
                column("status"),
                vec!["ringing".to_owned(), "active".to_owned()],
            ),
            Condition::Before(column("started_at"), older_than),
        ],
        action: Action::Set(vec![
            set("status", Value::Text("ended".to_owned())),
            set("ended_at", Value::Ago(Duration::ZERO)),
            set("duration", Value::SecondsSince(column("started_at"))),
        ]),
        reading: Reading::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_preset_has_names_and_a_path_of_its_own_and_comes_to_an_end() {
        let mut seen = BTreeSet::new();
        for preset in &PRESETS {
            let OwnNames {
                rows,
                failed,
                duration,
            } = preset.metrics;
            for text in [preset.name, preset.run_path, rows, failed, duration] {
                assert!(seen.insert(text), "{text} is used twice");
            }
            assert!(preset.run_path.starts_with("/v1/"), "{}", preset.run_path);
            assert!(preset.spec(None).comes_to_an_end(), "{}", preset.name);
            assert_eq!(Preset::find(preset.name), Some(preset));
        }
    }
}
