//! `levee status`: the state of all parts, as a live table, as text once, or as JSON for scripts.
//!
//! | module | the one thing in it |
//! |---|---|
//! | [`view`] | the data, with the names of its fields in JSON |
//! | [`read`] | asking the sidecar for it |
//! | [`render`] | the data as text |
//! | [`screen`] | a terminal that is refreshed |

pub mod read;
pub mod render;
mod screen;
pub mod view;

pub use view::Completeness;

use crate::fetch::Origin;
use anyhow::Result;
use console::Term;
use std::time::Duration;

/// How the status is shown.
#[derive(Clone, Copy, Debug)]
pub enum Output {
    /// As text, once.
    Once,
    /// As JSON, once.
    Json,
    /// On a terminal that is refreshed; as text once if there is none.
    Live { every: Duration },
}

/// For output that is no terminal.
const UNBOUNDED_WIDTH: usize = 1000;

/// Shows the status of the sidecar whose admin interface is at `admin`.
///
/// # Errors
/// The output can't be written.
pub async fn show(admin: &Origin, output: Output) -> Result<Completeness> {
    let terminal = Term::stdout();
    match output {
        Output::Live { every } if terminal.is_term() => {
            screen::keep(&terminal, admin, every).await?;
            Ok(Completeness::Whole)
        }
        Output::Json => {
            let status = read::read(admin).await;
            terminal.write_line(&serde_json::to_string_pretty(&status)?)?;
            Ok(status.completeness())
        }
        Output::Live { .. } | Output::Once => {
            let status = read::read(admin).await;
            let width = if terminal.is_term() {
                screen::size(&terminal).columns
            } else {
                UNBOUNDED_WIDTH
            };
            terminal.write_line(&render::render(&status, width).join("\n"))?;
            Ok(status.completeness())
        }
    }
}
