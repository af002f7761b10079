//! Many small writes as few large ones: callers submit one item each and wait for its answer; a single task
//! takes whatever has gathered while it was busy. Idle, an item is a batch of one and goes at once; of some kinds it waits a
//! moment for others where there is load.

use std::time::Duration;

use gantry_runtime::Linger;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// Why an item was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Trouble {
    /// Waiting may help; the batcher does the waiting.
    #[error("{0}")]
    Transient(String),
    /// This very item cannot be done.
    #[error("{0}")]
    Refused(String),
}

impl From<gantry_store::Error> for Trouble {
    fn from(error: gantry_store::Error) -> Self {
        if error.is_transient() { Self::Transient(error.to_string()) } else { Self::Refused(error.to_string()) }
    }
}

const PAUSE: Duration = Duration::from_millis(500);
/// Items that may wait; beyond it [`Batcher::submit`] itself waits.
const QUEUED: usize = 4_096;

type Request<T, R> = (T, oneshot::Sender<Result<R, Trouble>>);

/// A place to submit items of one kind. Clones share it; its task ends with the last of them.
pub(crate) struct Batcher<T, R> {
    requests: mpsc::Sender<Request<T, R>>,
}

impl<T, R> Clone for Batcher<T, R> {
    fn clone(&self) -> Self {
        Self { requests: self.requests.clone() }
    }
}

