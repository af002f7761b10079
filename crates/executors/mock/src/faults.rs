//! What goes wrong: the faults, how likely each is, and which one a job meets.

use gantry_core::{FailureClass, JobId};
use sha2::{Digest as _, Sha256};
use strum::{Display, EnumString, VariantNames};

/// What goes wrong with one attempt. `docs/MOCK.md` says what a producer sees of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Display, EnumString, VariantNames)]
#[strum(serialize_all = "snake_case")]
pub enum Fault {
    /// The registry does not know the image.
    ImageNotFound,
    /// The registry refuses to give the image.
    ImagePullDenied,
    /// The launch is refused: the spec can never run.
    InvalidSpec,
    /// The launch is refused.
    LaunchRejected,
    /// The launch is refused: the place has no room.
    NoCapacity,
    /// The launch is refused with a 429.
    Throttled,
    /// The launch is refused: the place is not reached.
    HostUnreachable,
    /// The launch is refused for a reason of the backend's own.
    BackendError,
    /// The first launch of the attempt is answered with a 503: nothing was done, and nobody can know.
    Unavailable,
    /// Launched, and the answer is lost.
    LostResponse,
    /// Launched, and not to be seen for `hidden_for`.
    Hidden,
    /// Starts only after `start_delay`.
    SlowStart,
    /// Launched, and then fails to start, after `start_delay`: there never is a container.
    StartFailed,
    /// Runs for its duration, and is then nowhere to be found.
    Lost,
    /// Is killed at its memory limit after its duration.
    OomKilled,
    /// Ends after its duration, and the backend has no exit code of it.
    NoExitCode,
    /// Heeds SIGTERM only after `stop_delay`.
    SlowStop,
    /// Prints `lines` lines of `line_bytes`.
    LogFlood,
}

impl Fault {
    /// The refusal of `prepare`.
    pub(crate) fn at_prepare(self) -> Option<FailureClass> {
        match self {
            Self::ImageNotFound => Some(FailureClass::ImageNotFound),
            Self::ImagePullDenied => Some(FailureClass::ImagePullDenied),
            _ => None,
        }
    }

    /// The refusal of `launch`, where it is certain that nothing was launched.
    pub(crate) fn at_launch(self) -> Option<FailureClass> {
        match self {
            Self::InvalidSpec => Some(FailureClass::InvalidSpec),
            Self::LaunchRejected => Some(FailureClass::LaunchRejected),
            Self::NoCapacity => Some(FailureClass::NoCapacity),
            Self::Throttled => Some(FailureClass::Throttled),
            Self::HostUnreachable => Some(FailureClass::HostUnreachable),
            Self::BackendError => Some(FailureClass::BackendError),
            // An engine without the image refuses the launch too, if nobody asked it to prepare.
            Self::ImageNotFound | Self::ImagePullDenied => self.at_prepare(),
            Self::Unavailable
            | Self::LostResponse
            | Self::Hidden
            | Self::SlowStart
            | Self::StartFailed
            | Self::Lost
            | Self::OomKilled
            | Self::NoExitCode
            | Self::SlowStop
            | Self::LogFlood => None,
        }
    }
}

/// Which faults there are and how likely each is. Sorted, so that the order in which they were given says nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Mix(Vec<(Fault, f64)>);

impl Mix {
    /// Reads `none`, a fault, or faults with their probabilities: `throttled:0.1,lost:0.01`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self::default());
        }
        let mut faults = text.split(',').map(|part| entry(part.trim(), text)).collect::<Result<Vec<_>, _>>()?;
        faults.sort_unstable_by_key(|(fault, _)| *fault);
        if let Some(twice) = faults.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(format!("has {} twice", twice[0].0));
        }
        let sum: f64 = faults.iter().map(|(_, probability)| probability).sum();
        // Ten times 0.1 are a little more than 1.
        if sum > 1.0 + 1e-9 {
            return Err(format!("the probabilities sum to {sum:.3}, and one job meets at most one fault: at most 1"));
        }
        Ok(Self(faults))
    }

    /// Whether a fault is among them.
    pub(crate) fn has(&self, fault: Fault) -> bool {
        self.0.iter().any(|(one, _)| *one == fault)
    }

    /// The fault that every job meets, if there is one.
    pub(crate) fn certain(&self) -> Option<Fault> {
        self.0.iter().find(|(_, probability)| *probability >= 1.0).map(|(fault, _)| *fault)
    }

    /// The fault that this attempt meets: the same for every process that asks, and for ever.
    pub(crate) fn draw(&self, seed: u64, key: Option<&str>, job: JobId, attempt: i32) -> Option<Fault> {
        if self.0.is_empty() {
            return None;
        }
        if let Some(certain) = self.certain() {
            return Some(certain);
        }
        let mut rest = match key {
            Some(key) => fraction(seed, key, attempt),
            None => fraction(seed, &job.to_string(), attempt),
        };
        for (fault, probability) in &self.0 {
            if rest < *probability {
                return Some(*fault);
            }
            rest -= probability;
        }
        None
    }
}

