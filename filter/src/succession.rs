//! Which configuration's breaker settings are in force when one replaces another.
//!
//! When a listener is replaced, Envoy keeps the old one for its existing connections, by default for
//! ten minutes, and with it the old configuration of the filter. A breaker is one for all of them,
//! so its settings must be: a mode that should refuse everything must reach old connections, too,
//! and two lengths of the window in turn would clear it each time. So all configurations of one
//! `config.name` follow the newest one. What is done to a request (time limits, fallback, names)
//! stays with its own listener.
//!
//! A configuration may be in force again, or there may be two listeners of one name. Envoy says
//! nothing of that: it uses the context that it has. But only a listener in use gets new
//! connections, and Envoy numbers connections. So a configuration that gets a connection newer than
//! its successor is in use, and follows no other. To know the old connections, the number of one
//! request's connection is asked for each second, and of all requests while following.

use crate::host::{Host, Version, property};
use crate::label::fnv1a_64;
use crate::plugin::Plugin;
use levee_policy::time::Instant;
use std::collections::HashSet;
use std::time::Duration;

/// How often a connection's number is asked for.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// For this long after a configuration was replaced, a connection that was not known is taken for
/// an old one.
const SETTLE: Duration = Duration::from_secs(2);
/// Greater numbers are hashes, of HTTP/3.
const LARGEST_NUMBER: u64 = 1 << 40;
/// Which configuration was last seen to be in use again, as a hash, and when. Eight bytes each.
const IN_USE_AGAIN: &str = "levee/1/in-use-again";

/// The filters of one virtual machine.
#[derive(Debug)]
pub struct Filters<H> {
    all: Vec<Filter<H>>,
}

#[derive(Debug)]
struct Filter<H> {
    id: u32,
    plugin: Plugin<H>,
    place: Place,
}

/// A filter's place among those of its name.
#[derive(Debug)]
struct Place {
    name: Vec<u8>,
    /// The same in all workers.
    identity: u64,
    standing: Standing,
    /// The greatest number of a connection that is known to be older than a new one.
    newest_connection: u64,
    /// When the next number is asked for.
    ask_at: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Envoy may still reject its listener, and delete it at once: it has no effect yet.
    New,
    /// It follows itself, until it is replaced.
    Newest,
    /// The filter `leader` was configured after it.
    Follows { leader: u32, since: Instant },
    /// It is in use along with another.
    Independent,
}

/// What the number of a connection says about its listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Connection {
    Old,
    New,
    /// It has no number, as those of HTTP/3.
    Unknown,
}

impl<H> Default for Filters<H> {
    fn default() -> Self {
        Self { all: Vec::new() }
    }
}

impl<H: Host> Filters<H> {
    /// Adds the filter `id`, or replaces it. Returns the one that was replaced.
    pub fn configure(
        &mut self,
        id: u32,
        plugin: Plugin<H>,
        configuration: &[u8],
    ) -> Option<Plugin<H>> {
        let name = plugin
            .host()
            .property(property::PLUGIN_NAME)
            .unwrap_or_default();
        let place = Place {
            identity: fnv1a_64(&name) ^ fnv1a_64(configuration),
            name,
            standing: Standing::New,
            newest_connection: 0,
            ask_at: Instant::from_nanos(0),
        };
        let filter = Filter { id, plugin, place };
        if let Some(known) = self.all.iter_mut().find(|filter| filter.id == id) {
            return Some(std::mem::replace(known, filter).plugin);
        }
        self.all.push(filter);
        None
    }

    #[inline]
    pub fn find(&mut self, id: u32) -> Option<&mut Plugin<H>> {
        self.filter(id).map(|filter| &mut filter.plugin)
    }

    /// The filter that handles the current request.
    #[inline]
    pub fn for_request(&mut self, id: u32) -> Option<&mut Plugin<H>> {
        let filter = self.filter(id)?;
        if filter.plugin.now() >= filter.place.ask_at {
            self.see_connection(id);
        }
        self.find(id)
    }

    /// The filter whose timer has fired.
    pub fn for_tick(&mut self, id: u32) -> Option<&mut Plugin<H>> {
        let standing = self.filter(id)?.place.standing;
        match standing {
            Standing::New => self.begin(id),
            Standing::Follows { since, .. } if self.is_in_use_again(id, since) => {
                self.lead_again(id);
            }
            Standing::Follows { .. } | Standing::Newest | Standing::Independent => {}
        }
        self.find(id)
    }

    /// The filter `id` is gone. Those that followed it follow the newest that is left.
    pub fn remove(&mut self, id: u32) -> Option<Plugin<H>> {
        let place = self.all.iter().position(|filter| filter.id == id)?;
        let removed = self.all.swap_remove(place);
        let name = &removed.place.name;
        let is_alone = self.of_name(name).count() == 1;
        let mut newest = None;
        for filter in self.of_name(name) {
            let place = &mut filter.place;
            if place.leader() == Some(id) || (is_alone && place.standing == Standing::Independent) {
                place.standing = Standing::Newest;
            }
            if place.standing == Standing::Newest {
                // Envoy numbers contexts in the order of their creation.
                newest = newest.max(Some(filter.id));
            }
        }
        if let Some(newest) = newest {
            self.let_others_follow(newest);
        }
        Some(removed.plugin)
    }

