//! A fake Envoy: a process with shared data and queues, and workers that call the filter as Envoy
//! would. Every host call is counted.
#![allow(dead_code)] // each test program uses only a part

use levee_filter::contexts::{Action, Contexts};
use levee_filter::host::{
    AnswerPart, Host, LocalReply, MetricId, OwnRequest, Swap, Version, Versioned, property,
};
use levee_filter::plugin::{Body, Piece};
use levee_policy::random::SplitMix64;
use levee_policy::time::Instant;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

/// What all workers share.
pub struct Process {
    now: Instant,
    random: SplitMix64,
    shared: HashMap<String, Versioned>,
    version: u32,
    queues: Vec<(String, VecDeque<Vec<u8>>)>,
    metrics: Vec<String>,
    values: BTreeMap<String, u64>,
    pub has_cel: bool,
    /// Clusters that Envoy knows nothing of, or that refuse requests.
    gone: Vec<String>,
    tokens: u32,
}

/// One worker's host.
#[derive(Clone)]
pub struct FakeHost {
    process: Rc<RefCell<Process>>,
    state: Rc<RefCell<State>>,
}

#[derive(Default)]
struct State {
    calls: Vec<&'static str>,
    compiled: Vec<String>,
    streams: HashMap<u32, Stream>,
    current: u32,
    queue: Option<u32>,
    tick: Duration,
    interruption: Option<Interruption>,
    plugin_name: Vec<u8>,
    /// Requests of the filter's own, none of which was answered.
    sent: Vec<Sent>,
    /// What the filter can read.
    answer: Answer,
}

/// A request that the filter has sent itself.
#[derive(Clone, Debug)]
pub struct Sent {
    pub worker: usize,
    pub token: u32,
    pub cluster: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub timeout: Duration,
}

impl Sent {
    pub fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(n, _)| n == name);
        found.map_or("", |(_, value)| value)
    }
}

/// The answer to such a request.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub headers: Vec<(&'static str, &'static str)>,
    pub trailers: Vec<(&'static str, &'static str)>,
    pub body: Vec<u8>,
}

impl Answer {
    /// None has come.
    pub const NONE: Self = Self {
        headers: Vec::new(),
        trailers: Vec::new(),
        body: Vec::new(),
    };

    pub fn status(status: &'static str) -> Self {
        Self {
            headers: vec![(":status", status)],
            ..Self::NONE
        }
    }
}

/// A key, and what another worker does just before this one writes it.
type Interruption = (&'static str, Box<dyn FnOnce()>);

/// A request as Envoy knows it.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    pub cluster: Vec<u8>,
    pub route: Vec<u8>,
    /// What the rules for scopes say.
    pub scope_by_rule: Vec<u8>,
    pub request_headers: Vec<(String, Vec<u8>)>,
    pub code: Option<u64>,
    pub flags: u64,
    pub details: Vec<u8>,
    /// The upstream's, in trailers or, if the response has none, in headers.
    pub grpc_status: Option<u64>,
    pub has_trailers: bool,
    pub retry_after: Option<&'static str>,
    /// In trailers or headers, as the gRPC status.
    pub grpc_pushback: Option<&'static str>,
    pub backend_latency: Option<u64>,
    /// The client's address, with port.
    pub source: Vec<u8>,
    pub method: Vec<u8>,
    /// The request's duration in nanoseconds, once it has ended.
    pub duration: Option<u64>,
    /// How many bytes of the response's body were passed on.
    pub passed_on: u64,
    pub has_no_connection: bool,
    /// The number of the client's connection.
    pub connection: u64,
    pub reply: Option<Reply>,
    pub route_was_cleared: bool,
    /// The cluster of the route that the filter's fallback header leads to.
    pub cluster_by_fallback: Option<Vec<u8>>,
    /// The name of that route.
    pub route_by_fallback: Option<Vec<u8>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub status: u16,
    pub details: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
    pub grpc_status: u32,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }
}

