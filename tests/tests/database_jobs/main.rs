//! Cleanup jobs at a real `PostgreSQL`.

mod auth_cleanup;
mod backlog;
mod batches;
mod concurrency;
mod failures;
mod own_tables;
mod presets;
mod reload;
mod rows_left;
