//! A real `PostgreSQL`.

use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::{env, fs};

use postgres::{Client, NoTls};
use tempfile::TempDir;

use crate::address::free_address;
use crate::built;
use crate::certificate::Certificate;
use crate::error::{Context, Error, Result};
use crate::process::{Output, Process, Signal, output_of};
use crate::wait::GENEROUS;

/// The users as whom it may run when this program runs as root, which it refuses.
const USERS: [&str; 2] = ["postgres", "nobody"];

/// A `PostgreSQL` on a free port of loopback, with the database `app` and the superuser `postgres`. Dropping it ends it and
/// removes its data.
#[derive(Debug)]
pub struct Postgres {
    port: u16,
    options: Vec<String>,
    files: TempDir,
    process: Option<Process>,
}

impl Postgres {
    /// Starts one.
    pub fn start() -> Result<Self> {
        Self::start_with(&[])
    }

    /// Starts one with the tables of [`make_tables`](Self::make_tables).
    pub fn with_tables() -> Result<Self> {
        let postgres = Self::start()?;
        postgres.make_tables()?;
        Ok(postgres)
    }

    /// Starts one with further settings, such as `max_connections=10`.
    pub fn start_with(settings: &[&str]) -> Result<Self> {
        let files = directory()?;
        copy(&template()?, &files.path().join("data"))?;
        let mut postgres = Self {
            port: free_address()?.port(),
            options: settings.iter().map(ToString::to_string).collect(),
            files,
            process: None,
        };
        postgres.start_again()?;
        Ok(postgres)
    }

    /// Starts a replica of it, with further settings such as `recovery_min_apply_delay=5s`.
    pub fn start_replica(&self, settings: &[&str]) -> Result<Self> {
        let files = directory()?;
        output_of(
            program("pg_basebackup")?
                .args(["-h", "127.0.0.1", "-U", "postgres", "-X", "stream"])
                .args(["--checkpoint=fast", "--no-sync", "--write-recovery-conf"])
                .args(["-p", &self.port.to_string(), "-D"])
                .arg(files.path().join("data")),
        )?;
        let mut replica = Self {
            port: free_address()?.port(),
            options: settings.iter().map(ToString::to_string).collect(),
            files,
            process: None,
        };
        replica.start_again()?;
        Ok(replica)
    }

    /// Restarts it with TLS. Returns the file of its certificate.
    pub fn start_tls(&mut self) -> Result<PathBuf> {
        let certificate = Certificate::make_in(self.files.path())?;
        fs::set_permissions(&certificate.key, fs::Permissions::from_mode(0o600))
            .context("close the key")?;
        give(&certificate.key)?;
        self.stop()?;
        self.options.extend([
            "ssl=on".to_owned(),
            format!("ssl_cert_file={}", certificate.certificate.display()),
            format!("ssl_key_file={}", certificate.key.display()),
        ]);
        self.start_again()?;
        Ok(certificate.certificate)
    }

