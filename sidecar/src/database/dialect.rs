//! Where `PostgreSQL` and `CockroachDB` differ. Each difference is an exhaustive `match` here and nowhere else.

use super::watchdog::Act;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    Postgres,
    Cockroach,
}

/// Queries for what keeps the watchdog from its work.
#[derive(Clone, Copy, Debug)]
pub struct WatchdogChecks {
    /// Returns `sees_statements` and `cancels_statements`, of all roles `$1` and, if `$2`, of every other role too; and
    /// `tracks_activities`.
    pub rights: &'static str,
    /// Returns the roles of `$1` that can't be watched, and whether each `is_superuser`; null if it doesn't exist.
    pub roles: &'static str,
}

/// The statements of a [claim](super::claim), an advisory lock with a key of text.
#[derive(Clone, Copy, Debug)]
pub struct ClaimStatements {
    /// Makes the connection hold the lock of the key `$1`, and returns whether it does (`is_held`), and its own `session`,
    /// `process`, `role` and `client`.
    pub take: &'static str,
    /// Returns the other session that holds it, in these columns, whether it is one of Levee that has been idle for `$2`
    /// seconds (`is_silent`), and its `state`.
    pub other: &'static str,
    /// Ends the session of the process `$1` if it is the session `$2`.
    pub end_session: &'static str,
    /// The same, if its `state` is still `$2`.
    pub end_silent: &'static str,
}

/// The statements for a lock: how it is tried, and where `pg_locks` has it.
macro_rules! claim_statements {
    ($try:literal, $place:literal) => {
        ClaimStatements {
            take: concat!(
                "SELECT CASE WHEN EXISTS (SELECT 1 FROM pg_catalog.pg_locks l WHERE l.locktype = 'advisory' AND l.granted \
                 AND l.pid = pg_backend_pid() AND ",
                $place,
                ") THEN true ELSE ",
                $try,
                " END AS is_held, concat_ws('/', a.pid, extract(epoch FROM a.backend_start)) AS session, \
                 a.pid::text AS process, current_user::text AS role, coalesce(host(a.client_addr), '') AS client \
                 FROM pg_catalog.pg_stat_get_activity(pg_backend_pid()) a"
            ),
            // `ClientWrite`: its answer can't be sent.
            other: concat!(
                "SELECT concat_ws('/', a.pid, extract(epoch FROM a.backend_start)) AS session, a.pid::text AS process, \
                 coalesce(a.usename::text, '') AS role, coalesce(host(a.client_addr), '') AS client, \
                 concat_ws('/', a.pid, extract(epoch FROM a.backend_start), extract(epoch FROM a.state_change)) AS state, \
                 coalesce(a.application_name = 'levee' AND a.usename = session_user \
                 AND (a.state <> 'active' OR a.wait_event = 'ClientWrite') \
                 AND clock_timestamp() - a.state_change > make_interval(secs => $2), false) AS is_silent \
                 FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid \
                 WHERE l.locktype = 'advisory' AND l.granted AND l.pid <> pg_backend_pid() AND l.database = \
                 (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database()) AND ",
                $place
            ),
            end_session: "SELECT pg_terminate_backend(a.pid) FROM pg_catalog.pg_stat_get_activity($1::int) a \
                          WHERE concat_ws('/', a.pid, extract(epoch FROM a.backend_start)) = $2",
            end_silent: "SELECT pg_terminate_backend(a.pid) FROM pg_catalog.pg_stat_get_activity($1::int) a \
                         WHERE concat_ws('/', a.pid, extract(epoch FROM a.backend_start), \
                         extract(epoch FROM a.state_change)) = $2",
        }
    };
}

/// A lock of 64 bits.
const JOB_CLAIM: ClaimStatements = claim_statements!(
    "pg_try_advisory_lock(hashtextextended($1, 0))",
    "l.classid = ((hashtextextended($1, 0) >> 32) & 4294967295)::oid \
     AND l.objid = (hashtextextended($1, 0) & 4294967295)::oid AND l.objsubid = 1"
);

/// A lock of two numbers: "leve", and a hash of what is watched.
const WATCHDOG_CLAIM: ClaimStatements = claim_statements!(
    "pg_try_advisory_lock(1818588773, hashtext($1))",
    "l.classid = 1818588773::oid AND l.objid = hashtext($1)::oid AND l.objsubid = 2"
);

