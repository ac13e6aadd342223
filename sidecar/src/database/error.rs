//! Errors of the database, in words, and whether they may pass
//! (<https://www.postgresql.org/docs/current/errcodes-appendix.html>).

use super::CONNECT_TIMEOUT;
use std::io;

/// Why a pooler is refused.
pub const POOLER: &str = "a pooler in transaction or statement mode is between Levee and the database: its locks and settings would \
                          stay with sessions that services use later; give Levee a URL that leads to the database itself, or to a \
                          pool in session mode (PgBouncer: pool_mode=session for Levee's user or database)";

/// A prepared statement does not exist. Levee removes none, so another session of the server was asked.
const OTHER_SESSION: &str = "26000";

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// May succeed later, on a new connection.
    #[error("{0}")]
    Transient(String),
    /// Another transaction was in the way. The connection is as before.
    #[error("{0}")]
    Busy(String),
    /// The statement ran into `statement_timeout`.
    #[error("{0}")]
    Timeout(String),
    /// One of the rows could not be handled: a constraint or a trigger refused it.
    #[error("{0}")]
    Row(String),
    /// Fails until somebody changes something.
    #[error("{0}")]
    Permanent(String),
}

impl From<&sqlx::Error> for Error {
    fn from(error: &sqlx::Error) -> Self {
        match error {
            sqlx::Error::Database(error) => {
                let code = error.code().unwrap_or_default();
                let message = format!("{} (SQLSTATE {code}){}", error.message(), hint(&code));
                of_code(&code)(message)
            }
            sqlx::Error::Io(why) => {
                Self::Transient(format!("the connection to the database failed: {why}"))
            }
            other => Self::Transient(format!("the database: {other}")),
        }
    }
}

/// Whether a new connection may succeed in a moment: the server refuses it, starts, or is full.
pub fn passes_soon(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(why) => matches!(
            why.kind(),
            io::ErrorKind::ConnectionRefused
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
        ),
        sqlx::Error::Database(error) => {
            let code = error.code().unwrap_or_default();
            matches!(&*code, "53300" | "57P03")
        }
        _ => false,
    }
}

/// There was no connection in time. `last` is why the last attempt failed.
pub fn unreachable(last: Option<&sqlx::Error>) -> Error {
    let last = last.map_or_else(String::new, |error| {
        format!(" (last: {})", Error::from(error))
    });
    Error::Transient(format!(
        "the database can't be reached: no connection within {}; is it up, are host and port of the URL right, and has it \
         connections left (max_connections)?{last}",
        humantime::format_duration(CONNECT_TIMEOUT)
    ))
}

fn hint(code: &str) -> String {
    if code == OTHER_SESSION {
        return format!("; {POOLER}");
    }
    let hint = match code {
        "25006" => "; is this a replica? Levee needs the primary",
        "42501" => "; grant it to the role that Levee logs in as",
        "08P01" => {
            "; if a pooler such as PgBouncer is in between, leave out `options` in the URL, or let Levee connect to the database \
             itself"
        }
        "28P01" | "28000" => "; see the URL that database.url_env or url_file names",
        _ => "",
    };
    hint.to_owned()
}

/// The variant for a SQLSTATE.
fn of_code(code: &str) -> fn(String) -> Error {
    match code {
        // Statement completion unknown; the server is stopping, starting or full. A batch that was completed after all is
        // not found again. 58C.. is CockroachDB: data or nodes can't be reached.
        "40003" | "57P01" | "57P02" | "57P03" | "53300" | "58C00" | "58C01" => Error::Transient,
        // Serialization failure, deadlock, lock not available.
        "40001" | "40P01" | "55P03" => Error::Busy,
        code if code.starts_with("08") => Error::Transient,
        "57014" => Error::Timeout,
        // Integrity constraints, WITH CHECK OPTION, and exceptions that a trigger raises.
        code if ["23", "44", "P0"].contains(&code.get(..2).unwrap_or_default()) => Error::Row,
        _ => Error::Permanent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prepared_statement_that_is_missing_is_taken_for_a_pooler() {
        assert!(hint("26000").contains("a pooler in transaction or statement mode"));
        let error = of_code("26000")(String::new());
        assert_eq!(error, Error::Permanent(String::new()));
    }

    #[test]
    fn transient_errors_are_distinguished_from_permanent_ones() {
        let text = String::new();
        for (codes, error) in [
            (
                &["40003", "57P03", "08006", "58C00"][..],
                Error::Transient(text.clone()),
            ),
            (&["40001", "40P01", "55P03"], Error::Busy(text.clone())),
            (&["57014"], Error::Timeout(text.clone())),
            (&["23503", "23514", "P0001"], Error::Row(text.clone())),
            (
                &["25006", "42501", "42P01", "22001", "28P01", ""],
                Error::Permanent(text.clone()),
            ),
        ] {
            for code in codes {
                assert_eq!(of_code(code)(text.clone()), error, "{code}");
            }
        }
    }
}
