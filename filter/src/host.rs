//! What the filter asks of Envoy.

use levee_policy::time::Instant;
use std::time::Duration;

/// Properties of the current request, as Envoy's attribute paths with NUL between their parts
/// (<https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/advanced/attributes>).
pub mod property {
    /// Name of the cluster that the route has chosen. Absent if the route has none.
    pub const CLUSTER: &str = "xds\0cluster_name";
    pub const ROUTE: &str = "xds\0route_name";
    /// HTTP status, 64 bits little-endian. Absent until there are response headers.
    pub const RESPONSE_CODE: &str = "response\0code";
    /// Response flags, 64 bits little-endian: bit n is Envoy's `CoreResponseFlag` n.
    pub const RESPONSE_FLAGS: &str = "response\0flags";
    /// Who made the response, and why.
    pub const RESPONSE_CODE_DETAILS: &str = "response\0code_details";
    /// The gRPC status that the upstream sent at the end, as digits.
    pub const GRPC_STATUS_TRAILER: &str = "response\0trailers\0grpc-status";
    /// The same if the response consists of headers only.
    pub const GRPC_STATUS_HEADER: &str = "response\0headers\0grpc-status";
    /// The `content-length` of the response, as digits.
    pub const CONTENT_LENGTH: &str = "response\0headers\0content-length";
    /// How long the service asks to be left alone (RFC 9110, section 10.2.3).
    pub const RETRY_AFTER: &str = "response\0headers\0retry-after";
    /// The same of a gRPC service, in milliseconds
    /// (<https://github.com/grpc/proposal/blob/master/A6-client-retries.md#pushback>).
    pub const GRPC_PUSHBACK_TRAILER: &str = "response\0trailers\0grpc-retry-pushback-ms";
    /// The same if the response consists of headers only.
    pub const GRPC_PUSHBACK_HEADER: &str = "response\0headers\0grpc-retry-pushback-ms";
    /// From the first byte sent to the upstream to the last received, in nanoseconds, 64 bits
    /// little-endian. Absent until the last has arrived.
    pub const BACKEND_LATENCY: &str = "response\0backend_latency";
    /// Bytes of the body passed on to the client, 64 bits little-endian.
    pub const RESPONSE_SIZE: &str = "response\0size";
    /// From the first byte of the request to its end, in nanoseconds, 64 bits little-endian. Absent
    /// until the end.
    pub const REQUEST_DURATION: &str = "request\0duration";
    pub const REQUEST_METHOD: &str = "request\0method";
    /// Absent unless the request got a connection.
    pub const UPSTREAM_LOCAL_ADDRESS: &str = "upstream\0local_address";
    /// The client, as Envoy trusts it (`use_remote_address`, `xff_num_trusted_hops`), with port.
    pub const SOURCE_ADDRESS: &str = "source\0address";
    /// The number of the client's connection, 64 bits little-endian. Envoy counts all connections,
    /// so a later one has a greater number (HTTP/3: a hash).
    pub const CONNECTION_ID: &str = "connection\0id";
    /// The filter's `config.name`. Needs no request.
    pub const PLUGIN_NAME: &str = "plugin_name";
}

/// A response that the filter gives itself.
#[derive(Clone, Copy, Debug)]
pub struct LocalReply<'a> {
    pub status: u16,
    /// For the access log's `%RESPONSE_CODE_DETAILS%`.
    pub details: &'a str,
    /// Names, in lower case, and values.
    pub headers: &'a [(&'a str, &'a str)],
    pub body: &'a [u8],
    /// What a gRPC client gets instead of the HTTP status.
    pub grpc_status: u32,
}

/// A request that the filter sends itself.
#[derive(Clone, Copy, Debug)]
pub struct OwnRequest<'a> {
    pub cluster: &'a str,
    /// Names, in lower case, and values. With `:method`, `:path` and `:authority`.
    pub headers: &'a [(&'a str, &'a str)],
    pub body: &'a [u8],
    pub timeout: Duration,
}

/// A part of the answer to an [`OwnRequest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerPart {
    Headers,
    Trailers,
}

