//! How far back the statements look that run again and again.
//!
//! A row that leaves a line stays in its index until no snapshot can see it any more. While somebody holds one (a dump,
//! a report, a forgotten transaction), every look from the beginning passes all that has left since: a queue that polls
//! would slow down with each job. So most looks begin where something can be new, and the whole is looked at only as
//! often as that stays cheap.

use std::time::{Duration, Instant};

/// A look at everything may take this share of the time: one part in so many.
const SHARE: u32 = 20;

/// Which rows a statement looks at, by the time that its index begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Those of the last [`Reach::RECENT_SECONDS`].
    Recent,
    /// All.
    All,
}

impl Reach {
    /// Longer than a transaction lasts, so that none commits behind the look.
    pub const RECENT_SECONDS: f64 = 20.0;

    /// For how many seconds back a statement looks; none for ever.
    pub(crate) fn seconds(self) -> Option<f64> {
        (self == Self::Recent).then_some(Self::RECENT_SECONDS)
    }
}

/// When everything is to be looked at again.
#[derive(Clone, Copy, Debug, Default)]
pub struct Looks {
    due: Option<Instant>,
}

impl Looks {
    /// Begins a look.
    pub fn begin(&self) -> Look {
        let now = Instant::now();
        let reach = if self.due.is_some_and(|due| now < due) { Reach::Recent } else { Reach::All };
        Look { reach, begun: now }
    }

    /// The look succeeded. One that failed is made again, as far as before.
    pub fn end(&mut self, look: Look) {
        if look.reach == Reach::All {
            self.all_took(look.begun.elapsed());
        }
    }

    /// How long until then.
    pub fn due_in(&self) -> Duration {
        self.due.map_or(Duration::ZERO, |due| due.saturating_duration_since(Instant::now()))
    }

    /// Everything was looked at, in so much time.
    fn all_took(&mut self, time: Duration) {
        self.due = Some(Instant::now() + time * SHARE);
    }

    /// Everything is to be looked at next.
    pub fn forget(&mut self) {
        self.due = None;
    }
}

/// A look under way.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// How far it is to reach.
    pub reach: Reach,
    begun: Instant,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_looked_at_as_often_as_it_is_cheap() {
        let mut looks = Looks::default();
        let first = looks.begin();
        assert_eq!(first.reach, Reach::All);
        assert_eq!(looks.begin().reach, Reach::All, "a look that did not end is made again");
        looks.end(first);
        looks.all_took(Duration::from_secs(10));
        assert_eq!(looks.begin().reach, Reach::Recent, "it took long, so not again at once");
        assert!(looks.due_in() > Duration::from_secs(100));
        looks.end(looks.begin());
        assert_eq!(looks.begin().reach, Reach::Recent, "a look at what is new changes nothing");
        looks.forget();
        assert_eq!(looks.begin().reach, Reach::All);
    }
}
