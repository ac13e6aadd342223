//! The breakers before a request.

/// Names a service or a scope of this worker, among [`Services`](crate::services::Services).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceIndex(pub(crate) usize);

/// The breakers before a request: its service's and, if it has one, its scope's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Breakers {
    pub service: ServiceIndex,
    pub scope: Option<ServiceIndex>,
}

impl Breakers {
    pub const fn of_service(service: ServiceIndex) -> Self {
        Self {
            service,
            scope: None,
        }
    }

    /// The one that counts the request.
    #[inline]
    pub fn nearest(self) -> ServiceIndex {
        self.scope.unwrap_or(self.service)
    }
}
