//! The services that a worker has met, and their scopes.

use crate::breakers::ServiceIndex;
use crate::service::Service;
use crate::shared::BreakerId;
use std::collections::HashMap;
use std::ops::{Index, IndexMut};

/// The services that a worker has met, and their scopes. None is ever removed.
#[derive(Debug, Default)]
pub struct Services {
    all: Vec<Service>,
    by_breaker: HashMap<BreakerId, ServiceIndex>,
    /// Those that the next tick takes care of.
    touched: Vec<ServiceIndex>,
}

impl Services {
    pub fn add(&mut self, service: Service) -> ServiceIndex {
        let index = ServiceIndex(self.all.len());
        self.by_breaker.insert(service.breaker_id, index);
        self.all.push(service);
        index
    }

    pub fn named(&self, name: &str) -> Option<ServiceIndex> {
        let is_it = |service: &Service| service.scope.is_none() && service.name == name;
        self.all.iter().position(is_it).map(ServiceIndex)
    }

    pub fn with_breaker(&self, id: BreakerId) -> Option<ServiceIndex> {
        self.by_breaker.get(&id).copied()
    }

    pub fn indices(&self) -> impl Iterator<Item = ServiceIndex> + use<> {
        (0..self.all.len()).map(ServiceIndex)
    }

    /// The service, which the next tick takes care of.
    #[inline]
    pub fn touch(&mut self, index: ServiceIndex) -> &mut Service {
        if !std::mem::replace(&mut self[index].is_touched, true) {
            self.touched.push(index);
        }
        &mut self[index]
    }

    /// The services that were touched since the last call.
    pub fn take_touched(&mut self) -> Vec<ServiceIndex> {
        let touched = std::mem::take(&mut self.touched);
        for index in &touched {
            self[*index].is_touched = false;
        }
        touched
    }
}

#[expect(
    clippy::indexing_slicing,
    reason = "only `add` makes an index, and no service is removed"
)]
impl Index<ServiceIndex> for Services {
    type Output = Service;

    #[inline]
    fn index(&self, index: ServiceIndex) -> &Service {
        &self.all[index.0]
    }
}

#[expect(
    clippy::indexing_slicing,
    reason = "only `add` makes an index, and no service is removed"
)]
impl IndexMut<ServiceIndex> for Services {
    #[inline]
    fn index_mut(&mut self, index: ServiceIndex) -> &mut Service {
        &mut self.all[index.0]
    }
}
