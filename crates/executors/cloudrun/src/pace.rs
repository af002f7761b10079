//! How often Cloud Logging may be asked: its quota is the whole project's, and small.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// A bucket of requests that refills evenly.
pub(crate) struct Pace(Mutex<Option<Bucket>>);

struct Bucket {
    left: f64,
    at: Instant,
}

impl Pace {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// Takes a request for something that can wait for the next time, if more than half of the bucket is left: the
    /// other half is for what cannot.
    pub(crate) fn try_take(&self, per_minute: u32) -> bool {
        self.take_above(per_minute, f64::from(per_minute) / 2.0).is_ok()
    }

    /// Takes a request, and waits for it if there is none.
    pub(crate) async fn take(&self, per_minute: u32) {
        while let Err(missing) = self.take_above(per_minute, 0.0) {
            tokio::time::sleep(missing).await;
        }
    }

    /// Takes one if that leaves no less than `floor`, or says when to try again.
    fn take_above(&self, per_minute: u32, floor: f64) -> Result<(), Duration> {
        let (most, now) = (f64::from(per_minute).max(1.0), Instant::now());
        let mut bucket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = bucket.get_or_insert(Bucket { left: most, at: now });
        let refilled = now.duration_since(bucket.at).as_secs_f64() * most / 60.0;
        *bucket = Bucket { left: (bucket.left + refilled).min(most), at: now };
        // A bucket of one has no half.
        let needed = (1.0 + floor).min(most);
        if bucket.left >= needed {
            bucket.left -= 1.0;
            return Ok(());
        }
        // A moment more than computed: the sum of many small refills falls short of the whole.
        Err(Duration::from_secs_f64((needed - bucket.left) * 60.0 / most) + Duration::from_millis(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn half_is_kept_for_what_cannot_wait() {
        let pace = Pace::new();
        assert_eq!((0..10).filter(|_| pace.try_take(10)).count(), 5);
        for _ in 0..5 {
            pace.take(10).await;
        }
        let began = Instant::now();
        pace.take(10).await;
        assert_eq!(began.elapsed().as_secs(), 6);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert!(pace.try_take(10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_bucket_of_one_serves_all() {
        let pace = Pace::new();
        assert!(pace.try_take(1) && !pace.try_take(1));
        tokio::time::advance(Duration::from_secs(61)).await;
        assert!(pace.try_take(1));
    }
}