/// The columns of a [`Session`](super::watchdog::Session), from the row `a` of `pg_stat_activity` and a process. The row is
/// null for a prepared transaction. A name of an application alone shows no session of Levee: everybody can set it.
macro_rules! session_columns {
    ($process:literal) => {
        concat!(
            "concat_ws('/', a.pid, extract(epoch FROM a.backend_start), extract(epoch FROM \
             CASE WHEN a.state = 'active' THEN a.query_start ELSE a.state_change END)) AS id, ",
            $process,
            "::text AS process, coalesce(a.usename::text, '') AS role, \
             coalesce(a.application_name, '') AS application, coalesce(host(a.client_addr), '') AS client, \
             coalesce(a.state = 'active', false) AS is_active, CAST(coalesce(extract(epoch FROM clock_timestamp() - \
             CASE WHEN a.state = 'active' THEN a.query_start ELSE a.state_change END), 0) AS float8) AS seconds, \
             coalesce(a.query, '') AS statement, ",
            may_be_cut!(),
            " AS may_be_cut, CASE WHEN a.xact_start IS NOT NULL THEN concat_ws('/', a.pid, \
             extract(epoch FROM a.backend_start), extract(epoch FROM a.xact_start)) END AS transaction, \
             CAST(extract(epoch FROM clock_timestamp() - a.xact_start) AS float8) AS transaction_seconds, \
             coalesce(a.wait_event_type = 'Lock', false) AS waits_for_lock, \
             coalesce(a.application_name = 'levee' AND a.usename = session_user, false) AS is_levee"
        )
    };
}

/// The server keeps one byte less of a statement than it has for it, and of that no part of a character, which has up to
/// four. It shows the size as `1kB`, or as `1023B`, which `pg_size_bytes` understands since version 16.
macro_rules! may_be_cut {
    () => {
        "coalesce(octet_length(a.query) + 4 >= coalesce(\
         CAST(substring(current_setting('track_activity_query_size') FROM '^([0-9]+)B$') AS bigint), \
         pg_size_bytes(current_setting('track_activity_query_size'))), true)"
    };
}

/// Sends the signal if the session is as it was seen, and no other instance has sent it: then it has the lock of this act,
/// and the answer is null.
macro_rules! signal {
    ($function:literal, $state:literal, $since:literal) => {
        concat!(
            "SELECT CASE WHEN pg_try_advisory_lock(1818588769, hashtext($3)) THEN ",
            $function,
            "(a.pid) END FROM pg_catalog.pg_stat_get_activity($1::int) a WHERE ",
            $state,
            " AND concat_ws('/', a.pid, extract(epoch FROM a.backend_start), extract(epoch FROM ",
            $since,
            ")) = $2"
        )
    };
}

/// A statement that acts on a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Binds the process as `$1`, the identifier of what is acted on as `$2`, and the name of the act as `$3`. Returns whether
    /// the signal was sent, or null if another instance has sent it.
    Checked(&'static str),
    /// Names the statement to cancel by an identifier that is never reused.
    ById(String),
    /// There is nothing that could be named.
    Nothing,
}

