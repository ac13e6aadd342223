//! The Redis proxy: sockets, listeners and stored state around the sessions of [`levee_redis_session`].
//!
//! | module | the one thing in it |
//! |---|---|
//! | [`upstream`] | reaching Redis: names, TCP, TLS |
//! | [`addresses`] | which of a name's addresses to connect to |
//! | [`keepalive`] | ending connections whose other end is gone |
//! | [`spares`] | connections to Redis that are ready |
//! | [`connection`] | a session with its sockets |
//! | [`proven`] | a connection on which Redis has answered |
//! | [`close`] | closing a client's connection without taking back what was written |
//! | [`listener`] | accepting clients, and how many |
//! | [`health`] | asking Redis whether it answers |
//! | [`hand_over`] | which of two processes at one address gets new connections |
//! | [`orders`] | orders to a listener and its connections while they run |
//! | [`metrics`] | what is counted |
//! | [`own_client`] | a client for Levee's own commands |
//! | [`memory`] | the state of breakers and budgets, kept for the next process |

pub mod addresses;
pub mod buffers;
pub mod close;
pub mod connection;
pub mod hand_over;
pub mod health;
pub mod keepalive;
pub mod listener;
pub mod memory;
pub mod metrics;
pub mod orders;
pub mod own_client;
pub mod proven;
pub mod spares;
pub mod upstream;
