//! Reading a file whose size is bounded.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// The text of a file.
///
/// # Errors
/// The file can't be read, is not UTF-8, or is longer than 64 MiB.
pub fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let length = File::open(path)?
        .take(MAX_BYTES + 1)
        .read_to_string(&mut text)?;
    if length as u64 > MAX_BYTES {
        return Err(io::Error::other(format!(
            "is longer than {MAX_BYTES} bytes"
        )));
    }
    Ok(text)
}
