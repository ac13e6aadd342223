//! The tests that are named as evidence for a promise.

use levee_pages::{Page, root};
use regex::Regex;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The page's tables, with their numbers of rows.
const TABLES: [(&str, usize); 4] = [
    ("fix", 7),
    ("edge case", 8),
    ("scenario", 7),
    ("metric of the design", 14),
];

/// Metrics with a fixed name, which need a row each.
const METRICS: [&str; 14] = [
    "circuit_breaker_state",
    "circuit_breaker_failures_total",
    "circuit_breaker_requests_total",
    "proxy_request_timeout_total",
    "proxy_request_duration_seconds",
    "db_query_timeout_total",
    "redis_retry_total",
    "redis_retry_failed_total",
    "auth_cleanup_expired_tokens_total",
    "auth_cleanup_failed_total",
    "auth_cleanup_duration_seconds",
    "video_cleanup_stale_calls_total",
    "video_cleanup_failed_total",
    "video_cleanup_duration_seconds",
];

/// Whether a file has a test of this name.
fn has_test(file: &Path, name: &str) -> bool {
    let text = fs::read_to_string(file).unwrap_or_default();
    // Other attributes may stand between `#[test]` and the function.
    let function = Regex::new(&format!(
        r"#\[(?:tokio::)?test[^\]]*\]\s*(?:#\[[^\]]*\]\s*)*(?:async )?fn {name}\("
    ))
    .unwrap();
    function.is_match(&text)
}

#[test]
fn each_test_that_is_named_as_evidence_exists_and_no_row_is_missing() {
    let page = Page::read("docs/reference/evidence.md");
    let test = Regex::new(r"`([a-z_/]+)\.rs::([a-z0-9_]+)`").unwrap();
    let mut tests = 0;
    for (head, wanted) in TABLES {
        let rows = page.rows(head);
        assert_eq!(rows.len(), wanted, "{head}");
        let mut firsts = BTreeSet::new();
        for row in &rows {
            let first = row.cell(0);
            assert!(firsts.insert(first), "twice: {first}");
            if head.starts_with("metric") {
                let names = row.codes(0);
                assert_eq!(names.len(), 1, "{}", row.text);
                assert!(METRICS.contains(&names[0].as_str()), "{}", row.text);
            }
            let evidence = row.cell(1);
            let named = test.captures_iter(evidence).count();
            assert!(named > 0, "no test: {}", row.text);
            assert_eq!(
                evidence.matches("::").count(),
                named,
                "not of the form `file.rs::test`: {evidence}"
            );
            tests += named;
        }
    }
    for found in test.captures_iter(&page.text) {
        let file = match &found[1] {
            file if file.contains('/') => format!("{file}.rs"),
            file => format!("tests/tests/{file}.rs"),
        };
        assert!(
            has_test(&root().join(&file), &found[2]),
            "{file} has no test {}",
            &found[2]
        );
    }
    assert!(tests >= 33, "{tests}");
}