impl Dialect {
    /// The dialects by their names in the configuration.
    pub const ALL: [(&'static str, Self); 2] =
        [("postgres", Self::Postgres), ("cockroach", Self::Cockroach)];

    /// Settings of each connection besides the timeouts, for a server of this `server_version_num`.
    pub fn connection_settings(self, version: u32) -> Vec<&'static str> {
        /// Else a schema of the search path could have its own `now()`, or its own `<`.
        const BUILTINS_FIRST: &str = "SELECT pg_catalog.set_config('search_path', pg_catalog.btrim(pg_catalog.concat('pg_catalog, ', \
                                      pg_catalog.current_setting('search_path')), ', '), false)";
        /// How often a server looks for a client that has gone while it executes a statement.
        const SINCE_14: &str = "SET client_connection_check_interval = 1000";
        match self {
            // The server must notice within five seconds that a client is gone: until then it keeps the client's locks.
            Self::Postgres => {
                let mut all = vec![
                    "SET tcp_keepalives_idle = 1",
                    "SET tcp_keepalives_interval = 1",
                    "SET tcp_keepalives_count = 2",
                    "SET tcp_user_timeout = 3000",
                    // Types are compared by their names.
                    "SET quote_all_identifiers = off",
                    BUILTINS_FIRST,
                ];
                all.extend((version >= 140_000).then_some(SINCE_14));
                all
            }
            Self::Cockroach => Vec::new(),
        }
    }

    /// Whether a pooler can give a session of the server to several clients in turn. `CockroachDB` has other process ids.
    pub const fn has_sessions_to_share(self) -> bool {
        match self {
            Self::Postgres => true,
            Self::Cockroach => false,
        }
    }

    /// Claims a job. `None`: its advisory locks do nothing, and instances skip each other's locked rows.
    pub const fn claim_job(self) -> Option<ClaimStatements> {
        match self {
            Self::Postgres => Some(JOB_CLAIM),
            Self::Cockroach => None,
        }
    }

    /// Claims to be the watchdog that acts. `None`: two at once do no harm, since statements are cancelled by identifiers
    /// that are never reused.
    pub const fn claim_watchdog(self) -> Option<ClaimStatements> {
        match self {
            Self::Postgres => Some(WATCHDOG_CLAIM),
            Self::Cockroach => None,
        }
    }

    /// Shows the plan of the statement that follows, as one value of JSON.
    pub const fn explain(self) -> Option<&'static str> {
        match self {
            Self::Postgres => Some("EXPLAIN (VERBOSE, FORMAT JSON)"),
            Self::Cockroach => None,
        }
    }

