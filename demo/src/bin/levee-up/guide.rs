//! What is printed once the gateway is up.

use std::env;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use levee_harness::envoy::Envoy;
use levee_harness::postgres::{self, Postgres};

use crate::args::Upstream;
use crate::sidecar::{Plan, Sidecar};

/// Where everything is, and what to try.
pub fn text(gateway: &Envoy, services: &[Upstream], demo: bool) -> String {
    let mut text = String::new();
    let (address, admin) = (gateway.address(), gateway.admin());
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
        gateway.access_log().path().display(),
        gateway.log_file().display()
    );

    let Some(first) = services.first() else {
        return text;
    };
    let name = &first.name;
    let _ = writeln!(
        text,
        "A request that succeeds:\n  curl -i http://{address}/v1/{name}/hello\n"
    );
    if demo {
        let _ = writeln!(
            text,
            "A service that fails: five failures, then refusals with `x-levee-reason: circuit_open`:\n  \
             for i in 1 2 3 4 5 6 7; do curl -s -o /dev/null -w '%{{http_code}} in %{{time_total}} s\\n' \
             'http://{address}/v1/{name}/hello?status=502'; done\n  \
             curl -i http://{address}/v1/{name}/hello\n"
        );
        let _ = writeln!(
            text,
            "Or make it fail until you let it recover; the breaker then closes by itself:\n  \
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

/// Where the sidecar is, and what to try with its Redis; or why that is not there.
pub fn redis(plan: &Plan, sidecar: Option<&Sidecar>) -> String {
    let mut text = String::new();
    if let Some(sidecar) = sidecar {
        let (admin, log) = (sidecar.admin(), sidecar.log());
        let _ = writeln!(
            text,
            "\nThe sidecar is up.\n\n  sidecar   http://{admin}/metrics\n  status    {} status --admin http://{admin}\n  log       {}",
            quoted(plan.levee.as_deref().unwrap_or(Path::new("levee"))),
            log.display()
        );
    }
    if let Err(why) = plan.redis {
        let _ = writeln!(text, "\nWithout Redis: {why}.");
    }
    let Some(sidecar) = sidecar else {
        return text;
    };
    let (Some(listen), Some(upstream)) = (sidecar.listen, &sidecar.upstream) else {
        return text;
    };
    let admin = sidecar.admin();
    let cli = format!("redis-cli -h {} -p {}", listen.ip(), listen.port());
    let _ = writeln!(text, "  redis     {listen}\n  behind it {upstream}\n");
    if on_the_path("redis-cli").is_none() {
        let _ = writeln!(
            text,
            "redis-cli is not installed; in bash this stands in for it:\n  {REDIS_CLI}\n"
        );
    }
    let _ = writeln!(
        text,
        "\
         A command through the sidecar, and what the sidecar reports:\n  {cli} SET greeting hello\n  \
         curl -s http://{admin}/v1/redis\n  curl -s http://{admin}/metrics | grep -E '^(redis_retry|circuit_breaker_state)'\n",
    );
    if let Some(redis) = sidecar.temporary_redis() {
        let directly = format!("redis-cli -h {} -p {}", redis.ip(), redis.port());
        let _ = writeln!(
            text,
            "A Redis that ends and is back after half a second; the command waits and succeeds:\n  \
             {directly} SHUTDOWN; {cli} GET greeting\n"
        );
        let _ = writeln!(
            text,
            "A Redis that hangs for 20 s; commands end by their deadline of 3 s, and from then on new clients get an error \
             at once:\n  \
             {directly} CLIENT PAUSE 20000; (for i in 1 2 3 4 5; do {cli} GET greeting & done; wait); {cli} GET greeting"
        );
    }
    text
}

/// Sends one command and prints its reply.
const REDIS_CLI: &str = r#"redis-cli() { (exec 3<>/dev/tcp/$2/$4; shift 4; printf '%s\r\n' "$*" >&3; read -r r <&3; case $r in \$[0-9]*) read -r r <&3;; esac; echo "$r"); }"#;

fn on_the_path(program: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}

/// As a word of a shell's command.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+".contains(&byte);
    if text.bytes().all(is_plain) {
        return text;
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// psql by its name, or by its path beside the server's programs.
fn psql() -> PathBuf {
    let name = PathBuf::from("psql");
    if on_the_path("psql").is_some() {
        return name;
    }
    let beside = postgres::find_programs().map(|folder| folder.join("psql"));
    beside.filter(|path| path.is_file()).unwrap_or(name)
}

/// Where the database of the demonstration services is, and what to try with it; or why it is not there.
pub fn database(
    plan: &Plan,
    gateway: &Envoy,
    sidecar: Option<&Sidecar>,
    database: Option<&Postgres>,
) -> String {
    let mut text = String::new();
    if let Err(why) = plan.database {
        let _ = writeln!(text, "\nWithout PostgreSQL: {why}.");
    }
    let (Some(database), Some(sidecar)) = (database, sidecar) else {
        return text;
    };
    let (address, admin) = (gateway.address(), sidecar.admin());
    let psql = format!("{} {}", quoted(&psql()), database.url_of("postgres"));
    let json = "-H 'content-type: application/json'";
    let _ = writeln!(
        text,
        "\nThe database is up.\n\n  database  {}\n",
        database.url_of("app")
    );
    if plan.redis.is_ok() {
        let _ = writeln!(
            text,
            "A session, which is in Redis, with a token, which is in the database:\n  \
             curl {json} -d '{{\"user\": \"ann\"}}' http://{address}/v1/auth/login\n"
        );
    }
    let _ = writeln!(
        text,
        "A call, then a lock on the table of calls for 20 s; a request for another call gets an error after 5 s:\n  \
         curl {json} -d '{{\"caller\": \"ann\"}}' http://{address}/v1/video/calls\n  \
         {psql} -c 'BEGIN; LOCK TABLE calls; SELECT pg_sleep(20)' &\n  \
         curl -i {json} -d '{{\"caller\": \"ben\"}}' http://{address}/v1/video/calls\n  \
         curl -s http://{admin}/metrics | grep ^db_query_timeout\n"
    );
    let _ = writeln!(
        text,
        "The cleanup jobs, and what they did:\n  curl -s http://{admin}/v1/jobs\n\n\
         Outages, each without Levee and with it:\n  cargo xtask demo"
    );
    text
}

#[cfg(test)]
mod tests {
    use super::quoted;
    use std::path::Path;

    #[test]
    fn a_path_is_quoted_if_the_shell_would_split_it() {
        for (path, wanted) in [
            ("/usr/bin/levee", "/usr/bin/levee"),
            ("/tmp/my dir/levee", "'/tmp/my dir/levee'"),
            ("/tmp/it's/levee", r"'/tmp/it'\''s/levee'"),
        ] {
            assert_eq!(quoted(Path::new(path)), wanted);
        }
    }
}
