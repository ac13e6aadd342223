//! What is measured: a job of a sidecar, at a `PostgreSQL` with a backlog.

use levee_harness::postgres::Postgres;
use levee_harness::sidecar::Sidecar;
use serde_json::Value;

/// As `PostgreSQL` is by default, where the tests have it quicker.
const DURABLE: [&str; 3] = ["fsync=on", "full_page_writes=on", "shared_buffers=128MB"];

pub const EXPIRED: u32 = 300_000;
pub const VALID: u32 = 150_000;

/// A `PostgreSQL` with the backlog.
pub fn prepared() -> Postgres {
    let postgres = Postgres::start_with(&DURABLE).expect("PostgreSQL");
    postgres.make_tables().expect("the tables");
    postgres.add_tokens(EXPIRED, VALID).expect("the rows");
    // As a table that has been there for a while.
    postgres
        .execute("VACUUM ANALYZE email_verification_tokens")
        .expect("a vacuum");
    postgres.execute("CHECKPOINT").expect("a checkpoint");
    postgres
}

/// A sidecar with the job and these keys of it.
pub fn sidecar(postgres: &Postgres, keys: &str) -> Sidecar {
    let keys =
        format!("jobs: {{auth_cleanup: {{preset: expired_tokens, scheduled: false{keys}}}}}");
    Sidecar::at(postgres, "levee", &keys).expect("a sidecar")
}

/// The report of a run, when it has ended.
pub fn run(sidecar: &Sidecar) -> Value {
    let (status, report) = sidecar.post("/v1/auth/cleanup?wait=10m").expect("a run");
    assert_eq!(status, 200, "{report}");
    report
}
