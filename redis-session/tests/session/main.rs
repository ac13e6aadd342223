//! What a session promises, without sockets and without waiting: a file per promise.

mod deadline;
mod end;
mod gate;
mod intake;
mod long_commands;
mod memory;
mod play;
mod replies;
mod retry;
mod state;
mod transactions;
