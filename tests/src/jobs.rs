//! Submissions.

use gantry_testkit::TestDocker;
use serde_json::{Map, Value, json};

/// A simulated container; the labels say what it does, `mock.` left out of their names.
pub fn mock(labels: &[(&str, &str)]) -> Value {
    let labels: Map<String, Value> =
        labels.iter().map(|(name, value)| (format!("mock.{name}"), Value::from(*value))).collect();
    json!({ "preferred_executor": "mock", "spec": { "image": "simulated" }, "labels": labels })
}

/// A real container of the test image that runs a shell script.
pub fn docker(script: &str) -> Value {
    let image = TestDocker::find().image().to_owned();
    json!({ "preferred_executor": "docker", "spec": { "image": image, "command": ["sh", "-c", script] } })
}

/// `job` with the fields of `more` laid over it, objects field by field.
#[must_use]
pub fn with(mut job: Value, more: Value) -> Value {
    fn lay(under: &mut Value, over: Value) {
        match (under, over) {
            (Value::Object(under), Value::Object(over)) => {
                for (name, value) in over {
                    lay(under.entry(name).or_insert(Value::Null), value);
                }
            }
            (under, over) => *under = over,
        }
    }
    lay(&mut job, more);
    job
}
