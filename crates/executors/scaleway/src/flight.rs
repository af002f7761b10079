//! One request for many who want the same: those who come while it is under way wait for it, those who come soon
//! after take what it gave.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared, WeakShared};
use gantry_core::Failure;

/// The work, and when it began.
type Work<T> = BoxFuture<'static, (Instant, Result<T, Failure>)>;

/// Requests by what they are about.
pub(crate) struct Flights<K, T>(Mutex<Book<K, T>>);

struct Book<K, T> {
    under_way: HashMap<K, WeakShared<Work<T>>>,
    /// What was given, and when its request began.
    done: HashMap<K, (Instant, T)>,
}

impl<K, T> Default for Flights<K, T> {
    fn default() -> Self {
        Self(Mutex::new(Book { under_way: HashMap::new(), done: HashMap::new() }))
    }
}

impl<K: Clone + Eq + Hash, T: Clone> Flights<K, T> {
    /// What `make` gives, or gave to a request that began no longer ago than `keep`. A failure is kept for nobody
    /// but those who wait for it. The work lives for as long as somebody waits for it.
    pub(crate) async fn join<F>(&self, key: K, keep: Duration, make: impl FnOnce() -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        let work = {
            let mut book = self.lock();
            if let Some((began, value)) = book.done.get(&key)
                && began.elapsed() < keep
            {
                return Ok(value.clone());
            }
            let under_way = book.under_way.get(&key).and_then(WeakShared::upgrade);
            under_way.filter(|work: &Shared<Work<T>>| work.peek().is_none()).unwrap_or_else(|| {
                let (began, work) = (Instant::now(), make());
                let work = work.map(move |result| (began, result)).boxed().shared();
                book.under_way.retain(|_, other| other.upgrade().is_some());
                book.under_way.extend(work.downgrade().map(|weak| (key.clone(), weak)));
                work
            })
        };
        let (began, result) = work.await;
        let value = result?;
        let mut book = self.lock();
        book.done.retain(|_, (began, _)| began.elapsed() < keep);
        book.done.insert(key, (began, value.clone()));
        Ok(value)
    }

    /// What was given is not true any more.
    pub(crate) fn forget(&self, key: &K) {
        let mut book = self.lock();
        book.done.remove(key);
        book.under_way.remove(key);
    }

    fn lock(&self) -> MutexGuard<'_, Book<K, T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use gantry_core::FailureClass;

    #[tokio::test]
    async fn those_who_want_the_same_share_it() {
        let (flights, asked) = (Flights::default(), Arc::new(AtomicU32::new(0)));
        let ask = |fails: bool, keep| {
            let asked = Arc::clone(&asked);
            flights.join((), keep, move || async move {
                tokio::task::yield_now().await;
                let count = asked.fetch_add(1, Ordering::Relaxed) + 1;
                if fails { Err(Failure::new(FailureClass::Throttled, "slowly")) } else { Ok(count) }
            })
        };
        let long = Duration::from_secs(3600);
        let (one, two) = futures::join!(ask(true, long), ask(true, long));
        assert_eq!((one.is_err(), two.is_err(), asked.load(Ordering::Relaxed)), (true, true, 1));
        let (one, two) = futures::join!(ask(false, long), ask(false, long));
        assert_eq!((one, two), (Ok(2), Ok(2)), "a failure is not kept, and both share the next");
        assert_eq!(ask(false, long).await, Ok(2), "kept");
        assert_eq!(ask(false, Duration::ZERO).await, Ok(3), "too old");
        flights.forget(&());
        assert_eq!(ask(false, long).await, Ok(4), "forgotten");
    }
}