/// The version of a value in shared memory, for compare-and-swap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Version(pub u32);

impl Version {
    /// Matches every version: writes without comparing.
    pub const ANY: Self = Self(0);
}

/// A value in shared memory.
#[derive(Clone, Debug, Default)]
pub struct Versioned {
    pub value: Vec<u8>,
    pub version: Version,
}

/// What became of a compare-and-swap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swap {
    Written,
    /// Another worker has written since; nothing was changed.
    Outdated,
}

/// Names a metric that was defined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricId(pub u32);

/// Envoy, as the filter sees it.
///
/// What Envoy cannot do or does not know is `None`, or silently does nothing: a panic would end the
/// worker's virtual machine. Values are bytes, because nothing guarantees UTF-8.
pub trait Host {
    /// Envoy's monotonic clock, the same for all workers.
    fn now(&self) -> Instant;
    /// 64 random bits.
    fn random(&self) -> u64;

    /// Passes a [`property`] of the current request to `read`, without an allocation.
    fn with_property<T>(&self, path: &str, read: impl FnOnce(&[u8]) -> T) -> Option<T>;
    /// A [`property`] of the current request.
    fn property(&self, path: &str) -> Option<Vec<u8>> {
        self.with_property(path, <[u8]>::to_vec)
    }
    /// A request header; the first if there are several. Available while the request's headers are
    /// handled, and when it has ended.
    fn request_header(&self, name: &str) -> Option<Vec<u8>>;
    /// Replaces a request header.
    fn set_request_header(&self, name: &str, value: &str);
    /// Makes Envoy choose the route again, by the current headers.
    fn clear_route_cache(&self);
    /// Ends the request with a response.
    fn reply(&self, reply: LocalReply<'_>);
    /// Makes the request with this context the current one, which [`property`](Self::property)
    /// reads. Returns false if there is no such request.
    fn enter_request(&self, context_id: u32) -> bool;

    /// Compiles a CEL expression over properties. `None` if Envoy was built without CEL.
    fn compile(&self, expression: &str) -> Option<u32>;
    /// Whether a compiled expression is true for the current request. Returns false if it has no
    /// value.
    fn holds(&self, expression: u32) -> bool;
    /// Compiles a CEL expression of any type. `None` if Envoy was built without CEL.
    fn compile_value(&self, expression: &str) -> Option<u32>;
    /// Passes the value of a compiled expression for the current request to `read`, as Envoy encodes
    /// it, without an allocation. `None` if it has no value.
    fn with_value<T>(&self, expression: u32, read: impl FnOnce(&[u8]) -> T) -> Option<T>;

    /// Sends a request. Returns its number, with which Envoy calls this worker when it has ended.
    fn send(&self, request: OwnRequest<'_>) -> Option<u32>;
    /// A header or trailer of the answer to the request that has just ended.
    fn answer(&self, part: AnswerPart, name: &str) -> Option<Vec<u8>>;
    /// Its body, which has this size.
    fn answer_body(&self, size: u32) -> Option<Vec<u8>>;

    /// Reads shared memory.
    fn shared(&self, key: &str) -> Option<Versioned>;
    /// Writes shared memory if its version is still `version`. A key that does not exist is written
    /// without comparing.
    fn set_shared(&self, key: &str, value: &[u8], version: Version) -> Swap;

    /// Creates a queue. Envoy calls this worker when it gets a message.
    fn register_queue(&self, name: &str) -> Option<u32>;
    /// Puts a message into a queue, if the queue exists.
    fn enqueue(&self, queue: u32, message: &[u8]);
    /// Takes a message out of a queue.
    fn dequeue(&self, queue: u32) -> Option<Vec<u8>>;

    /// Defines a counter, or finds the one of this name.
    fn define_counter(&self, name: &str) -> Option<MetricId>;
    /// Defines a gauge, or finds the one of this name.
    fn define_gauge(&self, name: &str) -> Option<MetricId>;
    fn add(&self, counter: MetricId, amount: u32);
    fn set(&self, gauge: MetricId, value: u32);

    /// Sets the period of this plugin's tick. Zero stops it.
    fn tick_every(&self, period: Duration);
}
