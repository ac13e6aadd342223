//! The job that most of these tests run.

use levee_harness::sidecar::Sidecar;

/// The cleanup of tokens, run on request only.
pub const AUTH: &str =
    "jobs: {auth_cleanup: {preset: expired_tokens, pause: 0s, scheduled: false}}";

/// The request that runs it to its end.
pub const RUN_AUTH: &str = "/v1/jobs/auth_cleanup/run?wait=5m";

/// The tokens removed so far.
pub fn rows(sidecar: &Sidecar) -> u64 {
    sidecar.metric("auth_cleanup_expired_tokens_total").unwrap()
}
