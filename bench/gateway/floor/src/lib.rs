//! The floor: a filter that makes the same host calls as Levee's for each request, at the same
//! callbacks, but decides nothing. It refuses requests to the service `failing`. The difference to
//! Levee's filter is Levee's own computing; the rest is the cost of asking Envoy.
//!
//! It uses neither the SDK nor an allocator. Before it measures, `cargo xtask bench gateway` compares
//! the calls of both filters in Envoy's trace: **when Levee's calls change, change
//! [`proxy_on_request_headers`] and [`proxy_on_log`] here.**
//!
//! The ABI: <https://github.com/proxy-wasm/spec/tree/main/abi-versions/v0.2.1>.
#![no_std]

use core::panic::PanicInfo;
use core::ptr::{addr_of_mut, null_mut};

const REQUEST_HEADERS: u32 = 0;
const CONTINUE: u32 = 0;
const PAUSE: u32 = 1;
const UNAVAILABLE: u32 = 14;
const TICK_MS: u32 = 100;

/// The expression of `filter/src/destination.rs`.
const DESTINATION: &str = "[xds.cluster_name, xds.route_name]";
const LIMITS: [(&str, &str); 2] = [
    ("x-envoy-upstream-rq-timeout-ms", "30000"),
    ("x-envoy-upstream-rq-per-try-timeout-ms", "10000"),
];
/// The expression for HTTP in `filter/src/outcome.rs`.
const ANSWERED_WELL: &str = "(response.code_details == 'via_upstream' && response.flags == 0 && response.code < 429 \
     && !('grpc-status' in response.trailers) && !('grpc-status' in response.headers)) ? '1' : ''";

#[link(wasm_import_module = "env")]
unsafe extern "C" {
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

/// The memory for results from Envoy. None is kept, so each overwrites the one before.
static mut MEMORY: [u64; 8192] = [0; 8192];
/// The tokens of [`ANSWERED_WELL`] and [`DESTINATION`].
static mut EXPRESSIONS: [[u8; 4]; 2] = [[0; 4]; 2];
/// Where the first name begins in a list of two texts, as Envoy encodes it.
const CLUSTER_AT: usize = 4 + 2 * 8;
/// Refused requests, by the last 16 bits of their context: at their end there are no host calls.
static mut REFUSED: [bool; 65536] = [false; 65536];

/// The headers of Levee's refusal: their number, the lengths of names and values, then each followed by NUL.
const REFUSAL_HEADERS: &[u8] =
    b"\x03\0\0\0\x0b\0\0\0\x03\0\0\0\x0e\0\0\0\x0c\0\0\0\x0c\0\0\0\x10\0\0\0\
    retry-after\x00300\0x-levee-reason\0circuit_open\0content-type\0application/json\0";
const REFUSAL_DETAILS: &str = "levee_circuit_open";
const REFUSAL_BODY: &str =
    r#"{"error":"circuit_open","service":"failing","retry_after_seconds":300}"#;

#[panic_handler]
fn panic(_: &PanicInfo) -> ! {
    core::arch::wasm32::unreachable()
}

#[unsafe(no_mangle)]
extern "C" fn proxy_abi_version_0_2_1() {}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_memory_allocate(size: usize) -> *mut u8 {
    if size > 65536 {
        null_mut()
    } else {
        addr_of_mut!(MEMORY).cast()
    }
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_configure(_root: u32, _size: usize) -> u32 {
    let name = "expr_create";
    for (place, expression) in [ANSWERED_WELL, DESTINATION].into_iter().enumerate() {
        let (mut token, mut size) = (null_mut(), 0);
        unsafe {
            proxy_call_foreign_function(
                name.as_ptr(),
                name.len(),
                expression.as_ptr(),
                expression.len(),
                &raw mut token,
                &raw mut size,
            );
            if token.is_null() || size != 4 {
                return 0;
            }
            self::expression(place).copy_from(token, 4);
        }
    }
    unsafe { proxy_set_tick_period_milliseconds(TICK_MS) };
    1
}

/// The token of an expression.
unsafe fn expression(place: usize) -> *mut u8 {
    unsafe { addr_of_mut!(EXPRESSIONS).cast::<u8>().add(4 * place) }
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_context_create(_context: u32, _parent: u32) {}

fn refuse() {
    unsafe {
        proxy_send_local_response(
            503,
            REFUSAL_DETAILS.as_ptr(),
            REFUSAL_DETAILS.len(),
            REFUSAL_BODY.as_ptr(),
            REFUSAL_BODY.len(),
            REFUSAL_HEADERS.as_ptr(),
            REFUSAL_HEADERS.len(),
            UNAVAILABLE,
        )
    };
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_headers(context: u32, _headers: usize, _end_of_stream: u32) -> u32 {
    let (mut data, mut size) = (null_mut(), 0);
    unsafe {
        let name = "expr_evaluate";
        proxy_call_foreign_function(
            name.as_ptr(),
            name.len(),
            expression(1),
            4,
            &raw mut data,
            &raw mut size,
        );
        // Measures the least cost of a refusal: the service with an open breaker is `failing`.
        if !data.is_null() && size > CLUSTER_AT && *data.add(CLUSTER_AT) == b'f' {
            refuse();
            *refused(context) = true;
            return PAUSE;
        }
        // For the rule by path in envoy/gateway.yaml.
        let path = ":path";
        proxy_get_header_map_value(
            REQUEST_HEADERS,
            path.as_ptr(),
            path.len(),
            &raw mut data,
            &raw mut size,
        );
        for (name, value) in LIMITS {
            proxy_replace_header_map_value(
                REQUEST_HEADERS,
                name.as_ptr(),
                name.len(),
                value.as_ptr(),
                value.len(),
            );
        }
    }
    CONTINUE
}

unsafe fn refused(context: u32) -> *mut bool {
    unsafe {
        addr_of_mut!(REFUSED)
            .cast::<bool>()
            .add(context as usize & 0xffff)
    }
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_log(context: u32) {
    let refused = unsafe { refused(context) };
    if unsafe { refused.replace(false) } {
        return;
    }
    let (name, mut size) = ("expr_evaluate", 0);
    // Like Levee's filter, without a pointer to the value: only its length is needed.
    unsafe {
        proxy_call_foreign_function(
            name.as_ptr(),
            name.len(),
            expression(0),
            4,
            null_mut(),
            &raw mut size,
        )
    };
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_delete(_context: u32) {}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_tick(_root: u32) {}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_queue_ready(_root: u32, _queue: u32) {}
