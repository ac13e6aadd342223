//! The Redis proxy: sockets, listeners and stored state around the sessions of [`levee_redis_session`].
//!
//! | module | the one thing in it |
//! |---|---|
//! | [`upstream`] | reaching Redis: names, TCP, TLS |
//! | [`connection`] | a session with its sockets |
//! | [`listener`] | accepting clients, and how many |
//! | [`health`] | asking Redis whether it answers while the breaker is not closed |
//! | [`hand_over`] | which of two processes at one address gets new connections |
//! | [`orders`] | what a listener and its connections are told while they run |
//! | [`metrics`] | what is counted |
//! | [`own_client`] | a client for Levee's own commands |
//! | [`memory`] | what a breaker and a budget know, kept for the next process |

pub mod buffers;
pub mod connection;
pub mod hand_over;
pub mod health;
pub mod listener;
pub mod memory;
pub mod metrics;
pub mod orders;
pub mod own_client;
pub mod upstream;
