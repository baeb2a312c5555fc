//! Places for compilers: one for each tenant, so that nobody's modules keep those of others waiting, and so
//! many in all.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Places in all, however few cores there are: two tenants whose modules take long leave one to others.
const PLACES_MIN: usize = 3;

/// Hands out places.
#[derive(Debug)]
pub(crate) struct Places {
    all: Arc<Semaphore>,
    of_tenants: Mutex<HashMap<String, Weak<Semaphore>>>,
}

/// A place; given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    _permit: Option<OwnedSemaphorePermit>,
}

async fn place_in(places: Arc<Semaphore>) -> Place {
    // Never closed.
    Place { _permit: places.acquire_owned().await.ok() }
}

impl Places {
    /// One place for each core of this machine, and at least three.
    pub(crate) fn of_this_machine() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self { all: Arc::new(Semaphore::new(cores.max(PLACES_MIN))), of_tenants: Mutex::default() }
    }

    /// The one place of a tenant: who asks first gets it first.
    pub(crate) async fn of_tenant(&self, tenant: &str) -> Place {
        let own = {
            let mut tenants = self.of_tenants.lock().unwrap_or_else(PoisonError::into_inner);
            tenants.retain(|_, places| places.strong_count() > 0);
            let slot = tenants.entry(tenant.to_owned()).or_default();
            slot.upgrade().unwrap_or_else(|| {
                let fresh = Arc::new(Semaphore::new(1));
                *slot = Arc::downgrade(&fresh);
                fresh
            })
        };
        place_in(own).await
    }

    /// One of the places of the node. Only for who has the tenant's.
    pub(crate) async fn of_node(&self) -> Place {
        place_in(Arc::clone(&self.all)).await
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_tenant_has_one_place_and_waits_for_nobody_elses() {
        let places = Places::of_this_machine();
        let mill = places.of_tenant("mill").await;
        assert!(places.of_tenant("mill").now_or_never().is_none(), "one at a time");
        let bakery = places.of_tenant("bakery").now_or_never().expect("another tenant has its own");
        let mut waiting = Box::pin(places.of_tenant("mill"));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(mill);
        assert!(places.of_tenant("mill").now_or_never().is_none(), "it belongs to who waits for it");
        drop((waiting.await, bakery));
        assert_eq!(places.of_tenants.lock().expect("locked").len(), 2);
        drop(places.of_tenant("dairy").await);
        assert_eq!(places.of_tenants.lock().expect("locked").len(), 1, "who has none is forgotten");
    }

    #[tokio::test]
    async fn two_tenants_never_take_all_places_of_a_node() {
        let places = Places::of_this_machine();
        let _two = (places.of_node().await, places.of_node().await);
        places.of_node().now_or_never().expect("one is left");
    }
}