fn entry(part: &str, text: &str) -> Result<(Fault, f64), String> {
    let (name, probability) = match part.split_once(':') {
        Some((name, probability)) => (name.trim(), Some(probability.trim())),
        None => (part, None),
    };
    let fault = name.parse().map_err(|_| {
        let known = Fault::VARIANTS.join(", ");
        format!("must be none, one of {known}, or some of them as in throttled:0.1,lost:0.01; it is {text:?}")
    })?;
    let probability = probability.map_or(Ok(1.0), str::parse).unwrap_or(f64::NAN);
    match (0.0..=1.0).contains(&probability) {
        true => Ok((fault, probability)),
        false => Err(format!("a probability is a number from 0 to 1, and that of {name} is none in {text:?}")),
    }
}

/// A number in `0.0..1.0`: the first 53 bits of the SHA-256 of seed (8 bytes), attempt (4 bytes, both big-endian) and
/// key. A hash with a name, so that whoever wants to know beforehand can compute it too.
fn fraction(seed: u64, key: &str, attempt: i32) -> f64 {
    let hash = Sha256::new()
        .chain_update(seed.to_be_bytes())
        .chain_update(attempt.to_be_bytes())
        .chain_update(key.as_bytes())
        .finalize();
    let first = hash.iter().take(8).fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
    (first >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn mix(text: &str) -> Mix {
        Mix::parse(text).expect("valid")
    }

    #[test]
    fn a_mix_is_read_in_any_order_and_refused_in_words() {
        assert_eq!(mix("lost:0.01, throttled:0.1"), mix("throttled:0.1,lost:0.01"));
        assert_eq!(mix("lost"), mix("lost:1"));
        assert_eq!(mix("none"), Mix::default());
        mix("throttled:0.1,lost:0.2,hidden:0.3,no_exit_code:0.4");
        for (text, word) in [
            ("", "must be none, one of image_not_found,"),
            ("exit_nonzero", "must be none"),
            ("lost:0.1,", "must be none"),
            ("lost:much", "from 0 to 1"),
            ("lost:-0.1", "from 0 to 1"),
            ("lost:NaN", "from 0 to 1"),
            ("lost:1.01", "from 0 to 1"),
            ("lost:0.1,lost:0.1", "has lost twice"),
            ("lost:0.6,throttled:0.6", "sum to 1.200"),
            ("lost,throttled", "sum to 2.000"),
        ] {
            let reason = Mix::parse(text).expect_err(text);
            assert!(reason.contains(word), "{text}: {reason}");
        }
    }

    #[test]
    fn the_choice_is_what_it_is_documented_to_be() {
        // Python: int.from_bytes(sha256(struct.pack(">Qi", 7, 1) + b"order-17").digest()[:8]) / 2**64
        let first = fraction(7, "order-17", 1);
        assert!((first - 0.587254003).abs() < 1e-9, "{first}: a change of the hash changes every producer's runs");
    }

    #[test]
    fn a_key_stands_for_the_job() {
        let mix = mix("lost:0.5");
        let draw = |job| (1..40).map(|attempt| mix.draw(1, Some("a"), job, attempt)).collect::<Vec<_>>();
        assert_eq!(draw(JobId::new()), draw(JobId::new()));
        assert!(draw(JobId::new()).contains(&None) && draw(JobId::new()).contains(&Some(Fault::Lost)));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

        /// Over many jobs each fault is as frequent as it was asked for, whatever the seed; six standard deviations
        /// are allowed. Attempts of one job are drawn anew.
        #[test]
        fn the_rate_is_the_probability(seed: u64, throttled in 0.0..0.5_f64, lost in 0.0..0.5_f64) {
            const JOBS: u32 = 4_000;
            let mix = mix(&format!("throttled:{throttled},lost:{lost}"));
            for attempt in [1, 2] {
                let mut counts: HashMap<Option<Fault>, u32> = HashMap::new();
                for job in 0..JOBS {
                    let fault = mix.draw(seed, Some(&job.to_string()), JobId::new(), attempt);
                    *counts.entry(fault).or_default() += 1;
                }
                for (fault, p) in [(Fault::Throttled, throttled), (Fault::Lost, lost)] {
                    let (expected, jobs) = (p * f64::from(JOBS), f64::from(JOBS));
                    let counted = f64::from(counts.get(&Some(fault)).copied().unwrap_or_default());
                    let bound = 6.0 * (jobs * p * (1.0 - p)).sqrt() + 2.0;
                    prop_assert!((counted - expected).abs() < bound, "{fault}: {counted}, expected {expected}");
                }
            }
        }

        /// The same seed gives the same faults; another one others.
        #[test]
        fn a_seed_is_a_run(seed: u64) {
            let mix = mix("throttled:0.3,lost:0.3");
            let jobs: Vec<JobId> = (0..200).map(|_| JobId::new()).collect();
            let run = |seed| jobs.iter().map(|job| mix.draw(seed, None, *job, 1)).collect::<Vec<_>>();
            prop_assert_eq!(run(seed), run(seed));
            prop_assert_ne!(run(seed), run(seed.wrapping_add(1)));
        }
    }
}
