//! `levee reload`

use super::{Exit, block_on, failed, print_all};
use crate::config::secret::{self, Secret};
use crate::fetch::{self, Page};
use crate::status::read::admin_of;
use crate::yaml;
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

/// A new upstream may first look for its state.
const WITHIN: Duration = Duration::from_secs(30);

const MAX_BYTES: usize = 1024 * 1024;

pub fn reload(config: &Path) -> Exit {
    let wanted = admin_of(Some(config)).and_then(|admin| Ok((admin, token(config)?)));
    let (admin, token) = match wanted {
        Ok(wanted) => wanted,
        Err(wrong) => {
            eprintln!("error: {wrong}");
            return Exit::Invalid;
        }
    };
    let asked = async {
        fetch::post(&admin, "/v1/reload", token.reveal(), WITHIN, MAX_BYTES)
            .await
            .map_err(|failure| anyhow::anyhow!("the sidecar at {admin} {failure}"))
    };
    block_on(asked).map_or_else(|error| failed(&error), |page| show(&page))
}

fn show(page: &Page) -> Exit {
    let answer: Value = serde_json::from_slice(&page.body).unwrap_or_default();
    let list = |key: &str| -> Vec<String> {
        let items = answer.get(key).and_then(Value::as_array);
        let texts = items.into_iter().flatten().filter_map(Value::as_str);
        texts.map(str::to_owned).collect()
    };
    let changed = list("changed")
        .into_iter()
        .map(|part| format!("changed: {part}\n"));
    let kept = list("kept")
        .into_iter()
        .map(|key| format!("needs a restart: {key}\n"));
    let lines: String = changed.chain(kept).collect();
    if let Err(error) = print_all(lines.as_bytes()) {
        return failed(&error);
    }
    for error in list("errors") {
        eprintln!("{error}");
    }
    match page.status {
        200 => Exit::Done,
        422 => Exit::Invalid,
        401 => {
            eprintln!(
                "error: the sidecar doesn't accept this token; if it has changed since the sidecar read it, send the sidecar SIGHUP"
            );
            Exit::Failed
        }
        status => {
            let why = answer.get("error").and_then(Value::as_str);
            let why = why.map_or_else(String::new, |why| format!(": {why}"));
            eprintln!("error: the sidecar answered with status {status}{why}");
            Exit::Failed
        }
    }
}

/// The token of the admin interface. The rest of the file may be invalid: the sidecar says what is wrong with it.
fn token(config: &Path) -> Result<Secret, String> {
    let named = |error: &str| format!("{}: {error}", config.display());
    let text = yaml::read_file(config).map_err(|error| named(&error.to_string()))?;
    let root = yaml::parse(&text)
        .map_err(|mistake| named(&mistake.message))?
        .root;
    let key = |name: &str| {
        let written = root.get("admin")?.value.get(name)?;
        written.value.text().map(str::to_owned)
    };
    if let Some(variable) = key("token_env") {
        return secret::from_environment(&variable)
            .map_err(|wrong| named(&format!("admin.token_env: {wrong}")));
    }
    let Some(file) = key("token_file") else {
        return Err(named(
            "admin.token_env or admin.token_file is needed, for the sidecar to accept a reload; or send it SIGHUP",
        ));
    };
    secret::from_file(&file).map_err(|wrong| named(&format!("admin.token_file: {wrong}")))
}
