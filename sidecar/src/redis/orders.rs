//! What a listener and its connections are told while they run.

use levee_redis_session::session::SessionSettings;
use std::sync::Arc;

#[derive(Clone, Debug)]
pub struct Orders {
    pub stop: bool,
    /// How sessions behave.
    pub settings: Arc<SessionSettings>,
    /// How many clients there may be.
    pub connections: usize,
}