impl Stream {
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.request_headers
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_slice())
    }

    fn grpc_digits(&self) -> Option<Vec<u8>> {
        self.grpc_status
            .map(|status| status.to_string().into_bytes())
    }
}

impl FakeHost {
    fn call(&self, name: &'static str) {
        self.state.borrow_mut().calls.push(name);
    }

    /// Runs `what`, as another worker, just before this one next writes `key`.
    pub fn interrupt_before_writing(&self, key: &'static str, what: impl FnOnce() + 'static) {
        self.state.borrow_mut().interruption = Some((key, Box::new(what)));
    }

    /// How many expressions were compiled.
    pub fn compiled(&self) -> usize {
        self.state.borrow().compiled.len()
    }

    pub fn shared_keys(&self) -> Vec<String> {
        let mut keys: Vec<String> = self.process.borrow().shared.keys().cloned().collect();
        keys.sort();
        keys
    }

    fn stream<T>(&self, read: impl FnOnce(&mut Stream) -> T) -> Option<T> {
        let mut state = self.state.borrow_mut();
        let current = state.current;
        state.streams.get_mut(&current).map(read)
    }
}

/// A list of texts as Envoy encodes it.
fn encoded_list(texts: &[&Vec<u8>]) -> Vec<u8> {
    let number = |number: usize| u32::try_from(number).unwrap().to_le_bytes();
    let mut encoded = number(texts.len()).to_vec();
    for text in texts {
        encoded.extend([number(text.len()), number(0)].concat());
    }
    for text in texts {
        encoded.extend([text.as_slice(), &[0, 0]].concat());
    }
    encoded
}

impl Host for FakeHost {
    fn now(&self) -> Instant {
        self.call("now");
        self.process.borrow().now
    }

    fn random(&self) -> u64 {
        self.call("random");
        self.process.borrow_mut().random.next_u64()
    }

    fn with_property<T>(&self, path: &str, read: impl FnOnce(&[u8]) -> T) -> Option<T> {
        self.call("property");
        if path == property::PLUGIN_NAME {
            let name = self.state.borrow().plugin_name.clone();
            return Some(read(&name));
        }
        let value = self
            .stream(|stream| {
                let number = |value: u64| value.to_le_bytes().to_vec();
                match path {
                    property::CLUSTER => {
                        Some(stream.cluster.clone()).filter(|name| !name.is_empty())
                    }
                    property::ROUTE => Some(stream.route.clone()),
                    property::RESPONSE_CODE => stream.code.map(number),
                    property::RESPONSE_FLAGS => Some(number(stream.flags)),
                    property::RESPONSE_CODE_DETAILS => Some(stream.details.clone()),
                    property::GRPC_STATUS_TRAILER if stream.has_trailers => stream.grpc_digits(),
                    property::GRPC_STATUS_HEADER if !stream.has_trailers => stream.grpc_digits(),
                    property::RETRY_AFTER => stream.retry_after.map(Into::into),
                    property::GRPC_PUSHBACK_TRAILER if stream.has_trailers => {
                        stream.grpc_pushback.map(Into::into)
                    }
                    property::GRPC_PUSHBACK_HEADER if !stream.has_trailers => {
                        stream.grpc_pushback.map(Into::into)
                    }
                    property::GRPC_STATUS_TRAILER
                    | property::GRPC_STATUS_HEADER
                    | property::GRPC_PUSHBACK_TRAILER
                    | property::GRPC_PUSHBACK_HEADER => None,
                    property::BACKEND_LATENCY => stream.backend_latency.map(number),
                    property::RESPONSE_SIZE => Some(number(stream.passed_on)),
                    property::REQUEST_DURATION => stream.duration.map(number),
                    property::CONNECTION_ID => Some(number(stream.connection)),
                    property::REQUEST_METHOD => Some(stream.method.clone()),
                    property::UPSTREAM_LOCAL_ADDRESS if stream.has_no_connection => None,
                    property::UPSTREAM_LOCAL_ADDRESS => Some(b"127.0.0.1:4711".to_vec()),
                    property::SOURCE_ADDRESS => {
                        Some(stream.source.clone()).filter(|address| !address.is_empty())
                    }
                    other => panic!("no such property: {other:?}"),
                }
            })
            .flatten();
        value.map(|value| read(&value))
    }