    /// Starts it again with the data that it had, after [`stop`](Self::stop) or [`stop_with`](Self::stop_with).
    pub fn start_again(&mut self) -> Result<()> {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.files.path().join("log"))
            .context("make a log of PostgreSQL")?;
        let mut command = program("postgres")?;
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
            "full_page_writes=off",
            "shared_buffers=32MB",
            // In its directory, so that it is removed even after a crash.
            "dynamic_shared_memory_type=mmap",
        ];
        for setting in own
            .into_iter()
            .chain(self.options.iter().map(String::as_str))
        {
            command.args(["-c", setting]);
        }
        // It ends at once on SIGINT, with its children; SIGKILL would leave them running.
        self.process = Some(Process::spawn(command, Signal::Interrupt)?);
        let url = self.url("postgres", "postgres");
        let log = self.files.path().join("log");
        self.running_mut()?
            .until_ready("PostgreSQL", GENEROUS, Output::File(&log), || {
                Client::connect(&url, NoTls).map(drop)
            })
    }

    fn running(&self) -> Result<&Process> {
        self.process.as_ref().ok_or_else(stopped)
    }

    fn running_mut(&mut self) -> Result<&mut Process> {
        self.process.as_mut().ok_or_else(stopped)
    }

    /// Ends it as an orderly restart does: sessions get an error message.
    pub fn stop(&mut self) -> Result<()> {
        self.stop_with(Signal::Interrupt)
    }

    /// Ends it by a signal, and waits until it and all its children have ended.
    ///
    /// `Terminate` waits until its clients have left; `Interrupt` disconnects them. `Quit` and `Kill` end it without
    /// cleaning up: the next start recovers, as after a crash.
    pub fn stop_with(&mut self, signal: Signal) -> Result<()> {
        let Some(mut process) = self.process.take() else {
            return Ok(());
        };
        process.end_by(signal, GENEROUS).map_err(|error| {
            quit(&mut process);
            Error::new(format!("PostgreSQL: {error}: {}", self.log()))
        })
    }

    /// Sends a signal to the process that accepts connections, without waiting for its effect.
    ///
    /// `Stop` pauses only that process: new connections are accepted by the kernel and never answered, while open ones go
    /// on, since each has a process of its own. [`signal_all`](Self::signal_all) pauses those too.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.running_mut()?.signal(signal);
        Ok(())
    }

    /// Sends a signal to all its processes.
    pub fn signal_all(&mut self, signal: Signal) -> Result<()> {
        self.running_mut()?.signal_with_children(signal);
        Ok(())
    }

    /// The id of the process that accepts connections.
    pub fn id(&self) -> Result<u32> {
        Ok(self.running()?.id())
    }

    /// Its data directory.
    pub fn data(&self) -> PathBuf {
        self.files.path().join("data")
    }

    /// Replaces `pg_hba.conf`, which says who may connect, by these lines.
    pub fn let_in(&self, lines: &str) -> Result<()> {
        fs::write(self.files.path().join("data/pg_hba.conf"), lines)
            .context("write pg_hba.conf")?;
        self.execute("SELECT pg_reload_conf()")
    }

    /// An error if it has ended.
    pub fn check_alive(&mut self) -> Result<()> {
        let log = self.files.path().join("log");
        self.running_mut()?
            .check_alive("PostgreSQL ended by itself", Output::File(&log))
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

    /// A client of the database `app` as superuser.
    pub fn client(&self) -> Result<Client> {
        self.client_as("postgres")
    }

    /// A client of the database `app` as `user`.
    pub fn client_as(&self, user: &str) -> Result<Client> {
        Client::connect(&self.url_of(user), NoTls)
            .context(format!("connect to PostgreSQL as {user}"))
    }

    /// Creates the tables of a service, and two roles: `app` for the service, and `levee`.
    pub fn make_tables(&self) -> Result<()> {
        let mut client = self.client()?;
        client.batch_execute(
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
        )
        .context("make the tables")
    }

    /// Adds tokens that have expired, and some that have not.
    pub fn add_tokens(&self, expired: u32, valid: u32) -> Result<()> {
        self.execute(&format!(
            "INSERT INTO email_verification_tokens (expires_at)
               SELECT now() - interval '1 s' - random() * interval '1 hour' FROM generate_series(1, {expired});
             INSERT INTO email_verification_tokens (expires_at)
               SELECT now() + interval '1 hour' + random() * interval '1 hour' FROM generate_series(1, {valid});
             ANALYZE"
        ))
    }

    /// How many tokens have expired.
    pub fn expired_tokens(&self) -> Result<i64> {
        self.number("SELECT count(*) FROM email_verification_tokens WHERE expires_at < now()")
    }

    /// Executes statements as superuser.
    pub fn execute(&self, statements: &str) -> Result<()> {
        let mut client = self.client()?;
        client.batch_execute(statements).context(statements)
    }

    /// The number that a query returns.
    pub fn number(&self, query: &str) -> Result<i64> {
        let row = self.client()?.query_one(query, &[]);
        row.and_then(|row| row.try_get(0)).context(query)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            quit(&mut process);
        }
    }
}

fn stopped() -> Error {
    Error::new("PostgreSQL is stopped")
}

/// Ends it within a bound, whatever state it is in.
fn quit(process: &mut Process) {
    // It gives its children five seconds before it kills them.
    if process.end_by(Signal::Quit, GENEROUS).is_err() {
        let _ = process.end_by(Signal::Kill, GENEROUS);
    }
}

/// The folder of `postgres` and `initdb`: `POSTGRES_BIN_PATH`, or where the system has it.
pub fn programs() -> Result<&'static Path> {
    static PROGRAMS: OnceLock<Option<PathBuf>> = OnceLock::new();
    PROGRAMS.get_or_init(find_programs).as_deref().ok_or_else(|| {
        Error::new("no PostgreSQL: install it, or name the folder of initdb and postgres by POSTGRES_BIN_PATH")
    })
}

/// As [`programs`], where there are any.
pub fn find_programs() -> Option<PathBuf> {
    let has_them =
        |folder: &PathBuf| folder.join("initdb").exists() && folder.join("postgres").exists();
    if let Some(folder) = env::var_os("POSTGRES_BIN_PATH").filter(|path| !path.is_empty()) {
        return Some(PathBuf::from(folder)).filter(has_them);
    }
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let mut debian: Vec<(u32, PathBuf)> = versions
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            Some((path.file_name()?.to_str()?.parse().ok()?, path.join("bin")))
        })
        .collect();
    debian.sort();
    let path = env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = debian.into_iter().rev().map(|(_, path)| path).collect();
    folders.extend(env::split_paths(&path));
    folders.into_iter().find(has_them)
}

/// The user of this program.
fn own_id() -> u32 {
    // SAFETY: geteuid(2) takes nothing and can't fail.
    #[allow(unsafe_code, reason = "the standard library does not have it")]
    unsafe {
        libc::geteuid()
    }
}

