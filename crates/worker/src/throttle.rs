//! Patience with a backend that asks to be asked less often: what it refuses for that costs no attempt.

use std::time::Duration;

use gantry_core::ExecutorType;
use gantry_core::routing::failover::Decision;

/// Pauses between two requests of one attempt, before they are spread.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(5);

/// How patient an attempt still is. Times are on the lease's clock.
#[derive(Debug)]
pub(crate) struct Patience {
    /// When a request was first throttled.
    since: Option<Duration>,
    pause: Duration,
}

impl Patience {
    pub(crate) fn new() -> Self {
        Self { since: None, pause: FIRST }
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
        let until = (*self.since.get_or_insert(now) + lasts).min(deadline);
        let pause = self.pause.mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0));
        self.pause = (self.pause * 2).min(LONGEST);
        (now + pause < until).then_some(pause)
    }
}

/// What routing says of a job whose executors nobody named.
const UNNAMED: &str = "the default executors";

/// Whether a job may run on another executor than `present`, by the decisions about its way, first to last: the first tells
/// the whole list.
pub(crate) fn may_go_elsewhere(way: &[Decision], present: ExecutorType) -> bool {
    let Some(first) = way.first() else { return false };
    if first.reason.contains(UNNAMED) {
        // The others were only considered.
        return first.executor != present;
    }
    first.candidates.iter().any(|candidate| candidate.executor != present)
}

#[cfg(test)]
mod tests {
    use gantry_core::routing::failover::Routing;
    use gantry_core::routing::{Question, route};

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
    /// Some of all executors, by the bits of a number.
    fn some(bits: usize) -> Vec<ExecutorType> {
        let all = ExecutorType::ALL.iter().enumerate();
        all.filter(|(index, _)| bits >> index & 1 == 1).map(|(_, executor)| *executor).collect()
    }

    #[test]
    fn a_way_tells_what_the_recorder_will_find() {
        let wishes = || std::iter::once(None).chain(ExecutorType::ALL.iter().copied().map(Some));
        let sets = 1 << ExecutorType::ALL.len();
        let (mut stay, mut go) = (0, 0);
        for (supported, with_active_host) in (0..sets).flat_map(|some| (0..sets).map(move |other| (some, other))) {
            let (supported, with_active_host) = (some(supported), some(with_active_host));
            for preferred in wishes() {
                let question = Question { preferred, supported: &supported, with_active_host: &with_active_host };
                let Ok(route) = route(&question) else { continue };
                let way = Routing::begin(&route);
                for present in ExecutorType::ALL {
                    let goes = may_go_elsewhere(&way.trace, *present);
                    assert_eq!(goes, way.has_others(*present), "{question:?} at {present}");
                    *(if goes { &mut go } else { &mut stay }) += 1;
                }
            }
        }
        assert!(stay > 0 && go > 0);
        assert!(!may_go_elsewhere(&[], ExecutorType::Docker), "of an older version");
    }
}