    fn request_header(&self, name: &str) -> Option<Vec<u8>> {
        self.call("request_header");
        self.stream(|stream| stream.header(name).map(<[u8]>::to_vec))
            .flatten()
    }

    fn set_request_header(&self, name: &str, value: &str) {
        self.call("set_request_header");
        self.stream(|stream| {
            stream.request_headers.retain(|(n, _)| n != name);
            stream
                .request_headers
                .push((name.to_owned(), value.as_bytes().to_vec()));
        });
    }

    fn clear_route_cache(&self) {
        self.call("clear_route_cache");
        self.stream(|stream| {
            stream.route_was_cleared = true;
            if let Some(cluster) = stream.cluster_by_fallback.take() {
                stream.cluster = cluster;
            }
            if let Some(route) = stream.route_by_fallback.take() {
                stream.route = route;
            }
        });
    }

    fn reply(&self, reply: LocalReply<'_>) {
        self.call("reply");
        let headers = reply
            .headers
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
        let reply = Reply {
            status: reply.status,
            details: reply.details.to_owned(),
            headers: headers.collect(),
            body: String::from_utf8(reply.body.to_vec()).unwrap(),
            grpc_status: reply.grpc_status,
        };
        self.stream(|stream| {
            assert!(stream.reply.is_none(), "a second local reply");
            stream.reply = Some(reply);
        });
    }

    fn enter_request(&self, context_id: u32) -> bool {
        self.call("enter_request");
        let mut state = self.state.borrow_mut();
        let is_there = state.streams.contains_key(&context_id);
        if is_there {
            state.current = context_id;
        }
        is_there
    }

    fn compile(&self, expression: &str) -> Option<u32> {
        let asks_for_grpc = expression.contains("grpc_status == 0");
        let (_, below) = expression.split_once("response.code < ").unwrap();
        let below: u32 = below.split(' ').next().unwrap().parse().unwrap();
        self.state.borrow_mut().compiled.push(expression.to_owned());
        self.process
            .borrow()
            .has_cel
            .then_some(2 * below + u32::from(asks_for_grpc))
    }

    /// The number of the expression is the number of its parts.
    fn compile_value(&self, expression: &str) -> Option<u32> {
        let rest = expression.strip_prefix("[xds.cluster_name, xds.route_name");
        let rest = rest.expect("it asks for the cluster and the route");
        let parts = if rest == "]" { 2 } else { 3 };
        self.process.borrow().has_cel.then_some(parts)
    }

    fn with_value<T>(&self, expression: u32, read: impl FnOnce(&[u8]) -> T) -> Option<T> {
        self.call("value");
        let answer = self.stream(|stream| {
            let parts = [&stream.cluster, &stream.route, &stream.scope_by_rule];
            let has_cluster = !stream.cluster.is_empty();
            has_cluster.then(|| encoded_list(&parts[..expression as usize]))
        });
        answer.flatten().map(|answer| read(&answer))
    }

    /// The fake has no CEL, so this repeats what the expressions say. The end-to-end tests check that
    /// both agree.
    fn holds(&self, expression: u32) -> bool {
        let grpc_status = (expression % 2 == 1).then_some(0);
        self.call("holds");
        self.stream(|stream| {
            stream.code.map(|code| {
                stream.flags == 0
                    && code < u64::from(expression / 2)
                    && stream.details == b"via_upstream"
                    && stream.grpc_status == grpc_status
            })
        })
        .flatten()
        .unwrap_or(false)
    }

