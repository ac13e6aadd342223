//! Which of Envoy's contexts are filters, and which are requests.
//!
//! Envoy numbers its contexts. It creates one for each configuration of the filter in this virtual
//! machine (two for a while when a listener is replaced: see [`crate::succession`]), and one for
//! each request, as a child of its filter's. Unknown numbers are no error: the request passes.

use crate::config::ConfigError;
use crate::host::Host;
use crate::plugin::{Body, InFlight, Next, Piece, Plugin};
use crate::succession::Filters;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// What Envoy must do with a request whose headers have arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Continue,
    /// The filter has answered.
    Stop,
}

/// The contexts of one virtual machine.
#[derive(Debug)]
pub struct Contexts<H> {
    filters: Filters<H>,
    requests: HashMap<u32, Request, BuildHasherDefault<Spread>>,
}

#[derive(Clone, Copy, Debug)]
struct Request {
    filter: u32,
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Its headers have not come: an earlier filter may answer it, or go upstream by itself.
    New,
    /// The filter has let it through, and wants to know how it ends.
    InFlight(InFlight),
    /// Its end says nothing.
    Ignored,
}

impl<H> Default for Contexts<H> {
    fn default() -> Self {
        Self {
            filters: Filters::default(),
            requests: HashMap::default(),
        }
    }
}

impl<H: Host> Contexts<H> {
    /// Envoy has created a context: for a request to the filter `parent`, or, if that is 0, for a
    /// filter.
    pub fn on_create(&mut self, id: u32, parent: u32) {
        if parent != 0 {
            let request = Request {
                filter: parent,
                state: State::New,
            };
            self.requests.insert(id, request);
        }
    }

    /// Configures the filter `id`. If it had a configuration before, the results of requests in
    /// flight are ignored.
    ///
    /// # Errors
    /// Every mistake in the configuration; then the filter stays as it was.
    pub fn on_configure(
        &mut self,
        id: u32,
        host: H,
        configuration: &[u8],
    ) -> Result<(), Vec<ConfigError>> {
        let plugin = Plugin::new(host, configuration)?;
        if let Some(mut earlier) = self.filters.configure(id, plugin, configuration) {
            earlier.hand_over();
            for request in self.requests.values_mut() {
                if request.filter == id {
                    request.state = State::Ignored;
                }
            }
        }
        Ok(())
    }

    /// The headers of the request `id` have arrived.
    #[inline]
    pub fn on_request_headers(&mut self, id: u32, body: Body) -> Action {
        let Some(request) = self.requests.get_mut(&id) else {
            return Action::Continue;
        };
        request.state = State::Ignored;
        let Some(filter) = self.filters.for_request(request.filter) else {
            return Action::Continue;
        };
        match filter.on_request(id, body) {
            Next::Continue(Some(in_flight)) => {
                request.state = State::InFlight(in_flight);
                Action::Continue
            }
            Next::Continue(None) => Action::Continue,
            Next::Stop => Action::Stop,
        }
    }

    /// A piece of the body of the request `id` has arrived.
    pub fn on_request_body(&mut self, id: u32, piece: Piece) {
        if let Some(request) = self.requests.get_mut(&id)
            && let State::InFlight(in_flight) = &mut request.state
            && let Some(filter) = self.filters.find(request.filter)
        {
            filter.on_body(id, in_flight, piece);
        }
    }

    /// The request `id` has ended, in whatever way.
    #[inline]
    pub fn on_log(&mut self, id: u32) {
        let Some(request) = self.requests.remove(&id) else {
            return;
        };
        let Some(filter) = self.filters.find(request.filter) else {
            return;
        };
        match request.state {
            State::InFlight(in_flight) => filter.on_end(id, in_flight),
            State::New => filter.on_unseen(),
            State::Ignored => {}
        }
    }

    /// The context `id` was deleted. If it is a request that was not logged, it ends now: Envoy logs
    /// those of HTTP/3 when their contexts are gone.
    pub fn on_delete(&mut self, id: u32) {
        if let Some(request) = self.requests.remove(&id) {
            if let State::InFlight(in_flight) = request.state
                && let Some(filter) = self.filters.find(request.filter)
            {
                filter.on_end(id, in_flight);
            }
        } else if let Some(mut filter) = self.filters.remove(id) {
            filter.finish();
        }
    }

    /// The timer of the filter `id` has fired.
    pub fn on_tick(&mut self, id: u32) {
        if let Some(filter) = self.filters.for_tick(id) {
            filter.on_tick();
        }
    }

    /// A request that the filter `id` has sent itself has ended.
    pub fn on_answer(&mut self, id: u32, token: u32, body_size: u32) {
        if let Some(filter) = self.filters.find(id) {
            filter.on_answer(token, body_size);
        }
    }

    /// The queue of the filter `id` has messages.
    pub fn on_news(&mut self, id: u32) {
        if let Some(filter) = self.filters.find(id) {
            filter.on_news();
        }
    }
}

/// Hashes Envoy's numbers, which are consecutive and cannot be chosen by an attacker.
#[derive(Debug, Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _bytes: &[u8]) {
        debug_assert!(false, "numbers only");
    }

    fn write_u32(&mut self, number: u32) {
        // The factor, 2^64 divided by the golden ratio, is odd, so no two numbers collide, and it
        // spreads consecutive numbers in the high bits and in the low ones, which are all that
        // 32-bit tables use.
        self.0 = u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}
