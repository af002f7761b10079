//! Waiting on conditions, not on time.

use std::panic::Location;
use std::time::Duration;

use tokio::time::{Instant, sleep};

const POLL: Duration = Duration::from_millis(20);

/// Waits until `condition` holds.
///
/// # Panics
/// When it does not within `limit`, at the caller's line. Give a limit that only a broken
/// program reaches: it costs nothing when the condition comes sooner.
#[track_caller]
pub fn eventually(limit: Duration, mut condition: impl AsyncFnMut() -> bool) -> impl Future<Output = ()> {
    let caller = Location::caller();
    async move { poll(limit, caller, async || condition().await.then_some(())).await }
}

/// Waits until `find` finds something, and returns it.
///
/// # Panics
/// As [`eventually`].
#[track_caller]
pub fn eventually_some<T>(limit: Duration, find: impl AsyncFnMut() -> Option<T>) -> impl Future<Output = T> {
    poll(limit, Location::caller(), find)
}

async fn poll<T>(limit: Duration, caller: &'static Location<'static>, mut find: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        // Asked once more after the limit, so that a slow machine's last look counts.
        let last = Instant::now() > end;
        if let Some(found) = find().await {
            return found;
        }
        assert!(!last, "what {caller} waits for did not come within {limit:?}");
        sleep(POLL).await;
    }
}