    fn send(&self, request: OwnRequest<'_>) -> Option<u32> {
        self.call("send");
        let mut process = self.process.borrow_mut();
        if process.gone.iter().any(|gone| gone == request.cluster) {
            return None;
        }
        process.tokens += 1;
        let headers = request.headers.iter();
        self.state.borrow_mut().sent.push(Sent {
            worker: 0,
            token: process.tokens,
            cluster: request.cluster.to_owned(),
            headers: headers
                .map(|(n, value)| ((*n).to_owned(), (*value).to_owned()))
                .collect(),
            body: request.body.to_vec(),
            timeout: request.timeout,
        });
        Some(process.tokens)
    }

    fn answer(&self, part: AnswerPart, name: &str) -> Option<Vec<u8>> {
        let answer = &self.state.borrow().answer;
        let fields = match part {
            AnswerPart::Headers => &answer.headers,
            AnswerPart::Trailers => &answer.trailers,
        };
        let found = fields.iter().find(|(n, _)| *n == name);
        found.map(|(_, value)| value.as_bytes().to_vec())
    }

    fn answer_body(&self, size: u32) -> Option<Vec<u8>> {
        let body = self.state.borrow().answer.body.clone();
        (body.len() == size as usize).then_some(body)
    }

    fn shared(&self, key: &str) -> Option<Versioned> {
        self.call("shared");
        self.process.borrow().shared.get(key).cloned()
    }

    fn set_shared(&self, key: &str, value: &[u8], version: Version) -> Swap {
        self.call("set_shared");
        let is_interrupted = self
            .state
            .borrow()
            .interruption
            .as_ref()
            .is_some_and(|(at, _)| *at == key);
        if is_interrupted {
            let interruption = self.state.borrow_mut().interruption.take();
            interruption.expect("there is one").1();
        }
        let mut process = self.process.borrow_mut();
        if let Some(existing) = process.shared.get(key)
            && version != Version::ANY
            && existing.version != version
        {
            return Swap::Outdated;
        }
        process.version += 1;
        let written = Versioned {
            value: value.to_vec(),
            version: Version(process.version),
        };
        process.shared.insert(key.to_owned(), written);
        Swap::Written
    }

    fn register_queue(&self, name: &str) -> Option<u32> {
        self.call("register_queue");
        let mut process = self.process.borrow_mut();
        process.queues.push((name.to_owned(), VecDeque::new()));
        let queue = u32::try_from(process.queues.len()).unwrap();
        self.state.borrow_mut().queue = Some(queue);
        Some(queue)
    }

    fn enqueue(&self, queue: u32, message: &[u8]) {
        self.call("enqueue");
        let mut process = self.process.borrow_mut();
        if let Some((_, messages)) = process.queues.get_mut(queue as usize - 1) {
            messages.push_back(message.to_vec());
        }
    }

    fn dequeue(&self, queue: u32) -> Option<Vec<u8>> {
        self.call("dequeue");
        self.process
            .borrow_mut()
            .queues
            .get_mut(queue as usize - 1)?
            .1
            .pop_front()
    }

    fn define_counter(&self, name: &str) -> Option<MetricId> {
        self.call("define_metric");
        let mut process = self.process.borrow_mut();
        let place = process
            .metrics
            .iter()
            .position(|known| known == name)
            .unwrap_or_else(|| {
                process.metrics.push(name.to_owned());
                process.metrics.len() - 1
            });
        Some(MetricId(u32::try_from(place).unwrap()))
    }

    fn define_gauge(&self, name: &str) -> Option<MetricId> {
        self.define_counter(name)
    }

    fn add(&self, counter: MetricId, amount: u32) {
        self.call("add");
        assert!(amount > 0, "Envoy refuses to add nothing");
        let mut process = self.process.borrow_mut();
        let name = process.metrics[counter.0 as usize].clone();
        *process.values.entry(name).or_default() += u64::from(amount);
    }

