//! `docker-compose.yml`, its images and mounted files. The tests have no container engine, so each configuration is read
//! by its program, and each command line runs outside of containers.

mod configurations;
mod file;
mod gateway;
mod images;
mod process;
mod prometheus;
mod servers;
mod services;
mod together;
