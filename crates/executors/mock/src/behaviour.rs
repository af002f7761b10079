//! What a simulated container does: the host's defaults, and the job's labels over them.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use gantry_core::{Failure, FailureClass};
use serde_json::Value;
use strum::{EnumString, VariantNames};

/// Labels of this prefix are for the mock, so that an unknown one is a mistake.
const PREFIX: &str = "mock.";

/// A year: longer than any job may run, and far from where the clock would overflow.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// What one container does.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Behaviour {
    pub(crate) duration: Duration,
    pub(crate) prepare_delay: Duration,
    pub(crate) start_delay: Duration,
    pub(crate) exit_code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) lines: u32,
    pub(crate) stop_ignores_term: bool,
    pub(crate) fail: Fault,
}

/// What goes wrong. One per container, whoever chose it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, EnumString, VariantNames)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum Fault {
    #[default]
    None,
    ImageNotFound,
    ImagePullDenied,
    InvalidSpec,
    LaunchRejected,
    NoCapacity,
    Throttled,
    HostUnreachable,
    BackendError,
    LostResponse,
    Lost,
    OomKilled,
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

    /// The refusal of `launch`.
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
            Self::None | Self::LostResponse | Self::Lost | Self::OomKilled => None,
        }
    }
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
                    let text = match value {
                        Value::String(text) => text.clone(),
                        other => other.to_string(),
                    };
                    behaviour.set(key, &text).map_err(|reason| invalid(&format!("executor_config.{key}"), reason))?;
                }
            }
            _ => return Err(invalid("executor_config", "must be an object".into())),
        }
        for (label, text) in labels {
            if let Some(key) = label.strip_prefix(PREFIX) {
                behaviour.set(key, text).map_err(|reason| invalid(&format!("label {label}"), reason))?;
            }
        }
        Ok(behaviour)
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
            "stop_ignores_term" => self.stop_ignores_term = parsed(text, "must be true or false")?,
            "fail" => self.fail = parsed(text, &format!("must be one of {}", Fault::VARIANTS.join(", ")))?,
            _ => return Err("is unknown to the mock".into()),
        }
        Ok(())
    }
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
        assert_eq!(behaviour.fail, Fault::OomKilled);
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
}
