//! What is printed once the gateway is up.

use std::fmt::Write;

use crate::args::Upstream;
use crate::gateway::Gateway;
use crate::sidecar::Sidecar;

/// Where everything is, and what to try.
pub fn text(gateway: &Gateway, services: &[Upstream], demo: bool) -> String {
    let mut text = String::new();
    let Gateway { address, admin, .. } = gateway;
    let _ = writeln!(text, "\nThe gateway is up. Ctrl-C ends it.\n");
    let _ = writeln!(text, "  gateway   http://{address}");
    for Upstream { name, at, grpc } in services {
        let kind = if demo {
            " (demonstration)"
        } else if *grpc {
            " (HTTP/2)"
        } else {
            ""
        };
        let _ = writeln!(text, "            /v1/{name} -> {at}{kind}");
    }
    let _ = writeln!(text, "  metrics   http://{admin}/stats/prometheus");
    let _ = writeln!(
        text,
        "  logs      {}\n            {}\n",
        gateway.access_log.display(),
        gateway.log.display()
    );

    let Some(first) = services.first() else {
        return text;
    };
    let name = &first.name;
    let _ = writeln!(
        text,
        "A request that works:\n  curl -i http://{address}/v1/{name}/hello\n"
    );
    if demo {
        let _ = writeln!(
            text,
            "A service that fails: five failures, then refusals with `x-levee-reason: circuit_open`:\n  \
             for i in 1 2 3 4 5 6 7; do curl -s -o /dev/null -w '%{{http_code}} in %{{time_total}} s\\n' \
             'http://{address}/v1/{name}/hello?status=500'; done\n  \
             curl -i http://{address}/v1/{name}/hello\n"
        );
        let _ = writeln!(
            text,
            "Or let it fail until it is told to work again; the breaker closes by itself after that:\n  \
             curl -X POST http://{}/demo/fail\n  curl -X POST http://{}/demo/recover\n",
            first.at, first.at
        );
        let _ = writeln!(
            text,
            "A slow answer, ended by the time limit:\n  curl -i 'http://{address}/v1/{name}/hello?delay=15s'\n"
        );
    }
    let _ = writeln!(
        text,
        "The breakers (0 closed, 1 open, 2 half-open):\n  \
         curl -s http://{admin}/stats/prometheus | grep '^circuit_breaker_state'"
    );
    text
}

/// Where the sidecar is, and what to try; or why it is not there.
pub fn redis(sidecar: Result<&Sidecar, &str>) -> String {
    let mut text = String::new();
    let Sidecar {
        listen,
        admin,
        upstream,
        log,
        ..
    } = match sidecar {
        Ok(sidecar) => sidecar,
        Err(why) => {
            let _ = writeln!(text, "\nWithout the sidecar: {why}.");
            return text;
        }
    };
    let cli = format!("redis-cli -h {} -p {}", listen.ip(), listen.port());
    let _ = writeln!(
        text,
        "\nThe sidecar is up.\n\n  redis     {listen}\n  behind it {upstream}\n  sidecar   http://{admin}/metrics\n  \
         log       {}\n\n\
         A command through it, and what it knows:\n  {cli} SET greeting hello\n  \
         curl -s http://{admin}/v1/redis\n  curl -s http://{admin}/metrics | grep -E '^(redis_retry|circuit_breaker_state)'\n",
        log.display()
    );
    if let Ok(Some(redis)) = sidecar.map(Sidecar::temporary_redis) {
        let directly = format!("redis-cli -h {} -p {}", redis.ip(), redis.port());
        let _ = writeln!(
            text,
            "A Redis that ends and is back after half a second; the command waits, and succeeds:\n  \
             {directly} SHUTDOWN; {cli} GET greeting\n"
        );
        let _ = writeln!(
            text,
            "A Redis that hangs for 20 s; commands end by their deadline of 3 s, and five of them open the breaker, which \
             refuses at once:\n  \
             {directly} CLIENT PAUSE 20000; (for i in 1 2 3 4 5; do {cli} GET greeting & done; wait); {cli} GET greeting"
        );
    }
    text
}
