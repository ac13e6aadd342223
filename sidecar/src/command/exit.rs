use std::process::ExitCode;

/// How a command ended, as `levee --help` documents it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Done = 0,
    Failed = 1,
    /// The command line or the configuration is wrong.
    Invalid = 2,
    /// Another instance is running the job.
    Elsewhere = 3,
    AddressInUse = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
