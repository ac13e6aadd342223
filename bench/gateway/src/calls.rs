//! Checks that the floor filter makes the same calls as Levee's, by Envoy's trace of both.

use crate::backend::Backend;
use crate::client::{Protocol, Request};
use crate::envoy::{Envoy, Start};
use crate::load::Load;
use crate::tools::Tools;
use crate::variant::{Place, Variant};
use anyhow::{Context, Result, bail};
use levee_harness::processor;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

/// How the floor differs, if it does.
pub fn compare(tools: &Tools, folder: &Path) -> Result<Option<String>> {
    let [levee, floor] =
        [Variant::Levee, Variant::Floor].map(|variant| calls_of(tools, folder, &variant));
    let (levee, floor) = (levee?, floor?);
    Ok((levee != floor).then(|| {
        format!(
            "the floor filter makes other calls than Levee's: change bench/gateway/floor. Levee's for a good request and \
             a refused one: {levee:?}; the floor's: {floor:?}"
        )
    }))
}

/// The callbacks and host calls of a good request and of a refused one.
fn calls_of(tools: &Tools, folder: &Path, variant: &Variant) -> Result<[Vec<String>; 2]> {
    let cpus = processor::allowed_cpus();
    let backend = Backend::start(&cpus)?;
    let place = Place {
        tools,
        backend: &backend,
        folder,
        workers: 1,
        cpus: &cpus,
    };
    let start = Start {
        traces: true,
        ..place.envoy(variant)
    };
    let envoy =
        Envoy::start(place.config(variant)?, &start).with_context(|| variant.name().to_owned())?;
    let mut sent = 0;
    let mut last_of = |service: &str, status: u16| -> Result<Vec<String>> {
        let load = Load {
            port: envoy.port,
            protocol: Protocol::Http1,
            clients: 1,
            requests: vec![Request::new(service, &variant.path(service, "small"))?],
            cpus: cpus.clone(),
        };
        // The first request creates the service, further ones open its breaker.
        for times in 1..100 {
            sent += 1;
            if load.closed(1)?.statuses.contains_key(&status) && times > 2 {
                return last_call(&start.folder.join("envoy.log"), sent);
            }
            thread::sleep(Duration::from_millis(10));
        }
        bail!("{} never answers {status} for {service}", variant.name())
    };
    Ok([last_of("service", 200)?, last_of("failing", 503)?])
}

/// The calls of the last of this many requests, once the log has them.
fn last_call(log: &Path, requests: usize) -> Result<Vec<String>> {
    for _ in 0..500 {
        let (calls, ended) = last_request(&fs::read_to_string(log)?);
        if ended >= requests {
            return Ok(calls);
        }
        thread::sleep(Duration::from_millis(10));
    }
    bail!(
        "{} does not have the calls of {requests} requests",
        log.display()
    )
}

/// The calls of the last request in a log, and the number of requests that have ended in it.
fn last_request(log: &str) -> (Vec<String>, usize) {
    let (mut calls, mut last, mut ended) = (Vec::new(), Vec::new(), 0);
    let mut is_within = false;
    for line in log.lines() {
        if let Some((_, call)) = line.split_once("[host->vm] proxy_on_") {
            let (name, context) = call.split_once('(').unwrap_or((call, ""));
            // For a result of the filter's latest call, inside or outside of a request.
            let is_nested = name == "memory_allocate";
            // The tick and the root's other callbacks belong to no request.
            if !is_nested {
                is_within =
                    name != "tick" && !context.starts_with("1)") && !context.starts_with("1,");
            }
            if is_within {
                calls.push(format!("proxy_on_{name}"));
            }
            if is_within && name == "delete" {
                last = std::mem::take(&mut calls);
                ended += 1;
            }
        } else if let Some((_, call)) = line.split_once("[vm->host] ")
            && is_within
        {
            calls.push(call.split('(').next().unwrap_or(call).to_owned());
        } else if line.contains("[host<-vm] proxy_on_")
            && !line.contains("proxy_on_memory_allocate")
        {
            is_within = false;
        }
    }
    (last, ended)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_calls_of_the_last_request_are_found_between_those_of_the_tick() {
        let log = "\
[host->vm] proxy_on_context_create(1, 0)\n[host<-vm] proxy_on_context_create return: void\n\
[host->vm] proxy_on_context_create(2, 1)\n[host<-vm] proxy_on_context_create return: void\n\
[host->vm] proxy_on_tick(1)\n[vm->host] env.proxy_increment_metric(4, 1)\n[host<-vm] proxy_on_tick return: void\n\
[host->vm] proxy_on_request_headers(2, 10, 1)\n[vm->host] env.proxy_get_property(1, 16, 1, 1)\n\
[host->vm] proxy_on_memory_allocate(4)\n[host<-vm] proxy_on_memory_allocate return: 5\n\
[vm<-host] env.proxy_get_property return: 0\n[host<-vm] proxy_on_request_headers return: 0\n\
[host->vm] proxy_on_delete(2)\n[host<-vm] proxy_on_delete return: void\n";
        let expected = [
            "proxy_on_context_create",
            "proxy_on_request_headers",
            "env.proxy_get_property",
            "proxy_on_memory_allocate",
            "proxy_on_delete",
        ];
        assert_eq!(last_request(log), (expected.map(str::to_owned).to_vec(), 1));
    }
}
