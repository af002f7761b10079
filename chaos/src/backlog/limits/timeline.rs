//! What limit was in force when, and whether what ran kept it.
//!
//! A start is forbidden when as many run as the limit in force at its claim allows. Lowering a limit below what runs
//! is allowed, and so is what goes on running then; so it is not enough to compare what ran with the limit of the same
//! moment. Of those that run at the moment of a start, one was claimed last. Under the claim's locks all the others held
//! their slots already, so the limit that was in force then allowed as many as run now. That claim was not before any of
//! them was begun, and not after the start. A change is in force at some moment between its request and its answer. All
//! moments are in nanoseconds of CLOCK_BOOTTIME.

/// A container's time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    /// Its claim was begun then, or later.
    pub(super) claimed: u64,
    /// It ran from here ...
    pub(super) from: u64,
    /// ... to before here.
    pub(super) to: u64,
}

/// A limit and its changes.
#[derive(Clone, Debug)]
pub(super) struct Timeline {
    changes: Vec<Change>,
}

#[derive(Clone, Copy, Debug)]
struct Change {
    /// When it was asked for, and when it was answered.
    asked: u64,
    answered: u64,
    most: usize,
}

impl Timeline {
    /// A limit that held before anything began.
    pub(super) fn new(most: usize) -> Self {
        Self { changes: vec![Change { asked: 0, answered: 0, most }] }
    }

    /// Another limit, by a request from `asked` to `answered`.
    pub(super) fn change(&mut self, asked: u64, answered: u64, most: usize) {
        self.changes.push(Change { asked, answered, most });
    }

    pub(super) fn changes(&self) -> usize {
        self.changes.len() - 1
    }

    /// The highest limit that may have been in force at a moment from `from` to `to`.
    fn highest(&self, from: u64, to: u64) -> usize {
        let ends = self.changes.iter().skip(1).map(|next| next.answered).chain([u64::MAX]);
        let in_force = self.changes.iter().zip(ends).filter(|(change, end)| change.asked <= to && from <= *end);
        in_force.map(|(change, _)| change.most).max().unwrap_or(0)
    }
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) starts: usize,
    /// The most that ran at once.
    pub(super) most: usize,
    /// Starts by which the limit was reached.
    pub(super) at_limit: usize,
    /// Changes to less than what ran.
    pub(super) lowered: usize,
    /// Starts above the limit, in words.
    pub(super) over: Vec<String>,
}

/// Looks at every start.
pub(super) fn judge(mut spans: Vec<Span>, timeline: &Timeline) -> Found {
    spans.sort_unstable_by_key(|span| span.from);
    let mut found = Found { starts: spans.len(), ..Found::default() };
    let mut running: Vec<Span> = Vec::new();
    let mut next_change = 1;
    for span in spans {
        while let Some(change) = timeline.changes.get(next_change).filter(|change| change.answered < span.from) {
            let ran = running.iter().filter(|other| other.to > change.answered).count();
            found.lowered += usize::from(ran > change.most);
            next_change += 1;
        }
        running.retain(|other| other.to > span.from);
        running.push(span);
        found.most = found.most.max(running.len());
        let last_claim = running.iter().map(|one| one.claimed).max().unwrap_or(span.claimed);
        let allowed = timeline.highest(last_claim, span.from);
        found.at_limit += usize::from(running.len() == allowed);
        if running.len() > allowed {
            let millis = (span.from.saturating_sub(last_claim)) as f64 / 1e6;
            found.over.push(format!(
                "{} ran where {allowed} were allowed, {:.3} s after the machine's start; the last was claimed within {millis:.1} ms before",
                running.len(),
                span.from as f64 / 1e9
            ));
        }
    }
    found
}

/// The most of these that ran at one moment.
pub(super) fn at_once(spans: &[Span]) -> usize {
    let alive = |span: &Span| spans.iter().filter(|other| other.from <= span.from && span.from < other.to).count();
    spans.iter().map(alive).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(claimed: u64, from: u64, to: u64) -> Span {
        Span { claimed, from, to }
    }

    #[test]
    fn a_start_beyond_the_limit_is_found_and_one_at_it_is_not() {
        let timeline = Timeline::new(2);
        let found = judge(vec![span(1, 2, 10), span(3, 4, 11), span(9, 10, 12)], &timeline);
        assert_eq!((found.over.len(), found.at_limit, found.most), (0, 2, 2), "the third began when the first ended");
        let found = judge(vec![span(1, 2, 10), span(3, 4, 10), span(7, 9, 12)], &timeline);
        assert_eq!((found.over.len(), found.most), (1, 3));
    }

    #[test]
    fn what_runs_when_a_limit_is_lowered_may_run_on_and_nothing_may_start_beside_it() {
        let mut timeline = Timeline::new(3);
        timeline.change(20, 22, 1);
        let old = [span(1, 2, 40), span(1, 3, 40), span(1, 4, 30)];
        let found = judge([&old[..], &[span(41, 42, 50)]].concat(), &timeline);
        assert_eq!((found.over.len(), found.lowered), (0, 1), "they ran on, and the next came after their end");
        let found = judge([&old[..], &[span(31, 32, 50)]].concat(), &timeline);
        assert_eq!(found.over.len(), 1, "one had ended, and two were still too many");
        let found = judge([&old[..2], &[span(21, 25, 50)]].concat(), &timeline);
        assert_eq!(found.over.len(), 0, "it was claimed while the change was being made");
        let found = judge([&old[..2], &[span(19, 25, 50)]].concat(), &timeline);
        assert_eq!(found.over.len(), 0, "it was claimed before, and its container came later");
    }

    #[test]
    fn a_raised_limit_holds_from_its_request_on() {
        let mut timeline = Timeline::new(0);
        timeline.change(20, 22, 1);
        assert_eq!(judge(vec![span(15, 21, 30)], &timeline).over.len(), 0);
        assert_eq!(judge(vec![span(15, 19, 30)], &timeline).over.len(), 1);
    }

    #[test]
    fn counts_what_is_alive_at_once() {
        assert_eq!(at_once(&[span(0, 5, 9), span(0, 1, 5)]), 1);
        assert_eq!(at_once(&[span(0, 5, 9), span(0, 1, 6), span(0, 20, 21)]), 2);
    }
}
