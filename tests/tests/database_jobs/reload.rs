//! Jobs when `levee.yaml` is read again.

use std::thread;

use crate::auth_cleanup::RUN_AUTH;
use levee_harness::postgres::Postgres;
use levee_harness::sidecar::{Config, Sidecar, Start};
use serde_json::Value;

/// A service whose tokens are handled while a table notes each of them.
struct Noted {
    postgres: Postgres,
    sidecar: Sidecar,
}

impl Noted {
    fn start(tokens: u32, keys: &str) -> Self {
        let postgres = Postgres::with_tables().unwrap();
        postgres
            .execute(
                "CREATE TABLE gone (token_id uuid); GRANT ALL ON gone TO levee;
                 CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
                   'BEGIN INSERT INTO gone VALUES (OLD.token_id); RETURN OLD; END';
                 CREATE TRIGGER note BEFORE DELETE ON email_verification_tokens FOR EACH ROW EXECUTE FUNCTION note()",
            )
            .unwrap();
        postgres.add_tokens(tokens, 10).unwrap();
        let config = Self::config(&postgres, keys);
        let sidecar = Sidecar::start_with(&config, &Start::default()).unwrap();
        Self { postgres, sidecar }
    }

    fn config(postgres: &Postgres, keys: &str) -> Config {
        Config::new("").database(&postgres.url_of("levee"), keys)
    }

    /// Reloads with these keys, and waits until they are in force.
    fn reload(&mut self, keys: &str) {
        let config = Self::config(&self.postgres, keys);
        self.reload_with(&config);
    }

    fn reload_with(&mut self, config: &Config) {
        let reloads = "levee_config_reloads_total{outcome=\"applied\"}";
        let before = self.sidecar.metric(reloads).unwrap();
        self.sidecar.reload(config).unwrap();
        self.sidecar
            .wait_for_metric(reloads, |reloads| reloads > before)
            .unwrap();
    }

    fn gone(&self) -> i64 {
        self.postgres.number("SELECT count(*) FROM gone").unwrap()
    }

    fn page(&self, path: &str) -> Value {
        let (_, page) = self.sidecar.get(path).unwrap();
        serde_json::from_str(&page).expect("JSON")
    }

    /// Starts a run, and waits for its first rows.
    fn begin(&self) {
        let (status, _) = self
            .sidecar
            .post("/v1/jobs/auth_cleanup/run?wait=0s")
            .unwrap();
        assert_eq!(status, 202);
        self.sidecar.wait_for("rows", |_| self.gone() > 0).unwrap();
    }
}

#[test]
fn a_changed_job_takes_force_and_the_run_under_way_ends_without_a_row_lost_or_handled_twice() {
    let slow =
        "jobs: {auth_cleanup: {preset: expired_tokens, batch: 10, pause: 50ms, scheduled: false}}";
    let mut noted = Noted::start(3000, slow);
    noted.begin();
    noted.reload(
        "jobs: {auth_cleanup: {preset: expired_tokens, batch: 500, pause: 0s, scheduled: false}}",
    );
    noted
        .sidecar
        .wait_for_log("\"message\":\"stopped: ")
        .unwrap();
    let before = noted.gone();
    assert!(before < 3000, "{before}");
    let (status, report) = noted.sidecar.post(RUN_AUTH).unwrap();
    assert_eq!(
        (status, &report["outcome"]),
        (200, &Value::from("done")),
        "{report}"
    );
    assert_eq!(report["rows"].as_i64(), Some(3000 - before), "{report}");
    let batches = report["batches"].as_i64().expect("a number");
    assert_eq!(batches, (3000 - before + 499) / 500, "{report}");
    assert_eq!(noted.gone(), 3000);
    assert_eq!(noted.postgres.expired_tokens().unwrap(), 0);
}

#[test]
fn a_changed_schedule_takes_force() {
    let job =
        |schedule: &str| format!("jobs: {{auth_cleanup: {{preset: expired_tokens, {schedule}}}}}");
    let mut noted = Noted::start(10, &job("scheduled: false"));
    let next = |noted: &Noted| noted.page("/v1/jobs/auth_cleanup")["next"].clone();
    assert_eq!(next(&noted), Value::Null);
    noted.reload(&job("every: 1s"));
    for round in 1..=3 {
        noted
            .sidecar
            .wait_for("a scheduled run", |_| {
                noted.postgres.expired_tokens().unwrap() == 0
            })
            .unwrap();
        noted.postgres.add_tokens(10 * round, 0).unwrap();
    }
    noted.reload(&job("scheduled: false"));
    assert_eq!(next(&noted), Value::Null);
    // A run that had begun comes to its end first.
    let claims = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'";
    noted
        .sidecar
        .wait_for("its end", |_| noted.postgres.number(claims).unwrap() == 0)
        .unwrap();
    noted.postgres.add_tokens(100, 0).unwrap();
    let (_, report) = noted.sidecar.post(RUN_AUTH).unwrap();
    assert!(report["rows"].as_u64() >= Some(100), "{report}");
}

#[test]
fn a_job_that_was_removed_ends_after_its_batch() {
    let jobs =
        "jobs: {auth_cleanup: {preset: expired_tokens, batch: 10, pause: 50ms, scheduled: false}}";
    let mut noted = Noted::start(3000, jobs);
    let answer = thread::scope(|scope| {
        let admin = noted.sidecar.admin;
        let run = scope.spawn(move || {
            levee_harness::client::Request::post(RUN_AUTH, "")
                .header(
                    "authorization",
                    format!("Bearer {}", levee_harness::sidecar::TOKEN),
                )
                .send_blocking(admin)
                .expect("an answer")
        });
        noted
            .sidecar
            .wait_for("rows", |_| noted.gone() > 0)
            .unwrap();
        noted.reload("connections: 2");
        run.join().expect("an answer")
    });
    // Who asked for the run is told how it ended.
    let report: Value = serde_json::from_str(&answer.text()).expect("JSON");
    assert_eq!(report["outcome"], "stopped", "{report}");
    let gone = noted.gone();
    assert_eq!(report["rows"].as_i64(), Some(gone), "{report}");
    assert!(gone < 3000);
    assert_eq!(noted.sidecar.post(RUN_AUTH).unwrap().0, 404);
    let (_, metrics) = noted.sidecar.get("/metrics").unwrap();
    assert!(!metrics.contains("job_rows_total"), "{metrics}");
    let sessions = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'";
    assert_eq!(noted.postgres.number(sessions).unwrap(), 0);
}

#[test]
fn a_run_goes_on_over_a_reload_that_changes_something_else() {
    let jobs =
        "jobs: {auth_cleanup: {preset: expired_tokens, batch: 100, pause: 20ms, scheduled: false}}";
    let mut noted = Noted::start(5000, jobs);
    noted.begin();
    let other = Config::new("stop_within: 20s\n").database(&noted.postgres.url_of("levee"), jobs);
    noted.reload_with(&other);
    noted
        .sidecar
        .wait_for("its end", |_| {
            noted.page("/v1/jobs/auth_cleanup")["last"] != Value::Null
        })
        .unwrap();
    let last = &noted.page("/v1/jobs/auth_cleanup")["last"];
    assert_eq!(
        (&last["outcome"], &last["rows"]),
        (&Value::from("done"), &Value::from(5000)),
        "{last}"
    );
    assert_eq!(noted.gone(), 5000);
    let rows = "job_rows_total{job=\"auth_cleanup\"}";
    assert_eq!(noted.sidecar.metric(rows).unwrap(), 5000);
}