    /// What `sessions` of others do, in all databases of the server: `active` if one runs a statement or did within the last
    /// 100 ms, `still`, `untracked` if one does not say it, or null where that can't be seen. How many `transactions` all
    /// sessions have had, and how many other sessions are Levee's (`levee`), which each role sees.
    pub const fn others(self) -> Option<&'static str> {
        match self {
            Self::Postgres => Some(
                "WITH own AS (SELECT o.usesysid FROM pg_catalog.pg_stat_get_activity(pg_backend_pid()) o), \
                 found AS (SELECT a.*, coalesce(a.application_name = 'levee' AND a.usesysid = own.usesysid, false) AS is_levee \
                 FROM pg_catalog.pg_stat_get_activity(NULL) a, own WHERE a.pid <> pg_backend_pid()) \
                 SELECT CASE WHEN pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') THEN (SELECT CASE \
                 WHEN bool_or(a.state = 'active' OR a.state_change > clock_timestamp() - interval '100 ms') THEN 'active' \
                 WHEN bool_or(a.state = 'disabled') THEN 'untracked' ELSE 'still' END \
                 FROM found a WHERE a.backend_type = 'client backend' AND NOT a.is_levee) END AS sessions, \
                 (SELECT CAST(sum(pg_stat_get_db_xact_commit(oid) + pg_stat_get_db_xact_rollback(oid)) AS bigint) \
                 FROM pg_catalog.pg_database) AS transactions, (SELECT count(*) FROM found WHERE is_levee) AS levee",
            ),
            Self::Cockroach => None,
        }
    }

    /// The settings `$1` that the server has: `name`, `value`, and at which level that was set (`source`).
    pub const fn setting_values(self) -> &'static str {
        match self {
            Self::Postgres => {
                "SELECT CAST(name AS text) AS name, CAST(setting AS text) AS value, CAST(source AS text) AS source \
                 FROM pg_catalog.pg_settings WHERE name = ANY($1)"
            }
            // It does not say the level.
            Self::Cockroach => {
                "SELECT CAST(name AS text) AS name, CAST(reset_val AS text) AS value, CASE WHEN name IN \
                 (SELECT split_part(c.entry, '=', 1) FROM pg_catalog.pg_db_role_setting s \
                 LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole LEFT JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase \
                 CROSS JOIN LATERAL unnest(s.setconfig) AS c(entry) WHERE (s.setrole = 0 OR r.rolname = current_user) \
                 AND (s.setdatabase = 0 OR d.datname = current_database())) THEN 'user' ELSE 'default' END AS source \
                 FROM pg_catalog.pg_settings WHERE name = ANY($1)"
            }
        }
    }

    /// Whether transactions see settings of roles as those before them left them. Otherwise such a change is seen by none until
    /// it is committed, and keeps nobody from reading.
    pub const fn serializes_settings(self) -> bool {
        match self {
            Self::Postgres => false,
            Self::Cockroach => true,
        }
    }

    /// Whether tables can inherit from others.
    pub const fn has_inheritance(self) -> bool {
        match self {
            Self::Postgres => true,
            Self::Cockroach => false,
        }
    }

    /// Whether policies decide which rows of the table `$1` the role sees. `None`: there are none.
    pub const fn has_row_security(self) -> Option<&'static str> {
        match self {
            Self::Postgres => {
                Some("SELECT pg_catalog.row_security_active(CAST(CAST($1 AS text) AS oid))")
            }
            Self::Cockroach => None,
        }
    }

    /// Whether an hour that is there twice, when clocks are set back, is read as the later one.
    pub const fn reads_later_hour(self) -> bool {
        match self {
            Self::Postgres => true,
            Self::Cockroach => false,
        }
    }

    /// How far replicas are behind, in seconds. Null without the role `pg_read_all_stats`, and without replicas.
    pub const fn replica_lag(self) -> Option<&'static str> {
        match self {
            Self::Postgres => Some(
                "SELECT CAST(extract(epoch FROM max(replay_lag)) AS float8) FROM pg_catalog.pg_stat_replication",
            ),
            Self::Cockroach => None,
        }
    }

    pub const fn watchdog_checks(self) -> Option<WatchdogChecks> {
        match self {
            Self::Postgres => Some(WatchdogChecks {
                // A role's members may see and cancel its statements without these rights.
                rights: "SELECT is_member OR pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') AS sees_statements, \
                         is_member OR pg_has_role(current_user, 'pg_signal_backend', 'USAGE') AS cancels_statements, \
                         current_setting('track_activities') = 'on' AS tracks_activities FROM (SELECT NOT ($2 OR \
                         EXISTS (SELECT 1 FROM pg_catalog.pg_roles r WHERE r.rolname = ANY($1) AND NOT r.rolsuper \
                         AND NOT pg_has_role(current_user, r.oid, 'USAGE'))) AS is_member) AS watched",
                roles: "SELECT w.role, r.rolsuper AS is_superuser FROM unnest($1) AS w(role) LEFT JOIN pg_catalog.pg_roles r \
                        ON r.rolname = w.role WHERE r.oid IS NULL OR r.rolsuper OR NOT r.rolcanlogin ORDER BY 1",
            }),
            Self::Cockroach => None,
        }
    }

    /// Sessions of the roles `$1` and the applications `$2`.
    pub const fn sessions(self) -> &'static str {
        match self {
            // Client backends only: no replication, autovacuum or workers. Superusers maintain the database.
            Self::Postgres => {
                concat!(
                    "SELECT ",
                    session_columns!("a.pid"),
                    " FROM pg_catalog.pg_stat_activity a JOIN pg_catalog.pg_roles r ON r.oid = a.usesysid \
                     WHERE a.backend_type = 'client backend' AND NOT r.rolsuper AND a.pid <> pg_backend_pid() \
                     AND a.state IN ('active', 'idle in transaction', 'idle in transaction (aborted)') \
                     AND a.query_start IS NOT NULL AND a.datname = current_database() \
                     AND (a.usename = ANY($1) OR a.application_name = ANY($2)) \
                     AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_stat_progress_vacuum v WHERE v.pid = a.pid)"
                )
            }
            // Which keeps 1,000 bytes of a statement.
            Self::Cockroach => {
                "SELECT query_id AS id, query_id AS process, user_name AS role, \
                   coalesce(application_name, '') AS application, \
                   coalesce(client_address, '') AS client, true AS is_active, \
                   CAST(extract(epoch FROM now() - start::timestamptz) AS float8) AS seconds, \
                   coalesce(query, '') AS statement, octet_length(coalesce(query, '')) >= 990 AS may_be_cut, \
                   CAST(NULL AS text) AS transaction, \
                   CAST(NULL AS float8) AS transaction_seconds, false AS waits_for_lock, \
                   user_name = session_user AND application_name = 'levee' AS is_levee \
                 FROM [SHOW CLUSTER STATEMENTS] \
                 WHERE user_name <> 'root' AND (user_name = ANY($1) OR application_name = ANY($2))"
            }
        }
    }

    /// Sessions that keep the process `$1` waiting for a lock and wait for none themselves, behind whomever it waits. With
    /// the columns of [`sessions`](Self::sessions), `state` and `is_ordinary`. `None`: the database doesn't say it.
    pub const fn blockers(self) -> Option<&'static str> {
        match self {
            // A prepared transaction has the process 0.
            Self::Postgres => Some(concat!(
                "WITH RECURSIVE chain(pid) AS (SELECT unnest(pg_blocking_pids(CAST($1 AS int))) \
                 UNION SELECT unnest(pg_blocking_pids(c.pid)) FROM chain c) SELECT ",
                session_columns!("c.pid"),
                ", CASE WHEN c.pid = 0 THEN 'prepared transaction' ELSE coalesce(a.state, 'unknown') END AS state, \
                 coalesce(a.backend_type = 'client backend' AND NOT r.rolsuper \
                 AND a.state IN ('active', 'idle in transaction', 'idle in transaction (aborted)') \
                 AND a.datname = current_database(), false) AS is_ordinary \
                 FROM chain c LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = c.pid \
                 LEFT JOIN pg_catalog.pg_roles r ON r.oid = a.usesysid \
                 WHERE c.pid = 0 OR cardinality(pg_blocking_pids(c.pid)) = 0 ORDER BY a.xact_start LIMIT 5"
            )),
            Self::Cockroach => None,
        }
    }

    /// Whether the watchdog can end a session, besides cancelling its statement.
    pub const fn ends_sessions(self) -> bool {
        match self {
            Self::Postgres => true,
            Self::Cockroach => false,
        }
    }

    /// Releases the locks of the acts `$1`, as far as the connection holds them. `None`: acts have none.
    pub const fn release_acts(self) -> Option<&'static str> {
        match self {
            Self::Postgres => Some(
                "SELECT pg_advisory_unlock(1818588769, hashtext(o.act)) FROM unnest($1) AS o(act) \
                 JOIN pg_catalog.pg_locks l ON l.objid = hashtext(o.act)::oid WHERE l.locktype = 'advisory' AND l.granted \
                 AND l.pid = pg_backend_pid() AND l.classid = 1818588769::oid AND l.objsubid = 2",
            ),
            Self::Cockroach => None,
        }
    }

    /// What carries out `act` on the session of `process`.
    pub fn signal(self, act: Act, process: &str) -> Signal {
        match self {
            // Checked against this one session, not the view of all: that takes less time between check and signal.
            Self::Postgres => Signal::Checked(match act {
                Act::Cancel(_) | Act::CancelBlocker => {
                    signal!("pg_cancel_backend", "a.state = 'active'", "a.query_start")
                }
                Act::Terminate(_) => signal!(
                    "pg_terminate_backend",
                    "a.state = 'active'",
                    "a.query_start"
                ),
                Act::EndTransaction => signal!("pg_terminate_backend", "true", "a.xact_start"),
                Act::EndIdle | Act::EndBlocker => signal!(
                    "pg_terminate_backend",
                    "a.state LIKE 'idle in transaction%'",
                    "a.state_change"
                ),
            }),
            Self::Cockroach => cancel_query(process).map_or(Signal::Nothing, Signal::ById),
        }
    }
}

/// Cancels a statement of `CockroachDB` by its identifier
/// (<https://www.cockroachlabs.com/docs/stable/cancel-query>). `None`: `id` is none.
fn cancel_query(id: &str) -> Option<String> {
    let is_id = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_id.then(|| format!("CANCEL QUERY IF EXISTS '{id}'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_of_cockroachdb_is_cancelled_by_its_identifier_alone() {
        assert_eq!(
            cancel_query("14dacc1f9a781e3d0000000000000001").as_deref(),
            Some("CANCEL QUERY IF EXISTS '14dacc1f9a781e3d0000000000000001'")
        );
        for odd in ["", "'; DROP TABLE t; --", "1 2"] {
            assert_eq!(cancel_query(odd), None);
        }
    }
}
