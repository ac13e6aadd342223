//! The database: cleanup jobs, the watchdog, limits at the role.
//!
//! | module | the one thing in it |
//! |---|---|
//! | [`cleanup`] | a job that deletes or changes rows |
//! | [`run`] | one run of it |
//! | [`surprises`] | what it does less of, or more, than one expects |
//! | [`walk`] | its way through the table |
//! | [`spec`] | what such a job does: table, conditions, action |
//! | [`reading`] | how columns hold times |
//! | [`table`] | the table, as the database has it |
//! | [`fit`] | whether a job fits its table |
//! | [`doubt`] | what a time could mean, where a job doesn't say it |
//! | [`sql`] | the statements of such a job |
//! | [`backlog`] | what is left to do, and whether an index finds it |
//! | [`load`] | what others do at the database |
//! | [`query`] | binding them, and reading their answers |
//! | [`preset`] | jobs for common tables |
//! | [`watchdog`] | which statements have run too long |
//! | [`class`] | what a statement's text says about its limit |
//! | [`duty`] | polling, and which instance acts |
//! | [`activity`] | seeing sessions, and acting on them |
//! | [`blockers`] | who keeps a statement waiting for a lock |
//! | [`rights`] | what the watchdog's role may do |
//! | [`fingerprint`] | a statement without its values |
//! | [`lexer`] | the tokens of a statement |
//! | [`limits`] | settings of roles |
//! | [`levels`] | where a setting's value comes from |
//! | [`server_values`] | the server's own values of settings |
//! | [`undo`] | the file that undoes them |
//! | [`health`] | whether the database answers |
//! | [`identifier`] | names of tables, columns and roles |
//! | [`connect`] | Levee's own connections |
//! | [`claim`] | what one instance at a time may do |
//! | [`pooler`] | poolers that Levee can't work with |
//! | [`dialect`] | where `PostgreSQL` and `CockroachDB` differ |
//! | [`error`] | errors of the database |
//! | [`metrics`] | the watchdog's metrics |

pub mod activity;
pub mod backlog;
pub mod blockers;
pub mod claim;
pub mod class;
pub mod cleanup;
pub mod connect;
pub mod dialect;
pub mod doubt;
pub mod duty;
pub mod error;
pub mod fingerprint;
pub mod fit;
pub mod health;
pub mod identifier;
pub mod levels;
pub mod lexer;
pub mod limits;
pub mod load;
pub mod metrics;
pub mod pooler;
pub mod preset;
pub mod query;
pub mod reading;
pub mod rights;
pub mod run;
pub mod server_values;
pub mod spec;
pub mod sql;
pub mod surprises;
pub mod table;
pub mod undo;
pub mod walk;
pub mod watchdog;

use std::time::Duration;

/// How long to wait for a connection, e.g. to a server that is starting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