    fn set(&self, gauge: MetricId, value: u32) {
        self.call("set");
        let mut process = self.process.borrow_mut();
        let name = process.metrics[gauge.0 as usize].clone();
        process.values.insert(name, u64::from(value));
    }

    fn tick_every(&self, period: Duration) {
        self.state.borrow_mut().tick = period;
    }
}

/// The context of the filter in each worker. Those of requests come after it.
pub const FILTER: u32 = 2;

/// A worker that runs the filter.
pub struct Worker {
    pub host: FakeHost,
    pub contexts: Contexts<FakeHost>,
    next_context: u32,
}

/// A process with workers.
pub struct Gateway {
    process: Rc<RefCell<Process>>,
    pub workers: Vec<Worker>,
}

/// How a request ends.
#[derive(Clone, Copy, Debug)]
pub enum End {
    /// The upstream answers with this status.
    Status(u64),
    /// The client goes away.
    ClientGone,
    /// The upstream resets the connection before or in the response.
    Reset,
}

/// A request in flight.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    pub worker: usize,
    pub context: u32,
    pub was_refused: bool,
}

impl Worker {
    /// The period of the filter's tick.
    pub fn tick(&self) -> Duration {
        self.host.state.borrow().tick
    }

    /// Envoy creates the filter `id` with this configuration.
    pub fn configure(&mut self, id: u32, configuration: &str) {
        self.contexts.on_create(id, 0);
        self.contexts
            .on_configure(id, self.host.clone(), configuration.as_bytes())
            .unwrap_or_else(|errors| panic!("{errors:#?}"));
    }

    /// The same for a filter whose `config.name` is `name`.
    pub fn configure_named(&mut self, id: u32, name: &str, configuration: &str) {
        self.host.state.borrow_mut().plugin_name = name.as_bytes().to_vec();
        self.configure(id, configuration);
    }

    /// Begins a request to the filter `id`. Returns its context, and what Envoy must do with it.
    pub fn begin(&mut self, id: u32, stream: Stream) -> (u32, Action) {
        self.begin_with(id, stream, Body::None)
    }

    /// The same for a request that may have a body.
    pub fn begin_with(&mut self, id: u32, stream: Stream, body: Body) -> (u32, Action) {
        self.next_context += 1;
        let context = self.next_context;
        {
            let mut state = self.host.state.borrow_mut();
            state.streams.insert(context, stream);
            state.current = context;
        }
        self.contexts.on_create(context, id);
        (context, self.contexts.on_request_headers(context, body))
    }

    /// A request whose headers this filter does not get.
    pub fn bypass(&mut self, id: u32, stream: Stream) {
        self.next_context += 1;
        let context = self.next_context;
        self.host.state.borrow_mut().streams.insert(context, stream);
        self.contexts.on_create(context, id);
        self.finish(context);
    }

    /// Ends the request with this context.
    pub fn finish(&mut self, context: u32) {
        self.host.state.borrow_mut().current = context;
        self.contexts.on_log(context);
        self.delete(context);
    }

    /// Deletes the request's context.
    pub fn delete(&mut self, context: u32) {
        self.contexts.on_delete(context);
        self.host.state.borrow_mut().streams.remove(&context);
    }
}

impl Gateway {
    pub fn new(workers: usize, configuration: &str) -> Self {
        Self::with_cel(workers, configuration, true)
    }

    pub fn with_cel(workers: usize, configuration: &str, has_cel: bool) -> Self {
        let process = Rc::new(RefCell::new(Process {
            now: Instant::from_nanos(1_000_000_000_000),
            random: SplitMix64::new(42),
            shared: HashMap::new(),
            version: 0,
            queues: Vec::new(),
            metrics: Vec::new(),
            values: BTreeMap::new(),
            has_cel,
            gone: Vec::new(),
            tokens: 0,
        }));
        let mut gateway = Self {
            process,
            workers: Vec::new(),
        };
        for _ in 0..workers {
            gateway.add_worker(configuration);
        }
        gateway
    }

