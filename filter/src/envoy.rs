//! The real host: Envoy's functions as WebAssembly imports, and the SDK's callbacks.
//!
//! The SDK dispatches the callbacks. Envoy is called here directly, since the SDK's own wrappers
//! panic on a status they don't expect and on values that are not UTF-8, and don't pass on a local
//! reply's details. The functions and their statuses:
//! <https://github.com/proxy-wasm/spec/tree/main/abi-versions/v0.2.1>.
#![allow(unsafe_code)]

use crate::host::{Host, LocalReply, MetricId, Versioned};
use crate::plugin::{InFlight, Next, Plugin};
use levee_policy::time::Instant;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel};
use std::cell::RefCell;
use std::ptr::{null_mut, slice_from_raw_parts_mut};
use std::rc::Rc;
use std::time::Duration;

const OK: u32 = 0;
const REQUEST_HEADERS: u32 = 0;
const COUNTER: u32 = 0;
const GAUGE: u32 = 1;
const MONOTONIC_CLOCK: u32 = 1;

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|_| Box::new(Root { plugin: None }));
}}

struct Root {
    plugin: Option<Rc<RefCell<Plugin<Envoy>>>>,
}

impl Context for Root {}

impl RootContext for Root {
    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn on_configure(&mut self, _size: usize) -> bool {
        let configuration = self.get_plugin_configuration().unwrap_or_default();
        match Plugin::new(Envoy, &configuration) {
            Ok(plugin) => {
                self.plugin = Some(Rc::new(RefCell::new(plugin)));
                true
            }
            Err(errors) => {
                log::error!("the configuration is refused, {} errors:", errors.len());
                for error in errors {
                    log::error!("{error}");
                }
                false
            }
        }
    }

    fn on_tick(&mut self) {
        if let Some(plugin) = &self.plugin {
            plugin.borrow_mut().on_tick();
        }
    }

    fn on_queue_ready(&mut self, _queue: u32) {
        if let Some(plugin) = &self.plugin {
            plugin.borrow_mut().on_news();
        }
    }

    fn create_http_context(&self, context_id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Request {
            context_id,
            plugin: self.plugin.clone(),
            in_flight: None,
        }))
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        if let Some(plugin) = &self.plugin {
            plugin.borrow_mut().flush();
        }
    }
}

struct Request {
    context_id: u32,
    plugin: Option<Rc<RefCell<Plugin<Envoy>>>>,
    in_flight: Option<InFlight>,
}

impl Context for Request {}

impl HttpContext for Request {
    fn on_http_request_headers(&mut self, _headers: usize, _end_of_stream: bool) -> Action {
        let Some(plugin) = &self.plugin else {
            return Action::Continue;
        };
        match plugin.borrow_mut().on_request(self.context_id) {
            Next::Continue(in_flight) => {
                self.in_flight = in_flight;
                Action::Continue
            }
            Next::Stop => Action::Pause,
        }
    }

    fn on_log(&mut self) {
        if let (Some(plugin), Some(in_flight)) = (&self.plugin, self.in_flight.take()) {
            plugin.borrow_mut().on_end(self.context_id, in_flight);
        }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if let (Some(plugin), Some(in_flight)) = (&self.plugin, self.in_flight.take()) {
            plugin.borrow_mut().on_abandoned(self.context_id, in_flight);
        }
    }
}

/// Envoy.
#[derive(Clone, Copy, Debug)]
struct Envoy;

impl Host for Envoy {
    fn now(&self) -> Instant {
        let mut nanos = 0;
        // SAFETY: the pointer is valid for the call, as it is in all that follow.
        unsafe { clock_time_get(MONOTONIC_CLOCK, 0, &raw mut nanos) };
        Instant::from_nanos(nanos)
    }

    fn random(&self) -> u64 {
        let mut bytes = [0; 8];
        unsafe { random_get(bytes.as_mut_ptr(), bytes.len()) };
        u64::from_le_bytes(bytes)
    }

    fn property(&self, path: &str) -> Option<Vec<u8>> {
        returned(|data, size| unsafe { proxy_get_property(path.as_ptr(), path.len(), data, size) })
    }

