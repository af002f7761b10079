//! What a simulated container does: the host's defaults, and the job's labels over them.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use gantry_core::{Failure, FailureClass, JobId};
use serde_json::Value;

use crate::faults::{Fault, Mix};

/// Labels of this prefix are for the mock, so that an unknown one is a mistake.
const PREFIX: &str = "mock.";

/// A year: longer than any job may run, and far from where the clock would overflow.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// Bytes of a line: the longest number has its place, and a page of a log holds some.
const LINE_BYTES: std::ops::RangeInclusive<u32> = 20..=65_536;

/// What one container does.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Behaviour {
    pub(crate) duration: Duration,
    pub(crate) prepare_delay: Duration,
    pub(crate) start_delay: Duration,
    pub(crate) hidden_for: Duration,
    pub(crate) exit_code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) lines: u32,
    /// As long as its number needs, if none.
    pub(crate) line_bytes: Option<u32>,
    /// The whole duration, if none.
    pub(crate) print_time: Option<Duration>,
    pub(crate) stop_delay: Duration,
    pub(crate) stop_ignores_term: bool,
    pub(crate) fail: Mix,
    pub(crate) seed: u64,
    /// What stands for the job's id when its fault is drawn.
    pub(crate) key: Option<String>,
    /// Why the host's checks fail, if they do. A host's alone.
    pub(crate) sick: Option<FailureClass>,
}

impl Behaviour {
    /// The behaviour of a job with these labels on a host with this `executor_config`. A key or a value that makes
    /// no sense is `invalid_spec`, with its name.
    pub(crate) fn of(executor_config: &Value, labels: &BTreeMap<String, String>) -> Result<Self, Failure> {
        let mut behaviour = Self::default();
        match executor_config {
            Value::Null => {}
            Value::Object(defaults) => {
                for (key, value) in defaults {
                    let text = text(value);
                    let set = if key == "sick" { behaviour.set_sick(&text) } else { behaviour.set(key, &text) };
                    set.map_err(|reason| invalid(&format!("executor_config.{key}"), reason))?;
                }
            }
            _ => return Err(invalid("executor_config", "must be an object".into())),
        }
        for (label, text) in labels {
            if let Some(key) = label.strip_prefix(PREFIX) {
                behaviour.set(key, text).map_err(|reason| invalid(&format!("label {label}"), reason))?;
            }
        }
        behaviour.amounts_are_given()?;
        Ok(behaviour)
    }

    /// The faults that have an amount, with the key of the amount. With such a fault in `fail` the amount is for those
    /// who meet it; without it, for all.
    fn amounts(&self) -> [(Fault, &'static str, bool); 4] {
        [
            (Fault::SlowStart, "start_delay", self.start_delay.is_zero()),
            (Fault::Hidden, "hidden_for", self.hidden_for.is_zero()),
            (Fault::SlowStop, "stop_delay", self.stop_delay.is_zero()),
            (Fault::LogFlood, "lines", self.lines == 0),
        ]
    }

    fn amounts_are_given(&self) -> Result<(), Failure> {
        match self.amounts().into_iter().find(|(fault, _, is_zero)| *is_zero && self.fail.has(*fault)) {
            Some((fault, key, _)) => Err(invalid("fail", format!("{fault} is nothing without {key}: give one"))),
            None => Ok(()),
        }
    }

    /// Draws the fault that an attempt meets, and leaves out the amounts of those that it does not.
    pub(crate) fn settle(&mut self, job: JobId, attempt: i32) -> Option<Fault> {
        let drawn = self.fail.draw(self.seed, self.key.as_deref(), job, attempt);
        let spared = |fault| self.fail.has(fault) && drawn != Some(fault);
        let [start, hidden, stop, flood] =
            [Fault::SlowStart, Fault::Hidden, Fault::SlowStop, Fault::LogFlood].map(spared);
        if start {
            self.start_delay = Duration::ZERO;
        }
        if hidden {
            self.hidden_for = Duration::ZERO;
        }
        if stop {
            self.stop_delay = Duration::ZERO;
        }
        if flood {
            self.lines = 0;
        }
        drawn
    }

    fn set_sick(&mut self, text: &str) -> Result<(), String> {
        let reason = "must be the class of a place's failure, such as no_capacity or host_unreachable";
        let class: FailureClass = parsed(text, reason)?;
        if !class.is_infrastructure() {
            return Err(format!("{reason}, not {text:?}"));
        }
        self.sick = Some(class);
        Ok(())
    }

    fn set(&mut self, key: &str, text: &str) -> Result<(), String> {
        match key {
            "duration" => self.duration = duration(text)?,
            "prepare_delay" => self.prepare_delay = duration(text)?,
            "start_delay" => self.start_delay = duration(text)?,
            "exit_code" => self.exit_code = i32::from(parsed::<u8>(text, "an exit code is 0 to 255")?),
            "stdout" => text.clone_into(&mut self.stdout),
            "stderr" => text.clone_into(&mut self.stderr),
            "lines" => self.lines = parsed(text, "must be a number of lines")?,
            "line_bytes" => self.line_bytes = Some(line_bytes(text)?),
            "print_time" => self.print_time = Some(duration(text)?),
            "hidden_for" => self.hidden_for = duration(text)?,
            "stop_delay" => self.stop_delay = duration(text)?,
            "stop_ignores_term" => self.stop_ignores_term = parsed(text, "must be true or false")?,
            "fail" => self.fail = Mix::parse(text)?,
            "seed" => self.seed = parsed(text, "must be a whole number from 0 on")?,
            "key" => self.key = Some(text.to_owned()),
            "sick" => return Err("is a host's, in its executor_config, and no job's".into()),
            _ => return Err("is unknown to the mock".into()),
        }
        Ok(())
    }
}

/// A value of a host's configuration as a label would have it. The object of `fail` becomes its list.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Object(faults) if faults.is_empty() => "none".into(),
        Value::Object(faults) => {
            let parts: Vec<String> = faults.iter().map(|(name, probability)| format!("{name}:{probability}")).collect();
            parts.join(",")
        }
        other => other.to_string(),
    }
}

