//! What is worked out once per shape of a request.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, PoisonError, RwLock};

/// Plans by their form. Bounded: a cache that is full starts again from nothing.
#[derive(Debug)]
pub(super) struct Cache<K, V> {
    known: RwLock<HashMap<K, Arc<V>>>,
}

impl<K, V> std::default::Default for Cache<K, V> {
    fn default() -> Self {
        Self { known: RwLock::default() }
    }
}

impl<K: Clone + Eq + Hash, V> Cache<K, V> {
    const CAPACITY: usize = 4096;

    pub(super) fn get(&self, key: &K, make: impl FnOnce() -> V) -> Arc<V> {
        if let Some(value) = self.known.read().unwrap_or_else(PoisonError::into_inner).get(key) {
            return Arc::clone(value);
        }
        let made = Arc::new(make());
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= Self::CAPACITY {
            known.clear();
        }
        known.insert(key.clone(), Arc::clone(&made));
        made
    }
}
