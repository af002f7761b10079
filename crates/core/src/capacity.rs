//! What a host has room for, and why jobs wait for it: one pure function from its row to a sentence.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use strum::{Display, EnumString, IntoStaticStr, VariantArray};

use crate::ExecutorType;
use crate::host::State;

/// Whether a host takes jobs, in a word.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, Display, EnumString, IntoStaticStr, VariantArray,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Condition {
    /// It takes jobs now.
    Ready,
    /// It takes jobs as soon as a slot is free.
    Full,
    /// Switched off.
    Inactive,
    /// An operator lets it take no new jobs.
    Cordoned,
    /// An operator empties it.
    Draining,
    /// An operator declared that it does not come back.
    Lost,
    /// No live worker reaches it.
    Unreached,
}

/// What the database holds of a host's capacity.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Its name.
    pub name: &'a str,
    /// The kind of backend.
    pub executor: ExecutorType,
    /// Whether it takes part at all.
    pub is_active: bool,
    /// What an operator allows.
    pub state: State,
    /// Its slots.
    pub max: i32,
    /// Those that are held.
    pub current: i32,
    /// Live workers that serve it.
    pub workers: i64,
    /// Live workers of its executor type.
    pub workers_of_type: i64,
    /// Since when nobody serves it, as far as that is known.
    pub unreached_since: Option<DateTime<Utc>>,
    /// What the last check said; none for who may not see it.
    pub detail: Option<&'a str>,
}

/// Slots that are free: none where more are held than there are.
pub fn available(max: i32, current: i32) -> i32 {
    max.saturating_sub(current).max(0)
}

/// The share of the slots that is held, in percent to one decimal: more than 100 where the limit was lowered below what
/// runs, none for a host without slots.
pub fn utilization_percent(max: i32, current: i32) -> Option<f64> {
    (max > 0).then(|| (f64::from(current) * 1_000.0 / f64::from(max)).round() / 10.0)
}

impl Facts<'_> {
    /// Whether the host takes jobs.
    pub fn condition(&self) -> Condition {
        match (self.is_active, self.state) {
            (false, _) => Condition::Inactive,
            (true, State::Cordoned) => Condition::Cordoned,
            (true, State::Draining) => Condition::Draining,
            (true, State::Lost) => Condition::Lost,
            (true, State::Active) if self.workers == 0 => Condition::Unreached,
            (true, State::Active) if available(self.max, self.current) == 0 => Condition::Full,
            (true, State::Active) => Condition::Ready,
        }
    }

    /// Why jobs wait for it, in one sentence, with what would change that; none for one that takes jobs.
    pub fn reason(&self) -> Option<String> {
        let Self { name, max, current, .. } = self;
        Some(match self.condition() {
            Condition::Ready => return None,
            Condition::Inactive => "it is switched off".into(),
            Condition::Cordoned => format!("it is cordoned; `gantry host activate {name}` lets it take jobs again"),
            Condition::Draining if *current == 0 => {
                format!("it is drained and empty; `gantry host activate {name}` lets it take jobs again")
            }
            Condition::Draining => format!("it is being drained: {current} still hold a slot there"),
            Condition::Lost => {
                format!("it was declared lost; `gantry host activate {name}` lets it take jobs if it is back")
            }
            Condition::Unreached => self.unreached(),
            Condition::Full if *max == 0 => {
                format!("it has no slots; `gantry host set {name} --slots N` gives it some")
            }
            Condition::Full if current > max => {
                format!("it has {max} slots and {current} are held; nothing starts until enough have ended")
            }
            Condition::Full => format!("all of its slots are held ({current} of {max})"),
        })
    }

    fn unreached(&self) -> String {
        let since = self.unreached_since.map(|since| format!(" since {}", since.format("%Y-%m-%d %H:%M:%S UTC")));
        let since = since.unwrap_or_default();
        if self.workers_of_type == 0 {
            return format!("no {} worker is alive, and none has reached it{since}", self.executor);
        }
        let said = self.detail.filter(|detail| !detail.is_empty()).map(|detail| format!(": {detail}"));
        format!("no live worker reaches it{since}{}", said.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READY: Facts<'_> = Facts {
        name: "h",
        executor: ExecutorType::Docker,
        is_active: true,
        state: State::Active,
        max: 4,
        current: 1,
        workers: 1,
        workers_of_type: 1,
        unreached_since: None,
        detail: None,
    };

    #[test]
    fn capacity_is_never_negative_and_never_divided_by_nothing() {
        assert_eq!((available(4, 1), available(4, 4), available(2, 5), available(0, 0)), (3, 0, 0, 0));
        assert_eq!(utilization_percent(3, 1), Some(33.3));
        assert_eq!(utilization_percent(3, 2), Some(66.7));
        assert_eq!(utilization_percent(2, 5), Some(250.0));
        assert_eq!(utilization_percent(0, 0), None);
    }

    #[test]
    fn a_host_that_takes_no_jobs_says_why() {
        let since = DateTime::from_timestamp(1_700_000_000, 0);
        let unreached = Facts { workers: 0, unreached_since: since, detail: Some("connection refused"), ..READY };
        for (facts, condition, says) in [
            (Facts { is_active: false, ..READY }, Condition::Inactive, "switched off"),
            (Facts { state: State::Cordoned, ..READY }, Condition::Cordoned, "gantry host activate h"),
            (Facts { state: State::Draining, ..READY }, Condition::Draining, "1 still hold"),
            (Facts { state: State::Draining, current: 0, ..READY }, Condition::Draining, "drained and empty"),
            (Facts { state: State::Lost, ..READY }, Condition::Lost, "declared lost"),
            (unreached, Condition::Unreached, "since 2023-11-14 22:13:20 UTC: connection refused"),
            (Facts { workers_of_type: 0, ..unreached }, Condition::Unreached, "no docker worker is alive"),
            (Facts { current: 4, ..READY }, Condition::Full, "4 of 4"),
            (Facts { current: 6, ..READY }, Condition::Full, "it has 4 slots and 6 are held"),
            (Facts { max: 0, current: 0, ..READY }, Condition::Full, "--slots N"),
            // What an operator decided comes before what workers find.
            (Facts { state: State::Cordoned, workers: 0, ..READY }, Condition::Cordoned, "cordoned"),
        ] {
            assert_eq!(facts.condition(), condition);
            let reason = facts.reason().expect("a reason");
            assert!(reason.contains(says), "{reason}");
        }
        assert_eq!((READY.condition(), READY.reason()), (Condition::Ready, None));
    }
}