    pub fn add_worker(&mut self, configuration: &str) {
        let host = FakeHost {
            process: self.process.clone(),
            state: Rc::default(),
        };
        let mut worker = Worker {
            host,
            contexts: Contexts::default(),
            next_context: FILTER,
        };
        worker.configure(FILTER, configuration);
        self.workers.push(worker);
    }

    /// Ends the plugin of a worker, as when its listener is gone.
    pub fn end_plugin(&mut self, worker: usize) {
        self.workers[worker].contexts.on_delete(FILTER);
        // Nobody reads its messages any more.
        self.workers[worker].host.state.borrow_mut().queue = None;
    }

    /// Advances the time, with every worker's ticks.
    pub fn pass(&mut self, duration: Duration) {
        let tick = levee_filter::plugin::TICK;
        let mut left = duration;
        while left > Duration::ZERO {
            let step = left.min(tick);
            left -= step;
            self.pass_without_ticks(step);
            for worker in 0..self.workers.len() {
                self.workers[worker].contexts.on_tick(FILTER);
                self.deliver();
            }
        }
    }

    pub fn pass_without_ticks(&mut self, duration: Duration) {
        let mut process = self.process.borrow_mut();
        process.now = process.now.after(duration);
    }

    /// Takes the requests that the filter has sent itself.
    pub fn take_sent(&mut self) -> Vec<Sent> {
        let mut all = Vec::new();
        for (place, worker) in self.workers.iter().enumerate() {
            let sent = std::mem::take(&mut worker.host.state.borrow_mut().sent);
            all.extend(sent.into_iter().map(|sent| Sent {
                worker: place,
                ..sent
            }));
        }
        all
    }

    /// Envoy says that such a request has ended.
    pub fn answer(&mut self, sent: &Sent, answer: Answer) {
        let worker = &mut self.workers[sent.worker];
        let size = u32::try_from(answer.body.len()).unwrap();
        worker.host.state.borrow_mut().answer = answer;
        worker.contexts.on_answer(FILTER, sent.token, size);
        worker.host.state.borrow_mut().answer = Answer::NONE;
        self.deliver();
    }

    /// A cluster is gone, or refuses requests.
    pub fn lose_cluster(&mut self, cluster: &str) {
        self.process.borrow_mut().gone.push(cluster.to_owned());
    }

    /// Delivers all messages to their workers.
    pub fn deliver(&mut self) {
        loop {
            let waiting: Vec<usize> = (0..self.workers.len())
                .filter(|worker| {
                    let queue = self.workers[*worker].host.state.borrow().queue;
                    queue.is_some_and(|queue| {
                        !self.process.borrow().queues[queue as usize - 1]
                            .1
                            .is_empty()
                    })
                })
                .collect();
            if waiting.is_empty() {
                return;
            }
            for worker in waiting {
                self.workers[worker].contexts.on_news(FILTER);
            }
        }
    }

    /// Begins a request to `cluster` at `worker`.
    pub fn begin(&mut self, worker: usize, cluster: &str) -> Call {
        let stream = Stream {
            cluster: cluster.as_bytes().to_vec(),
            ..Stream::default()
        };
        self.begin_stream(worker, stream)
    }

    /// Begins a request whose body has not arrived.
    pub fn begin_upload(&mut self, worker: usize, cluster: &str) -> Call {
        let stream = Stream {
            cluster: cluster.as_bytes().to_vec(),
            ..Stream::default()
        };
        self.begin_upload_of(worker, stream)
    }

    /// Like [`begin_upload`](Self::begin_upload), with more than the name of a cluster.
    pub fn begin_upload_of(&mut self, worker: usize, stream: Stream) -> Call {
        let (context, action) = self.workers[worker].begin_with(FILTER, stream, Body::Follows);
        Call {
            worker,
            context,
            was_refused: action == Action::Stop,
        }
    }