    fn request_header(&self, name: &str) -> Option<Vec<u8>> {
        returned(|data, size| unsafe {
            proxy_get_header_map_value(REQUEST_HEADERS, name.as_ptr(), name.len(), data, size)
        })
    }

    fn set_request_header(&self, name: &str, value: &str) {
        unsafe {
            proxy_replace_header_map_value(
                REQUEST_HEADERS,
                name.as_ptr(),
                name.len(),
                value.as_ptr(),
                value.len(),
            );
        }
    }

    fn remove_request_header(&self, name: &str) {
        unsafe { proxy_remove_header_map_value(REQUEST_HEADERS, name.as_ptr(), name.len()) };
    }

    fn clear_route_cache(&self) {
        let _ = call_foreign("clear_route_cache", &[]);
    }

    fn reply(&self, reply: LocalReply<'_>) {
        let headers = serialize(reply.headers);
        unsafe {
            proxy_send_local_response(
                u32::from(reply.status),
                reply.details.as_ptr(),
                reply.details.len(),
                reply.body.as_ptr(),
                reply.body.len(),
                headers.as_ptr(),
                headers.len(),
                reply.grpc_status,
            );
        }
    }

    fn enter_request(&self, context_id: u32) {
        unsafe { proxy_set_effective_context(context_id) };
    }

    fn compile(&self, expression: &str) -> Option<u32> {
        let token = call_foreign("expr_create", expression.as_bytes())?;
        token.try_into().ok().map(u32::from_le_bytes)
    }

    fn holds(&self, expression: u32) -> Option<bool> {
        let value = call_foreign("expr_evaluate", &expression.to_le_bytes())?;
        value.first().map(|byte| *byte != 0)
    }

    fn shared(&self, key: &str) -> Option<Versioned> {
        let mut version = 0;
        let value = returned(|data, size| unsafe {
            proxy_get_shared_data(key.as_ptr(), key.len(), data, size, &raw mut version)
        })?;
        Some((value, version))
    }

    fn set_shared(&self, key: &str, value: &[u8], version: u32) -> bool {
        let status = unsafe {
            proxy_set_shared_data(
                key.as_ptr(),
                key.len(),
                value.as_ptr(),
                value.len(),
                version,
            )
        };
        status == OK
    }

    fn register_queue(&self, name: &str) -> Option<u32> {
        let mut queue = 0;
        let status =
            unsafe { proxy_register_shared_queue(name.as_ptr(), name.len(), &raw mut queue) };
        (status == OK).then_some(queue)
    }

    fn enqueue(&self, queue: u32, message: &[u8]) -> bool {
        let status = unsafe { proxy_enqueue_shared_queue(queue, message.as_ptr(), message.len()) };
        status == OK
    }

    fn dequeue(&self, queue: u32) -> Option<Vec<u8>> {
        returned(|data, size| unsafe { proxy_dequeue_shared_queue(queue, data, size) })
    }

    fn define_counter(&self, name: &str) -> Option<MetricId> {
        define_metric(COUNTER, name)
    }

    fn define_gauge(&self, name: &str) -> Option<MetricId> {
        define_metric(GAUGE, name)
    }

    fn add(&self, counter: MetricId, amount: u32) {
        unsafe { proxy_increment_metric(counter.0, i64::from(amount)) };
    }

    fn set(&self, gauge: MetricId, value: u32) {
        unsafe { proxy_record_metric(gauge.0, u64::from(value)) };
    }

    fn tick_every(&self, period: Duration) {
        let millis = u32::try_from(period.as_millis()).unwrap_or(u32::MAX);
        unsafe { proxy_set_tick_period_milliseconds(millis) };
    }
}

fn define_metric(kind: u32, name: &str) -> Option<MetricId> {
    let mut id = 0;
    let status = unsafe { proxy_define_metric(kind, name.as_ptr(), name.len(), &raw mut id) };
    (status == OK).then_some(MetricId(id))
}

