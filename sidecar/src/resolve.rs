//! The addresses of a host's name. There is one lookup at a time for each upstream, on a thread of its own: a name server
//! that does not answer can't use up the threads that everything else needs.

use crate::clock;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Duration;
use tokio::sync::watch;

/// After this time the addresses of the last lookup are used, if there are any.
const PATIENCE: Duration = Duration::from_millis(300);

type Addresses = Vec<SocketAddr>;
type Answer = Result<Addresses, String>;
type Lookup = fn(&str, u16) -> io::Result<Addresses>;

fn look_up(host: &str, port: u16) -> io::Result<Addresses> {
    (host, port).to_socket_addrs().map(Iterator::collect)
}

/// The addresses of hosts, outside of a runtime. Those that can't be looked up within `within` have none.
pub fn addresses_within(hosts: &BTreeSet<&str>, within: Duration) -> BTreeMap<String, Vec<IpAddr>> {
    look_up_within(hosts, within, look_up)
}

fn look_up_within(
    hosts: &BTreeSet<&str>,
    within: Duration,
    lookup: Lookup,
) -> BTreeMap<String, Vec<IpAddr>> {
    let (answers, answered) = mpsc::channel();
    let mut found: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    for host in hosts {
        if let Ok(ip) = host.parse() {
            found.insert((*host).to_owned(), vec![ip]);
            continue;
        }
        let (host, answers) = ((*host).to_owned(), answers.clone());
        let look = move || {
            let addresses = lookup(&host, 0).unwrap_or_default();
            let _ = answers.send((host, addresses));
        };
        // Without a thread, the host has no address. A thread that is late ends by itself.
        let _ = thread::Builder::new().name("lookup".to_owned()).spawn(look);
    }
    drop(answers);
    let end = clock::monotonic() + within;
    while let Ok((host, addresses)) = answered.recv_timeout(end.saturating_sub(clock::monotonic()))
    {
        found.insert(host, addresses.iter().map(SocketAddr::ip).collect());
    }
    found
}

#[derive(Clone)]
pub struct Resolver {
    host: Arc<str>,
    port: u16,
    lookup: Lookup,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    last: Option<Addresses>,
    /// The lookup in progress.
    flight: Option<watch::Receiver<Option<Answer>>>,
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl Resolver {
    pub fn new(host: &str, port: u16) -> Self {
        Self::with(host, port, look_up)
    }

    /// With another way to look names up than the system's.
    pub(crate) fn with(host: &str, port: u16, lookup: Lookup) -> Self {
        Self {
            host: host.into(),
            port,
            lookup,
            shared: Arc::default(),
        }
    }

    pub fn host(&self) -> &str {
        &self.host
    }

    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Looks the name up, or waits for the lookup in progress. The caller bounds the wait. Where the name server is slow or
    /// fails, these are the addresses of the last lookup that succeeded.
    ///
    /// # Errors
    /// The name has no address, or none is known yet.
    pub async fn addresses(&self) -> io::Result<Addresses> {
        if let Ok(ip) = self.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, self.port)]);
        }
        let mut flight = self.flight();
        let soon = tokio::time::timeout(PATIENCE, landed(&mut flight)).await;
        let last = self.lock().last.clone();
        let answer = match (soon, last) {
            (Ok(answer), _) => answer,
            (Err(_), Some(last)) => return Ok(last),
            (Err(_), None) => landed(&mut flight).await,
        };
        match (answer, self.lock().last.clone()) {
            (Some(Ok(addresses)), _) | (_, Some(addresses)) => Ok(addresses),
            (Some(Err(why)), None) => Err(io::Error::other(why)),
            (None, None) => Err(io::Error::other("the lookup was broken off")),
        }
    }

    /// The lookup in progress, or a new one.
    fn flight(&self) -> watch::Receiver<Option<Answer>> {
        let mut shared = self.lock();
        if let Some(flight) = &shared.flight {
            return flight.clone();
        }
        let (done, flight) = watch::channel(None);
        let this = self.clone();
        let look = move || {
            let answer = (this.lookup)(&this.host, this.port).map_err(|error| error.to_string());
            let mut shared = this.lock();
            shared.flight = None;
            if let Ok(addresses) = &answer {
                shared.last = Some(addresses.clone());
            }
            drop(shared);
            let _ = done.send(Some(answer));
        };
        // Without a thread, `done` is dropped, and nobody waits.
        if thread::Builder::new()
            .name("lookup".to_owned())
            .spawn(look)
            .is_ok()
        {
            shared.flight = Some(flight.clone());
        }
        flight
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn landed(flight: &mut watch::Receiver<Option<Answer>>) -> Option<Answer> {
    let landed = flight.wait_for(Option::is_some).await.ok()?;
    landed.clone()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test]
    async fn an_address_needs_no_lookup() {
        let never: Lookup = |_, _| panic!("it is an address");
        for host in ["127.0.0.1", "::1"] {
            let found = Resolver::with(host, 1, never).addresses().await.unwrap();
            assert_eq!(found, [SocketAddr::new(host.parse().unwrap(), 1)]);
        }
    }

    static ASKED: AtomicUsize = AtomicUsize::new(0);

    #[tokio::test]
    async fn a_silent_name_server_is_asked_once_by_all_and_takes_no_thread_of_the_others() {
        let resolver = Resolver::with("redis", 1, |_, port| {
            if ASKED.fetch_add(1, Ordering::SeqCst) == 0 {
                return Ok(vec![SocketAddr::from(([127, 0, 0, 1], port))]);
            }
            thread::sleep(Duration::from_mins(10));
            Err(io::Error::other("nobody waited for this"))
        });
        let first = resolver.addresses().await.unwrap();
        let mut askers = tokio::task::JoinSet::new();
        for _ in 0..1000 {
            let resolver = resolver.clone();
            askers.spawn(async move { resolver.addresses().await.unwrap() });
        }
        while let Some(found) = askers.join_next().await {
            assert_eq!(found.unwrap(), first);
        }
        assert_eq!(ASKED.load(Ordering::SeqCst), 2);
        let other = tokio::task::spawn_blocking(|| 1);
        let other = tokio::time::timeout(Duration::from_secs(5), other).await;
        assert_eq!(other.unwrap().unwrap(), 1);
    }

    #[tokio::test]
    async fn a_name_that_has_no_address_is_an_error() {
        let resolver = Resolver::with("redis", 1, |_, _| Err(io::Error::other("no such name")));
        let error = resolver.addresses().await.unwrap_err();
        assert!(error.to_string().contains("no such name"), "{error}");
    }

    #[test]
    fn hosts_that_a_silent_name_server_has_to_know_are_waited_for_together_and_not_for_long() {
        let hosts = BTreeSet::from(["::1", "known", "silent", "silent-too", "unknown"]);
        let before = clock::monotonic();
        let found = look_up_within(
            &hosts,
            Duration::from_millis(200),
            |host, port| match host {
                "known" => Ok(vec![SocketAddr::from(([10, 0, 0, 1], port))]),
                "unknown" => Err(io::Error::other("no such name")),
                _ => {
                    thread::sleep(Duration::from_mins(10));
                    Err(io::Error::other("nobody waited for this"))
                }
            },
        );
        assert!(clock::monotonic() < before + Duration::from_secs(5));
        let is_known = |host: &str, ip: &str| found[host] == [ip.parse::<IpAddr>().unwrap()];
        assert!(is_known("::1", "::1") && is_known("known", "10.0.0.1"));
        assert_eq!(found.len(), 3);
        assert!(found["unknown"].is_empty());
    }
}
