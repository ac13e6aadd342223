//! Tests to skip, decided before the first part runs: the machine lacks a program that no pinned package has.

use crate::callgrind::{self, Callgrind};
use crate::failure::Failure;
use crate::instructions;
use crate::machine;
use crate::part::Part;
use crate::postgres;
use crate::tools;
use std::path::{Path, PathBuf};

/// Tests that are not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skip {
    pub part: Part,
    /// Empty: the whole part.
    pub tests: &'static [&'static str],
    pub why: String,
    cause: Cause,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// A program is missing, which continuous integration must have.
    Program,
    /// The machine's architecture is another.
    Architecture,
    /// Nothing is lost.
    Nothing,
}

/// The tests that read `docker-compose.yml` with docker-compose.
const COMPOSE: [&str; 8] = [
    "all_of_it_works_together_by_its_command_lines_outside_of_containers",
    "docker_compose_reads_the_file_and_no_secret_has_a_default",
    "each_service_is_hardened_pinned_and_reached_from_this_machine_alone",
    "envoy_is_the_one_that_the_tests_run",
    "levee_yaml_is_valid",
    "prometheus_yml_is_valid_with_the_rules_where_they_are_mounted",
    "redis_starts_by_its_command_line_and_is_healthy",
    "the_images_are_built_of_what_is_there_with_the_pinned_versions_and_run_as_nobody",
];

/// The tests that run redis-cli and redis-benchmark.
const REDIS_TOOLS: [&str; 1] = ["redis_cli_and_redis_benchmark_work"];

/// The tests of TLS to Redis, and of what the pinned `PostgreSQL` was built without.
const REDIS_TLS: [&str; 1] = ["an_upstream_over_tls_is_reached_if_its_certificate_is_trusted"];
pub const POSTGRES_TLS_AND_ICU: [&str; 2] = [
    "an_encrypted_connection_is_made_if_the_certificate_is_trusted",
    "rows_can_be_ordered_by_text_whose_collation_takes_two_cases_for_equal",
];

/// The tests that run a pooler.
const PGBOUNCER: [&str; 6] = [
    "a_pooler_in_statement_mode_is_refused_before_anything_is_set",
    "a_pooler_in_transaction_mode_is_refused_before_anything_is_set",
    "a_pooler_that_gives_sessions_in_turn_to_busy_services_is_refused",
    "a_pooler_with_a_single_session_is_refused",
    "services_behind_a_pooler_are_watched_by_a_levee_that_is_not",
    "through_a_pooler_in_session_mode_all_works",
];

impl Skip {
    /// One line for people.
    pub fn line(&self) -> String {
        let what = match self.tests.len() {
            0 => "all of it".to_owned(),
            1 => "1 test".to_owned(),
            count => format!("{count} tests"),
        };
        format!(
            "SKIPPED {}, {what}: {}",
            format!("{:?}", self.part).to_lowercase(),
            self.why
        )
    }
}

/// The tests of `parts` to skip. In continuous integration a missing program is an error.
pub fn find(parts: &[Part]) -> Result<Vec<Skip>, Failure> {
    let mut skips = vec![];
    if parts.contains(&Part::Instructions) {
        skips.extend(of_instructions());
    }
    if parts.contains(&Part::E2e) {
        skips.extend(of_e2e());
    }
    if parts.contains(&Part::Postgres) && postgres::is_pinned_one() {
        skips.push(Skip {
            part: Part::Postgres,
            tests: &[],
            why: "e2e runs the pinned PostgreSQL already, since there is no other one".to_owned(),
            cause: Cause::Nothing,
        });
    }
    let missing: Vec<String> = skips
        .iter()
        .filter(|skip| skip.cause == Cause::Program)
        .map(Skip::line)
        .collect();
    if machine::is_ci() && !missing.is_empty() {
        return Err(Failure::Missing(format!(
            "CI=true allows no skipped tests for lack of a program: {}",
            missing.join("; ")
        )));
    }
    Ok(skips)
}

