//! Manual operation: over HTTP, and on the command line.
#![allow(missing_docs)]

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;

use levee_harness::built;
use levee_harness::client::Request;
use levee_harness::postgres::Postgres;
use levee_harness::sidecar::{Config, Sidecar, TOKEN};
use levee_harness::wait::{GENEROUS, until_blocking};
use serde_json::Value;

const SLOW: &str =
    "jobs: {auth_cleanup: {preset: expired_tokens, batch: 10, pause: 100ms, scheduled: false}}";

fn is_refused_without_the_token(sidecar: &Sidecar) {
    let run = Request::post("/v1/jobs/auth_cleanup/run", "");
    let with = |credentials: &str| run.clone().header("authorization", credentials);
    for request in [
        run.clone(),
        with("Bearer other"),
        with("Bearer "),
        with("Basic eDp5"),
        // Without the token, the answer does not reveal which jobs exist.
        Request::post("/v1/jobs/nothing/run", ""),
    ] {
        let (status, body) = sidecar.request(&request).unwrap();
        assert_eq!(status, 401, "{request:?}: {body}");
    }
}

#[test]
fn a_run_is_asked_for_over_http() {
    let postgres = Postgres::with_tables().unwrap();
    postgres.add_tokens(1000, 0).unwrap();
    let sidecar = Sidecar::at(&postgres, "levee", SLOW).unwrap();
    is_refused_without_the_token(&sidecar);
    let (status, body) = sidecar.post("/v1/jobs/nothing/run").unwrap();
    assert_eq!(
        (status, &body["jobs"][0]),
        (404, &Value::from("auth_cleanup"))
    );
    assert_eq!(sidecar.post("/v1/video/cleanup").unwrap().0, 404);
    assert_eq!(
        sidecar
            .request(
                &Request::get("/v1/jobs/auth_cleanup/run")
                    .header("authorization", format!("Bearer {TOKEN}"))
            )
            .unwrap()
            .0,
        405
    );
    for query in ["dry_run=maybe", "wait=soon", "wait=2h", "x=1"] {
        assert_eq!(
            sidecar
                .post(&format!("/v1/auth/cleanup?{query}"))
                .unwrap()
                .0,
            400,
            "{query}"
        );
    }
    let (status, body) = sidecar.post("/v1/auth/cleanup?dry_run=true").unwrap();
    assert_eq!((status, body["rows"].as_u64()), (200, Some(1000)), "{body}");
    assert_eq!(postgres.expired_tokens().unwrap(), 1000);
    assert_eq!(
        sidecar.metric("auth_cleanup_expired_tokens_total").unwrap(),
        0
    );

    let (status, body) = sidecar.post("/v1/jobs/auth_cleanup/run?wait=0s").unwrap();
    assert_eq!(
        (status, &body["outcome"]),
        (202, &Value::from("running")),
        "{body}"
    );
    assert_eq!(sidecar.post("/v1/jobs/auth_cleanup/run").unwrap().0, 409);
    assert_eq!(
        sidecar.post("/v1/auth/cleanup?dry_run=true").unwrap().0,
        409
    );
    let see = body["see"].as_str().expect("where to look").to_owned();
    let page = |sidecar: &Sidecar| -> Value {
        serde_json::from_str(&sidecar.get(&see).unwrap().1).expect("JSON")
    };
    sidecar
        .wait_for("progress", |sidecar| {
            page(sidecar)["running"]["rows"].as_u64() > Some(0)
        })
        .unwrap();
    sidecar
        .wait_for("the end", |sidecar| page(sidecar)["last"]["batches"] == 100)
        .unwrap();
    assert_eq!(postgres.expired_tokens().unwrap(), 0);
}

#[test]
fn without_a_token_in_the_configuration_nothing_can_be_changed() {
    let sidecar = Sidecar::start("admin: {listen: '127.0.0.1:0'}\n").unwrap();
    let (status, body) = sidecar.post("/v1/auth/cleanup").unwrap();
    assert_eq!(status, 403);
    assert!(
        body["error"].to_string().contains("admin.token_env"),
        "{body}"
    );
}

