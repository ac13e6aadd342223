//! A real `PostgreSQL`.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;
use std::{env, fs, thread};

use postgres::{Client, NoTls};
use tempfile::TempDir;

use crate::certificate::Certificate;
use crate::clock::Stopwatch;
use crate::process::{Process, Signal};
use crate::redis::free_address;
use crate::wait::GENEROUS;

/// As whom it runs when the tests run as root, which it refuses.
const USERS: [&str; 2] = ["postgres", "nobody"];

/// A `PostgreSQL` of a test's own, on a free port of loopback, with the database `app` and the superuser `postgres`.
/// Nothing it holds outlives it.
#[derive(Debug)]
pub struct Postgres {
    port: u16,
    options: Vec<String>,
    files: TempDir,
    process: Option<Process>,
}

impl Postgres {
    /// Starts one.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts one with further settings, such as `max_connections=10`.
    pub fn start_with(settings: &[&str]) -> Self {
        let files = tempfile::tempdir().expect("make a directory for PostgreSQL");
        open_to_its_user(files.path());
        let mut initdb = Command::new(programs().join("initdb"));
        initdb
            .args([
                "--username=postgres",
                "--auth=trust",
                "--no-sync",
                "--encoding=UTF8",
            ])
            .args(["--locale=C", "--pgdata"])
            .arg(files.path().join("data"));
        as_its_user(&mut initdb);
        let output = initdb.output().expect("run initdb");
        assert!(
            output.status.success(),
            "initdb: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let mut postgres = Self {
            port: free_address().port(),
            options: settings.iter().map(ToString::to_string).collect(),
            files,
            process: None,
        };
        postgres.start_again();
        let mut client = postgres.connect("postgres", "postgres");
        client
            .batch_execute("CREATE DATABASE app")
            .expect("create a database");
        postgres
    }

    /// Lets it speak TLS too. The certificate stands in a file that is returned.
    pub fn start_tls(&mut self) -> PathBuf {
        let certificate = Certificate::make_in(self.files.path());
        fs::set_permissions(&certificate.key, fs::Permissions::from_mode(0o600))
            .expect("close the key");
        if let Some((user, group)) = its_user() {
            std::os::unix::fs::chown(&certificate.key, Some(user), Some(group))
                .expect("give the key away");
        }
        self.stop();
        self.options.extend([
            "ssl=on".to_owned(),
            format!("ssl_cert_file={}", certificate.certificate.display()),
            format!("ssl_key_file={}", certificate.key.display()),
        ]);
        self.start_again();
        certificate.certificate
    }

