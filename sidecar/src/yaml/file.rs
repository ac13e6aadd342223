//! Reading a file whose size is bounded.

use super::mistake::{Mistake, line_at};
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// Why there is no text.
#[derive(Debug)]
pub enum NoText {
    Unreadable(io::Error),
    /// It is not UTF-8.
    Wrong(Mistake),
}

impl fmt::Display for NoText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(error) => write!(f, "can't be read: {error}"),
            Self::Wrong(mistake) => write!(f, "line {}: {}", mistake.line, mistake.message),
        }
    }
}

/// The text of a file.
///
/// # Errors
/// The file can't be read, is not UTF-8, or is longer than 64 MiB.
pub fn read(path: &Path) -> Result<String, NoText> {
    let bytes = read_bytes(path).map_err(NoText::Unreadable)?;
    String::from_utf8(bytes).map_err(|error| {
        let place = error.utf8_error().valid_up_to();
        NoText::Wrong(Mistake {
            line: line_at(error.as_bytes(), place),
            message: "not UTF-8; save the file in that encoding".to_owned(),
        })
    })
}

fn read_bytes(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let length = File::open(path)?
        .take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)?;
    if length as u64 > MAX_BYTES {
        return Err(io::Error::other(format!("longer than {MAX_BYTES} bytes")));
    }
    Ok(bytes)
}
