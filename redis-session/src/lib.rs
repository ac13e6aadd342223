pub mod commands;
pub mod replay;
pub mod resp;