    /// Starts it again with the data that it had, after [`stop`](Self::stop).
    pub fn start_again(&mut self) {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.files.path().join("log"))
            .expect("make a log");
        let mut command = Command::new(programs().join("postgres"));
        command
            .arg("-D")
            .arg(self.files.path().join("data"))
            .args(["-p", &self.port.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let own = [
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "fsync=off",
            "shared_buffers=32MB",
        ];
        for setting in own
            .into_iter()
            .chain(self.options.iter().map(String::as_str))
        {
            command.args(["-c", setting]);
        }
        as_its_user(&mut command);
        // What it does at once on SIGINT; by force it would leave its children to themselves.
        let process = Process::spawn(command, Signal::Interrupt)
            .unwrap_or_else(|error| panic!("PostgreSQL can't be started: {error}"));
        self.process = Some(process);
        let waited = Stopwatch::start();
        while Client::connect(&self.url("postgres", "postgres"), NoTls).is_err() {
            assert!(
                waited.elapsed() < GENEROUS,
                "PostgreSQL does not answer: {}",
                self.log()
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it, as an orderly restart would: sessions are told.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.signal(Signal::Interrupt);
            let exit = process.wait(GENEROUS);
            assert!(exit.is_some(), "PostgreSQL does not end: {}", self.log());
        }
    }

    /// Lets all its processes stand still, or go on.
    pub fn signal_all(&mut self, signal: Signal) {
        let process = self.process.as_mut().expect("it is running");
        for child in process.children() {
            crate::process::send(child, signal);
        }
        process.signal(signal);
    }

    /// Lets in only whom these lines of `pg_hba.conf` do.
    pub fn let_in(&self, lines: &str) {
        fs::write(self.files.path().join("data/pg_hba.conf"), lines).expect("write pg_hba.conf");
        self.execute("SELECT pg_reload_conf()");
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.files.path().join("log")).unwrap_or_default()
    }

    fn url(&self, user: &str, database: &str) -> String {
        format!("postgres://{user}@127.0.0.1:{}/{database}", self.port)
    }

    /// The URL of the database `app` for `user`.
    pub fn url_of(&self, user: &str) -> String {
        self.url(user, "app")
    }

    /// Its port.
    pub const fn port(&self) -> u16 {
        self.port
    }

    fn connect(&self, user: &str, database: &str) -> Client {
        Client::connect(&self.url(user, database), NoTls)
            .unwrap_or_else(|error| panic!("connect as {user}: {error}"))
    }

    /// A client of the database `app` as superuser.
    pub fn client(&self) -> Client {
        self.connect("postgres", "app")
    }

    /// A client of the database `app` as `user`.
    pub fn client_as(&self, user: &str) -> Client {
        self.connect(user, "app")
    }

    /// Makes the tables of a service, and two roles: `app`, which is the service, and `levee`.
    pub fn make_tables(&self) {
        self.execute(
            "CREATE ROLE app LOGIN; CREATE ROLE levee LOGIN; GRANT pg_read_all_stats, pg_signal_backend TO levee;
             CREATE TABLE email_verification_tokens (token_id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid,
               new_email text, token text, expires_at timestamptz, created_at timestamptz DEFAULT now(),
               used_at timestamptz);
             CREATE INDEX ON email_verification_tokens (expires_at);
             CREATE TABLE calls (call_id uuid PRIMARY KEY DEFAULT gen_random_uuid(), conversation_id uuid,
               caller_id uuid, call_type text, status text, started_at timestamptz, ended_at timestamptz,
               duration int);
             CREATE INDEX ON calls (started_at);
             GRANT ALL ON email_verification_tokens, calls TO app, levee",
        );
    }

    /// Adds tokens that have expired, and some that have not.
    pub fn add_tokens(&self, expired: u32, valid: u32) {
        self.execute(&format!(
            "INSERT INTO email_verification_tokens (expires_at)
               SELECT now() - interval '1 s' - random() * interval '1 hour' FROM generate_series(1, {expired});
             INSERT INTO email_verification_tokens (expires_at)
               SELECT now() + interval '1 hour' + random() * interval '1 hour' FROM generate_series(1, {valid});
             ANALYZE"
        ));
    }

    /// How many tokens have expired.
    pub fn expired_tokens(&self) -> i64 {
        self.number("SELECT count(*) FROM email_verification_tokens WHERE expires_at < now()")
    }

    /// Executes statements as superuser.
    pub fn execute(&self, statements: &str) {
        self.client()
            .batch_execute(statements)
            .unwrap_or_else(|error| panic!("{statements}: {error}"));
    }

    /// The number that a query answers.
    pub fn number(&self, query: &str) -> i64 {
        let row = self.client().query_one(query, &[]);
        row.unwrap_or_else(|error| panic!("{query}: {error}"))
            .get(0)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            // So that it ends though it may have been made to stand still.
            for child in process.children() {
                crate::process::send(child, Signal::Continue);
            }
            process.signal(Signal::Continue);
            process.signal(Signal::Interrupt);
            process.wait(GENEROUS);
        }
    }
}

/// The folder of `postgres` and `initdb`: `POSTGRES_BIN_PATH`, or where the system has it.
pub fn programs() -> &'static Path {
    static PROGRAMS: OnceLock<PathBuf> = OnceLock::new();
    PROGRAMS.get_or_init(|| {
        if let Some(folder) = env::var_os("POSTGRES_BIN_PATH").filter(|path| !path.is_empty()) {
            return PathBuf::from(folder);
        }
        let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
        let debian = versions.filter_map(|entry| Some(entry.ok()?.path().join("bin")));
        let path = env::var_os("PATH").unwrap_or_default();
        let mut folders: Vec<PathBuf> = debian.collect();
        folders.sort();
        folders.reverse();
        folders.extend(env::split_paths(&path));
        folders
            .into_iter()
            .find(|folder| folder.join("initdb").exists() && folder.join("postgres").exists())
            .expect("PostgreSQL: install it, or name the folder of initdb and postgres by POSTGRES_BIN_PATH")
    })
}

/// The user and group that it runs as, if these tests run as root.
fn its_user() -> Option<(u32, u32)> {
    static USER: OnceLock<Option<(u32, u32)>> = OnceLock::new();
    *USER.get_or_init(|| {
        // SAFETY: geteuid(2) takes nothing and can't fail.
        #[allow(unsafe_code, reason = "the standard library does not have it")]
        let is_root = unsafe { libc::geteuid() } == 0;
        if !is_root {
            return None;
        }
        let users = fs::read_to_string("/etc/passwd").expect("read the users");
        let of = |name: &str| {
            let line = users
                .lines()
                .find(|line| line.split(':').next() == Some(name))?;
            let mut fields = line.split(':').skip(2);
            Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
        };
        let user = USERS.iter().find_map(|name| of(name));
        Some(user.expect("a user other than root: postgres or nobody"))
    })
}

fn as_its_user(command: &mut Command) {
    if let Some((user, group)) = its_user() {
        command.uid(user).gid(group).current_dir("/");
    }
}

fn open_to_its_user(folder: &Path) {
    if let Some((user, group)) = its_user() {
        std::os::unix::fs::chown(folder, Some(user), Some(group)).expect("give the directory away");
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).expect("close the directory");
}