fn of_instructions() -> Option<Skip> {
    let skip = |why: &str, cause| {
        Some(Skip {
            part: Part::Instructions,
            tests: &[],
            why: why.to_owned(),
            cause,
        })
    };
    if std::env::consts::ARCH != instructions::ARCHITECTURE {
        return skip(
            "the limits are those of another processor architecture",
            Cause::Architecture,
        );
    }
    if Callgrind::find().is_none() {
        return skip(callgrind::MISSING, Cause::Program);
    }
    None
}

fn of_e2e() -> Vec<Skip> {
    let found = |variable: &str, name: &str| -> Option<PathBuf> {
        machine::path_in(variable).or_else(|| machine::find(name))
    };
    let skip = |tests, why: &str| Skip {
        part: Part::E2e,
        tests,
        why: why.to_owned(),
        cause: Cause::Program,
    };
    let mut skips = vec![];
    if found("DOCKER_COMPOSE_PATH", "docker-compose").is_none() {
        skips.push(skip(
            &COMPOSE,
            "docker-compose is missing, which reads docker-compose.yml (Debian: apt-get install docker-compose)",
        ));
    }
    if ["redis-cli", "redis-benchmark"]
        .iter()
        .any(|name| machine::find(name).is_none())
    {
        skips.push(skip(
            &REDIS_TOOLS,
            "redis-cli or redis-benchmark is missing (Debian: apt-get install redis-tools)",
        ));
    }
    if tools::redis_server_of_the_machine().is_none() {
        skips.push(skip(
            &REDIS_TLS,
            "the pinned Valkey is built without TLS (Debian: apt-get install redis-server)",
        ));
    }
    let debian = Path::new("/usr/sbin/pgbouncer");
    if found("PGBOUNCER_PATH", "pgbouncer").is_none() && !debian.is_file() {
        skips.push(skip(
            &PGBOUNCER,
            "pgbouncer is missing (Debian: apt-get install pgbouncer)",
        ));
    }
    if postgres::is_pinned_one() {
        skips.push(skip(
            &POSTGRES_TLS_AND_ICU,
            "the pinned PostgreSQL is built without TLS and ICU (Debian: apt-get install postgresql)",
        ));
    }
    skips
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tests_that_can_be_skipped_exist() {
        let e2e = [
            include_str!("../../tests/tests/compose/configurations.rs"),
            include_str!("../../tests/tests/compose/images.rs"),
            include_str!("../../tests/tests/compose/prometheus.rs"),
            include_str!("../../tests/tests/compose/servers.rs"),
            include_str!("../../tests/tests/compose/services.rs"),
            include_str!("../../tests/tests/compose/together.rs"),
            include_str!("../../tests/tests/database_by_hand.rs"),
            include_str!("../../tests/tests/database_edges.rs"),
            include_str!("../../tests/tests/database_watchdog/pooled.rs"),
            include_str!("../../tests/tests/redis_clients.rs"),
        ]
        .concat();
        let all = COMPOSE
            .iter()
            .chain(&REDIS_TOOLS)
            .chain(&REDIS_TLS)
            .chain(&POSTGRES_TLS_AND_ICU)
            .chain(&PGBOUNCER);
        for name in all {
            assert!(e2e.contains(&format!("#[test]\nfn {name}()")), "{name}");
        }
    }

    #[test]
    fn a_skip_says_in_one_line_what_and_why() {
        let skip = Skip {
            part: Part::E2e,
            tests: &REDIS_TOOLS,
            why: "redis-cli is missing".to_owned(),
            cause: Cause::Program,
        };
        assert_eq!(skip.line(), "SKIPPED e2e, 1 test: redis-cli is missing");
    }

    #[test]
    fn parts_that_are_not_run_skip_nothing() {
        assert_eq!(find(&[Part::Fmt, Part::Unit]).unwrap(), []);
    }
}
