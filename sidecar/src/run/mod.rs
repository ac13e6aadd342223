//! Runs the sidecar: builds its parts, listens, serves, reads its configuration again on request, and stops in order.
//!
//! | module | what is in it |
//! |---|---|
//! | [`inherited`] | sockets that systemd has opened |
//! | `listening` | sockets that listen: alone, or beside those of an older instance |
//! | `plan` | what changes when another configuration takes force |
//! | `running` | the parts that run |
//! | `upstreams` | the Redis upstreams among them, with their listeners |
//! | `tasks` | their tasks |
//! | [`reload`] | reading the configuration again |
//! | `signals` | signals to the process |
//! | `systemd` | notifications to systemd |

pub mod inherited;
mod listening;
mod plan;
pub mod reload;
mod running;
mod signals;
mod systemd;
mod tasks;
mod upstreams;

pub use listening::{InUse, ListenError};

use crate::admin::Live;
use crate::config::Config;
use anyhow::Result;
use inherited::Inherited;
use reload::ReloadMetrics;
use running::Running;
use signals::{Request, Signals};
use std::path::Path;
use systemd::Systemd;
use tokio::sync::mpsc;

/// Runs until SIGTERM or SIGINT. `file` is read again on SIGHUP.
///
/// # Errors
/// A part could not be started.
pub async fn run(config: Config, file: &Path, sockets: Inherited, in_use: InUse) -> Result<()> {
    let mut signals = Signals::new()?;
    let systemd = Systemd::from_environment();
    let (mut running, admin) = Running::start(config, sockets, in_use).await?;
    let metrics = ReloadMetrics::register(&running.registry)?;
    let (reloads, mut requests) = mpsc::channel(1);
    let live = Live::new(running.admin(), reloads);
    running.serve_admin(admin, live.clone());
    running.is_known().await;
    running.spawn(systemd.clone().watchdog());
    systemd.ready();
    log::info!("ready");

    loop {
        let reply = tokio::select! {
            request = signals.next() => match request {
                Request::Stop => break,
                Request::Reload => None,
            },
            Some(reply) = requests.recv() => Some(reply),
        };
        systemd.reloading();
        let reloaded = reload::reload(&mut running, file, &metrics).await;
        live.replace(running.admin());
        systemd.reloaded(reloaded.outcome.name());
        if let Some(reply) = reply {
            let _ = reply.send(reloaded);
        }
    }
    systemd.stopping();
    tokio::select! {
        () = running.stop() => {}
        () = signals.stop() => log::warn!("stopped at once, by a second signal: work in flight was lost"),
    }
    Ok(())
}
