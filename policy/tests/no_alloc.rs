//! Decisions allocate nothing: counted by the allocator.
#![cfg(not(target_family = "wasm"))]
#![allow(missing_docs, unsafe_code)] // an allocator is unsafe by its nature

use levee_policy::breaker::{Breaker, Outcome, Permit, Settings, Verdict};
use levee_policy::replica::{Replica, Visit};
use levee_policy::time::Instant;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;
use std::time::Duration;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u32> = const { Cell::new(0) };
}

// SAFETY: everything is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(of: impl FnOnce()) -> u32 {
    let before = ALLOCATIONS.with(Cell::get);
    of();
    ALLOCATIONS.with(Cell::get) - before
}

#[test]
fn the_count_counts() {
    assert_eq!(allocations(|| drop(black_box(Box::new(1)))), 1);
}

#[test]
fn no_decision_allocates() {
    let settings = Settings::default();
    let mut now = Instant::from_nanos(1);
    let mut breaker = Breaker::new(&settings, now);
    let mut replica = Replica::new(&settings, &breaker, now);
    let mut met = [false; 3];
    let counted = allocations(|| {
        for round in 0..10_000_u64 {
            now = now.after(Duration::from_millis(round % 500));
            let outcome = if round % 7 < 6 {
                Outcome::FAILURE
            } else {
                Outcome::SUCCESS
            };
            let verdict = replica.admit(&settings, now).or_else(|| {
                let (verdict, _) = replica.visit(&settings, &mut breaker, Visit::Admit, now, 0);
                replica.adopt(&breaker, now);
                verdict
            });
            let permit = match verdict {
                Some(Verdict::Admit(permit)) => permit,
                _ => Permit::UNTRACKED,
            };
            if !replica.record(permit, outcome, now) {
                let visit = Visit::Record(permit, outcome);
                let _ = replica.visit(&settings, &mut breaker, visit, now, round);
                replica.adopt(&breaker, now);
            }
            if let (Verdict::Admit(permit), _) = breaker.admit(&settings, now) {
                breaker.record(&settings, permit, outcome, now, round);
            }
            met[breaker.phase() as usize] = true;
            breaker = Breaker::from_bytes(&breaker.to_bytes()).unwrap();
        }
    });
    assert_eq!(counted, 0);
    assert_eq!(met, [true; 3], "closed, open and half-open");
}