    #[inline]
    fn filter(&mut self, id: u32) -> Option<&mut Filter<H>> {
        self.all.iter_mut().find(|filter| filter.id == id)
    }

    fn of_name<'a>(&'a mut self, name: &'a [u8]) -> impl Iterator<Item = &'a mut Filter<H>> {
        self.all
            .iter_mut()
            .filter(move |filter| filter.place.name == name)
    }

    /// The filter's listener is in use, as far as is known. From now on it is the newest of its name.
    fn begin(&mut self, id: u32) {
        let Some(filter) = self.filter(id) else {
            return;
        };
        filter.place.standing = Standing::Newest;
        let name = filter.place.name.clone();
        let others = self.of_name(&name).filter(|other| other.id != id);
        let met: HashSet<String> = others
            .flat_map(|other| other.plugin.names_of_services())
            .map(str::to_owned)
            .collect();
        if let Some(filter) = self.filter(id) {
            filter.plugin.meet_known_services(&met);
        }
        self.let_others_follow(id);
    }

    /// All of the same name follow the filter `leader`, but those that are known to be in use.
    fn let_others_follow(&mut self, leader: u32) {
        let Some(filter) = self.filter(leader) else {
            return;
        };
        let (name, config) = (filter.place.name.clone(), filter.plugin.config().clone());
        let since = filter.plugin.host().now();
        for other in self.of_name(&name) {
            let may_follow = matches!(
                other.place.standing,
                Standing::Newest | Standing::Follows { .. }
            );
            if other.id != leader && may_follow {
                other.place.standing = Standing::Follows { leader, since };
                other.place.ask_at = Instant::from_nanos(0);
                other.plugin.follow(&config);
            }
        }
        if let Some(filter) = self.filter(leader) {
            filter.plugin.follow(&config);
        }
    }

    /// The filter `id` has a request whose connection is of interest.
    #[cold]
    fn see_connection(&mut self, id: u32) {
        if self
            .filter(id)
            .is_some_and(|filter| filter.place.standing == Standing::New)
        {
            self.begin(id);
        }
        let Some(filter) = self.filter(id) else {
            return;
        };
        let number = connection_number(filter.plugin.host());
        let now = filter.plugin.now();
        let (connection, leader) = (filter.place.look_at(number, now), filter.place.leader());
        let (name, newest) = (filter.place.name.clone(), filter.place.newest_connection);
        if leader.is_some() {
            if connection == Connection::New {
                self.say_in_use_again(id);
                self.lead_again(id);
            }
        } else if connection != Connection::Unknown {
            // What is older than a connection to the newest listener is old.
            for other in self.of_name(&name) {
                if other.place.leader() == Some(id) {
                    other.place.newest_connection = other.place.newest_connection.max(newest);
                }
            }
        }
    }

    /// The filter `id` has followed another, and is in use all the same. If the other one is not
    /// known to be in use, it is outdated.
    fn lead_again(&mut self, id: u32) {
        if let Some(filter) = self.filter(id) {
            filter.place.standing = Standing::Independent;
        }
        self.let_others_follow(id);
    }

    /// Tells the other workers, which may get no new connection for long.
    fn say_in_use_again(&mut self, id: u32) {
        if let Some(filter) = self.filter(id) {
            let host = filter.plugin.host();
            let mut said = filter.place.identity.to_le_bytes().to_vec();
            said.extend_from_slice(&host.now().as_nanos().to_le_bytes());
            host.set_shared(IN_USE_AGAIN, &said, Version::ANY);
        }
    }

    /// Whether another worker has said that a configuration like this one is in use.
    fn is_in_use_again(&mut self, id: u32, since: Instant) -> bool {
        let Some(filter) = self.filter(id) else {
            return false;
        };
        let said = filter
            .plugin
            .host()
            .shared(IN_USE_AGAIN)
            .unwrap_or_default()
            .value;
        let Some((identity, when)) = said.split_first_chunk::<8>() else {
            return false;
        };
        let when = when.try_into().map_or(0, u64::from_le_bytes);
        u64::from_le_bytes(*identity) == filter.place.identity && Instant::from_nanos(when) > since
    }
}

impl Place {
    const fn leader(&self) -> Option<u32> {
        match self.standing {
            Standing::Follows { leader, .. } => Some(leader),
            Standing::New | Standing::Newest | Standing::Independent => None,
        }
    }

    /// Compares a connection with those that are known.
    fn look_at(&mut self, number: Option<u64>, now: Instant) -> Connection {
        let since = match self.standing {
            Standing::Follows { since, .. } => Some(since),
            _ => None,
        };
        let Some(number) = number else {
            self.ask_at = now.after(ASK_EVERY);
            return Connection::Unknown;
        };
        let is_known = number <= self.newest_connection;
        let had_none = self.newest_connection == 0;
        self.newest_connection = self.newest_connection.max(number);
        let Some(since) = since else {
            self.ask_at = now.after(ASK_EVERY);
            return Connection::New;
        };
        if is_known || (!had_none && now.since(since) < SETTLE) {
            Connection::Old
        } else {
            Connection::New
        }
    }
}

fn connection_number<H: Host>(host: &H) -> Option<u64> {
    let number = host.with_property(property::CONNECTION_ID, |bytes| {
        bytes.try_into().ok().map(u64::from_le_bytes)
    })?;
    number.filter(|number| *number < LARGEST_NUMBER)
}
