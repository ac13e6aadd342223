//! The real host: Envoy's functions as WebAssembly imports, its callbacks as exports.
//!
//! Both are declared here instead of using the SDK, because each transition between Envoy and the
//! virtual machine costs more than all that the filter does inside it. Envoy only calls callbacks
//! that are exported, and the SDK exports all of them. The SDK's wrappers also panic on unexpected
//! statuses and on values that are not UTF-8, and they do not pass on a local reply's details. The
//! functions and their statuses:
//! <https://github.com/proxy-wasm/spec/tree/main/abi-versions/v0.2.1>.
#![allow(unsafe_code)]

use crate::contexts::{Action, Contexts};
use crate::host::{AnswerPart, Host, LocalReply, MetricId, OwnRequest, Swap, Version, Versioned};
use crate::plugin::{Body, Piece};
use levee_policy::time::Instant;
use std::cell::{Cell, RefCell, UnsafeCell};
use std::ptr::{null_mut, slice_from_raw_parts_mut};
use std::time::Duration;

const OK: u32 = 0;
const REQUEST_HEADERS: u32 = 0;
const ANSWER_HEADERS: u32 = 6;
const ANSWER_TRAILERS: u32 = 7;
const ANSWER_BODY: u32 = 4;
const PLUGIN_CONFIGURATION: u32 = 7;
const COUNTER: u32 = 0;
const GAUGE: u32 = 1;
const MONOTONIC_CLOCK: u32 = 1;
/// Results of `proxy_on_request_headers`.
const CONTINUE: u32 = 0;
const STOP_ITERATION: u32 = 1;

thread_local! {
    static CONTEXTS: RefCell<Contexts<Envoy>> = RefCell::new(Contexts::default());
}

/// Runs `act`. Returns `None` inside another callback, which Envoy never causes.
fn with_contexts<T>(act: impl FnOnce(&mut Contexts<Envoy>) -> T) -> Option<T> {
    CONTEXTS.with(|contexts| contexts.try_borrow_mut().ok().map(|mut all| act(&mut all)))
}

// ---- Envoy's callbacks

#[unsafe(no_mangle)]
extern "C" fn proxy_abi_version_0_2_1() {}

