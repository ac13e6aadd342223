//! The Redis upstreams that run, with their listeners and tasks.

use super::listening::Bound;
use super::tasks::Tasks;
use crate::admin::RedisListener;
use crate::clock::Clock;
use crate::config::Redis;
use crate::parts::redis::{self, RedisUpstream};
use crate::readiness::Readiness;
use crate::redis::health;
use crate::redis::listener::{AcceptEnd, Proxy};
use crate::redis::memory::Store;
use crate::redis::metrics::RedisFamilies;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// What upstreams share.
pub struct Shared {
    pub clock: Clock,
    pub readiness: Readiness,
    pub families: RedisFamilies,
    pub store: Option<Store>,
}

/// An upstream that accepts clients.
pub struct RunningUpstream {
    pub config: Redis,
    upstream: RedisUpstream,
    accepting: Accepting,
    health: AbortHandle,
    keep: Option<AbortHandle>,
}

/// A listener at which a proxy accepts clients.
pub struct Accepting {
    bound: Bound,
    end: watch::Sender<Option<AcceptEnd>>,
}

impl Accepting {
    fn start(proxy: &Arc<Proxy>, bound: Bound, tasks: &mut Tasks) -> Self {
        let (end, ended) = watch::channel(None);
        tasks.drain(proxy.clone().run(bound.socket.clone(), ended));
        let address = bound.address.to_string();
        log::info!(part = "redis", upstream = proxy.name.as_str(), address = address.as_str(); "listening");
        Self { bound, end }
    }
}

impl RunningUpstream {
    pub fn start(
        config: Redis,
        upstream: RedisUpstream,
        bound: Bound,
        shared: &Shared,
        tasks: &mut Tasks,
    ) -> Self {
        let proxy = &upstream.proxy;
        shared.families.add(&config.name, proxy.gate.counts.clone());
        tasks.run(proxy.clone().keep_spares());
        let keep = shared.store.clone().map(|store| {
            let gate = proxy.gate.clone();
            tasks.run(store.keep(config.name.clone(), gate, shared.clock))
        });
        Self {
            accepting: Accepting::start(proxy, bound, tasks),
            health: probe(&config, &upstream, shared, tasks),
            config,
            upstream,
            keep,
        }
    }

    /// Its listener, for another upstream.
    pub fn bound(&self) -> Bound {
        self.accepting.bound.clone()
    }

    pub fn admin(&self) -> RedisListener {
        RedisListener {
            address: self.accepting.bound.address,
            proxy: self.upstream.proxy.clone(),
        }
    }

    /// Puts other settings into force.
    pub fn reconfigure(&mut self, config: Redis, shared: &Shared, tasks: &mut Tasks) {
        let proxy = &self.upstream.proxy;
        proxy.reconfigure(redis::orders(&config));
        let now = shared.clock.now();
        proxy.gate.reconfigure(config.breaker, config.budget, now);
        if self.config.health_every != config.health_every {
            self.health.abort();
            self.health = probe(&config, &self.upstream, shared, tasks);
        }
        self.config = config;
    }

    /// Accepts clients elsewhere. Returns the former listener.
    pub fn relocate(&mut self, bound: Bound, tasks: &mut Tasks) -> Accepting {
        let accepting = Accepting::start(&self.upstream.proxy, bound, tasks);
        std::mem::replace(&mut self.accepting, accepting)
    }

    /// Lets clients have what they are owed, and ends all else. Returns the listener.
    pub fn end(self, shared: &Shared) -> Accepting {
        self.upstream.proxy.stop();
        self.health.abort();
        if let Some(keep) = self.keep {
            keep.abort();
        }
        shared
            .readiness
            .remove(&format!("redis/{}", self.config.name));
        shared.families.remove(&self.config.name);
        self.accepting
    }

    /// Lets clients have what they are owed. Metrics and state stay.
    pub fn stop(self) -> Accepting {
        self.upstream.proxy.stop();
        self.accepting
    }
}

fn probe(
    config: &Redis,
    upstream: &RedisUpstream,
    shared: &Shared,
    tasks: &mut Tasks,
) -> AbortHandle {
    let part = shared.readiness.probed(&format!("redis/{}", config.name));
    let (gate, client) = (upstream.proxy.gate.clone(), upstream.client.clone());
    tasks.run(health::watch(
        gate,
        client,
        part,
        config.health_every,
        shared.clock,
    ))
}

/// Ends accepting at former listeners, and waits until it has ended. They are closed, except those at which one of
/// `running` accepts.
pub async fn end_accepting(former: Vec<Accepting>, running: &[RunningUpstream]) {
    let mut ends = Vec::new();
    for Accepting { bound, end } in former {
        let is_taken =
            |running: &RunningUpstream| Arc::ptr_eq(&running.accepting.bound.socket, &bound.socket);
        let how = if running.iter().any(is_taken) {
            AcceptEnd::HandOver
        } else {
            AcceptEnd::Close
        };
        end.send_replace(Some(how));
        ends.push(end);
    }
    for end in ends {
        end.closed().await;
    }
}
