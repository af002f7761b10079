//! The double is Google's by Google's own measure: its Python clients, and its discovery documents.

mod common;

use common::{double, host_at, image, python, sh, validate};
use gantry_core::naming::external_name;
use gantry_core::{FleetId, JobId};
use gantry_double::{Fault, Faults, Rule};
use gantry_executor_cloudrun::CloudRunExecutor;
use gantry_executor_cloudrun::double::{Double, Exchange};
use gantry_worker::executor::{Executor as _, Found, Launch, LaunchError};
use serde_json::{Value, json};

fn launch(script: &str) -> Launch {
    let (fleet, job, attempt) = (FleetId::new(), JobId::new(), 1);
    Launch { name: external_name(fleet, job, attempt), fleet, job, attempt, spec: sh(script) }
}

/// What every creation of a Job was answered, by the double or by a fault.
fn creations(double: &Double) -> Vec<u16> {
    let is_creation = |exchange: &&Exchange| exchange.method == "POST" && exchange.path.contains("/jobs?jobId=");
    double.exchanges().iter().filter(is_creation).map(|exchange| exchange.status).collect()
}

/// Makes an exchange one that was answered so.
fn answered(one: &mut Exchange, status: u16, response: Value) {
    (one.status, one.response) = (status, response);
}

/// Makes an exchange one that was refused with 409, in Google's form.
fn refused(one: &mut Exchange, code: u16, status: &str, details: Value) {
    let error = json!({ "code": code, "status": status, "message": "exists", "details": details });
    answered(one, 409, json!({ "error": error }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn googles_own_clients_are_answered() {
    let double = double(&Faults::new(1)).await;
    let (url, image) = (double.url(), image());
    let output = tokio::task::spawn_blocking(move || python("conformance.py", &[&url, &image])).await.expect("it runs");
    println!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = validate(&double.exchanges()).expect("what went over the wire is what Google documents");
    println!("{said}");
    double.remove_containers().await.expect("cleans up");
}

/// The check can fail: every mutation of a good exchange is found, by its name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::disallowed_methods, reason = "asks the executor itself")]
async fn the_check_of_the_wire_finds_what_is_wrong() {
    let double = double(&Faults::new(1)).await;
    let (executor, host) = (CloudRunExecutor::new(), host_at(&double.url(), "mutation"));
    let launch = launch("exit 0");
    let id = executor.launch(&host, &launch).await.expect("launches");
    executor.observe(&host, std::slice::from_ref(&id)).await.expect("answers");
    let good = double.exchanges();
    validate(&good).expect("nothing is wrong yet");
    type Mutation = fn(&mut Exchange);
    let mut refusal = good[0].clone();
    let violation = json!({ "subject": "s", "description": "d" });
    let quota = json!({ "@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [violation] });
    refused(&mut refusal, 409, "ALREADY_EXISTS", json!([quota]));
    validate(&[refusal]).expect("a refusal is not wrong either");
    let mutations: [(&str, Mutation); 15] = [
        ("template.taskKount", |one| one.request["template"]["taskKount"] = 1.into()),
        ("executionCount: only the service sets it", |one| one.request["executionCount"] = 1.into()),
        ("executionEnvironment", |one| one.request["template"]["template"]["executionEnvironment"] = 7.into()),
        ("timeout: not a duration", |one| one.request["template"]["template"]["timeout"] = "10 min".into()),
        ("metadata.generation", |one| one.response["metadata"]["generation"] = 1.into()),
        ("terminalCondition.state", |one| one.response["metadata"]["terminalCondition"]["state"] = "READY".into()),
        ("no such parameter: jobName", |one| one.path = one.path.replace("jobId", "jobName")),
        ("not an error", |one| answered(one, 409, json!({ "message": "exists" }))),
        ("error.code: 404 in an answer of 409", |one| refused(one, 404, "ALREADY_EXISTS", json!([]))),
        ("error.status: no google.rpc.Code: 'EXISTS'", |one| refused(one, 409, "EXISTS", json!([]))),
        ("error.status: OK is no error", |one| refused(one, 409, "OK", json!([]))),
        ("error.status: NOT_FOUND is 404 and not 409", |one| refused(one, 409, "NOT_FOUND", json!([]))),
        ("error.reason: there is no such property", |one| {
            refused(one, 409, "ABORTED", json!([]));
            one.response["error"]["reason"] = "exists".into();
        }),
        ("no field named \"violation\"", |one| {
            let quota = json!({ "@type": "type.googleapis.com/google.rpc.QuotaFailure", "violation": [] });
            refused(one, 409, "ABORTED", json!([quota]));
        }),
        ("google.rpc.Nonsense", |one| {
            refused(one, 409, "ABORTED", json!([{ "@type": "type.googleapis.com/google.rpc.Nonsense" }]));
        }),
    ];
    for (named, mutate) in mutations {
        let mut mutated = good[0].clone();
        mutate(&mut mutated);
        let said = validate(&[mutated]).expect_err(named);
        assert!(said.contains(named), "{named}: {said}");
    }
    double.remove_containers().await.expect("cleans up");
}

/// An answer that is lost, and one that is "try again": the client sends nothing a second time, and the engine's own
/// second launch meets the first one's Job.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::disallowed_methods, reason = "asks the executor itself")]
async fn a_launch_is_sent_once_and_runs_once() {
    let faults = Faults::new(1);
    let unavailable = json!({ "error": { "code": 503, "status": "UNAVAILABLE", "message": "later" } });
    let double = double(&faults).await;
    let (executor, host) = (CloudRunExecutor::new(), host_at(&double.url(), "once"));
    for (fault, status) in [(Fault::LostResponse, 200), (Fault::Status { status: 503, body: unavailable }, 503)] {
        let before = creations(&double).len();
        let launch = launch("echo once");
        faults.add(Rule::new(fault).to("POST", "/jobs?jobId=").times(1));
        let error = executor.launch(&host, &launch).await.expect_err("no answer that tells");
        assert!(matches!(error, LaunchError::MaybeLaunched(_)), "{error}");
        assert_eq!(creations(&double).split_off(before), [status], "sent once, whatever came back");
        let id = executor.launch(&host, &launch).await.expect("launches or adopts");
        assert_eq!(executor.find(&host, &launch.name).await, Found::Found(id.clone()));
        let owned = executor.list_owned(&host, launch.fleet).await.expect("answers");
        assert_eq!(owned.len(), 1, "{owned:?}");
        let count = double.exchanges().into_iter().rev().find_map(|one| {
            (one.method == "GET" && one.path.contains(&launch.name)).then(|| one.response["executionCount"].clone())
        });
        assert!(count.is_some_and(|count| count.is_null() || count == 1), "one execution");
    }
    double.remove_containers().await.expect("cleans up");
    validate(&double.exchanges()).expect("what went over the wire is what Google documents");
}
