//! What the filter asks of Envoy.

use levee_policy::time::Instant;
use std::time::Duration;

/// A property of the current request, as Envoy's attribute path with NUL between its parts
/// (<https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/advanced/attributes>).
pub mod property {
    /// Name of the cluster that the route has chosen; absent where the route has none.
    pub const CLUSTER: &str = "xds\0cluster_name";
    /// Name of the route.
    pub const ROUTE: &str = "xds\0route_name";
    /// HTTP status, 64 bits little-endian; absent while there are no response headers.
    pub const RESPONSE_CODE: &str = "response\0code";
    /// Response flags, 64 bits little-endian: bit n is Envoy's `CoreResponseFlag` n.
    pub const RESPONSE_FLAGS: &str = "response\0flags";
    /// Who made the response, and why.
    pub const RESPONSE_CODE_DETAILS: &str = "response\0code_details";
    /// The gRPC status that the upstream sent at the end, as digits.
    pub const GRPC_STATUS_TRAILER: &str = "response\0trailers\0grpc-status";
    /// The same where the response consists of headers only.
    pub const GRPC_STATUS_HEADER: &str = "response\0headers\0grpc-status";
    /// From the first byte sent to the upstream to the last received, in nanoseconds, 64 bits
    /// little-endian.
    pub const BACKEND_LATENCY: &str = "response\0backend_latency";
}

/// An answer that the filter gives itself.
#[derive(Clone, Copy, Debug)]
pub struct LocalReply<'a> {
    /// HTTP status.
    pub status: u16,
    /// For the access log's `%RESPONSE_CODE_DETAILS%`.
    pub details: &'a str,
    /// Names in lower case, and values.
    pub headers: &'a [(&'a str, &'a str)],
    /// The body, sent as it is.
    pub body: &'a [u8],
    /// What a gRPC client gets instead of the HTTP status.
    pub grpc_status: u32,
}

/// A value in the shared memory, and what it must still be compared with to be replaced.
pub type Versioned = (Vec<u8>, u32);

/// Names a metric that was defined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricId(pub u32);

/// Envoy, as the filter sees it.
///
/// Nothing here fails loudly: what Envoy can't do or does not know is `None` or nothing, since a
/// panic would end the worker's virtual machine. Values are bytes, since nobody promises UTF-8.
pub trait Host {
    /// Envoy's monotonic clock, the same for all workers.
    fn now(&self) -> Instant;
    /// 64 random bits.
    fn random(&self) -> u64;

    /// Lets `read` see a [`property`] of the current request, which needs no allocation.
    fn with_property<T>(&self, path: &str, read: impl FnOnce(&[u8]) -> T) -> Option<T>;
    /// A [`property`] of the current request.
    fn property(&self, path: &str) -> Option<Vec<u8>> {
        self.with_property(path, <[u8]>::to_vec)
    }
    /// A request header; the first where there are several. Only while the request's headers are
    /// being handled, and when it has ended.
    fn request_header(&self, name: &str) -> Option<Vec<u8>>;
    /// Replaces a request header.
    fn set_request_header(&self, name: &str, value: &str);
    /// Has the route chosen again, by the headers as they are now.
    fn clear_route_cache(&self);
    /// Ends the request with an answer.
    fn reply(&self, reply: LocalReply<'_>);
    /// Makes the request with this context the one that [`property`](Self::property) is about.
    /// False where there is no such request.
    fn enter_request(&self, context_id: u32) -> bool;

    /// Compiles a CEL expression over properties. `None` where Envoy was built without CEL.
    fn compile(&self, expression: &str) -> Option<u32>;
    /// Whether a compiled expression is true for the current request: false, too, where it has no value.
    fn holds(&self, expression: u32) -> bool;

    /// Reads shared memory.
    fn shared(&self, key: &str) -> Option<Versioned>;
    /// Writes shared memory if it is still at `version`. False if it is not. Version 0, and a key
    /// that does not exist, are written without comparing.
    fn set_shared(&self, key: &str, value: &[u8], version: u32) -> bool;

    /// Makes a queue from which this worker is called.
    fn register_queue(&self, name: &str) -> Option<u32>;
    /// Puts a message into a queue. False if there is no such queue.
    fn enqueue(&self, queue: u32, message: &[u8]) -> bool;
    /// Takes a message out of a queue.
    fn dequeue(&self, queue: u32) -> Option<Vec<u8>>;

    /// Defines a counter, or finds the one of this name.
    fn define_counter(&self, name: &str) -> Option<MetricId>;
    /// Defines a gauge, or finds the one of this name.
    fn define_gauge(&self, name: &str) -> Option<MetricId>;
    /// Adds to a counter.
    fn add(&self, counter: MetricId, amount: u32);
    /// Sets a gauge.
    fn set(&self, gauge: MetricId, value: u32);

    /// Has this worker's plugin called regularly; never again after zero.
    fn tick_every(&self, period: Duration);
}
