//! What changes when another configuration takes force, decided before anything is changed.

use super::listening::InUse;
use crate::config::listeners::{self, Listener};
use crate::config::{Config, Redis};

/// From one configuration to another.
#[derive(Debug)]
pub struct Plan {
    /// What will be in force.
    pub config: Config,
    /// What happens to each upstream of `config`, in the same order.
    pub upstreams: Vec<UpstreamPlan>,
    pub envoy: PartPlan,
    pub database: PartPlan,
    /// All changes, for people.
    pub changed: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamPlan {
    pub part: PartPlan,
    pub listener: ListenerPlan,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartPlan {
    /// It goes on as it is.
    Keep,
    /// It begins, ends, or gets other settings.
    Change,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenerPlan {
    /// The upstream keeps its own.
    Keep,
    /// It gets this upstream's, which stays open.
    TakeFrom(String),
    /// It gets a new one.
    Bind(InUse),
}

/// What can take force at run time.
#[derive(Debug)]
pub struct Effective {
    pub config: Config,
    /// Keys whose new values need a restart. `config` has the old ones.
    pub kept: Vec<String>,
}

impl Effective {
    /// Puts back in `new` what can't be changed at run time.
    ///
    /// # Errors
    /// What is kept does not fit what is new: a listener would need the port of one that can't move.
    pub fn new(old: &Config, mut new: Config) -> Result<Self, String> {
        let mut kept = Vec::new();
        if old.admin != new.admin {
            kept.push("admin.listen".to_owned());
            new.admin = old.admin;
        }
        if old.log.format != new.log.format {
            kept.push("log.format".to_owned());
            new.log.format = old.log.format;
        }
        if old.memory != new.memory {
            kept.push("limits.memory".to_owned());
            new.memory = old.memory;
        }
        if old.state != new.state {
            kept.push("state".to_owned());
            new.state.clone_from(&old.state);
        }
        for (place, new) in new.redis.iter_mut().enumerate() {
            let old = named(&old.redis, &new.name);
            let Some(old) = old.filter(|old| old.upstream != new.upstream) else {
                continue;
            };
            kept.push(format!("redis[{place}].upstream"));
            new.upstream.clone_from(&old.upstream);
            // Else clients of the new address would reach the old Redis.
            if old.listen != new.listen {
                kept.push(format!("redis[{place}].listen"));
                new.listen = old.listen;
            }
        }
        check_ports(&new.listeners(), &kept)?;
        Ok(Self { config: new, kept })
    }
}

/// A valid configuration has no clash, so one of both listeners is kept where it is.
fn check_ports(listeners: &[Listener], kept: &[String]) -> Result<(), String> {
    let Some((one, two)) = listeners::clash(listeners) else {
        return Ok(());
    };
    let (stays, wants) = if kept.contains(&one.path) {
        (one, two)
    } else {
        (two, one)
    };
    Err(format!(
        "{wants} needs the port of {stays}, which can't change before a restart"
    ))
}

/// What turns `old` into `new`, which has a valid configuration's parts and `old`'s values of what can't be changed.
pub fn plan(old: &Config, new: Config) -> Plan {
    let is_gone = |redis: &&Redis| named(&new.redis, &redis.name).is_none();
    let gone = old.redis.iter().filter(is_gone);
    let mut changed: Vec<String> = gone
        .map(|redis| format!("redis/{} (removed)", redis.name))
        .collect();
    let mut upstreams = Vec::new();
    for redis in &new.redis {
        let (plan, change) = upstream(old, redis);
        upstreams.push(plan);
        changed.extend(change.map(|change| format!("redis/{}{change}", redis.name)));
    }
    for (key, differs) in [
        ("admin.token", old.token != new.token),
        ("log.level", old.log.level != new.log.level),
        ("stop_within", old.stop_within != new.stop_within),
        ("envoy", old.envoy != new.envoy),
        ("database", old.database != new.database),
    ] {
        if differs {
            changed.push(key.to_owned());
        }
    }
    Plan {
        upstreams,
        envoy: PartPlan::of(old.envoy == new.envoy),
        database: PartPlan::of(old.database == new.database),
        changed,
        config: new,
    }
}

impl PartPlan {
    const fn of(is_same: bool) -> Self {
        if is_same { Self::Keep } else { Self::Change }
    }
}

/// Also the change in words, behind the upstream's name.
fn upstream(old: &Config, new: &Redis) -> (UpstreamPlan, Option<String>) {
    let before = named(&old.redis, &new.name);
    let moves = before.is_none_or(|before| before.listen != new.listen);
    let plan = UpstreamPlan {
        part: PartPlan::of(before == Some(new)),
        listener: if moves {
            listener(old, new)
        } else {
            ListenerPlan::Keep
        },
    };
    let change = match (before, plan.part) {
        (_, PartPlan::Keep) => None,
        (None, PartPlan::Change) => Some(" (new)".to_owned()),
        (Some(_), PartPlan::Change) if moves => Some(format!(" (now at {})", new.listen)),
        (Some(_), PartPlan::Change) => Some(String::new()),
    };
    (plan, change)
}

/// The listener of an upstream that has none at its address. Whose that is in `old` gives it away, or the configuration
/// would have a clash.
fn listener(old: &Config, new: &Redis) -> ListenerPlan {
    let mut overlapping = old
        .redis
        .iter()
        .filter(|old| listeners::overlap(old.listen, new.listen));
    match overlapping.clone().find(|old| old.listen == new.listen) {
        Some(owner) => ListenerPlan::TakeFrom(owner.name.clone()),
        None if overlapping.next().is_some() => ListenerPlan::Bind(InUse::Share),
        None => ListenerPlan::Bind(InUse::Refuse),
    }
}

fn named<'a>(all: &'a [Redis], name: &str) -> Option<&'a Redis> {
    all.iter().find(|redis| redis.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    /// Upstreams: name, listen, last digit of the port of Redis.
    fn config(redis: &[(&str, &str, u16)], more: &str) -> Config {
        let upstream = |(name, listen, to): &(&str, &str, u16)| {
            format!(
                "  - {{name: {name}, listen: '{listen}', upstream: 'redis://127.0.0.9:700{to}'}}"
            )
        };
        let redis: Vec<String> = redis.iter().map(upstream).collect();
        let redis = redis.join("\n");
        Config::parse(&format!("redis:\n{redis}\n{more}")).unwrap()
    }

    fn planned(old: &Config, new: Config) -> Result<(Plan, Vec<String>), String> {
        let Effective { config, kept } = Effective::new(old, new)?;
        Ok((plan(old, config), kept))
    }

    #[test]
    fn what_can_change_is_changed_and_what_can_not_is_kept() {
        let old = config(&[("x", "127.0.0.1:1", 1), ("y", "127.0.0.1:2", 2)], "");
        for (new, more, changed, kept) in [
            (
                vec![("y", "127.0.0.1:2", 2), ("x", "127.0.0.1:1", 1)],
                "log: {level: warn, format: json}\nlimits: {memory: 32MiB}\nstop_within: 1s",
                vec!["log.level", "stop_within"],
                vec!["log.format", "limits.memory"],
            ),
            (
                vec![("x", "127.0.0.1:2", 1), ("y", "127.0.0.1:1", 2)],
                "envoy: {admin: 'http://h:1'}",
                vec![
                    "redis/x (now at 127.0.0.1:2)",
                    "redis/y (now at 127.0.0.1:1)",
                    "envoy",
                ],
                vec![],
            ),
            // Had only the addresses changed places, clients of the one would reach the other's Redis.
            (
                vec![("y", "127.0.0.1:1", 1), ("x", "127.0.0.1:2", 2)],
                "",
                vec![],
                vec![
                    "redis[0].upstream",
                    "redis[0].listen",
                    "redis[1].upstream",
                    "redis[1].listen",
                ],
            ),
            (
                vec![("z", "127.0.0.1:1", 1)],
                "admin: {listen: '127.0.0.1:7'}\nstate: {upstream: 'redis://h'}",
                vec!["redis/x (removed)", "redis/y (removed)", "redis/z (new)"],
                vec!["admin.listen", "state"],
            ),
        ] {
            let (plan, still) = planned(&old, config(&new, more)).unwrap();
            assert_eq!(
                (plan.changed, still.iter().map(String::as_str).collect()),
                (changed.iter().map(ToString::to_string).collect(), kept)
            );
        }
    }

    #[test]
    fn a_listener_goes_to_whom_its_address_belongs() {
        let old = config(
            &[
                ("x", "127.0.0.1:1", 1),
                ("y", "127.0.0.1:2", 2),
                ("r", "127.0.0.1:0", 3),
            ],
            "",
        );
        let take = |name: &str| ListenerPlan::TakeFrom(name.to_owned());
        for (new, wanted) in [
            (("x", "127.0.0.1:1", 1), ListenerPlan::Keep),
            (("r", "127.0.0.1:0", 3), ListenerPlan::Keep),
            (("z", "127.0.0.1:1", 9), take("x")),
            (("x", "127.0.0.1:2", 1), take("y")),
            (("z", "127.0.0.1:0", 1), ListenerPlan::Bind(InUse::Refuse)),
            (("x", "127.0.0.1:5", 1), ListenerPlan::Bind(InUse::Refuse)),
            (("z", "127.0.0.2:1", 1), ListenerPlan::Bind(InUse::Refuse)),
            // Its former listener is open until the new one is.
            (("x", "0.0.0.0:1", 1), ListenerPlan::Bind(InUse::Share)),
            (("z", "[::]:2", 1), ListenerPlan::Bind(InUse::Share)),
        ] {
            let (plan, _) = planned(&old, config(&[new], "")).unwrap();
            assert_eq!(plan.upstreams[0].listener, wanted, "{new:?}");
        }
    }

    #[test]
    fn an_address_that_is_kept_is_nobody_elses() {
        let old = config(&[("x", "127.0.0.1:1", 1)], "admin: {listen: '127.0.0.1:2'}");
        let moved = config(
            &[("x", "127.0.0.1:3", 2), ("z", "127.0.0.1:1", 1)],
            "admin: {listen: '127.0.0.1:2'}",
        );
        let taken = config(
            &[("x", "127.0.0.1:1", 1), ("z", "0.0.0.0:2", 1)],
            "admin: {listen: '127.0.0.1:3'}",
        );
        for (new, wanted) in [
            (
                moved,
                "redis[1].listen (127.0.0.1:1) needs the port of redis[0].listen (127.0.0.1:1), which can't change before a \
                 restart",
            ),
            (
                taken,
                "redis[1].listen (0.0.0.0:2) needs the port of admin.listen (127.0.0.1:2), which can't change before a restart",
            ),
        ] {
            assert_eq!(planned(&old, new).unwrap_err(), wanted);
        }
    }

    type Upstreams = BTreeMap<usize, (usize, u16)>;

    /// Some of five upstreams, at different ones of six addresses, before one of two servers.
    fn upstreams() -> impl Strategy<Value = Upstreams> {
        (
            prop::collection::vec(prop::option::of(1_u16..3), 5),
            Just(vec![0_usize, 1, 2, 3, 4, 5]).prop_shuffle(),
        )
            .prop_map(|(servers, addresses)| {
                let all = servers.into_iter().zip(addresses).enumerate();
                all.filter_map(|(name, (server, address))| Some((name, (address, server?))))
                    .collect()
            })
    }

    fn config_of(upstreams: &Upstreams) -> Config {
        let names = ["a", "b", "c", "d", "e"];
        let addresses = [1, 2, 3, 4, 5, 6].map(|port| format!("127.0.0.1:{port}"));
        let redis: Vec<_> = upstreams
            .iter()
            .map(|(name, (at, to))| (names[*name], addresses[*at].as_str(), *to))
            .collect();
        config(&redis, "")
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn a_plan_never_leads_clients_to_a_redis_that_neither_configuration_has_there(
            old in upstreams(),
            new in upstreams(),
        ) {
            let (old, new) = (config_of(&old), config_of(&new));
            let Ok((plan, _)) = planned(&old, new.clone()) else {
                return Ok(());
            };
            let pairs = |config: &Config| -> BTreeSet<_> {
                let redis = config.redis.iter();
                redis.map(|redis| (redis.listen, redis.upstream.port)).collect()
            };
            for (redis, upstream) in plan.config.redis.iter().zip(&plan.upstreams) {
                let pair = (redis.listen, redis.upstream.port);
                prop_assert!(pairs(&old).contains(&pair) || pairs(&new).contains(&pair));
                let owner = old.redis.iter().find(|old| old.listen == redis.listen);
                let wanted = match owner {
                    None => ListenerPlan::Bind(InUse::Refuse),
                    Some(owner) if owner.name == redis.name => ListenerPlan::Keep,
                    Some(owner) => ListenerPlan::TakeFrom(owner.name.clone()),
                };
                prop_assert_eq!(&upstream.listener, &wanted);
            }
            let at: BTreeSet<_> = plan.config.redis.iter().map(|redis| redis.listen).collect();
            prop_assert_eq!(at.len(), plan.config.redis.len());
        }
    }
}
