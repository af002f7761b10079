//! What the real containers wrote down themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Context;
use gantry_core::JobId;
use gantry_executor_mock::ledger::{Ledger, Run};

use crate::verdict::Printed;

/// What ran, and when each attempt has printed a line, in nanoseconds of the machine's CLOCK_BOOTTIME.
#[derive(Default)]
pub(crate) struct Book {
    pub(crate) ledger: Ledger,
    beats: BTreeMap<(JobId, i32), Vec<u64>>,
}

/// How long before its end, at most, an engine has begun a start that it does not get to write down.
const STARTING: u64 = 10_000_000_000;

/// What a container has printed when its engine dies may still be on its way to the log.
const ON_ITS_WAY: u64 = 400_000_000;

impl Book {
    /// How much each attempt has printed, when its engine was away from and to these times.
    pub(crate) fn printed(&self, away: &[(u64, u64)]) -> BTreeMap<(JobId, i32), Printed> {
        let lines = |beats: &[u64]| {
            let gone =
                away.iter().filter(|(_, to)| beats.first().is_some_and(|first| first < to)).map(|(from, _)| *from);
            let heard_until = gone.min().map_or(u64::MAX, |from| from.saturating_sub(ON_ITS_WAY));
            let heard = beats.iter().filter(|beat| **beat < heard_until).count();
            let count = |lines| u32::try_from(lines).unwrap_or(u32::MAX);
            Printed { heard: count(heard), in_all: count(beats.len()) }
        };
        self.beats.iter().map(|(key, beats)| (*key, lines(beats))).collect()
    }

    /// The runs that an engine which was away from and to these times cannot know of, and all others: those of `doubted`
    /// attempts that began right before it went.
    pub(crate) fn forgotten(&self, away: &[(u64, u64)], doubted: &BTreeSet<(JobId, i32)>) -> (Ledger, Ledger) {
        let (mut forgotten, mut others) = (Ledger::default(), Ledger::default());
        for run in self.ledger.runs() {
            let began_as_it_went =
                away.iter().any(|(from, to)| (from.saturating_sub(STARTING)..*to).contains(&run.started_ns));
            let is_forgotten = began_as_it_went && doubted.contains(&(run.job, run.attempt));
            if is_forgotten { &mut forgotten } else { &mut others }.add(run.clone());
        }
        (forgotten, others)
    }
}

/// Reads the ledger's file; one that is not there yet is empty.
pub(crate) fn read(file: &Path) -> anyhow::Result<Book> {
    match std::fs::read_to_string(file) {
        Ok(text) => parse(&text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Book::default()),
        Err(error) => Err(error).with_context(|| format!("could not read {}", file.display())),
    }
}

/// A run lasts from its first line to its last.
fn parse(text: &str) -> anyhow::Result<Book> {
    let mut runs = BTreeMap::<&str, Run>::new();
    let mut beats = BTreeMap::<_, Vec<u64>>::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let [job, attempt, id, uptime, what] = fields[..] else { anyhow::bail!("not a line of a ledger: {line}") };
        let (job, attempt) = (job.parse()?, attempt.parse()?);
        let at = nanoseconds(uptime).with_context(|| format!("not a time: {line}"))?;
        let run = runs.entry(id).or_insert_with(|| Run {
            id: id.to_owned(),
            name: String::new(),
            job,
            attempt,
            started_ns: at,
            planned_end_ns: at,
        });
        run.planned_end_ns = run.planned_end_ns.max(at);
        if what == "beat" {
            beats.entry((job, attempt)).or_default().push(at);
        }
    }
    let mut ledger = Ledger::default();
    for run in runs.into_values() {
        ledger.add(run);
    }
    Ok(Book { ledger, beats })
}

/// `/proc/uptime` has seconds with two decimals.
fn nanoseconds(uptime: &str) -> Option<u64> {
    let (seconds, hundredths) = uptime.split_once('.')?;
    (hundredths.len() == 2).then_some(())?;
    Some(seconds.parse::<u64>().ok()? * 1_000_000_000 + hundredths.parse::<u64>().ok()? * 10_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_is_as_long_as_its_lines_tell() {
        let (one, two) = (JobId::new(), JobId::new());
        let text = format!(
            "{one} 1 a 10.00 start\n{one} 1 a 10.00 beat\n{one} 1 a 10.20 beat\n\
             {two} 1 b 10.10 start\n{two} 1 b 10.50 end\n\
             {one} 2 c 10.20 start\n"
        );
        let book = parse(&text).expect("a ledger");
        assert_eq!(book.ledger.max_concurrency(), 2);
        assert!(book.ledger.alive_twice().is_empty(), "the second attempt began when the first was dead");
        let printed = |away: &[(u64, u64)]| book.printed(away)[&(one, 1)];
        let second = 1_000_000_000;
        assert_eq!(printed(&[]), Printed { heard: 2, in_all: 2 });
        assert_eq!(printed(&[(8 * second, 9 * second)]), Printed { heard: 2, in_all: 2 }, "before its time");
        assert_eq!(printed(&[(10 * second + second / 2, 12 * second)]), Printed { heard: 1, in_all: 2 });
        // The same attempt again, while the other ran: two containers, or one started twice.
        let book = parse(&format!("{text}{one} 1 d 10.10 start\n{one} 1 d 10.30 end\n")).expect("a ledger");
        assert_eq!(book.ledger.max_concurrency(), 3);
        assert!(book.ledger.alive_twice().contains(&one));
        assert_eq!(book.ledger.starts()[&(one, 1)], 2);
        assert!(parse("nonsense").is_err());
    }

    #[test]
    fn forgotten_is_what_began_as_its_engine_went_and_is_doubted() {
        let (one, two) = (JobId::new(), JobId::new());
        let text =
            format!("{one} 1 a 20.00 start\n{two} 1 b 20.00 start\n{one} 2 c 50.00 start\n{two} 2 d 50.00 start\n");
        let book = parse(&text).expect("a ledger");
        let second = 1_000_000_000;
        let away = [(21 * second, 30 * second)];
        let doubted = BTreeSet::from([(one, 1), (two, 2)]);
        let (forgotten, others) = book.forgotten(&away, &doubted);
        assert_eq!(forgotten.starts().into_keys().collect::<Vec<_>>(), [(one, 1)]);
        assert_eq!(
            others.starts().len(),
            3,
            "of the others one is not doubted, and one began when the engine was there"
        );
    }
}
