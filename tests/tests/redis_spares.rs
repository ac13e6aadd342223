//! Connections to Redis that are kept ready for clients.
#![allow(missing_docs)]

use std::time::Duration;

use levee_harness::clock::Stopwatch;
use levee_harness::redis::{Client, Redis};
use levee_harness::relay::{Relay, Silence};
use levee_harness::sidecar::Sidecar;

/// The ids of connections that have been open for a second and sent PING last: not of health checks, which are shorter.
fn lasting(redis: &mut Client) -> Vec<String> {
    let list = redis.ask("CLIENT LIST").unwrap();
    let field = |line: &str, name: &str| {
        let mut fields = line.split(' ');
        fields
            .find_map(|field| field.strip_prefix(name))
            .unwrap_or_default()
            .to_owned()
    };
    list.lines()
        .filter(|line| field(line, "cmd=") == "ping" && field(line, "age=") != "0")
        .map(|line| field(line, "id="))
        .collect()
}

/// Waits until there are as many of them, and returns them.
fn wait_for(count: usize, sidecar: &Sidecar, redis: &mut Client) -> Vec<String> {
    let mut seen = Vec::new();
    sidecar
        .wait_for(&format!("{count} lasting connections"), |_| {
            seen = lasting(redis);
            seen.len() == count
        })
        .unwrap();
    seen
}

#[test]
fn a_client_gets_a_connection_that_is_ready_and_another_takes_its_place() {
    let redis = Redis::start().unwrap();
    let mut direct = redis.client().unwrap();
    let sidecar = Sidecar::before(redis.address, "").unwrap();
    let mut client = sidecar.client().unwrap();
    let spare = wait_for(1, &sidecar, &mut direct);
    assert_eq!(
        client.ask("CLIENT ID").unwrap(),
        format!(":{}\r\n", spare[0])
    );
    let next = wait_for(1, &sidecar, &mut direct);
    assert_ne!(spare, next);
    // One that Redis has closed is replaced, too.
    direct.ask(&format!("CLIENT KILL ID {}", next[0])).unwrap();
    assert_ne!(wait_for(1, &sidecar, &mut direct), next);
    // Nobody is left who could need one.
    drop(client);
    wait_for(0, &sidecar, &mut direct);
}

#[test]
fn without_spare_connections_clients_connect_when_they_need_to() {
    let redis = Redis::start().unwrap();
    let mut direct = redis.client().unwrap();
    let sidecar = Sidecar::before(redis.address, "limits: {spare_connections: 0}").unwrap();
    let mut client = sidecar.client().unwrap();
    assert_eq!(client.ask("PING").unwrap(), "+PONG\r\n");
    let own = wait_for(1, &sidecar, &mut direct);
    assert_eq!(client.ask("CLIENT ID").unwrap(), format!(":{}\r\n", own[0]));
}

#[test]
fn a_silent_connection_is_not_handed_out() {
    let redis = Redis::start().unwrap();
    let mut direct = redis.client().unwrap();
    let relay = Relay::to(redis.address).unwrap();
    let sidecar = Sidecar::before(relay.address, "").unwrap();
    let mut client = sidecar.client().unwrap();
    wait_for(1, &sidecar, &mut direct);
    relay.silence(Silence::Dropped).unwrap();
    // Redis does not notice that the first one is gone.
    wait_for(2, &sidecar, &mut direct);
    let waited = Stopwatch::start();
    assert_eq!(client.ask("INCR a").unwrap(), ":1\r\n");
    assert!(
        waited.elapsed() < Duration::from_millis(800),
        "{:?}",
        waited.elapsed()
    );
}

#[test]
fn a_spare_connection_is_logged_in_as_a_new_one_would_be() {
    for options in [&[][..], &["--rename-command", "RESET", ""]] {
        let redis = Redis::start_with(options).unwrap();
        let mut direct = redis.client().unwrap();
        let sidecar = Sidecar::before(redis.address, "").unwrap();
        let mut clients = [(); 2].map(|()| sidecar.client().unwrap());
        if options.is_empty() {
            wait_for(1, &sidecar, &mut direct);
        }
        // From now on a new connection has to log in. Redis leaves those that are there as they are.
        direct.ask("CONFIG SET requirepass secret").unwrap();
        for client in &mut clients {
            let reply = client.ask("CLIENT ID").unwrap();
            assert!(reply.starts_with("-NOAUTH"), "{options:?}: {reply}");
        }
        assert_eq!(clients[0].ask("AUTH secret").unwrap(), "+OK\r\n");
    }
}

/// Redis refuses PSYNC on a connection to which it still owes a reply, such as that to Levee's own RESET.
#[test]
fn a_replica_may_begin_with_psync_on_a_spare_connection() {
    let options = [
        "--enable-debug-command",
        "yes",
        "--repl-diskless-sync",
        "no",
    ];
    let redis = Redis::start_with(&options).unwrap();
    let mut direct = redis.client().unwrap();
    let sidecar = Sidecar::before(redis.address, "").unwrap();
    let mut client = sidecar.client().unwrap();
    wait_for(1, &sidecar, &mut direct);
    // So that Redis reads all at once that it is sent in the meantime.
    assert!(direct.command("DEBUG SLEEP 0.3"));
    let reply = client.ask("PSYNC ? -1").unwrap();
    assert!(reply.starts_with("+FULLRESYNC"), "{reply}");
}