/// Runs `levee` with a configuration of its own.
fn levee(
    folder: &Path,
    url: &str,
    keys: &str,
    arguments: &[&str],
) -> (Option<i32>, String, String) {
    let config = Config::new("").database(url, keys);
    let Output {
        status,
        stdout,
        stderr,
    } = config
        .add_variables(&mut Command::new(built::levee().unwrap()))
        .args(arguments)
        .arg("--config")
        .arg(config.write(folder).unwrap())
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .expect("run levee");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn a_run_is_asked_for_on_the_command_line() {
    let postgres = Postgres::with_tables().unwrap();
    postgres.add_tokens(100, 10).unwrap();
    let folder = tempfile::tempdir().expect("a directory");
    let levee =
        |arguments: &[&str]| levee(folder.path(), &postgres.url_of("levee"), SLOW, arguments);
    let (code, out, _) = levee(&["job", "list"]);
    assert_eq!(
        (code, out.as_str()),
        (
            Some(0),
            "auth_cleanup: delete from \"email_verification_tokens\", manual runs only\n"
        )
    );
    let (code, out, _) = levee(&["job", "run", "auth_cleanup", "--dry-run"]);
    let report: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(
        (code, report["rows"].as_u64()),
        (Some(0), Some(100)),
        "{report}"
    );
    assert_eq!(postgres.expired_tokens().unwrap(), 100);
    let (code, _, err) = levee(&["job", "run", "nothing"]);
    assert_eq!(code, Some(2));
    assert!(err.contains("there are: auth_cleanup"), "{err}");

    // While a sidecar runs the job, nobody else does.
    let sidecar = Sidecar::at(&postgres, "levee", SLOW).unwrap();
    assert_eq!(sidecar.post("/v1/auth/cleanup?wait=0s").unwrap().0, 202);
    sidecar
        .wait_for_metric("job_rows_total{job=\"auth_cleanup\"}", |value| value > 0)
        .unwrap();
    let (code, out, _) = levee(&["job", "run", "auth_cleanup"]);
    assert_eq!(code, Some(3), "{out}");
    drop(sidecar);

    let (code, out, _) = levee(&["job", "run", "auth_cleanup"]);
    assert_eq!(code, Some(0), "{out}");
    assert_eq!(postgres.expired_tokens().unwrap(), 0);
    postgres
        .execute("DROP TABLE email_verification_tokens")
        .unwrap();
    let (code, out, err) = levee(&["job", "run", "auth_cleanup"]);
    assert_eq!(code, Some(1));
    assert!(
        out.contains("there is no table") && err.contains("there is no table"),
        "{out} {err}"
    );
}

#[test]
fn on_a_terminal_progress_is_drawn_below_the_lines_of_the_log() {
    let postgres = Postgres::with_tables().unwrap();
    postgres.add_tokens(300, 0).unwrap();
    let folder = tempfile::tempdir().expect("a directory");
    let keys = SLOW.replace("batch: 10", "batch: 100");
    let config = Config::new("").database(&postgres.url_of("levee"), &keys);
    let file = config.write(folder.path()).unwrap();
    let run = |options: &str| {
        let command = format!(
            "{} job run auth_cleanup {options} --config {}",
            built::levee().unwrap().display(),
            file.display()
        );
        // Runs the command on a terminal of its own.
        let output = config
            .add_variables(&mut Command::new("script"))
            .args(["-qec", &command, "/dev/null"])
            .env("TERM", "xterm")
            .stdin(Stdio::null())
            .output()
            .expect("script(1)");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let said = run("--dry-run");
    assert!(
        said.contains("300 rows would be") && !said.contains("/300 rows"),
        "{said:?}"
    );
    let said = run("");
    assert!(said.contains("100/300 rows"), "{said:?}");
    // Each log line is on a line of its own.
    let done = said.find("{\"").expect("a line of the log");
    assert!(said[..done].ends_with("\r\u{1b}[2K"), "{said:?}");
}

#[expect(clippy::too_many_lines, reason = "one history, step by step")]
#[test]
fn limits_at_the_role_are_printed_applied_and_undone() {
    let postgres = Postgres::with_tables().unwrap();
    postgres.execute(
        "ALTER ROLE levee CREATEROLE; ALTER ROLE app SET statement_timeout = '10s'; CREATE ROLE reports LOGIN;
         GRANT app, reports TO levee WITH ADMIN OPTION;
         ALTER ROLE reports SET work_mem = '8MB'; ALTER ROLE app IN DATABASE app SET lock_timeout = '9s';
         ALTER ROLE app IN DATABASE app SET work_mem = '9MB'",
    ).unwrap();
    let folder = tempfile::tempdir().expect("a directory");
    let keys = "watchdog: {roles: [app, reports], rules: [{role: reports, class: long_query}]}\nlimits: {lock_timeout: 3s}";
    let levee_with = |keys: &str, arguments: &[&str]| {
        levee(
            folder.path(),
            &postgres.url_of("levee"),
            keys,
            &[&["db", "limits"], arguments].concat(),
        )
    };
    let levee = |arguments: &[&str]| levee_with(keys, arguments);
    let settings = || {
        let rows = postgres.client().unwrap().query(
            "SELECT rolname || ' ' || coalesce(array_to_string(rolconfig, ','), '-') FROM pg_roles \
             WHERE rolname IN ('app', 'reports') ORDER BY 1",
            &[],
        );
        let rows = rows.expect("a query");
        rows.iter().map(|row| row.get(0)).collect::<Vec<String>>()
    };
    let before = settings();
    let (code, out, err) = levee(&[]);
    assert_eq!(code, Some(0), "{err}");
    assert!(
        out.contains("ALTER ROLE \"app\" SET statement_timeout = '5000ms'; -- now 10s"),
        "{out}"
    );
    assert!(err.contains("6 of them differ"), "{err}");
    assert!(
        out.contains("-- in database app role app has lock_timeout=9s"),
        "{out}"
    );
    assert!(!out.contains("work_mem"), "{out}");
    assert_eq!(settings(), before);

    let (code, _, err) = levee(&["--apply"]);
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(
        settings(),
        [
            "app statement_timeout=5000ms,idle_in_transaction_session_timeout=60000ms,lock_timeout=3000ms",
            "reports work_mem=8MB,statement_timeout=30000ms,idle_in_transaction_session_timeout=60000ms,lock_timeout=3000ms"
        ]
    );
    let mut service = postgres.client_as("app").unwrap();
    let row = service.query_one("SHOW statement_timeout", &[]);
    assert_eq!(row.expect("a row").get::<_, String>(0), "5s");
    let (code, out, err) = levee(&["--apply"]);
    assert_eq!(code, Some(0));
    assert!(
        err.contains("0 of them differ") && out.matches("-- as it is").count() == 6,
        "{out}"
    );

    // A failed attempt removes nothing from the undo file.
    let shorter = format!("{keys}\n").replace("3s", "2500ms");
    postgres.execute("ALTER ROLE levee NOCREATEROLE").unwrap();
    let (code, _, err) = levee_with(&shorter, &["--apply"]);
    assert_eq!(code, Some(1), "{err}");
    postgres.execute("ALTER ROLE levee CREATEROLE").unwrap();

    // A value that somebody has changed since is left alone.
    postgres
        .execute("ALTER ROLE app SET lock_timeout = '1s'")
        .unwrap();
    // Works even if the watchdog is no longer configured.
    let (code, out, _) = levee_with("connections: 2", &["--rollback"]);
    assert_eq!(code, Some(0));
    assert!(out.contains("left as it is"), "{out}");
    assert_eq!(
        settings(),
        [
            "app statement_timeout=10s,lock_timeout=1s",
            "reports work_mem=8MB"
        ]
    );
    let (code, _, err) = levee(&["--rollback"]);
    assert_eq!(code, Some(1));
    assert!(
        err.contains("levee-limits-undo.json can't be read"),
        "{err}"
    );
}

/// The value that sessions of `app` get.
fn shown_to_app(postgres: &Postgres, setting: &str) -> String {
    let row = postgres
        .client_as("app")
        .unwrap()
        .query_one(&format!("SHOW {setting}"), &[]);
    row.expect("a row").get(0)
}

#[test]
fn limits_never_loosen_unless_that_is_wanted_and_say_where_each_value_comes_from() {
    let postgres = Postgres::start_with(&["idle_in_transaction_session_timeout=10s"]).unwrap();
    postgres.make_tables().unwrap();
    postgres
        .execute(
            "ALTER ROLE levee SUPERUSER; ALTER ROLE app SET statement_timeout = '2s';
             ALTER DATABASE app SET lock_timeout = '1.5s'; ALTER ROLE ALL SET idle_session_timeout = '1h';
             ALTER ROLE app IN DATABASE app SET work_mem = '9MB'",
        )
        .unwrap();
    let folder = tempfile::tempdir().expect("a directory");
    let levee = |keys: &str, arguments: &[&str]| {
        levee(
            folder.path(),
            &postgres.url_of("levee"),
            keys,
            &[&["db", "limits"], arguments].concat(),
        )
    };
    let keys = "watchdog: {roles: [app]}\nlimits: {lock_timeout: 5s}";
    let is_untouched = || {
        assert_eq!(shown_to_app(&postgres, "statement_timeout"), "2s");
        assert_eq!(shown_to_app(&postgres, "lock_timeout"), "1500ms");
        let idle = "idle_in_transaction_session_timeout";
        assert_eq!(shown_to_app(&postgres, idle), "10s");
    };
    for arguments in [&[][..], &["--apply"]] {
        let (code, out, err) = levee(keys, arguments);
        assert_eq!(code, Some(0), "{err}");
        for line in [
            "-- would loosen 2s (of the role): ALTER ROLE \"app\" SET statement_timeout = '5000ms'; -- now 2s (of the role)",
            "; -- now 1.5s (of database app)",
            "; -- now 10000ms (of the server)",
            "-- not configured: idle_session_timeout of app; now 1h (of all roles)",
        ] {
            assert!(out.contains(line), "no {line} in {out}");
        }
        assert!(err.contains("0 of them differ"), "{err}");
        assert!(err.contains("3 are stricter now and left alone"), "{err}");
        is_untouched();
    }

    let (code, _, err) = levee(keys, &["--apply", "--loosen"]);
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(shown_to_app(&postgres, "statement_timeout"), "5s");
    assert_eq!(shown_to_app(&postgres, "lock_timeout"), "5s");
    let (code, _, err) = levee(keys, &["--rollback"]);
    assert_eq!(code, Some(0), "{err}");
    is_untouched();
}

#[test]
fn limits_of_newer_servers_are_applied_where_there_are_such_settings_and_undone() {
    let postgres = Postgres::with_tables().unwrap();
    postgres.execute("ALTER ROLE levee SUPERUSER").unwrap();
    let folder = tempfile::tempdir().expect("a directory");
    let keys = "watchdog: {roles: [app], transaction: 10m}\nlimits: {idle_session_timeout: 2h}";
    let levee = |arguments: &[&str]| {
        let all = [&["db", "limits"], arguments].concat();
        levee(folder.path(), &postgres.url_of("levee"), keys, &all)
    };
    let has = |setting: &str| {
        let query = format!("SELECT count(*) FROM pg_settings WHERE name = '{setting}'");
        postgres.number(&query).unwrap() == 1
    };
    let (code, out, err) = levee(&["--apply"]);
    assert_eq!(code, Some(0), "{err}");
    for (setting, value) in [
        ("idle_session_timeout", "2h"),
        ("transaction_timeout", "10min"),
    ] {
        if has(setting) {
            assert_eq!(shown_to_app(&postgres, setting), value);
        } else {
            let line = format!("-- this server does not have it: ALTER ROLE \"app\" SET {setting}");
            assert!(out.contains(&line), "{out}");
        }
    }
    let (code, _, err) = levee(&["--rollback"]);
    assert_eq!(code, Some(0), "{err}");
    let left = "SELECT count(*) FROM pg_db_role_setting";
    assert_eq!(postgres.number(left).unwrap(), 0);
}

#[test]
fn limits_that_are_in_force_in_other_words_are_left_alone() {
    let postgres = Postgres::with_tables().unwrap();
    postgres
        .execute(
            "ALTER ROLE app SET statement_timeout = '5s'; ALTER ROLE app SET lock_timeout = 2000;
         ALTER ROLE app SET idle_in_transaction_session_timeout = '1 min'",
        )
        .unwrap();
    let folder = tempfile::tempdir().expect("a directory");
    let (code, out, err) = levee(
        folder.path(),
        &postgres.url_of("levee"),
        "watchdog: {roles: [app]}",
        &["db", "limits"],
    );
    assert_eq!(code, Some(0), "{err}");
    assert!(
        err.contains("0 of them differ") && out.matches("-- as it is").count() == 3,
        "{out}{err}"
    );
}

#[test]
fn limits_of_one_server_are_not_undone_at_another() {
    let postgres = Postgres::with_tables().unwrap();
    postgres.execute("ALTER ROLE levee SUPERUSER").unwrap();
    let folder = tempfile::tempdir().expect("a directory");
    let other = r#"{"server": "elsewhere:5432", "changes": []}"#;
    std::fs::write(folder.path().join("levee-limits-undo.json"), other).expect("a file");
    for wish in ["--apply", "--rollback"] {
        let (code, _, err) = levee(
            folder.path(),
            &postgres.url_of("levee"),
            "watchdog: {roles: [app]}",
            &["db", "limits", wish],
        );
        assert_eq!(code, Some(1));
        assert!(
            err.contains("was written for the server elsewhere:5432"),
            "{err}"
        );
    }
    assert_eq!(
        postgres
            .number("SELECT count(*) FROM pg_db_role_setting")
            .unwrap(),
        0
    );
}

#[test]
fn limits_that_can_not_be_applied_change_nothing() {
    let postgres = Postgres::with_tables().unwrap();
    let folder = tempfile::tempdir().expect("a directory");
    let levee = |keys: &str| {
        levee(
            folder.path(),
            &postgres.url_of("levee"),
            keys,
            &["db", "limits", "--apply"],
        )
    };
    let (code, _, err) = levee("watchdog: {roles: [app]}");
    assert_eq!(code, Some(1));
    assert!(
        err.contains("SQLSTATE 42501") && err.contains("CREATEROLE"),
        "{err}"
    );
    let (code, _, err) = levee("watchdog: {roles: [app, nobody]}");
    assert_eq!(code, Some(1));
    assert!(err.contains("has no role nobody"), "{err}");
    assert_eq!(
        postgres
            .number("SELECT count(*) FROM pg_db_role_setting")
            .unwrap(),
        0
    );
}

/// A server with a limit of 1 s, whose role `levee` may do everything, and a folder for the files of the command.
struct Strict {
    postgres: Postgres,
    folder: tempfile::TempDir,
}

impl Strict {
    fn start() -> Self {
        let postgres = Postgres::start_with(&["statement_timeout=1s"]).unwrap();
        postgres.make_tables().unwrap();
        postgres.execute("ALTER ROLE levee SUPERUSER").unwrap();
        let folder = tempfile::tempdir().expect("a directory");
        Self { postgres, folder }
    }

    /// `levee db limits` for `app`, with these parameters of the URL.
    fn limits(&self, parameters: &str, arguments: &[&str]) -> (Option<i32>, String, String) {
        let url = format!("{}{parameters}", self.postgres.url_of("levee"));
        let all = [&["db", "limits"], arguments].concat();
        levee(self.folder.path(), &url, "watchdog: {roles: [app]}", &all)
    }

    fn undo_file(&self) -> std::path::PathBuf {
        self.folder.path().join("levee-limits-undo.json")
    }
}

#[test]
fn a_limit_of_the_server_is_found_where_the_database_or_the_url_hides_it() {
    let server = Strict::start();
    let is_kept = |parameters: &str| {
        let (code, out, err) = server.limits(parameters, &["--apply"]);
        assert_eq!(code, Some(0), "{err}");
        assert!(
            out.contains("-- would loosen 1000ms (of the server)")
                && err.contains("1 are stricter now"),
            "{parameters}: {out}{err}"
        );
    };
    is_kept("?options=-c%20statement_timeout%3D1h");
    // Its limit is longer, but sessions in other databases have that of the server.
    server
        .postgres
        .execute("ALTER DATABASE app SET statement_timeout = '10s'")
        .unwrap();
    is_kept("");
    is_kept("?options=-c%20statement_timeout%3D1h");
}

#[test]
fn a_limit_of_the_server_that_can_not_be_seen_is_not_replaced_unless_that_is_wanted() {
    let server = Strict::start();
    let role_has = "ALTER ROLE levee SET statement_timeout = '1h'";
    server.postgres.execute(role_has).unwrap();
    let (code, out, err) = server.limits("", &[]);
    assert_eq!(code, Some(0), "{err}");
    assert!(
        out.contains("-- might loosen the server's value, which can't be seen: the role that Levee logs in as has one of its own"),
        "{out}"
    );
    let (code, _, err) = server.limits("", &["--apply"]);
    assert_eq!(code, Some(1), "{err}");
    assert!(
        err.contains("2 applied") && err.contains("1 left alone") && err.contains("--loosen"),
        "{err}"
    );
    assert_eq!(shown_to_app(&server.postgres, "statement_timeout"), "1s");
    assert_eq!(shown_to_app(&server.postgres, "lock_timeout"), "2s");

    // A value of all roles takes the place of the server's.
    server
        .postgres
        .execute("ALTER ROLE ALL SET statement_timeout = '3s'")
        .unwrap();
    let (code, out, err) = server.limits("", &["--apply"]);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("-- would loosen 3s (of all roles)"), "{out}");
    let again = "ALTER ROLE ALL RESET statement_timeout";
    server.postgres.execute(again).unwrap();

    let (code, _, err) = server.limits("", &["--apply", "--loosen"]);
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(shown_to_app(&server.postgres, "statement_timeout"), "5s");
}

#[test]
fn a_change_that_somebody_makes_meanwhile_is_not_lost() {
    let server = Strict::start();
    let admin = |statements: &str| server.postgres.execute(statements).unwrap();
    admin("ALTER ROLE app SET statement_timeout = '20s'");
    for arguments in [&["--apply"][..], &["--rollback"]] {
        let (code, out, err) = thread::scope(|scope| {
            let mut dba = server.postgres.client().unwrap();
            let mut change = dba.transaction().expect("a transaction");
            // Values can be read, but not changed.
            let lock = "LOCK TABLE pg_db_role_setting IN SHARE MODE";
            change.batch_execute(lock).expect("a lock");
            let levee = scope.spawn(|| server.limits("", arguments));
            let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'pg_db_role_setting'::regclass";
            until_blocking("levee waits", GENEROUS, || {
                match server.postgres.number(waits).unwrap() {
                    0 => Err("it does not wait yet"),
                    _ => Ok(()),
                }
            })
            .unwrap();
            let other = "ALTER ROLE app SET statement_timeout = '3s'";
            change.batch_execute(other).expect("a change");
            change.commit().expect("a commit");
            levee.join().expect("a run")
        });
        assert_eq!(code, Some(1), "{out}{err}");
        assert!(
            err.contains("nothing was changed") && err.contains("meanwhile"),
            "{err}"
        );
        assert_eq!(shown_to_app(&server.postgres, "statement_timeout"), "3s");
        // For the second round: something to roll back.
        admin("ALTER ROLE app SET statement_timeout = '20s'");
        let (code, _, err) = server.limits("", &["--apply"]);
        assert_eq!(code, Some(0), "{err}");
    }
    let (code, _, err) = server.limits("", &["--rollback"]);
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(shown_to_app(&server.postgres, "statement_timeout"), "20s");
}

#[test]
fn a_value_that_somebody_set_between_two_applies_is_restored() {
    let server = Strict::start();
    let set = |value: &str| {
        let statement = format!("ALTER ROLE app SET statement_timeout = '{value}'");
        server.postgres.execute(&statement).unwrap();
    };
    for value in ["20s", "15s", "15s"] {
        set(value);
        let (code, _, err) = server.limits("", &["--apply"]);
        assert_eq!(code, Some(0), "{err}");
        assert_eq!(shown_to_app(&server.postgres, "statement_timeout"), "5s");
    }
    let (code, _, err) = server.limits("", &["--rollback"]);
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(shown_to_app(&server.postgres, "statement_timeout"), "15s");
}

#[test]
fn what_a_missing_role_had_is_kept_for_another_rollback() {
    let server = Strict::start();
    let admin = |statements: &str| server.postgres.execute(statements).unwrap();
    admin(
        "CREATE ROLE app2 LOGIN; CREATE ROLE app3 LOGIN; ALTER ROLE app2 SET lock_timeout = '9s'",
    );
    let limits = |argument: &str| {
        levee(
            server.folder.path(),
            &server.postgres.url_of("levee"),
            "watchdog: {roles: [app, app2, app3]}",
            &["db", "limits", argument],
        )
    };
    let settings = || {
        let rows = server.postgres.client().unwrap().query(
            "SELECT rolname || ' ' || array_to_string(rolconfig, ',') FROM pg_roles \
             WHERE rolname LIKE 'app%' AND rolconfig IS NOT NULL ORDER BY 1",
            &[],
        );
        let rows = rows.expect("a query");
        rows.iter().map(|row| row.get(0)).collect::<Vec<String>>()
    };
    let in_file = || std::fs::read_to_string(server.undo_file()).expect("a file");
    let (code, _, err) = limits("--apply");
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(settings().len(), 3);

    admin("ALTER ROLE app2 RENAME TO app9; DROP ROLE app3");
    for undone in ["2 undone", "0 undone"] {
        let (code, out, err) = limits("--rollback");
        assert_eq!(code, Some(1), "{out}{err}");
        assert!(
            err.contains(undone)
                && err.contains("the database has no role app2, app3")
                && err.contains("4 settings")
                && err.contains("levee-limits-undo.json")
                && err.contains("renamed"),
            "{err}"
        );
        assert!(
            out.contains("the role is missing: lock_timeout of \"app2\"; before it was 9s"),
            "{out}"
        );
        assert_eq!(
            settings(),
            ["app9 lock_timeout=2000ms,idle_in_transaction_session_timeout=60000ms"]
        );
        let kept = in_file();
        assert_eq!(kept.matches("\"role\"").count(), 4, "{kept}");
        assert!(!kept.contains("\"app\""), "{kept}");
    }

    // What the message says to do.
    let renamed = in_file().replace("\"app2\"", "\"app9\"");
    std::fs::write(server.undo_file(), renamed).expect("a file");
    let (code, _, err) = limits("--rollback");
    assert_eq!(code, Some(1), "{err}");
    assert!(
        err.contains("2 undone") && err.contains("no role app3"),
        "{err}"
    );
    assert_eq!(settings(), ["app9 lock_timeout=9s"]);
    admin("CREATE ROLE app3 LOGIN");
    let (code, _, err) = limits("--rollback");
    assert_eq!(code, Some(0), "{err}");
    assert!(!server.undo_file().exists());
}

#[test]
fn an_undo_file_that_is_damaged_is_named_and_kept() {
    let server = Strict::start();
    server
        .postgres
        .execute("ALTER ROLE app SET statement_timeout = '5000ms'")
        .unwrap();
    let address = format!("127.0.0.1:{}", server.postgres.port());
    let entry = |before: &str, applied: &str| {
        format!(
            r#"{{"server": "{address}", "changes": [{{"role": "app", "setting": "statement_timeout"{before}, "applied": {applied}}}]}}"#
        )
    };
    for text in [
        format!(r#"{{"server": "{address}"}}"#),
        format!(r#"{{"server": "{address}", "changes": {{}}}}"#),
        r#"{"changes": []}"#.to_owned(),
        // Else they would be taken for "it was not set".
        entry("", r#"["5000ms"]"#),
        entry(r#", "before": 20000"#, r#"["5000ms"]"#),
        entry(r#", "before": null"#, "[5000]"),
    ] {
        std::fs::write(server.undo_file(), &text).expect("a file");
        for arguments in [&["--rollback"][..], &["--apply", "--loosen"]] {
            let (code, _, err) = server.limits("", arguments);
            assert_eq!(code, Some(1), "{text}: {err}");
            assert!(err.contains("levee-limits-undo.json"), "{text}: {err}");
            let kept = std::fs::read_to_string(server.undo_file());
            assert_eq!(kept.expect("a file"), text);
        }
        assert_eq!(shown_to_app(&server.postgres, "statement_timeout"), "5s");
        assert_eq!(shown_to_app(&server.postgres, "lock_timeout"), "0");
    }
}

#[test]
fn the_error_says_why_limits_could_not_be_applied() {
    let server = Strict::start();
    let mut dba = server.postgres.client().unwrap();
    let mut change = dba.transaction().expect("a transaction");
    let lock = "LOCK TABLE pg_db_role_setting IN SHARE MODE";
    change.batch_execute(lock).expect("a lock");
    let (code, _, err) = server.limits("", &["--apply"]);
    assert_eq!(code, Some(1), "{err}");
    assert!(
        err.contains("nothing was changed") && err.contains("lock timeout"),
        "{err}"
    );
    assert!(!err.contains("superuser"), "{err}");
    assert!(!server.undo_file().exists());
}

#[test]
fn an_encrypted_connection_is_made_if_the_certificate_is_trusted() {
    let mut postgres = Postgres::with_tables().unwrap();
    let certificate = postgres.start_tls().unwrap();
    let folder = tempfile::tempdir().expect("a directory");
    let run = |options: &str| {
        let url = format!("{}?{options}", postgres.url_of("levee"));
        levee(
            folder.path(),
            &url,
            SLOW,
            &["job", "run", "auth_cleanup", "--dry-run"],
        )
    };
    // The server refuses unencrypted connections.
    postgres
        .let_in("host all postgres 127.0.0.1/32 trust\nhostssl all levee 127.0.0.1/32 trust\n")
        .unwrap();
    let trusted = format!("sslmode=verify-full&sslrootcert={}", certificate.display());
    let (code, out, err) = run(&trusted);
    assert_eq!(code, Some(0), "{out} {err}");
    let (code, out, _) = run("sslmode=verify-full");
    assert_eq!(code, Some(1));
    assert!(out.contains("certificate"), "{out}");
    let (code, out, _) = run("sslmode=disable");
    assert_eq!(code, Some(1));
    assert!(out.contains("SQLSTATE 28000"), "{out}");
}
