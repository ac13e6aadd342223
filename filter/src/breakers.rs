//! The breakers before a request, and what they have given to it.

use levee_policy::breaker::Permit;

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

/// What the breakers before a request have given to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permits {
    pub service: Permit,
    pub scope: Permit,
}

impl Permits {
    pub const UNTRACKED: Self = Self::of_service(Permit::UNTRACKED);

    pub const fn of_service(service: Permit) -> Self {
        Self {
            service,
            scope: Permit::UNTRACKED,
        }
    }

    #[inline]
    pub const fn is_probe(self) -> bool {
        self.service.is_probe() || self.scope.is_probe()
    }
}
