//! Prometheus: its mounted files, and what it reads.

use std::fs;
use std::net::SocketAddr;

use crate::file::{command, read, replaced, root, services};
use crate::process::{runs_until, start, wait_for};
use levee_harness::address::free_address;
use levee_harness::client::Request;
use levee_harness::process::{Process, output_of};
use levee_harness::sidecar::Sidecar;
use levee_harness::tool::promtool;
use levee_harness::wait;
use levee_harness::wait::GENEROUS;
use serde_json::Value;
use tempfile::TempDir;

/// Lays what is mounted into Prometheus into a folder, with these texts replaced.
fn lay_prometheus_files(files: &TempDir, texts: &[(&str, String)]) {
    let config = replaced(&[read("compose/prometheus.yml")], texts).remove(0);
    fs::write(files.path().join("prometheus.yml"), config).expect("write a configuration");
    fs::copy(
        root().join("alerts/levee.rules.yaml"),
        files.path().join("levee.rules.yaml"),
    )
    .expect("copy the rules");
}

#[test]
fn prometheus_yml_is_valid_with_the_rules_where_they_are_mounted() {
    let mounts = services()["prometheus"]["volumes"].to_string();
    for (source, target) in [
        ("compose/prometheus.yml", "prometheus.yml"),
        ("alerts/levee.rules.yaml", "levee.rules.yaml"),
    ] {
        assert!(
            mounts.contains(&format!("{source}:/etc/prometheus/{target}:ro")),
            "{mounts}"
        );
    }
    let files = tempfile::tempdir().expect("make a directory");
    lay_prometheus_files(&files, &[]);
    let mut promtool = promtool().unwrap();
    let said = output_of(
        promtool
            .args(["check", "config"])
            .arg(files.path().join("prometheus.yml")),
    );
    let said = said.unwrap_or_else(|said| panic!("promtool check config: {said}"));
    assert!(said.contains("rules found"), "{said}");
}

/// Starts Prometheus by its command line, reading the sidecar and Envoy; returns its address too.
pub fn start_prometheus(
    sidecar: &Sidecar,
    stats: SocketAddr,
    files: &TempDir,
) -> (Process, SocketAddr) {
    let web = free_address().unwrap();
    let texts = [
        ("sidecar:9464", sidecar.admin.to_string()),
        ("envoy:9902", stats.to_string()),
        ("scrape_interval: 15s", "scrape_interval: 1s".into()),
    ];
    lay_prometheus_files(files, &texts);
    let mut arguments = replaced(
        &command("prometheus"),
        &[
            ("/etc/prometheus", files.path().display().to_string()),
            (
                "=/prometheus",
                format!("={}", files.path().join("metrics").display()),
            ),
        ],
    );
    arguments.push(format!("--web.listen-address={web}"));
    let (mut process, log) = start("prometheus", &arguments, files, "prometheus.log");
    // It listens before it has read its configuration, and is ready after that.
    runs_until("Prometheus", &log, &mut process, || is_ready(web));
    (process, web)
}

fn is_ready(web: SocketAddr) -> bool {
    let answer = wait_for(Request::get("/-/ready").send(web));
    answer.is_ok_and(|answer| answer.status == 200)
}

pub async fn it_reads_both_and_has_the_alerts(web: SocketAddr) {
    wait::until("both to be read", 2 * GENEROUS, || async {
        let answer = Request::get("/api/v1/query?query=up")
            .send(web)
            .await
            .map_err(|error| error.to_string())?;
        let text = answer.text();
        let page: Value = serde_json::from_str(&text).map_err(|_| text.clone())?;
        let up = page["data"]["result"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|one| one["value"][1] == "1");
        if up.count() == 2 { Ok(()) } else { Err(text) }
    })
    .await
    .unwrap();
    let rules = Request::get("/api/v1/rules")
        .send(web)
        .await
        .expect("an answer")
        .text();
    assert!(
        rules.contains("LeveeBreakerOpen") && !rules.contains("\"health\":\"err\""),
        "{rules}"
    );
}

/// Of the sidecar's page, which has what Envoy says of the filter; not of Envoy's own as well.
pub async fn each_of_the_filters_metrics_is_there_once(web: SocketAddr) {
    // count by (job) (...), as a query in a URL.
    let query = "count%20by%20(job)%20(circuit_breaker_state%7Bservice%3D%22auth%22%7D)";
    wait::until("the breaker of auth", 2 * GENEROUS, || async {
        let path = format!("/api/v1/query?query={query}");
        let answer = Request::get(&path)
            .send(web)
            .await
            .map_err(|error| error.to_string())?;
        let text = answer.text();
        let page: Value = serde_json::from_str(&text).map_err(|_| text.clone())?;
        match page["data"]["result"].as_array().map(Vec::as_slice) {
            Some([one]) if one["metric"]["job"] == "levee" && one["value"][1] == "1" => Ok(()),
            _ => Err(text),
        }
    })
    .await
    .unwrap();
}
