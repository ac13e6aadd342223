//! What a backend remembers of requests.

use std::collections::{BTreeMap, VecDeque};

/// How many requests are remembered with their headers.
const REMEMBERED: usize = 10_000;

/// A request as it was seen.
#[derive(Clone, Debug)]
pub struct SeenRequest {
    /// The method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Headers in order, names in lower case, values as bytes.
    pub headers: Vec<(String, Vec<u8>)>,
}

impl SeenRequest {
    /// The first header of this name, as bytes.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers
            .iter()
            .find(|(seen, _)| seen == name)
            .map(|(_, value)| value.as_slice())
    }

    /// The path without the query.
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }
}

/// What a backend has seen so far.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Connections accepted.
    pub connections: usize,
    /// Requests whose headers came.
    pub requests: usize,
    /// The same by path (without the query).
    pub by_path: BTreeMap<String, usize>,
    /// Requests under way now.
    pub in_flight: usize,
    /// The most that were under way at once.
    pub most_in_flight: usize,
    /// Requests whose sender closed or reset before the answer was complete.
    pub cancelled: usize,
    /// Requests answered in full.
    pub answered: usize,
    /// The last requests, at most 10,000.
    pub last: VecDeque<SeenRequest>,
    /// Why a connection was closed because what came on it is not HTTP.
    pub not_http: Option<String>,
}

impl Seen {
    pub(super) fn begin(&mut self, request: &SeenRequest) {
        self.requests += 1;
        *self.by_path.entry(request.path().to_string()).or_default() += 1;
        self.in_flight += 1;
        self.most_in_flight = self.most_in_flight.max(self.in_flight);
        if self.last.len() == REMEMBERED {
            self.last.pop_front();
        }
        self.last.push_back(request.clone());
    }
}
