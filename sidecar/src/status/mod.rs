//! `levee status`: the state of all parts, as a table that is kept up to date, or once, or as JSON for scripts.
//!
//! | module | the one thing in it |
//! |---|---|
//! | [`view`] | what can be said, with the names of its fields in JSON |
//! | [`read`] | asking the sidecar for it |
//! | [`render`] | the same as text |
//! | [`screen`] | keeping a terminal up to date |

pub mod read;
pub mod render;
mod screen;
pub mod view;

use crate::fetch::Origin;
use anyhow::Result;
use console::Term;
use std::time::Duration;

/// What the command line asks for.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Where the sidecar's admin interface is.
    pub admin: Origin,
    /// Print once, and no more.
    pub once: bool,
    /// As JSON, once.
    pub json: bool,
    /// How often a terminal is refreshed.
    pub every: Duration,
}

/// How wide text is where no terminal says so.
const WIDE: usize = 1000;

/// Shows the status. True if all could be read.
///
/// # Errors
/// Nothing can be written.
pub async fn run(wish: &Wish) -> Result<bool> {
    let terminal = Term::stdout();
    if wish.json {
        let status = read::read(&wish.admin).await;
        terminal.write_line(&serde_json::to_string_pretty(&status)?)?;
        return Ok(status.is_whole());
    }
    if wish.once || !terminal.is_term() {
        let status = read::read(&wish.admin).await;
        let width = if terminal.is_term() {
            screen::size(&terminal).1
        } else {
            WIDE
        };
        terminal.write_line(&render::render(&status, width).join("\n"))?;
        return Ok(status.is_whole());
    }
    screen::keep(&terminal, wish).await?;
    Ok(true)
}
