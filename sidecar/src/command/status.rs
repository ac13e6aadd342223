//! `levee status`

use super::{Exit, failed};
use crate::cli;
use crate::fetch::Origin;
use crate::status::{self, Completeness, Output, read};
use tokio::runtime::Builder;

pub fn status(arguments: &cli::Status) -> Exit {
    let admin = match &arguments.admin {
        Some(admin) => Ok(admin.clone()),
        None => read::admin_of(arguments.config.as_deref()),
    };
    match admin {
        Ok(admin) => show(&admin, output(arguments)),
        Err(wrong) => {
            eprintln!("error: {wrong}");
            Exit::Invalid
        }
    }
}

const fn output(arguments: &cli::Status) -> Output {
    if arguments.json {
        Output::Json
    } else if arguments.once {
        Output::Once
    } else {
        Output::Live {
            every: arguments.every,
        }
    }
}

fn show(admin: &Origin, output: Output) -> Exit {
    let result = Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| {
            let shown = runtime.block_on(status::show(admin, output));
            runtime.shutdown_background();
            shown
        });
    match result {
        Ok(Completeness::Whole) => Exit::Done,
        Ok(Completeness::Partial) => Exit::Failed,
        Err(error) => failed(&error),
    }
}
