//! What a listener and its connections are told while they run.

use super::keepalive::Keepalive;
use super::upstream::Dial;
use levee_redis_session::session::SessionSettings;
use std::sync::Arc;

#[derive(Clone, Debug)]
pub struct Orders {
    pub stop: bool,
    /// How sessions behave.
    pub settings: Arc<SessionSettings>,
    /// How many clients there may be.
    pub connections: usize,
    /// How many connections to Redis are kept ready.
    pub spares: usize,
    /// When new connections whose other end is silent are ended.
    pub keepalive: Keepalive,
}

impl Orders {
    /// How to connect to Redis.
    pub fn dial(&self) -> Dial {
        Dial {
            within: self.settings.connect_timeout,
            keepalive: self.keepalive.redis,
        }
    }
}
