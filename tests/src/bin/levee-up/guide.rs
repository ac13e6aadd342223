//! What is printed once the gateway is up.

use std::fmt::Write;

use crate::args::Upstream;
use crate::gateway::Gateway;

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
