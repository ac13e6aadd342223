//! What a session promises, without sockets and without waiting: a file per promise.

mod busy;
mod deadline;
mod end;
mod gate;
mod intake;
mod login;
mod long_commands;
mod memory;
mod play;
mod proof;
mod random;
mod raw;
mod replies;
mod retry;
mod silence;
mod state;
mod transactions;
mod verification;
