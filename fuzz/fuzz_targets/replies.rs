//! Where replies end does not depend on how their bytes are cut, and no bytes panic.
#![no_main]

use levee_redis_session::resp::{ProtocolError, ReplyScanner};
use libfuzzer_sys::fuzz_target;

/// Where replies end, and the error if there is one. `step` bytes arrive at a time.
fn ends(bytes: &[u8], step: usize) -> (Vec<usize>, Option<ProtocolError>) {
    let mut scanner = ReplyScanner::default();
    let (mut ends, mut at, mut there) = (Vec::new(), 0, 0);
    while there < bytes.len() {
        there = (there + step).min(bytes.len());
        loop {
            match scanner.advance(&bytes[at..there]) {
                Err(error) => return (ends, Some(error)),
                Ok(progress) => {
                    at += progress.consumed;
                    assert!(at <= there);
                    if !progress.complete {
                        break;
                    }
                    ends.push(at);
                }
            }
        }
    }
    (ends, None)
}

fuzz_target!(|bytes: &[u8]| {
    assert_eq!(ends(bytes, bytes.len().max(1)), ends(bytes, 1));
});
