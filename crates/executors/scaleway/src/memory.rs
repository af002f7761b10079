//! What a process remembers, within bounds.

use std::borrow::Borrow;
use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The newest entries of each kind that are kept: more than run at one place at a time.
const MOST: usize = 10_000;

/// A map that forgets its oldest entries.
pub(crate) struct Memory<V>(Mutex<Inner<V>>);

struct Inner<V> {
    values: HashMap<String, V>,
    order: VecDeque<String>,
}

impl<V> Default for Memory<V> {
    fn default() -> Self {
        Self(Mutex::new(Inner { values: HashMap::new(), order: VecDeque::new() }))
    }
}

impl<V: Clone> Memory<V> {
    pub(crate) fn get(&self, key: &str) -> Option<V> {
        self.lock().values.get(key).cloned()
    }

    pub(crate) fn put(&self, key: &str, value: V) {
        let mut inner = self.lock();
        if inner.values.insert(key.to_owned(), value).is_none() {
            inner.order.push_back(key.to_owned());
        }
        while inner.order.len() > MOST {
            if let Some(oldest) = inner.order.pop_front() {
                inner.values.remove(&oldest);
            }
        }
    }

    /// The value that was put first, which may be this one.
    pub(crate) fn first(&self, key: &str, value: V) -> V {
        if let Some(found) = self.get(key) {
            return found;
        }
        self.put(key, value.clone());
        value
    }

    pub(crate) fn forget<Q: Borrow<str>>(&self, key: Q) {
        let mut inner = self.lock();
        if inner.values.remove(key.borrow()).is_some() {
            inner.order.retain(|kept| kept != key.borrow());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner<V>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_are_forgotten() {
        let memory = Memory::default();
        for n in 0..=MOST {
            memory.put(&n.to_string(), n);
        }
        assert_eq!(memory.get("0"), None);
        assert_eq!(memory.get("1"), Some(1));
        assert_eq!(memory.first("1", 7), 1);
        memory.forget("1");
        assert_eq!(memory.first("1", 7), 7);
    }
}
