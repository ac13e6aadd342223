//! The load. A closed loop, in which each client waits for its answer, measures the cost of a request. An open loop at a
//! fixed rate measures latencies.

use crate::alarm::Alarm;
use crate::client::{self, Client, Protocol, Request};
use anyhow::{Context, Result, bail};
use levee_harness::clock::now;
use levee_harness::processor;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::{JoinSet, LocalSet};

/// If a load takes longer, something hangs.
const LIMIT: Duration = Duration::from_secs(90);

/// The clients and their requests.
#[derive(Clone, Debug)]
pub struct Load {
    pub port: u16,
    pub protocol: Protocol,
    /// Requests in flight at once.
    pub clients: usize,
    /// Sent in turns.
    pub requests: Vec<Request>,
    /// The CPUs for the clients.
    pub cpus: Vec<usize>,
}

/// The number of answers by status.
pub type Statuses = BTreeMap<u16, u64>;

/// The result of a load.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub statuses: Statuses,
    /// From the first request to the last answer.
    pub elapsed: Duration,
    /// From the scheduled time of each request to the end of its answer, in ascending order. Only in an open loop.
    pub latencies: Vec<Duration>,
    /// The delay of each request that the load itself caused, in ascending order. It is part of the latency. Waiting for a
    /// free client is not included.
    pub lags: Vec<Duration>,
}

impl Load {
    /// Sends `number` requests. Each client sends one after the other.
    pub fn closed(&self, number: u64) -> Result<Outcome> {
        self.on_a_thread(async |clients| closed(clients, &self.requests, number).await)
    }

    /// Sends `number` requests, `rate` per second.
    pub fn open(&self, rate: f64, number: u64) -> Result<Outcome> {
        self.on_a_thread(async |clients| open(clients, &self.requests, rate, number).await)
    }

    fn on_a_thread<F>(&self, run: F) -> Result<Outcome>
    where
        F: AsyncFnOnce(Vec<Client>) -> Result<Outcome> + Send,
    {
        let work = || {
            processor::pin(&self.cpus)?;
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let set = LocalSet::new();
            let all = async {
                let clients = client::connect(self.protocol, self.port, self.clients).await?;
                run(clients).await
            };
            let bounded = async {
                tokio::time::timeout(LIMIT, all)
                    .await
                    .context("the load hangs")?
            };
            set.block_on(&runtime, bounded)
        };
        thread::scope(|scope| scope.spawn(work).join().expect("the load does not panic"))
    }
}

/// The state that the clients share.
#[derive(Default)]
struct Shared {
    sent: u64,
    statuses: Statuses,
    latencies: Vec<Duration>,
    /// Idle clients, in the open loop.
    idle: Vec<usize>,
    /// Scheduled times of requests for which no client was free.
    waiting: VecDeque<(u64, Instant)>,
}

fn pick(requests: &[Request], number: u64) -> &Request {
    &requests[usize::try_from(number).unwrap_or(0) % requests.len()]
}

async fn closed(clients: Vec<Client>, requests: &[Request], number: u64) -> Result<Outcome> {
    let shared = Rc::new(RefCell::new(Shared::default()));
    let requests: Rc<[Request]> = requests.into();
    let start = now();
    let mut tasks = JoinSet::new();
    for mut client in clients {
        let (shared, requests) = (Rc::clone(&shared), Rc::clone(&requests));
        tasks.spawn_local(async move {
            loop {
                let own = {
                    let mut shared = shared.borrow_mut();
                    shared.sent += 1;
                    shared.sent
                };
                if own > number {
                    return anyhow::Ok(());
                }
                let status = client.get(pick(&requests, own)).await?;
                *shared.borrow_mut().statuses.entry(status).or_default() += 1;
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    let elapsed = now() - start;
    Ok(Outcome {
        statuses: shared.take().statuses,
        elapsed,
        ..Outcome::default()
    })
}

async fn open(
    mut clients: Vec<Client>,
    requests: &[Request],
    rate: f64,
    number: u64,
) -> Result<Outcome> {
    let shared = Rc::new(RefCell::new(Shared::default()));
    let requests: Rc<[Request]> = requests.into();
    // Otherwise the first requests would wait for the proxy to accept connections.
    for client in &mut clients {
        client.get(pick(&requests, 0)).await?;
    }
    let mut senders = Vec::new();
    let mut tasks = JoinSet::new();
    for (index, client) in clients.into_iter().enumerate() {
        let (sender, orders) = unbounded_channel();
        senders.push(sender);
        shared.borrow_mut().idle.push(index);
        tasks.spawn_local(answer_orders(
            index,
            client,
            orders,
            Rc::clone(&shared),
            Rc::clone(&requests),
        ));
    }
    let start = now();
    let lags = tokio::select! {
        lags = send_at_rate(start, rate, number, &senders, &shared) => lags?,
        // No client ends by itself while it may get orders.
        Some(ended) = tasks.join_next() => {
            ended??;
            bail!("a client has ended too early")
        }
    };
    // When all orders are done, the clients end because no more can arrive.
    drop(senders);
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    let elapsed = now() - start;
    let Shared {
        statuses,
        mut latencies,
        ..
    } = shared.take();
    latencies.sort_unstable();
    Ok(Outcome {
        statuses,
        elapsed,
        latencies,
        lags,
    })
}

async fn send_at_rate(
    start: Instant,
    rate: f64,
    number: u64,
    senders: &[UnboundedSender<(u64, Instant)>],
    shared: &RefCell<Shared>,
) -> Result<Vec<Duration>> {
    let alarm = Alarm::new()?;
    let mut lags = Vec::new();
    for own in 0..number {
        #[allow(clippy::cast_precision_loss, reason = "far fewer than 2^52 requests")]
        let due = start + Duration::from_secs_f64(own as f64 / rate);
        alarm.wait_until(due).await?;
        lags.push(now() - due);
        let mut shared = shared.borrow_mut();
        match shared.idle.pop() {
            Some(index) => senders[index].send((own, due))?,
            None => shared.waiting.push_back((own, due)),
        }
    }
    // Not before the last waiting request has found a client.
    while !shared.borrow().waiting.is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    lags.sort_unstable();
    Ok(lags)
}

async fn answer_orders(
    index: usize,
    mut client: Client,
    mut orders: UnboundedReceiver<(u64, Instant)>,
    shared: Rc<RefCell<Shared>>,
    requests: Rc<[Request]>,
) -> Result<()> {
    while let Some(mut order) = orders.recv().await {
        loop {
            let (own, due) = order;
            let status = client.get(pick(&requests, own)).await?;
            let latency = now() - due;
            let mut shared = shared.borrow_mut();
            *shared.statuses.entry(status).or_default() += 1;
            shared.latencies.push(latency);
            let Some(next) = shared.waiting.pop_front() else {
                shared.idle.push(index);
                break;
            };
            order = next;
        }
    }
    Ok(())
}
