//! A client for Levee's own commands: probes, and the Redis for `state`.

use crate::resolve::Resolver;
use redis::aio::MultiplexedConnection;
use redis::io::AsyncDNSResolver;
use redis::{AsyncConnectionConfig, Client, RedisFuture, RedisResult};
use std::net::SocketAddr;

#[derive(Clone, Debug)]
pub struct OwnClient {
    client: Client,
    settings: AsyncConnectionConfig,
}

impl OwnClient {
    pub fn new(client: Client, resolver: Resolver) -> Self {
        let settings = AsyncConnectionConfig::new().set_dns_resolver(Lookups(resolver));
        Self { client, settings }
    }

    /// A new connection. The caller bounds how long it takes.
    ///
    /// # Errors
    /// There is none.
    pub async fn connect(&self) -> RedisResult<MultiplexedConnection> {
        let settings = &self.settings;
        self.client
            .get_multiplexed_async_connection_with_config(settings)
            .await
    }
}

/// Without it, each connection would look its name up on a thread of the runtime, however long that takes.
struct Lookups(Resolver);

impl AsyncDNSResolver for Lookups {
    fn resolve<'a, 'b: 'a>(
        &'a self,
        _: &'b str,
        _: u16,
    ) -> RedisFuture<'a, Box<dyn Iterator<Item = SocketAddr> + Send + 'a>> {
        Box::pin(async {
            let addresses = self.0.addresses().await?;
            let addresses: Box<dyn Iterator<Item = SocketAddr> + Send> =
                Box::new(addresses.into_iter());
            Ok(addresses)
        })
    }
}
