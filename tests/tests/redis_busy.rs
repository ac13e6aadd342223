//! Redis that is busy with a script, or loads its data: clients hear what Redis says, and can end the script.
#![allow(missing_docs)]

use levee_harness::redis::{Client, Redis};
use levee_harness::sidecar::Sidecar;
use levee_harness::wait::{GENEROUS, until_blocking};

/// `client` runs a script that does not end by itself.
fn endless(mut client: Client) -> Client {
    assert!(client.send(b"*3\r\n$4\r\nEVAL\r\n$17\r\nwhile true do end\r\n$1\r\n0\r\n"));
    client
}

fn wait_until_busy(redis: &Redis) {
    until_blocking("Redis to say that it is busy", GENEROUS, || {
        let seen = redis.client().unwrap().ask("PING").unwrap();
        if seen.starts_with("-BUSY") {
            Ok(())
        } else {
            Err(seen)
        }
    })
    .unwrap();
}

#[test]
fn a_client_with_state_hears_that_redis_is_busy_and_can_end_the_script() {
    let redis = Redis::start_with(&["--lua-time-limit", "1500"]).unwrap();
    let sidecar = Sidecar::before(redis.address, "deadline: 500ms").unwrap();
    let mut client = sidecar.client().unwrap();
    for command in ["SELECT 9", "CLIENT SETNAME me", "SET a 1"] {
        assert_eq!(client.ask(command).unwrap(), "+OK\r\n", "{command}");
    }
    let mut script = endless(redis.client().unwrap());
    // Redis is silent at first, so the connection is given up.
    until_blocking("the script to run", GENEROUS, || {
        let reply = client.ask("GET a").unwrap();
        if reply.starts_with("-ERR levee: no answer") {
            Ok(())
        } else {
            Err(reply)
        }
    })
    .unwrap();
    wait_until_busy(&redis);
    for _ in 0..2 {
        let reply = client.ask("GET a").unwrap();
        assert!(reply.starts_with("-BUSY Redis is busy"), "{reply}");
    }
    assert_eq!(client.ask("SCRIPT KILL").unwrap(), "+OK\r\n");
    let reply = script.reply().unwrap().unwrap();
    assert!(reply.starts_with("-ERR"), "{reply}");
    assert_eq!(client.ask("GET a").unwrap(), "$1\r\n1\r\n", "of database 9");
    assert_eq!(client.ask("CLIENT GETNAME").unwrap(), "$2\r\nme\r\n");
}

#[test]
fn a_script_may_take_longer_than_other_commands() {
    let redis = Redis::start().unwrap();
    let keys = "deadline: 300ms\nscript_deadline: 1500ms";
    let sidecar = Sidecar::before(redis.address, keys).unwrap();
    let mut client = sidecar.client().unwrap();
    let spin = |client: &mut Client, micros: u64| {
        let script = format!(
            "local t=redis.call('TIME') local from=t[1]*1000000+t[2] \
             repeat t=redis.call('TIME') until t[1]*1000000+t[2]-from>={micros} return 7"
        );
        client.send(&levee_redis_session::resp::encode(&["EVAL", &script, "0"]));
        client.reply().unwrap().unwrap()
    };
    assert_eq!(spin(&mut client, 700_000), ":7\r\n");
    let reply = spin(&mut client, 2_500_000);
    assert!(
        reply.contains("no answer from Redis within 1s 500ms"),
        "{reply}"
    );
    assert!(reply.contains("SCRIPT KILL"), "{reply}");
}

/// What Redis says to SCRIPT KILL on new connections, as clients try them, once the script runs; and how many attempts to
/// connect failed.
fn kill_anew(sidecar: &Sidecar) -> (String, u32) {
    let mut failures = 0;
    while failures < 5 {
        let mut client = sidecar.client().unwrap();
        let hello = client.ask("HELLO 2").unwrap();
        if !hello.starts_with('*') {
            assert!(hello.contains("no answer from Redis within 3s"), "{hello}");
            failures += 1;
            continue;
        }
        let reply = client.ask("SCRIPT KILL").unwrap();
        if !reply.starts_with("-NOTBUSY") {
            return (reply, failures);
        }
    }
    panic!("no connection");
}

#[test]
fn a_client_that_is_new_can_end_a_script_of_another_with_all_defaults() {
    let redis = Redis::start().unwrap();
    let sidecar = Sidecar::before(redis.address, "").unwrap();
    let mut script = endless(sidecar.client().unwrap());
    let mut waits = sidecar.client().unwrap();
    let busy = std::thread::spawn(move || {
        // The first gets its error after 3 s.
        (0..2)
            .map(|_| waits.ask("GET a").unwrap())
            .collect::<Vec<_>>()
    });
    let (killed, failures) = kill_anew(&sidecar);
    assert_eq!(killed, "+OK\r\n");
    assert!(failures <= 1, "{failures}");
    let reply = script.reply().unwrap().unwrap();
    assert!(reply.contains("killed by user"), "{reply}");
    for waited in busy.join().unwrap() {
        let is_told = waited.contains("a script may run there") || waited.starts_with("-BUSY");
        assert!(is_told || waited == "$-1\r\n", "{waited}");
    }
    assert_eq!(sidecar.client().unwrap().ask("SET a 1").unwrap(), "+OK\r\n");
}

#[test]
fn clients_that_come_while_a_script_is_under_way_hear_of_no_outage() {
    let redis = Redis::start().unwrap();
    let sidecar = Sidecar::before(redis.address, "").unwrap();
    let _script = endless(sidecar.client().unwrap());
    // Redis is silent for 5 s. Each client waits for 3 s, but for the last ones, which hear it from Redis.
    let mut clients = Vec::new();
    for _ in 0..15 {
        std::thread::sleep(std::time::Duration::from_millis(300));
        let mut client = sidecar.client().unwrap();
        client.send(b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n");
        clients.push(client);
    }
    for mut client in clients {
        let reply = client.reply().unwrap().unwrap();
        let is_told = reply.contains("a script may run there");
        assert!(is_told || reply.starts_with("-BUSY"), "{reply}");
    }
    let (killed, _) = kill_anew(&sidecar);
    assert_eq!(killed, "+OK\r\n");
}

#[test]
fn the_way_out_of_a_script_that_levee_knows_nothing_of_is_open() {
    let redis = Redis::start().unwrap();
    let sidecar = Sidecar::before(redis.address, "").unwrap();
    let mut client = sidecar.client().unwrap();
    assert_eq!(client.ask("SET a 1").unwrap(), "+OK\r\n");
    let _script = endless(redis.client().unwrap());
    // The breaker opens while Redis is silent.
    let mut others: Vec<Client> = (0..8).map(|_| sidecar.client().unwrap()).collect();
    for other in &mut others {
        other.send(b"*1\r\n$4\r\nPING\r\n");
        // Failures within 100 ms would be one to the breaker.
        std::thread::sleep(std::time::Duration::from_millis(120));
    }
    for other in &mut others {
        other.reply().unwrap();
    }
    let killed = until_blocking("the script to end", GENEROUS, || {
        let reply = sidecar.client().unwrap().ask("SCRIPT KILL").unwrap();
        if reply == "+OK\r\n" {
            Ok(())
        } else {
            Err(reply)
        }
    });
    killed.unwrap();
    until_blocking("commands to be served", GENEROUS, || {
        let reply = client.ask("GET a").unwrap();
        if reply == "$1\r\n1\r\n" {
            Ok(())
        } else {
            Err(reply)
        }
    })
    .unwrap();
}