#[unsafe(no_mangle)]
extern "C" fn _initialize() {
    // SAFETY: Envoy calls this once, before any other callback.
    unsafe { __wasm_call_ctors() };
    logger::start();
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_context_create(context: u32, parent: u32) {
    with_contexts(|contexts| contexts.on_create(context, parent));
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_configure(context: u32, size: u32) -> u32 {
    let Some(configuration) = buffer(PLUGIN_CONFIGURATION, size) else {
        log::error!(
            "the configuration cannot be read: Envoy denies access to it; check \
             capability_restriction_config"
        );
        return 0;
    };
    let configured =
        with_contexts(|contexts| contexts.on_configure(context, Envoy, &configuration));
    match configured {
        Some(Ok(())) => 1,
        Some(Err(errors)) => {
            log::error!("the configuration is rejected, {} errors:", errors.len());
            for error in errors {
                log::error!("{error}");
            }
            0
        }
        None => 0,
    }
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_headers(context: u32, _headers: u32, end_of_stream: u32) -> u32 {
    let body = if end_of_stream != 0 {
        Body::None
    } else {
        Body::Follows
    };
    match with_contexts(|contexts| contexts.on_request_headers(context, body)) {
        Some(Action::Continue) | None => CONTINUE,
        Some(Action::Stop) => STOP_ITERATION,
    }
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_body(context: u32, _size: u32, end_of_stream: u32) -> u32 {
    let piece = match end_of_stream {
        0 => Piece::Some,
        _ => Piece::Last,
    };
    with_contexts(|contexts| contexts.on_request_body(context, piece));
    CONTINUE
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_trailers(context: u32, _trailers: u32) -> u32 {
    with_contexts(|contexts| contexts.on_request_body(context, Piece::Last));
    CONTINUE
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_log(context: u32) {
    with_contexts(|contexts| contexts.on_log(context));
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_delete(context: u32) {
    with_contexts(|contexts| contexts.on_delete(context));
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_tick(context: u32) {
    with_contexts(|contexts| contexts.on_tick(context));
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_queue_ready(context: u32, _queue: u32) {
    with_contexts(|contexts| contexts.on_news(context));
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_http_call_response(
    context: u32,
    token: u32,
    _headers: u32,
    body_size: u32,
    _trailers: u32,
) {
    with_contexts(|contexts| contexts.on_answer(context, token, body_size));
}

/// Allocates memory for a value that Envoy returns. Most values are short and are read before the
/// next one arrives, so they share a buffer.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_memory_allocate(size: usize) -> *mut u8 {
    if size <= SCRATCH_BYTES && !SCRATCH.is_taken.replace(true) {
        return SCRATCH.bytes.get().cast();
    }
    Box::into_raw(vec![0_u8; size].into_boxed_slice()).cast()
}

/// Values up to this length need no allocation.
const SCRATCH_BYTES: usize = 1024;

static SCRATCH: Scratch = Scratch {
    bytes: UnsafeCell::new([0; SCRATCH_BYTES]),
    is_taken: Cell::new(false),
};

/// Aligned, because Envoy writes numbers in place.
#[repr(align(8))]
struct Scratch {
    bytes: UnsafeCell<[u8; SCRATCH_BYTES]>,
    is_taken: Cell<bool>,
}

// SAFETY: a virtual machine of Envoy has one thread.
unsafe impl Sync for Scratch {}

#[derive(Clone, Copy, Debug)]
struct Envoy;

impl Host for Envoy {
    fn now(&self) -> Instant {
        let mut nanos = 0;
        // SAFETY: the pointer is valid for the call, as in all calls that follow.
        unsafe { clock_time_get(MONOTONIC_CLOCK, 0, &raw mut nanos) };
        Instant::from_nanos(nanos)
    }

    fn random(&self) -> u64 {
        let mut bytes = [0; 8];
        unsafe { random_get(bytes.as_mut_ptr(), bytes.len()) };
        u64::from_le_bytes(bytes)
    }

    fn with_property<T>(&self, path: &str, read: impl FnOnce(&[u8]) -> T) -> Option<T> {
        let get = |data, size| unsafe { proxy_get_property(path.as_ptr(), path.len(), data, size) };
        returned(get, read)
    }

    fn request_header(&self, name: &str) -> Option<Vec<u8>> {
        let get = |data, size| unsafe {
            proxy_get_header_map_value(REQUEST_HEADERS, name.as_ptr(), name.len(), data, size)
        };
        returned(get, <[u8]>::to_vec)
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

    fn clear_route_cache(&self) {
        let name = "clear_route_cache";
        // SAFETY: null pointers tell Envoy to return no value.
        unsafe {
            proxy_call_foreign_function(
                name.as_ptr(),
                name.len(),
                null_mut(),
                0,
                null_mut(),
                null_mut(),
            );
        }
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

    fn enter_request(&self, context_id: u32) -> bool {
        unsafe { proxy_set_effective_context(context_id) == OK }
    }

    fn compile(&self, expression: &str) -> Option<u32> {
        self.compile_value(&format!("({expression}) ? '1' : ''"))
    }

    fn compile_value(&self, expression: &str) -> Option<u32> {
        let name = "expr_create";
        let call = |data, size| unsafe {
            proxy_call_foreign_function(
                name.as_ptr(),
                name.len(),
                expression.as_ptr(),
                expression.len(),
                data,
                size,
            )
        };
        returned(call, |token| token.try_into().ok().map(u32::from_le_bytes))?
    }

    fn with_value<T>(&self, expression: u32, read: impl FnOnce(&[u8]) -> T) -> Option<T> {
        let (name, token) = ("expr_evaluate", expression.to_le_bytes());
        let call = |data, size| unsafe {
            proxy_call_foreign_function(
                name.as_ptr(),
                name.len(),
                token.as_ptr(),
                token.len(),
                data,
                size,
            )
        };
        returned(call, read)
    }

    /// Reads only the length of the value, which holds the answer. To return the value itself Envoy
    /// would have to call back for memory.
    fn holds(&self, expression: u32) -> bool {
        let (name, token) = ("expr_evaluate", expression.to_le_bytes());
        let mut size = 0;
        // SAFETY: the null pointer tells Envoy to return the length only.
        let status = unsafe {
            proxy_call_foreign_function(
                name.as_ptr(),
                name.len(),
                token.as_ptr(),
                token.len(),
                null_mut(),
                &raw mut size,
            )
        };
        status == OK && size != 0
    }

    fn send(&self, request: OwnRequest<'_>) -> Option<u32> {
        let (headers, trailers) = (serialize(request.headers), serialize(&[]));
        let timeout = u32::try_from(request.timeout.as_millis()).unwrap_or(u32::MAX);
        let mut token = 0;
        let status = unsafe {
            proxy_http_call(
                request.cluster.as_ptr(),
                request.cluster.len(),
                headers.as_ptr(),
                headers.len(),
                request.body.as_ptr(),
                request.body.len(),
                trailers.as_ptr(),
                trailers.len(),
                timeout,
                &raw mut token,
            )
        };
        (status == OK).then_some(token)
    }

    fn answer(&self, part: AnswerPart, name: &str) -> Option<Vec<u8>> {
        let map = match part {
            AnswerPart::Headers => ANSWER_HEADERS,
            AnswerPart::Trailers => ANSWER_TRAILERS,
        };
        let get = |data, size| unsafe {
            proxy_get_header_map_value(map, name.as_ptr(), name.len(), data, size)
        };
        returned(get, <[u8]>::to_vec)
    }

    fn answer_body(&self, size: u32) -> Option<Vec<u8>> {
        buffer(ANSWER_BODY, size)
    }

    fn shared(&self, key: &str) -> Option<Versioned> {
        let mut version = 0;
        let get = |data, size| unsafe {
            proxy_get_shared_data(key.as_ptr(), key.len(), data, size, &raw mut version)
        };
        let value = returned(get, <[u8]>::to_vec)?;
        let version = Version(version);
        Some(Versioned { value, version })
    }

    fn set_shared(&self, key: &str, value: &[u8], version: Version) -> Swap {
        let status = unsafe {
            proxy_set_shared_data(
                key.as_ptr(),
                key.len(),
                value.as_ptr(),
                value.len(),
                version.0,
            )
        };
        if status == OK {
            Swap::Written
        } else {
            Swap::Outdated
        }
    }

    fn register_queue(&self, name: &str) -> Option<u32> {
        let mut queue = 0;
        let status =
            unsafe { proxy_register_shared_queue(name.as_ptr(), name.len(), &raw mut queue) };
        (status == OK).then_some(queue)
    }

    fn enqueue(&self, queue: u32, message: &[u8]) {
        unsafe { proxy_enqueue_shared_queue(queue, message.as_ptr(), message.len()) };
    }

    fn dequeue(&self, queue: u32) -> Option<Vec<u8>> {
        let get = |data, size| unsafe { proxy_dequeue_shared_queue(queue, data, size) };
        returned(get, <[u8]>::to_vec)
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

/// All `size` bytes of a buffer, or `None`.
fn buffer(which: u32, size: u32) -> Option<Vec<u8>> {
    if size == 0 {
        return Some(Vec::new());
    }
    let size = size as usize;
    let get = |data, length| unsafe { proxy_get_buffer_bytes(which, 0, size, data, length) };
    returned(get, <[u8]>::to_vec).filter(|bytes| bytes.len() == size)
}

/// Passes the value that a function returns through two pointers to `read`. Returns `None` if the
/// status is not OK.
#[inline]
fn returned<T>(
    call: impl FnOnce(*mut *mut u8, *mut usize) -> u32,
    read: impl FnOnce(&[u8]) -> T,
) -> Option<T> {
    let mut data = null_mut();
    let mut size = 0;
    let status = call(&raw mut data, &raw mut size);
    if data.is_null() {
        return (status == OK).then(|| read(&[]));
    }
    if data == SCRATCH.bytes.get().cast() {
        // SAFETY: the buffer is taken until `is_taken` is reset below, and Envoy has filled the
        // bytes that it asked for.
        let value = unsafe { std::slice::from_raw_parts(data, size.min(SCRATCH_BYTES)) };
        let result = (status == OK).then(|| read(value));
        SCRATCH.is_taken.set(false);
        return result;
    }
    // SAFETY: `proxy_on_memory_allocate` made this a boxed slice of exactly this size for Envoy, which
    // has passed ownership.
    let value = unsafe { Box::from_raw(slice_from_raw_parts_mut(data, size)) };
    (status == OK).then(|| read(&value))
}

/// Serializes pairs as the ABI defines: their number, the two lengths of each, then the texts, each
/// followed by NUL.
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

mod logger {
    //! Sends log messages to Envoy's log.

    use super::proxy_log;

    const CRITICAL: u32 = 5;

    struct Logger;

    impl log::Log for Logger {
        fn enabled(&self, _: &log::Metadata<'_>) -> bool {
            true
        }

        fn log(&self, record: &log::Record<'_>) {
            let level = match record.level() {
                log::Level::Trace => 0,
                log::Level::Debug => 1,
                log::Level::Info => 2,
                log::Level::Warn => 3,
                log::Level::Error => 4,
            };
            say(level, &record.args().to_string());
        }

        fn flush(&self) {}
    }

    fn say(level: u32, message: &str) {
        // SAFETY: the message is valid for the call.
        unsafe { proxy_log(level, message.as_ptr(), message.len()) };
    }

    /// Sends messages and panics to Envoy's log, which filters by its own level.
    pub fn start() {
        let _ = log::set_logger(&Logger);
        log::set_max_level(log::LevelFilter::Info);
        std::panic::set_hook(Box::new(|panic| say(CRITICAL, &panic.to_string())));
    }
}

unsafe extern "C" {
    /// Generated by the linker: runs static initializers.
    fn __wasm_call_ctors();
}

#[link(wasm_import_module = "wasi_snapshot_preview1")]
unsafe extern "C" {
    fn clock_time_get(clock: u32, precision: u64, nanos: *mut u64) -> u32;
    fn random_get(buffer: *mut u8, size: usize) -> u32;
}

#[link(wasm_import_module = "env")]
unsafe extern "C" {
    fn proxy_log(level: u32, message: *const u8, message_size: usize) -> u32;
    fn proxy_get_buffer_bytes(
        buffer: u32,
        offset: usize,
        length: usize,
        value: *mut *mut u8,
        value_size: *mut usize,
    ) -> u32;
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
    fn proxy_http_call(
        cluster: *const u8,
        cluster_size: usize,
        headers: *const u8,
        headers_size: usize,
        body: *const u8,
        body_size: usize,
        trailers: *const u8,
        trailers_size: usize,
        timeout: u32,
        token: *mut u32,
    ) -> u32;
}
