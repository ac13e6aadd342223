//! The demonstration services, each on a free port of 127.0.0.1.

use std::net::{Ipv4Addr, SocketAddr};

use levee_demo::demo_backend::Service;
use levee_demo::stack::SERVICES;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::args::Upstream;
use crate::failure::Failure;

/// All demonstration services. Dropping it ends them.
#[derive(Debug)]
pub struct Demo {
    upstreams: Vec<Upstream>,
    _serving: JoinSet<()>,
}

impl Demo {
    /// Starts them, with Redis and the database where these are.
    pub async fn start(redis: Option<SocketAddr>, database: Option<&str>) -> Result<Self, Failure> {
        let redis = redis.map(|address| format!("redis://{address}"));
        let mut serving = JoinSet::new();
        let mut upstreams = Vec::new();
        for name in SERVICES {
            let service = Service::new(name, redis.as_deref(), database).map_err(Failure::Other)?;
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
                .await
                .map_err(Failure::other)?;
            upstreams.push(Upstream {
                name: name.into(),
                at: listener.local_addr().map_err(Failure::other)?.into(),
                grpc: false,
            });
            serving.spawn(async move {
                if let Err(error) = service.serve(listener).await {
                    eprintln!("{name}: {error}");
                }
            });
        }
        Ok(Self {
            upstreams,
            _serving: serving,
        })
    }

    /// Where they are.
    pub fn upstreams(&self) -> Vec<Upstream> {
        self.upstreams.clone()
    }
}
