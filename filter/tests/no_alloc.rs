//! A good request allocates nothing in the filter. A refusal allocates only its response.
#![allow(unsafe_code)]

use levee_filter::contexts::{Action, Contexts};
use levee_filter::host::{
    AnswerPart, Host, LocalReply, MetricId, OwnRequest, Swap, Version, Versioned, property,
};
use levee_filter::plugin::Body;
use levee_policy::time::Instant;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

/// Counts the allocations of each thread.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: forwards to the system's allocator; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Destinations in one service, as Envoy encodes them: cluster and route.
const LOGIN: &[u8] = b"\x02\0\0\0\x04\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0auth\0\0login\0\0";
const REFRESH: &[u8] = b"\x02\0\0\0\x04\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0auth\0\0refresh\0\0";

/// An Envoy that answers without allocating.
#[derive(Clone, Default)]
struct Quiet {
    code: Rc<Cell<u64>>,
    /// Another one each time, since they name breakers.
    last_random: Rc<Cell<u64>>,
    destination: Rc<Cell<&'static [u8]>>,
    shared: Rc<RefCell<HashMap<String, Vec<u8>>>>,
}

impl Host for Quiet {
    fn now(&self) -> Instant {
        Instant::from_nanos(1_000_000_000)
    }
    fn random(&self) -> u64 {
        self.last_random.set(self.last_random.get() + 1);
        self.last_random.get()
    }
    fn with_property<T>(&self, path: &str, read: impl FnOnce(&[u8]) -> T) -> Option<T> {
        match path {
            property::RESPONSE_CODE => Some(read(&self.code.get().to_le_bytes())),
            property::CLUSTER => Some(read(b"auth")),
            property::RESPONSE_CODE_DETAILS => Some(read(b"via_upstream")),
            _ => None,
        }
    }
    fn request_header(&self, _: &str) -> Option<Vec<u8>> {
        None
    }
    fn set_request_header(&self, _: &str, _: &str) {}
    fn clear_route_cache(&self) {}
    fn reply(&self, _: LocalReply<'_>) {}
    fn enter_request(&self, _: u32) -> bool {
        false
    }
    fn compile(&self, _: &str) -> Option<u32> {
        Some(0)
    }
    fn compile_value(&self, _: &str) -> Option<u32> {
        Some(0)
    }
    fn with_value<T>(&self, _: u32, read: impl FnOnce(&[u8]) -> T) -> Option<T> {
        Some(read(self.destination.get()))
    }
    fn holds(&self, _: u32) -> bool {
        self.code.get() == 200
    }
    fn send(&self, _: OwnRequest<'_>) -> Option<u32> {
        None
    }
    fn answer(&self, _: AnswerPart, _: &str) -> Option<Vec<u8>> {
        None
    }
    fn answer_body(&self, _: u32) -> Option<Vec<u8>> {
        None
    }
    fn shared(&self, key: &str) -> Option<Versioned> {
        Some(Versioned {
            value: self.shared.borrow().get(key)?.clone(),
            version: Version(1),
        })
    }
    fn set_shared(&self, key: &str, value: &[u8], _: Version) -> Swap {
        let mut shared = self.shared.borrow_mut();
        shared.insert(key.to_owned(), value.to_vec());
        Swap::Written
    }
    fn register_queue(&self, _: &str) -> Option<u32> {
        Some(1)
    }
    fn enqueue(&self, _: u32, _: &[u8]) {}
    fn dequeue(&self, _: u32) -> Option<Vec<u8>> {
        None
    }
    fn define_counter(&self, _: &str) -> Option<MetricId> {
        Some(MetricId(1))
    }
    fn define_gauge(&self, _: &str) -> Option<MetricId> {
        Some(MetricId(2))
    }
    fn add(&self, _: MetricId, _: u32) {}
    fn set(&self, _: MetricId, _: u32) {}
    fn tick_every(&self, _: Duration) {}
}

const FILTER: u32 = 1;

fn request(contexts: &mut Contexts<Quiet>, id: u32) -> Action {
    contexts.on_create(id, FILTER);
    let action = contexts.on_request_headers(id, Body::None);
    contexts.on_log(id);
    contexts.on_delete(id);
    action
}

fn allocations(act: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.with(Cell::get);
    act();
    ALLOCATIONS.with(Cell::get) - before
}

#[test]
fn a_good_request_allocates_nothing() {
    check(b"");
    check(br#"{"scopes": {"by_route": true}}"#);
}

fn check(configuration: &[u8]) {
    let host = Quiet::default();
    host.code.set(200);
    host.destination.set(LOGIN);
    let mut contexts = Contexts::default();
    contexts.on_create(FILTER, 0);
    contexts
        .on_configure(FILTER, host.clone(), configuration)
        .expect("it is valid");
    // The first request creates the service and sizes the table of requests.
    assert!(allocations(|| assert_eq!(request(&mut contexts, 2), Action::Continue)) > 0);
    let allocated = allocations(|| {
        for id in 3..1003 {
            assert_eq!(request(&mut contexts, id), Action::Continue);
        }
    });
    assert_eq!(allocated, 0);

    // A second route divides the service into scopes.
    for destination in [REFRESH, LOGIN] {
        host.destination.set(destination);
        assert_eq!(request(&mut contexts, 1003), Action::Continue);
        let allocated = allocations(|| {
            for id in 1004..2000 {
                assert_eq!(request(&mut contexts, id), Action::Continue);
            }
        });
        assert_eq!(allocated, 0);
    }

    host.code.set(503);
    for id in 2000..2005 {
        assert_eq!(request(&mut contexts, id), Action::Continue);
    }
    let allocated = allocations(|| assert_eq!(request(&mut contexts, 3000), Action::Stop));
    assert!(allocated > 0 && allocated < 10, "a refusal: {allocated}");
}
