//! How many of something each key holds right now: connections of an address, requests of a token.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Counts what is held, by key. A key that holds nothing costs nothing.
#[derive(Debug)]
pub(crate) struct Tally<K: Eq + Hash + Clone> {
    held: Mutex<HashMap<K, usize>>,
}

impl<K: Eq + Hash + Clone> Default for Tally<K> {
    fn default() -> Self {
        Self { held: Mutex::default() }
    }
}

impl<K: Eq + Hash + Clone> Tally<K> {
    /// Takes one more for the key, unless it holds `max` already. It is given back by the drop.
    pub(crate) fn take(self: &Arc<Self>, key: K, max: usize) -> Option<Held<K>> {
        let mut held = self.lock();
        let count = held.entry(key.clone()).or_default();
        if *count >= max {
            return None;
        }
        *count += 1;
        drop(held);
        Some(Held { tally: Arc::clone(self), key })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, usize>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One that a key holds.
#[derive(Debug)]
pub(crate) struct Held<K: Eq + Hash + Clone> {
    tally: Arc<Tally<K>>,
    key: K,
}

impl<K: Eq + Hash + Clone> Drop for Held<K> {
    fn drop(&mut self) {
        let mut held = self.tally.lock();
        if let Some(count) = held.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_takes_what_it_may_and_gives_it_back() {
        let tally = Arc::new(Tally::default());
        let first = tally.take("a", 2).expect("the first");
        let _second = tally.take("a", 2).expect("the second");
        assert!(tally.take("a", 2).is_none());
        assert!(tally.take("b", 2).is_some(), "keys do not share");
        drop(first);
        assert!(tally.take("a", 2).is_some());
        assert_eq!(tally.lock().len(), 1, "who holds nothing is forgotten");
        assert!(tally.take("c", 0).is_none());
    }
}