fn line_bytes(text: &str) -> Result<u32, String> {
    let reason = format!("must be {} to {} bytes", LINE_BYTES.start(), LINE_BYTES.end());
    let bytes = parsed(text, &reason)?;
    if LINE_BYTES.contains(&bytes) { Ok(bytes) } else { Err(format!("{reason}, not {text:?}")) }
}

fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration <= LONGEST => Ok(duration),
        Ok(_) => Err(format!("must be at most a year, not {text:?}")),
        Err(error) => Err(format!("must be a time such as 250ms, not {text:?}: {error}")),
    }
}

fn parsed<T: FromStr>(text: &str, reason: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{reason}, not {text:?}"))
}

fn invalid(name: &str, reason: String) -> Failure {
    Failure::new(FailureClass::InvalidSpec, format!("{name}: {reason}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(config: Value, labels: &[(&str, &str)]) -> Result<Behaviour, String> {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Behaviour::of(&config, &labels).map_err(|failure| {
            assert_eq!(failure.class, FailureClass::InvalidSpec);
            failure.message
        })
    }

    #[test]
    fn labels_lie_over_the_hosts_defaults() {
        let config = json!({"duration": "2s", "exit_code": 3, "stop_ignores_term": true});
        let behaviour =
            of(config, &[("mock.duration", "5ms"), ("team", "x"), ("mock.fail", "oom_killed")]).expect("valid");
        assert_eq!(behaviour.duration, Duration::from_millis(5));
        assert_eq!((behaviour.exit_code, behaviour.stop_ignores_term), (3, true));
        assert_eq!(behaviour.fail.certain(), Some(Fault::OomKilled));
        assert_eq!(of(Value::Null, &[]), Ok(Behaviour::default()));
    }

    #[test]
    fn a_refusal_names_the_label() {
        for (label, value) in [
            ("mock.duration", "soon"),
            ("mock.duration", "900years"),
            ("mock.prepare_delay", "long"),
            ("mock.start_delay", "-1s"),
            ("mock.exit_code", "256"),
            ("mock.lines", "many"),
            ("mock.line_bytes", "19"),
            ("mock.line_bytes", "70000"),
            ("mock.print_time", "1"),
            ("mock.hidden_for", "some"),
            ("mock.stop_delay", "never"),
            ("mock.seed", "-1"),
            ("mock.fail", "lost:0.6,throttled:0.6"),
            ("mock.sick", "no_capacity"),
            ("mock.stop_ignores_term", "perhaps"),
            ("mock.fail", "exit_nonzero"),
            ("mock.durration", "1s"),
        ] {
            let message = of(json!({}), &[(label, value)]).expect_err(value);
            assert!(message.starts_with(&format!("label {label}: ")), "{message}");
        }
        assert!(of(json!({"exit_code": "x"}), &[]).expect_err("x").starts_with("executor_config.exit_code: "));
        assert!(of(json!([]), &[]).expect_err("list").starts_with("executor_config: "));
    }
    #[test]
    fn a_host_gives_faults_as_an_object() {
        let config = json!({"fail": {"lost": 0.01, "throttled": 0.1}, "seed": 7});
        let labels = [("mock.fail", "throttled:0.1,lost:0.01"), ("mock.seed", "7")];
        assert_eq!(of(config.clone(), &[]), of(json!({}), &labels));
        assert_eq!(of(config, &[("mock.fail", "none"), ("mock.seed", "0")]), of(json!({"fail": {}}), &[]));
        let message = of(json!({"fail": {"lost": 0.6, "throttled": 0.6}}), &[]).expect_err("too many");
        assert!(message.starts_with("executor_config.fail: the probabilities sum to 1.200"), "{message}");
        assert!(of(json!({"fail": {"lost": "often"}}), &[]).is_err());
        assert!(of(json!({"sick": "exit_nonzero"}), &[]).is_err(), "no failure of a place");
        assert_eq!(of(json!({"sick": "no_capacity"}), &[]).expect("valid").sick, Some(FailureClass::NoCapacity));
    }

    #[test]
    fn an_amount_is_for_those_who_meet_its_fault() {
        let labels = [
            ("mock.start_delay", "1s"),
            ("mock.hidden_for", "2s"),
            ("mock.stop_delay", "3s"),
            ("mock.lines", "4"),
            ("mock.fail", "slow_start:0.2,hidden:0.2,slow_stop:0.2,log_flood:0.2"),
        ];
        let behaviour = of(json!({}), &labels).expect("valid");
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..200 {
            let mut one = behaviour.clone();
            let drawn = one.settle(JobId::new(), 1);
            let left: Vec<Fault> = one.amounts().into_iter().filter(|(.., zero)| !zero).map(|(f, ..)| f).collect();
            assert_eq!(left, drawn.into_iter().collect::<Vec<_>>());
            seen.insert(drawn);
        }
        assert_eq!(seen.len(), 5, "each of the four and none: {seen:?}");

        let mut without = of(json!({}), &labels[..4]).expect("valid");
        let before = without.clone();
        assert_eq!(without.settle(JobId::new(), 1), None);
        assert_eq!(without, before, "an amount without its fault is for all");
        let message = of(json!({}), &[("mock.fail", "slow_stop:0.1")]).expect_err("by how much?");
        assert_eq!(message, "fail: slow_stop is nothing without stop_delay: give one");
    }
}
