//! A real `PgBouncer` in front of a `PostgreSQL`.

use std::fs;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use postgres::{Client, NoTls};
use tempfile::TempDir;

use crate::address::free_address;
use crate::error::{Context, Result};
use crate::postgres::{Postgres, directory, give, run_as_its_user};
use crate::process::{Output, Process, Signal};
use crate::tool;
use crate::wait::GENEROUS;

/// A `PgBouncer` on a free port, for the database `app`. Dropping it ends it and removes its files.
#[derive(Debug)]
pub struct PgBouncer {
    address: SocketAddr,
    _process: Process,
    _files: TempDir,
}

impl PgBouncer {
    /// Starts one before `postgres`, with further lines of the section `[pgbouncer]`. All else is as by default.
    pub fn before(postgres: &Postgres, settings: &str) -> Result<Self> {
        let files = directory()?;
        let address = free_address()?;
        let users = files.path().join("users");
        let roles = ["app", "levee", "postgres"].map(|role| format!("\"{role}\" \"\"\n"));
        fs::write(&users, roles.concat()).context("write the users of PgBouncer")?;
        let config = files.path().join("pgbouncer.ini");
        let text = format!(
            "[databases]\napp = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {}\n\
             unix_socket_dir =\nauth_type = trust\nauth_file = {}\n{settings}\n",
            postgres.port(),
            address.port(),
            users.display()
        );
        fs::write(&config, text).context("write the configuration of PgBouncer")?;
        for file in [&users, &config] {
            give(file)?;
        }
        let log = files.path().join("log");
        let mut command: Command = tool::pgbouncer()?;
        run_as_its_user(&mut command)?
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).context("make a log of PgBouncer")?);
        let mut process = Process::spawn(command, Signal::Kill)?;
        let url = format!("postgres://postgres@{address}/app");
        process.until_ready("PgBouncer", GENEROUS, Output::File(&log), || {
            Client::connect(&url, NoTls).map(drop)
        })?;
        Ok(Self {
            address,
            _process: process,
            _files: files,
        })
    }

    /// The URL of the database `app` for `user`.
    pub fn url_of(&self, user: &str) -> String {
        format!("postgres://{user}@{}/app", self.address)
    }

    /// A client as `user`.
    pub fn client_as(&self, user: &str) -> Result<Client> {
        Client::connect(&self.url_of(user), NoTls)
            .context(format!("connect to PgBouncer as {user}"))
    }
}
