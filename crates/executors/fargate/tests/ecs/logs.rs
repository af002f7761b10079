//! Logs beyond what every backend has.

use gantry_double::{Fault, Rule};
use gantry_executor_fargate::double::Exchange;
use gantry_worker::executor::{Executor, LogPage};
use serde_json::json;

use crate::common::{Lab, sh};
use crate::{launch_of, of, until_ended};

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

/// The same token again is the end of a log, and a page without events is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_page_in_mid_log_is_not_the_end() {
    let lab = Lab::new().await;
    let (executor, host) = (lab.executor(), lab.host());
    let id = executor.launch(&host, &launch_of(sh("echo one; echo two"))).await.expect("launches");
    until_ended(&executor, &host, &id).await;
    let text = |page: &LogPage| {
        let bytes: Vec<u8> = page.chunks.iter().flat_map(|(_, bytes)| bytes.to_vec()).collect();
        String::from_utf8(bytes).expect("text")
    };
    let first = executor.logs(&host, &id, None, 1).await.expect("reads");
    assert_eq!((text(&first).as_str(), first.more), ("one\n", true));
    let exchanges = lab.double.exchanges();
    let last = of(&exchanges, "GetLogEvents").pop().expect("it was read").answer["nextForwardToken"].clone();
    let mut token = last.as_str().expect("a token").to_owned();
    for _ in 0..3 {
        // The same place, by another name: a token ends with a number.
        let next = token.replace(':', ":0");
        assert_ne!(token, next, "tokens have another form");
        let body = json!({ "events": [], "nextForwardToken": next, "nextBackwardToken": token });
        let asked = format!("\"nextToken\":\"{token}\"");
        lab.double.faults().add(Rule::new(Fault::Status { status: 200, body }).containing(asked).times(1));
        token = next;
    }
    let second = executor.logs(&host, &id, first.cursor.as_ref(), 1).await.expect("reads");
    assert_eq!(text(&second), "two\n");
    let exchanges = lab.double.exchanges();
    let is_last = |read: &&Exchange| read.request["nextToken"] == token;
    assert!(of(&exchanges, "GetLogEvents").iter().any(is_last), "it was read over them");
    let end = executor.logs(&host, &id, second.cursor.as_ref(), 1).await.expect("reads");
    assert_eq!((text(&end).as_str(), end.more), ("", false));
}
