//! File descriptors: how many the process may have, and how many Redis clients that is enough for.
//!
//! Each Redis client takes two, its own connection and one to Redis. What all other parts take at most is reserved, so
//! that they have some whatever Redis clients do.

use crate::admin::MOST_CONNECTIONS;
use crate::config::Config;
use crate::redis::listener::MOST_REFUSED;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const PER_CLIENT: usize = 2;

/// Standard input and output, the runtime, signals, timers, files that are read, names that are resolved.
const SPARE: usize = 48;

/// A listener, clients that are being refused, the health check, and a spare connection that is being made.
const PER_UPSTREAM: usize = MOST_REFUSED + 3;

/// The watchdog, a statement of its own that is cancelled, the health check, and a request to the admin interface.
const DATABASE: usize = 4;

/// A request to Envoy, and the Redis that keeps state.
const OTHER_CONNECTIONS: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the limit on open files is {limit}, and this configuration needs at least {least}: raise it (`ulimit -n`, or \
     LimitNOFILE= of systemd)"
)]
pub struct TooFew {
    limit: usize,
    least: usize,
}

/// Raises the soft limit to the hard one, and lowers the numbers of Redis clients if they don't fit. Says so in the log.
///
/// # Errors
/// There are too few for even one client of each upstream.
pub fn fit(config: &mut Config) -> Result<(), TooFew> {
    let limit = raise();
    let reserved = reserved(config);
    let wanted: Vec<usize> = config.redis.iter().map(|redis| redis.connections).collect();
    let total: usize = wanted.iter().sum();
    let shares = share(limit, reserved, &wanted)?;
    let fitting: usize = shares.iter().sum();
    for (redis, share) in config.redis.iter_mut().zip(shares) {
        redis.connections = share;
    }
    let needed = reserved + PER_CLIENT * total;
    if fitting < total {
        log::warn!(
            limit = limit, needed = needed;
            "the limit on open files is enough for {fitting} of {total} Redis clients: raise it (`ulimit -Hn`, or \
             LimitNOFILE= of systemd), or lower limits.connections"
        );
    } else {
        log::info!(limit = limit, needed = needed; "the limit on open files is enough");
    }
    Ok(())
}

/// The limit that is then in force.
fn raise() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        let wanted = Rlimit {
            current: maximum,
            maximum,
        };
        if let Err(error) = setrlimit(Resource::Nofile, wanted) {
            log::warn!("the limit on open files can't be raised: {error}");
        }
    }
    let now = getrlimit(Resource::Nofile).current;
    now.and_then(|now| usize::try_from(now).ok())
        .unwrap_or(usize::MAX)
}

/// What everything but Redis clients takes at most.
fn reserved(config: &Config) -> usize {
    let database = config.database.as_ref().map_or(0, |database| {
        usize::try_from(database.connections).unwrap_or(usize::MAX) + DATABASE
    });
    // The listener, and a client for which another one is being closed.
    let admin = MOST_CONNECTIONS + 2;
    let redis = config.redis.iter();
    let redis: usize = redis
        .map(|redis| PER_UPSTREAM + redis.spare_connections)
        .sum();
    SPARE + OTHER_CONNECTIONS + admin + database + redis
}

/// How many clients each upstream may have: as many as it wants, or a share of what there is.
fn share(limit: usize, reserved: usize, wanted: &[usize]) -> Result<Vec<usize>, TooFew> {
    let least = reserved + PER_CLIENT * wanted.len();
    if limit < least {
        return Err(TooFew { limit, least });
    }
    let room = (limit - reserved) / PER_CLIENT;
    let total: usize = wanted.iter().sum();
    if total <= room {
        return Ok(wanted.to_vec());
    }
    // One for each, and the rest in proportion.
    let (rest, total) = (room - wanted.len(), total - wanted.len());
    let part = |wanted: &usize| 1 + (wanted - 1) * rest / total;
    Ok(wanted.iter().map(part).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_fits_is_left_alone_and_what_does_not_is_shared_in_proportion() {
        assert_eq!(share(1000, 100, &[400, 50]), Ok(vec![400, 50]));
        assert_eq!(share(usize::MAX, 100, &[1_000_000]), Ok(vec![1_000_000]));
        assert_eq!(share(500, 100, &[1000]), Ok(vec![200]));
        assert_eq!(share(500, 100, &[1000, 1000]), Ok(vec![100, 100]));
        let (limit, least) = (103, 104);
        assert_eq!(share(limit, 100, &[9, 9]), Err(TooFew { limit, least }));
        assert_eq!(share(100, 100, &[]), Ok(vec![]));
    }

    proptest! {
        #[test]
        fn shares_never_exceed_the_limit(
            limit in 0_usize..5000,
            wanted in prop::collection::vec(1_usize..2000, 0..5),
        ) {
            if let Ok(shares) = share(limit, 100, &wanted) {
                prop_assert!(100 + PER_CLIENT * shares.iter().sum::<usize>() <= limit);
                for (share, wanted) in shares.iter().zip(&wanted) {
                    prop_assert!((1..=*wanted).contains(share));
                }
            }
        }
    }
}
