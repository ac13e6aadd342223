//! Where commands end does not depend on how their bytes are cut, and no bytes panic.
#![no_main]

use levee_redis_session::commands::Class;
use levee_redis_session::idempotency::Idempotency;
use levee_redis_session::resp::{CommandScanner, ProtocolError, arguments, split_inline};
use libfuzzer_sys::fuzz_target;

/// Where commands end, and the error if there is one. `step` bytes arrive at a time.
fn ends(bytes: &[u8], step: usize) -> (Vec<usize>, Option<ProtocolError>) {
    let mut scanner = CommandScanner::default();
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
    let _ = split_inline(bytes);
    let whole = ends(bytes, bytes.len().max(1));
    let cut = ends(bytes, 1);
    assert_eq!(whole, cut);
    let table = Idempotency::new(&[], &[]);
    let mut from = 0;
    for end in whole.0 {
        let command = &bytes[from..end];
        let _ = (arguments(command).count(), Class::of(command, &table));
        from = end;
    }
});
