//! Logs beyond what every backend has.

use gantry_double::{Fault, Rule};
use gantry_worker::executor::Executor;
use serde_json::json;

use crate::common::{Lab, sh};
use crate::{launch_of, until_ended};

/// A place in a log outlasts the token that it was made with, which CloudWatch forgets after a day.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_place_in_a_log_is_found_by_its_time() {
    let lab = Lab::new().await;
    let (executor, host) = (lab.executor(), lab.host());
    let launch = launch_of(sh("for n in $(seq 1 20); do echo line $n; done"));
    let id = executor.launch(&host, &launch).await.expect("launches");
    until_ended(&executor, &host, &id).await;
    let (mut text, mut cursor) = (Vec::new(), None);
    loop {
        // Every other page begins with a token that is too old.
        let body = json!({ "__type": "InvalidParameterException", "message": "The specified nextToken is invalid." });
        let too_old = Rule::new(Fault::Status { status: 400, body }).containing("\"nextToken\":\"f/").times(1);
        lab.double.faults().add(too_old);
        let page = executor.logs(&host, &id, cursor.as_ref(), 20).await.expect("reads");
        let again = executor.logs(&host, &id, cursor.as_ref(), 20).await.expect("reads");
        assert_eq!(again.chunks, page.chunks, "the same place is the same bytes");
        text.extend(page.chunks.iter().flat_map(|(_, bytes)| bytes.to_vec()));
        cursor = page.cursor;
        if !page.more {
            break;
        }
    }
    let expected: String = (1..=20).map(|n| format!("line {n}\n")).collect();
    assert_eq!(String::from_utf8_lossy(&text), expected);
}
