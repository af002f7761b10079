//! Patience with a backend that asks to be asked less often: what it refuses for that costs no attempt.

use std::time::Duration;

/// Pauses between two requests of one attempt, before they are spread.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(5);

/// How patient an attempt still is. Times are on the lease's clock.
#[derive(Debug)]
pub(crate) struct Patience {
    /// When it ends, once a request was throttled.
    until: Option<Duration>,
    pause: Duration,
}

impl Patience {
    pub(crate) fn new() -> Self {
        Self { until: None, pause: FIRST }
    }

    /// The pause before a request that was throttled at `now` is sent again; none once the attempt has been patient for
    /// `lasts`, or would be past its launch deadline. `jitter` in `0.0..1.0` spreads those who were throttled together over
    /// the second half of the pause.
    pub(crate) fn pause(
        &mut self,
        now: Duration,
        lasts: Duration,
        deadline: Duration,
        jitter: f64,
    ) -> Option<Duration> {
        let until = (*self.until.get_or_insert(now + lasts)).min(deadline);
        let pause = self.pause.mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0));
        self.pause = (self.pause * 2).min(LONGEST);
        (now + pause < until).then_some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    /// When the request is sent again, in seconds after it was first throttled.
    fn again(lasts: u64, deadline: Duration, jitter: f64) -> Vec<f64> {
        let (mut patience, mut now, mut sent) = (Patience::new(), Duration::from_secs(100), Vec::new());
        while let Some(pause) = patience.pause(now, Duration::from_secs(lasts), deadline, jitter) {
            now += pause;
            sent.push((now - Duration::from_secs(100)).as_secs_f64());
        }
        sent
    }

    #[test]
    fn the_pauses_grow_and_end_with_the_patience() {
        assert_eq!(again(30, HOUR, 1.0), [1.0, 3.0, 7.0, 12.0, 17.0, 22.0, 27.0]);
        assert_eq!(again(3, HOUR, 0.0), [0.5, 1.5], "the next would be at 3.5");
        assert!(again(0, HOUR, 0.5).is_empty());
    }

    #[test]
    fn nobody_is_patient_past_the_launch_deadline() {
        assert_eq!(again(30, Duration::from_secs(105), 1.0), [1.0, 3.0]);
    }
}
