//! Which letters a command is about.

use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::Args;
use gantry_api::wire::LetterFilter;
use gantry_core::LetterId;
use gantry_core::clock::{Clock, SystemClock};

use super::rfc3339;
use crate::commands::values::duration;
use crate::error::{Error, Result};

/// A filter.
#[derive(Args, Clone, Default)]
pub(super) struct Which {
    /// Only with this reason, such as unknown_template
    #[arg(long, value_name = "REASON")]
    reason: Option<String>,
    /// Only those that this part gave up on: dispatcher, worker, recorder or rabbitmq
    #[arg(long, value_name = "PART")]
    origin: Option<String>,
    /// Only those that were in this queue, such as gantry.submissions
    #[arg(long, value_name = "QUEUE")]
    queue: Option<String>,
    /// Only those that last came within this time, such as 2h
    #[arg(long, value_parser = duration, value_name = "TIME")]
    since: Option<Duration>,
}

impl Which {
    fn since(&self) -> Option<DateTime<Utc>> {
        let past = chrono::Duration::from_std(self.since?).ok()?;
        SystemClock.now().checked_sub_signed(past)
    }

    fn is_any(&self) -> bool {
        self.reason.is_none() && self.origin.is_none() && self.queue.is_none() && self.since.is_none()
    }

    /// As parameters of a list.
    pub(super) fn query(&self) -> Vec<(&'static str, String)> {
        let texts = [("reason", &self.reason), ("origin", &self.origin), ("queue", &self.queue)];
        let texts = texts.into_iter().filter_map(|(name, value)| Some((name, value.clone()?)));
        texts.chain(self.since().map(|since| ("since", rfc3339(since)))).collect()
    }
}

/// Letters by their ids, by a filter, or all of them.
#[derive(Args, Clone, Default)]
pub(super) struct Choice {
    /// Their ids
    #[arg(value_name = "ID")]
    ids: Vec<LetterId>,
    #[command(flatten)]
    which: Which,
    /// All that wait
    #[arg(long)]
    all: bool,
    /// Of those that match, at most so many, the oldest first
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..=10_000))]
    limit: Option<i64>,
}

impl Choice {
    /// As a request has them.
    pub(super) fn parts(self) -> Result<(Vec<LetterId>, Option<LetterFilter>, Option<i64>)> {
        let usage = |message: &str| Err(Error::Usage(message.to_owned()));
        match (self.ids.is_empty(), self.which.is_any() && !self.all) {
            (true, true) => usage(
                "name letters by their ids, choose some with --reason, --origin, --queue or --since, or say --all",
            ),
            (false, false) => usage("give ids or a filter, not both"),
            (false, true) if self.limit.is_some() => usage("--limit belongs to a filter"),
            (false, true) => Ok((self.ids, None, None)),
            (true, false) => {
                let since = self.which.since();
                let Which { reason, origin, queue, .. } = self.which;
                Ok((Vec::new(), Some(LetterFilter { reason, origin, queue, since }), self.limit))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_letters_are_meant_only_in_so_many_words() {
        let all = || Choice { all: true, ..Choice::default() };
        assert!(Choice::default().parts().is_err());
        assert_eq!(all().parts().expect("all"), (vec![], Some(LetterFilter::default()), None));
        let ids = vec![LetterId::new()];
        let named = || Choice { ids: ids.clone(), ..Choice::default() };
        assert_eq!(named().parts().expect("named"), (ids.clone(), None, None));
        assert!(Choice { all: true, ..named() }.parts().is_err());
        assert!(Choice { limit: Some(1), ..named() }.parts().is_err());
        let reason = Some("r".to_owned());
        let some =
            Choice { which: Which { reason: reason.clone(), ..Which::default() }, limit: Some(3), ..Choice::default() };
        let filter = LetterFilter { reason, ..LetterFilter::default() };
        assert_eq!(some.parts().expect("some"), (vec![], Some(filter), Some(3)));
    }
}
