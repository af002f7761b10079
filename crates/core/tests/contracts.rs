//! `docs/contracts/` says what the code does: the committed schemas are the generated ones, and the example of
//! each message satisfies its schema and survives the Rust type.

use std::fmt::Debug;
use std::fs;
use std::path::{Path, PathBuf};

use gantry_core::message::{
    CloudEvent, Control, Nudge, Reply, Report, ReportKind, Reports, ReportsToWrite, Work, schemas,
};
use gantry_core::problem::Code;
use gantry_core::spec::Submission;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/contracts")
}

fn read(path: &str) -> String {
    let file = folder().join(path);
    fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn example(name: &str) -> Value {
    serde_json::from_str(&read(&format!("examples/{name}.json"))).expect("an example is JSON")
}

fn validator(name: &str) -> jsonschema::Validator {
    let schema = serde_json::from_str(&read(&format!("{name}.schema.json"))).expect("a schema is JSON");
    jsonschema::validator_for(&schema).expect("a schema is a schema")
}

/// The example through the Rust type and back is the example.
fn survives<T: Serialize + DeserializeOwned + Debug>(name: &str) -> T {
    let example = example(name);
    let value: T = serde_json::from_value(example.clone()).expect("an example is a message");
    assert_eq!(serde_json::to_value(&value).expect("a message is JSON"), example, "{name}");
    value
}

#[test]
fn the_committed_schemas_are_the_generated_ones() {
    for (name, schema) in schemas() {
        let generated = format!("{:#}\n", schema.as_value());
        assert!(
            read(&format!("{name}.schema.json")) == generated,
            "docs/contracts/{name}.schema.json is stale: run `cargo run -p gantry-core --example contracts`",
        );
    }
}

#[test]
fn the_folder_holds_a_schema_and_an_example_for_each_message_and_nothing_else() {
    let mut expected: Vec<String> = schemas().iter().map(|(name, _)| format!("{name}.json")).collect();
    let names = |folder: PathBuf, ending: &str| -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(&folder)
            .expect("the folder exists")
            .map(|entry| entry.expect("the folder can be read").file_name().to_string_lossy().into_owned())
            .filter(|name| name.ends_with(ending))
            .collect();
        names.sort();
        names
    };
    expected.sort();
    assert_eq!(names(folder().join("examples"), ".json"), expected);
    let schemas: Vec<String> = names(folder(), ".json").iter().map(|name| name.replace(".schema.", ".")).collect();
    assert_eq!(schemas, expected);
}

#[test]
fn every_example_satisfies_its_schema() {
    for (name, _) in schemas() {
        let errors: Vec<String> = validator(name).iter_errors(&example(name)).map(|e| e.to_string()).collect();
        assert_eq!(errors, Vec::<String>::new(), "{name}");
    }
}

#[test]
fn every_example_survives_its_type() {
    survives::<Reply>("reply");
    survives::<Work>("work");
    survives::<Control>("control");
    survives::<CloudEvent>("event");
    let Reports::V1 { reports } = survives::<Reports>("reports");
    let typed: Vec<Report> = reports
        .iter()
        .map(|report| {
            let typed: Report = serde_json::from_value(report.clone()).expect("each report is one");
            assert_eq!(serde_json::to_value(&typed).expect("a report is JSON"), *report);
            typed
        })
        .collect();
    let written = serde_json::to_string(&ReportsToWrite::V1 { reports: typed.iter().collect() }).expect("JSON");
    assert_eq!(serde_json::from_str::<Value>(&written).expect("JSON"), example("reports"));
}

/// A producer leaves out what has a default, so the way back adds to it and changes nothing.
#[test]
fn the_submission_says_what_a_producer_must_and_no_more() {
    let example = example("submission");
    let submission = Submission::from_value(example.clone()).expect("the example is valid");
    assert!(submission.name.is_some() && submission.idempotency_key.is_some());
    assert_eq!(submission.preferred_executor, Some(gantry_core::ExecutorType::Docker));
    let spec = submission.spec.as_ref().expect("the example is inline");
    assert_eq!(spec.image, "gantry/busybox:1");

    let back = serde_json::to_value(&submission).expect("a submission is JSON");
    assert!(contains(&back, &example), "{back:#} lost something of {example:#}");
    assert!(validator("submission").is_valid(&back));
    assert_eq!(Submission::from_value(back).expect("still valid"), submission);
}

fn contains(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            part.iter().all(|(key, value)| whole.get(key).is_some_and(|there| contains(there, value)))
        }
        _ => whole == part,
    }
}

#[test]
fn an_unknown_version_is_refused() {
    let later = |name: &str| {
        let mut message = example(name);
        message["version"] = json!("2");
        assert!(!validator(name).is_valid(&message), "the schema of {name} takes version 2");
        message
    };
    assert!(serde_json::from_value::<Work>(later("work")).is_err());
    assert!(serde_json::from_value::<Reports>(later("reports")).is_err());
    assert!(serde_json::from_value::<Control>(later("control")).is_err());
    assert!(serde_json::from_value::<Submission>(later("submission")).is_err());
    let problem = Submission::from_value(later("submission")).expect_err("version 2 is unknown");
    assert_eq!((problem.code, problem.field.as_deref()), (Code::UnsupportedVersion, Some("version")));
}

#[test]
fn the_schemas_refuse_what_the_code_refuses() {
    let mut unknown_field = example("submission");
    unknown_field["commnd"] = json!("echo");
    let mut too_high = example("submission");
    too_high["priority"] = json!(101);
    let mut untyped = example("work");
    untyped["jobs"][0]["attempt"] = json!("one");
    let mut unnamed = example("reports");
    unnamed["reports"][0]["kind"] = json!("paused");
    for (name, message) in
        [("submission", unknown_field), ("submission", too_high), ("work", untyped), ("reports", unnamed)]
    {
        assert!(!validator(name).is_valid(&message), "the schema of {name} takes {message:#}");
    }
}

/// An older worker does not say whether it launched anything, and an older recorder does not ask.
#[test]
fn an_end_says_only_for_certain_that_nothing_was_launched() {
    let report = json!({
        "job": "0192f0c0-0000-7000-8000-000000000001", "attempt": 1, "epoch": 1, "kind": "ended",
        "outcome": { "outcome": "failed", "class": "no_capacity", "message": "full" }
    });
    let ended = |report: &Value| match serde_json::from_value::<Report>(report.clone()).expect("a report").kind {
        ReportKind::Ended(ended) => ended,
        other => panic!("{other:?}"),
    };
    let older = ended(&report);
    assert!(!older.not_launched);
    assert_eq!(serde_json::to_value(&older).expect("JSON").get("not_launched"), None);
    let mut newer = report;
    newer["not_launched"] = json!(true);
    assert!(ended(&newer).not_launched);
    assert!(validator("reports").is_valid(&json!({ "version": "1", "reports": [newer] })));
}

/// An older sender names nobody, and an older dispatcher does not ask: then it looks.
#[test]
fn a_nudge_need_not_say_who_came() {
    let nudge = json!({ "version": "1", "nudge": "dispatch", "executors": ["mock"] });
    assert!(validator("control").is_valid(&nudge));
    let Control::V1(older) = serde_json::from_value(nudge.clone()).expect("a nudge");
    let expected =
        Nudge::Dispatch { executors: vec![gantry_core::ExecutorType::Mock], only_slots: false, newcomers: Vec::new() };
    assert_eq!(older, expected);
    assert_eq!(serde_json::to_value(Control::V1(older)).expect("JSON"), nudge);
}