impl<T, R> Batcher<T, R>
where
    T: Clone + Send + Sync + 'static,
    R: Send + 'static,
{
    /// `operation` does a batch whole or not at all, and answers for each item in its order.
    pub(crate) fn spawn<F, Fut>(name: &'static str, max: usize, operation: F) -> Self
    where
        F: Fn(Vec<T>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Vec<R>, Trouble>> + Send,
    {
        Self::spawn_weighed(name, max, usize::MAX, |_| 0, operation)
    }

    /// The same for items of different weight: a batch is the oldest item and what fits beside it within
    /// `max_weight`, oldest first. So a light item passes heavy ones, and no heavy one waits for ever.
    pub(crate) fn spawn_weighed<F, Fut>(
        name: &'static str,
        max: usize,
        max_weight: usize,
        weigh: fn(&T) -> usize,
        operation: F,
    ) -> Self
    where
        F: Fn(Vec<T>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Vec<R>, Trouble>> + Send,
    {
        Self::spawn_with(name, max, max_weight, weigh, None, operation)
    }

    /// As [`Batcher::spawn`]; under load a batch begins `every` so often, because it costs more than what is in it.
    pub(crate) fn spawn_lingering<F, Fut>(name: &'static str, max: usize, every: Duration, operation: F) -> Self
    where
        F: Fn(Vec<T>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Vec<R>, Trouble>> + Send,
    {
        Self::spawn_with(name, max, usize::MAX, |_| 0, Some(Linger::new(every, max)), operation)
    }

    fn spawn_with<F, Fut>(
        name: &'static str,
        max: usize,
        max_weight: usize,
        weigh: fn(&T) -> usize,
        mut linger: Option<Linger>,
        operation: F,
    ) -> Self
    where
        F: Fn(Vec<T>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Vec<R>, Trouble>> + Send,
    {
        let (requests, mut queue) = mpsc::channel::<Request<T, R>>(QUEUED);
        tokio::spawn(async move {
            let mut waiting = Vec::with_capacity(max);
            loop {
                if waiting.is_empty() && queue.recv_many(&mut waiting, max).await == 0 {
                    return;
                }
                while let Some(linger) = &linger
                    && waiting.len() < max
                {
                    let missing = max - waiting.len();
                    match linger.more(queue.recv_many(&mut waiting, missing)).await {
                        // Nobody submits any more, or it is time to go.
                        Some(0) | None => break,
                        Some(_) => {}
                    }
                }
                while waiting.len() < QUEUED
                    && let Ok(request) = queue.try_recv()
                {
                    waiting.push(request);
                }
                let (mut weight, mut items) = (0_usize, 0);
                let batch = waiting.extract_if(.., |(item, _)| {
                    let with_it = weight.saturating_add(weigh(item));
                    let fits = items < max && (items == 0 || with_it <= max_weight);
                    if fits {
                        (weight, items) = (with_it, items + 1);
                    }
                    fits
                });
                let (items, answers): (Vec<T>, Vec<_>) = batch.unzip();
                let (begun, count) = (Instant::now(), items.len());
                run(name, &operation, items, answers).await;
                if let Some(linger) = &mut linger {
                    linger.done(begun, count);
                }
            }
        });
        Self { requests }
    }

    /// Waits until the item is done, however long what it needs is away. Refused items are the caller's to handle.
    pub(crate) async fn submit(&self, item: T) -> Result<R, Trouble> {
        let ended = || Trouble::Refused("the worker is ending".to_owned());
        let (answer, answered) = oneshot::channel();
        self.requests.send((item, answer)).await.map_err(|_| ended())?;
        answered.await.map_err(|_| ended())?
    }
}

/// Halves a refused batch until the one bad item stands alone.
async fn run<T, R, F, Fut>(
    name: &'static str,
    operation: &F,
    items: Vec<T>,
    answers: Vec<oneshot::Sender<Result<R, Trouble>>>,
) where
    T: Clone + Send + Sync,
    R: Send,
    F: Fn(Vec<T>) -> Fut + Sync,
    Fut: Future<Output = Result<Vec<R>, Trouble>> + Send,
{
    let mut work = vec![(items, answers)];
    while let Some((items, mut answers)) = work.pop() {
        match operation(items.clone()).await {
            Ok(results) => {
                for (answer, result) in answers.into_iter().zip(results) {
                    // A caller that went away needs no answer.
                    let _ = answer.send(Ok(result));
                }
            }
            Err(Trouble::Transient(cause)) => {
                tracing::warn!(operation = name, items = items.len(), %cause, "cannot be done now, trying again");
                tokio::time::sleep(PAUSE).await;
                work.push((items, answers));
            }
            Err(refused) if items.len() == 1 => {
                for answer in answers {
                    let _ = answer.send(Err(refused.clone()));
                }
            }
            Err(_) => {
                let mut left = items;
                let right = left.split_off(left.len() / 2);
                let right_answers = answers.split_off(left.len());
                work.push((right, right_answers));
                work.push((left, answers));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::future::join_all;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test]
    async fn one_bad_item_hurts_only_itself() {
        let batcher = Batcher::spawn("test", 100, |items: Vec<u32>| async move {
            if items.contains(&42) {
                Err(Trouble::Refused("42".into()))
            } else {
                Ok(items.iter().map(|n| n * 2).collect())
            }
        });
        let results = join_all((0..100).map(|n| batcher.submit(n))).await;
        for (n, result) in results.into_iter().enumerate() {
            let expected = if n == 42 { Err(Trouble::Refused("42".into())) } else { Ok(n as u32 * 2) };
            assert_eq!(result, expected);
        }
    }

    #[tokio::test]
    async fn a_light_item_passes_heavy_ones_and_no_batch_is_too_heavy() {
        let batches = Arc::new(std::sync::Mutex::new(Vec::new()));
        let written = batches.clone();
        let batcher = Batcher::spawn_weighed(
            "test",
            3,
            10,
            |weight: &usize| *weight,
            move |items: Vec<usize>| {
                written.lock().expect("not poisoned").push(items.clone());
                async move { Ok(items) }
            },
        );
        join_all([20, 6, 7, 2, 8, 1, 1].map(|weight| batcher.submit(weight))).await;
        let expected = [vec![20], vec![6, 2, 1], vec![7, 1], vec![8]];
        assert_eq!(*batches.lock().expect("not poisoned"), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn under_load_a_batch_lingers() {
        let begun = Instant::now();
        let sizes = Arc::new(std::sync::Mutex::new(Vec::new()));
        let written = sizes.clone();
        let batcher = Batcher::spawn_lingering("test", 1_000, Duration::from_millis(10), move |items: Vec<usize>| {
            written.lock().expect("not poisoned").push(items.len());
            async move { Ok(items) }
        });
        assert_eq!(batcher.submit(0).await, Ok(0));
        join_all((0..100).map(|n| batcher.submit(n))).await;
        assert_eq!(begun.elapsed(), Duration::ZERO, "nothing went before");

        let late = async {
            tokio::time::sleep(Duration::from_millis(2)).await;
            batcher.submit(2).await
        };
        assert_eq!(tokio::join!(batcher.submit(1), late), (Ok(1), Ok(2)));
        assert_eq!(*sizes.lock().expect("not poisoned"), [1, 100, 2], "the last two went together");

        tokio::time::sleep(Duration::from_secs(1)).await;
        let before = Instant::now();
        assert_eq!(batcher.submit(3).await, Ok(3));
        assert_eq!(before.elapsed(), Duration::ZERO, "the load is over");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_away_is_waited_for() {
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = calls.clone();
        let batcher = Batcher::spawn("test", 100, move |items: Vec<()>| {
            let call = counted.fetch_add(1, Ordering::SeqCst);
            async move { if call < 3 { Err(Trouble::Transient("away".into())) } else { Ok(items) } }
        });
        assert_eq!(batcher.submit(()).await, Ok(()));
        assert_eq!(calls.load(Ordering::SeqCst), 4);
    }
}