    /// A piece of the request's body has arrived.
    pub fn arrive(&mut self, call: Call, piece: Piece) {
        self.workers[call.worker]
            .contexts
            .on_request_body(call.context, piece);
    }

    pub fn begin_stream(&mut self, worker: usize, stream: Stream) -> Call {
        let call = self.begin_quietly(worker, stream);
        self.deliver();
        call
    }

    /// Like [`begin_stream`](Self::begin_stream), but delivers no messages.
    pub fn begin_quietly(&mut self, place: usize, stream: Stream) -> Call {
        let (context, action) = self.workers[place].begin(FILTER, stream);
        Call {
            worker: place,
            context,
            was_refused: action == Action::Stop,
        }
    }

    pub fn end(&mut self, call: Call, end: End) {
        self.end_quietly(call, end);
        self.deliver();
    }

    /// Like [`end`](Self::end), but delivers no messages.
    pub fn end_quietly(&mut self, call: Call, end: End) {
        self.change(call, |stream| {
            (stream.code, stream.flags, stream.details) = match end {
                End::Status(code) => (Some(code), 0, b"via_upstream".to_vec()),
                End::ClientGone => (None, 1 << 14, b"downstream_remote_disconnect".to_vec()),
                End::Reset => (Some(503), 1 << 6, b"upstream_reset".to_vec()),
            };
        });
        self.workers[call.worker].finish(call.context);
    }

    /// A request that a filter before this one sends upstream by itself.
    pub fn bypass(&mut self, worker: usize) {
        let stream = Stream {
            code: Some(200),
            details: b"via_upstream".to_vec(),
            ..Stream::default()
        };
        self.workers[worker].bypass(FILTER, stream);
    }

    /// Logs and deletes the request's context.
    pub fn finish(&mut self, call: Call) {
        self.workers[call.worker].finish(call.context);
        self.deliver();
    }

    /// Deletes the request's context without logging it.
    pub fn abandon(&mut self, call: Call) {
        self.workers[call.worker].delete(call.context);
        self.deliver();
    }

    pub fn change(&mut self, call: Call, change: impl FnOnce(&mut Stream)) {
        let mut state = self.workers[call.worker].host.state.borrow_mut();
        change(
            state
                .streams
                .get_mut(&call.context)
                .expect("the request is in flight"),
        );
    }

    pub fn stream(&self, call: Call) -> Stream {
        self.workers[call.worker].host.state.borrow().streams[&call.context].clone()
    }

    /// A whole request. Returns whether it was let through.
    pub fn request(&mut self, worker: usize, cluster: &str, end: End) -> bool {
        let call = self.begin(worker, cluster);
        if call.was_refused {
            return false;
        }
        self.end(call, end);
        true
    }

    /// The host calls of `worker` since they were last taken.
    pub fn take_calls(&mut self, worker: usize) -> Vec<&'static str> {
        std::mem::take(&mut self.workers[worker].host.state.borrow_mut().calls)
    }

    pub fn metric(&self, name: &str) -> u64 {
        let process = self.process.borrow();
        assert!(
            process.metrics.iter().any(|known| known == name),
            "no metric {name}"
        );
        process.values.get(name).copied().unwrap_or(0)
    }

    pub fn outcome(&mut self, service: &str, outcome: &str) -> u64 {
        self.pass(levee_filter::plugin::TICK);
        self.metric(&format!(
            "circuit_breaker_requests_total.outcome.{outcome}.service.{service}"
        ))
    }

    pub fn state(&self, service: &str) -> u64 {
        self.metric(&format!("circuit_breaker_state.service.{service}"))
    }

    pub fn metric_names(&self) -> Vec<String> {
        self.process.borrow().metrics.clone()
    }
}
