//! Envoy's response flags, by their bits
//! (<https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage>).

/// LH: the host's own health check failed (health check filter).
pub const FAILED_LOCAL_HEALTH_CHECK: u64 = 1;
/// UH: no healthy host.
pub const NO_HEALTHY_UPSTREAM: u64 = 1 << 1;
/// UT: a time limit enforced by the router.
pub const UPSTREAM_REQUEST_TIMEOUT: u64 = 1 << 2;
/// LR: Envoy reset the upstream connection.
pub const LOCAL_RESET: u64 = 1 << 3;
/// UR: the upstream reset the stream.
pub const UPSTREAM_REMOTE_RESET: u64 = 1 << 4;
/// UF: no connection to the upstream.
pub const UPSTREAM_CONNECTION_FAILURE: u64 = 1 << 5;
/// UC: the upstream ended the connection.
pub const UPSTREAM_CONNECTION_TERMINATION: u64 = 1 << 6;
/// UO: Envoy's own limits for the cluster.
pub const UPSTREAM_OVERFLOW: u64 = 1 << 7;
/// NR: no route.
pub const NO_ROUTE: u64 = 1 << 8;
/// FI: a failure injected by the fault filter.
pub const FAULT_INJECTED: u64 = 1 << 10;
/// RL: a rate limit.
pub const RATE_LIMITED: u64 = 1 << 11;
/// UAEX: external authorization.
pub const UNAUTHORIZED: u64 = 1 << 12;
/// DC: the client ended the connection.
pub const DOWNSTREAM_TERMINATION: u64 = 1 << 14;
/// SI: nothing moved for `stream_idle_timeout`.
pub const STREAM_IDLE: u64 = 1 << 16;
/// IH: an `x-envoy-` header of the request was refused.
pub const INVALID_REQUEST_HEADERS: u64 = 1 << 17;
/// DPE: the client broke the protocol.
pub const DOWNSTREAM_PROTOCOL_ERROR: u64 = 1 << 18;
/// UMSDR: the upstream's `max_stream_duration`.
pub const UPSTREAM_MAX_DURATION: u64 = 1 << 19;
/// RFCF: from the cache filter.
pub const FROM_CACHE: u64 = 1 << 20;
/// NFCF: a filter's configuration was missing.
pub const NO_FILTER_CONFIG: u64 = 1 << 21;
/// DT: the route's or the listener's `max_stream_duration`.
pub const DURATION_TIMEOUT: u64 = 1 << 22;
/// UPE: the upstream broke the protocol.
pub const UPSTREAM_PROTOCOL_ERROR: u64 = 1 << 23;
/// NC: no such cluster.
pub const NO_CLUSTER: u64 = 1 << 24;
/// OM: the overload manager.
pub const OVERLOAD: u64 = 1 << 25;
/// DF: the upstream's name was not resolved.
pub const DNS_FAILURE: u64 = 1 << 26;
/// DO: the cluster's `drop_overload`.
pub const DROP_OVERLOAD: u64 = 1 << 27;
/// DR: the client reset the stream.
pub const DOWNSTREAM_RESET: u64 = 1 << 28;
/// UDO: the cluster's `drop_overload` at 100 %.
pub const UNCONDITIONAL_DROP: u64 = 1 << 29;

/// The client left.
pub const CLIENT: u64 = DOWNSTREAM_TERMINATION | DOWNSTREAM_RESET;

/// Envoy or another filter answered without asking the service. Not [`UPSTREAM_OVERFLOW`]: Envoy
/// sets it, too, on an answer of the service that it would have retried.
pub const GATEWAY: u64 = FAILED_LOCAL_HEALTH_CHECK
    | NO_ROUTE
    | FAULT_INJECTED
    | RATE_LIMITED
    | UNAUTHORIZED
    | INVALID_REQUEST_HEADERS
    | DOWNSTREAM_PROTOCOL_ERROR
    | FROM_CACHE
    | NO_FILTER_CONFIG
    | NO_CLUSTER
    | OVERLOAD
    | DROP_OVERLOAD
    | UNCONDITIONAL_DROP;

/// The service could not be reached, or did not finish its answer.
pub const SERVICE: u64 = NO_HEALTHY_UPSTREAM
    | LOCAL_RESET
    | UPSTREAM_REMOTE_RESET
    | UPSTREAM_CONNECTION_FAILURE
    | UPSTREAM_CONNECTION_TERMINATION
    | UPSTREAM_PROTOCOL_ERROR
    | DNS_FAILURE;

/// A stream was ended for its age or for being idle.
pub const AGE: u64 = STREAM_IDLE | UPSTREAM_MAX_DURATION | DURATION_TIMEOUT;