fn call_foreign(function: &str, argument: &[u8]) -> Option<Vec<u8>> {
    returned(|data, size| unsafe {
        proxy_call_foreign_function(
            function.as_ptr(),
            function.len(),
            argument.as_ptr(),
            argument.len(),
            data,
            size,
        )
    })
}

/// What a function returns through two pointers: `None` if its status is not OK, and nothing where
/// the value is empty.
fn returned(call: impl FnOnce(*mut *mut u8, *mut usize) -> u32) -> Option<Vec<u8>> {
    let mut data = null_mut();
    let mut size = 0;
    let status = call(&raw mut data, &raw mut size);
    let value = if data.is_null() {
        Vec::new()
    } else {
        // SAFETY: Envoy allocated it by the SDK's `proxy_on_memory_allocate`, which makes a boxed
        // slice of just this size, and has given it away.
        unsafe { Box::from_raw(slice_from_raw_parts_mut(data, size)) }.into_vec()
    };
    (status == OK).then_some(value)
}

/// Pairs as the ABI has them: their number, the two lengths of each, and each followed by NUL.
fn serialize(pairs: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256);
    let push_length = |bytes: &mut Vec<u8>, length: usize| {
        bytes.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
    };
    push_length(&mut bytes, pairs.len());
    for (name, value) in pairs {
        push_length(&mut bytes, name.len());
        push_length(&mut bytes, value.len());
    }
    for (name, value) in pairs {
        for text in [name, value] {
            bytes.extend_from_slice(text.as_bytes());
            bytes.push(0);
        }
    }
    bytes
}

#[link(wasm_import_module = "wasi_snapshot_preview1")]
unsafe extern "C" {
    fn clock_time_get(clock: u32, precision: u64, nanos: *mut u64) -> u32;
    fn random_get(buffer: *mut u8, size: usize) -> u32;
}

#[link(wasm_import_module = "env")]
unsafe extern "C" {
    fn proxy_get_property(
        path: *const u8,
        path_size: usize,
        value: *mut *mut u8,
        value_size: *mut usize,
    ) -> u32;
    fn proxy_get_header_map_value(
        map: u32,
        name: *const u8,
        name_size: usize,
        value: *mut *mut u8,
        value_size: *mut usize,
    ) -> u32;
    fn proxy_replace_header_map_value(
        map: u32,
        name: *const u8,
        name_size: usize,
        value: *const u8,
        value_size: usize,
    ) -> u32;
    fn proxy_remove_header_map_value(map: u32, name: *const u8, name_size: usize) -> u32;
    fn proxy_send_local_response(
        status: u32,
        details: *const u8,
        details_size: usize,
        body: *const u8,
        body_size: usize,
        headers: *const u8,
        headers_size: usize,
        grpc_status: u32,
    ) -> u32;
    fn proxy_get_shared_data(
        key: *const u8,
        key_size: usize,
        value: *mut *mut u8,
        value_size: *mut usize,
        version: *mut u32,
    ) -> u32;
    fn proxy_set_shared_data(
        key: *const u8,
        key_size: usize,
        value: *const u8,
        value_size: usize,
        version: u32,
    ) -> u32;
    fn proxy_register_shared_queue(name: *const u8, name_size: usize, queue: *mut u32) -> u32;
    fn proxy_enqueue_shared_queue(queue: u32, message: *const u8, message_size: usize) -> u32;
    fn proxy_dequeue_shared_queue(
        queue: u32,
        message: *mut *mut u8,
        message_size: *mut usize,
    ) -> u32;
    fn proxy_define_metric(kind: u32, name: *const u8, name_size: usize, id: *mut u32) -> u32;
    fn proxy_increment_metric(id: u32, amount: i64) -> u32;
    fn proxy_record_metric(id: u32, value: u64) -> u32;
    fn proxy_set_effective_context(context_id: u32) -> u32;
    fn proxy_call_foreign_function(
        name: *const u8,
        name_size: usize,
        argument: *const u8,
        argument_size: usize,
        result: *mut *mut u8,
        result_size: *mut usize,
    ) -> u32;
    fn proxy_set_tick_period_milliseconds(period: u32) -> u32;
}