/// The user and group that it runs as, if this program runs as root.
fn its_user() -> Result<Option<(u32, u32)>> {
    static USER: OnceLock<Result<Option<(u32, u32)>>> = OnceLock::new();
    let user = USER.get_or_init(|| {
        if own_id() != 0 {
            return Ok(None);
        }
        let users = fs::read_to_string("/etc/passwd").context("read the users")?;
        let of = |name: &str| {
            let line = users
                .lines()
                .find(|line| line.split(':').next() == Some(name))?;
            let mut fields = line.split(':').skip(2);
            Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
        };
        let user = USERS.iter().find_map(|name| of(name));
        user.map(Some).ok_or_else(|| {
            Error::new("PostgreSQL refuses to run as root, and there is no user postgres or nobody")
        })
    });
    user.clone()
}

/// One of the programs, run by a user that it accepts.
fn program(name: &str) -> Result<Command> {
    let mut command = Command::new(programs()?.join(name));
    command.env("LC_ALL", "C");
    // They would change its settings.
    for (key, _) in env::vars_os().filter(|(key, _)| key.as_encoded_bytes().starts_with(b"PG")) {
        command.env_remove(key);
    }
    run_as_its_user(&mut command)?;
    Ok(command)
}

/// Makes a command run as the user that `PostgreSQL` runs as.
pub(crate) fn run_as_its_user(command: &mut Command) -> Result<&mut Command> {
    if let Some((user, group)) = its_user()? {
        command.uid(user).gid(group).current_dir("/");
    }
    Ok(command)
}

/// A temporary directory owned by the user that `PostgreSQL` runs as, who must be able to traverse its parents.
pub(crate) fn directory() -> Result<TempDir> {
    let directory = tempfile::tempdir().context("make a directory for PostgreSQL")?;
    give(directory.path())?;
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700))
        .context("close the directory")?;
    Ok(directory)
}

/// Gives a file to that user.
pub(crate) fn give(path: &Path) -> Result<()> {
    if let Some((user, group)) = its_user()? {
        chown(path, Some(user), Some(group))
            .context(format!("give {} to PostgreSQL's user", path.display()))?;
    }
    Ok(())
}

/// The template of data directories. It is made once and kept beside the builds, since copying it is much faster.
fn template() -> Result<PathBuf> {
    static TEMPLATE: OnceLock<Result<PathBuf>> = OnceLock::new();
    let template = TEMPLATE.get_or_init(|| {
        let version: String = output_of(program("postgres")?.arg("--version"))?
            .chars()
            .map(|char| {
                if char.is_ascii_alphanumeric() {
                    char
                } else {
                    '-'
                }
            })
            .collect();
        let builds = built::folder()?;
        // The number changes with what `make_template` does. Only its user can read it.
        let template = builds.join(format!(
            "postgres-template-1-{}-of-{}",
            version.trim_matches('-'),
            own_id()
        ));
        if !is_template(&template) {
            make_template(&builds, &template)?;
        }
        Ok(template)
    });
    template.clone()
}

/// Whether it is there and is not damaged.
fn is_template(folder: &Path) -> bool {
    folder.join("PG_VERSION").is_file()
}

/// Makes the template under a temporary name first, so that nobody sees half of it.
fn make_template(builds: &Path, template: &Path) -> Result<()> {
    let files = directory()?;
    let data = files.path().join("data");
    output_of(
        program("initdb")?
            .args(["--username=postgres", "--auth=trust", "--no-sync"])
            .args(["--encoding=UTF8", "--locale=C", "--pgdata"])
            .arg(&data),
    )?;
    let statement = files.path().join("statement");
    fs::write(&statement, "CREATE DATABASE app\n").context("write a statement")?;
    output_of(
        program("postgres")?
            .arg("--single")
            .arg("-D")
            .arg(&data)
            .args(["-c", "fsync=off", "postgres"])
            .stdin(fs::File::open(statement).context("open a statement")?),
    )?;
    let unfinished = tempfile::tempdir_in(builds).context("make a directory among the builds")?;
    let copied = unfinished.path().join("data");
    copy_for(&data, &copied, &|_| Ok(()))?;
    if !is_template(template) {
        let _ = fs::remove_dir_all(template);
    }
    // Another process may have been first: then its template is as good.
    match fs::rename(&copied, template) {
        Err(error) if !is_template(template) => {
            Err(Error::new(format!("keep {}: {error}", template.display())))
        }
        _ => Ok(()),
    }
}

/// Copies a directory with all in it, and gives the copy to the user that `PostgreSQL` runs as.
fn copy(from: &Path, to: &Path) -> Result<()> {
    copy_for(from, to, &give)
}

fn copy_for(from: &Path, to: &Path, give: &dyn Fn(&Path) -> Result<()>) -> Result<()> {
    fs::DirBuilder::new()
        .mode(0o700)
        .create(to)
        .context("make a directory for PostgreSQL")?;
    give(to)?;
    let entries = fs::read_dir(from).context(format!("read {}", from.display()))?;
    for entry in entries {
        let entry = entry.context("read a directory")?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            copy_for(&source, &target, give)?;
        } else {
            fs::copy(&source, &target).context(format!("copy {}", source.display()))?;
            give(&target)?;
        }
    }
    Ok(())
}
