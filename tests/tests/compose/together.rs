//! All of it together.

use std::net::SocketAddr;

use crate::gateway::{Service, backends_at, envoy_before, sidecar_at};
use crate::process::wait_for;
use crate::prometheus::{
    each_of_the_filters_metrics_is_there_once, it_reads_both_and_has_the_alerts, start_prometheus,
};
use crate::servers::database;
use levee_harness::address::free_address;
use levee_harness::client::Request;
use levee_harness::redis::Redis;

#[test]
fn all_of_it_works_together_by_its_command_lines_outside_of_containers() {
    let files = tempfile::tempdir().expect("make a directory");
    let database = database();
    let redis = Redis::start().unwrap();
    let [gateway, stats, admin] = [
        free_address().unwrap(),
        free_address().unwrap(),
        free_address().unwrap(),
    ];
    let sidecar = sidecar_at(&redis, &database, stats);
    let backends = backends_at(&sidecar, &database, &files);
    let _envoy = envoy_before(&backends, [gateway, stats, admin], &files);
    for Service { name, .. } in &backends {
        let answer =
            wait_for(Request::get(&format!("/v1/{name}/x")).send(gateway)).expect("an answer");
        assert!(
            answer.status == 200 && answer.text().contains(name),
            "{name}: {}",
            answer.text()
        );
    }
    wait_for(requests_reach_redis_and_the_database(gateway));
    wait_for(only_what_reads_is_passed_on_to_the_admin_interface(
        stats, admin,
    ));
    let (_prometheus, web) = start_prometheus(&sidecar, stats, &files);
    wait_for(it_reads_both_and_has_the_alerts(web));
    wait_for(each_of_the_filters_metrics_is_there_once(web));
}

async fn only_what_reads_is_passed_on_to_the_admin_interface(stats: SocketAddr, admin: SocketAddr) {
    let page = Request::get("/stats/prometheus")
        .send(stats)
        .await
        .expect("an answer");
    assert!(
        page.status == 200 && page.text().contains("circuit_breaker_state{"),
        "{}",
        page.status
    );
    for path in [
        "/quitquitquit",
        "/config_dump",
        "/stats/../quitquitquit",
        "/stats/recentlookups/enable",
    ] {
        for request in [Request::get(path), Request::post(path, "")] {
            assert_eq!(
                request.send(stats).await.expect("an answer").status,
                404,
                "{path}"
            );
        }
    }
    assert_eq!(
        Request::post("/stats", "")
            .send(stats)
            .await
            .expect("an answer")
            .status,
        404
    );
    assert_eq!(
        Request::get("/ready")
            .send(admin)
            .await
            .expect("it still runs")
            .status,
        200
    );
}

async fn requests_reach_redis_and_the_database(gateway: SocketAddr) {
    let login = Request::post(
        "/v1/auth/login",
        r#"{"user": "5f0c1a52-54a2-4d0b-9f0c-000000000001"}"#,
    )
    .header("content-type", "application/json")
    .send(gateway)
    .await
    .expect("an answer");
    assert!(
        login.status < 300,
        "by Redis and the database: {} {}",
        login.status,
        login.text()
    );
}
