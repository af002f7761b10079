//! The log by pages and as it comes.

use gantry_store::logs::Stream::{Stderr, Stdout};
use serde_json::json;

use crate::events::Events;
use crate::support::{Api, job};
use crate::worker::Worker;

#[tokio::test]
async fn pages_hold_the_bytes_as_they_were() {
    let api = Api::start().await;
    let client = api.tenant("acme").await;
    let worker = Worker::start(&api.fleet).await;
    let id = client.submit(&job()).await;
    let path = format!("/v1/jobs/{id}/logs");
    assert_eq!(client.get(&path).await.body, json!({"chunks": [], "next": "0.0", "complete": false}));

    let mut running = worker.claim().await;
    let text = "é\n".as_bytes();
    // A character cut in two, and what is no text at all.
    worker
        .log(&mut running, &[(Stdout, &text[..1]), (Stderr, b"err\n"), (Stdout, &text[1..]), (Stdout, b"a\0b")])
        .await;
    let page = client.get(&format!("{path}?limit=2")).await;
    assert_eq!(
        page.body,
        json!({
            "chunks": [
                {"cursor": "1.1", "attempt": 1, "stream": "stdout", "offset": 0, "omitted_bytes": 0, "base64": "ww=="},
                {"cursor": "1.2", "attempt": 1, "stream": "stderr", "offset": 0, "omitted_bytes": 0, "text": "err\n"},
            ],
            "next": "1.2",
            "complete": false,
        })
    );
    worker.end(&running, 0).await;
    let page = client.get(&format!("{path}?after=1.2&limit=2")).await;
    assert_eq!(page.body["chunks"][0]["base64"], json!("qQo="));
    assert_eq!(page.body["chunks"][1]["text"], json!("a\u{0}b"));
    assert_eq!(page.body["chunks"][1]["offset"], json!(3));
    // The page is full, and it is known that nothing is behind it.
    assert_eq!(page.body["complete"], json!(true));
    let rest = client.get(&format!("{path}?after=1.4")).await;
    assert_eq!(rest.body, json!({"chunks": [], "next": "1.4", "complete": true}));
}

#[tokio::test]
async fn following_shows_each_chunk_once_and_the_end() {
    let api = Api::start().await;
    let client = api.tenant("acme").await;
    let worker = Worker::start(&api.fleet).await;
    let id = client.submit(&job()).await;
    let path = format!("/v1/jobs/{id}/logs");
    // From before the job runs.
    let mut events = Events::open(&client, &path, None).await;
    let mut running = worker.claim().await;
    worker.log(&mut running, &[(Stdout, b"one\n"), (Stderr, b"two\n")]).await;
    let first = events.expect().await;
    assert_eq!((first.name.as_str(), first.id.as_deref()), ("stdout", Some("1.1")));
    assert_eq!(first.data["text"], json!("one\n"));
    assert_eq!(events.expect().await.name, "stderr");

    // More than a look brings at once, and the end right behind it.
    let lines: Vec<String> = (0..150).map(|line| format!("line {line}\n")).collect();
    let chunks: Vec<_> = lines.iter().map(|line| (Stdout, line.as_bytes())).collect();
    worker.log(&mut running, &chunks).await;
    worker.end(&running, 3).await;
    for (index, line) in lines.iter().enumerate() {
        let event = events.expect().await;
        assert_eq!(event.data["text"], json!(line));
        assert_eq!(event.id, Some(format!("1.{}", index + 3)));
    }
    let end = events.expect().await;
    assert_eq!(end.name, "end");
    assert_eq!((&end.data["status"], &end.data["exit_code"]), (&json!("failed"), &json!(3)));
    assert_eq!(end.data["failure_class"], json!("exit_nonzero"));
    assert!(events.next().await.is_none());
}

#[tokio::test]
async fn following_resumes_where_it_was() {
    let api = Api::start().await;
    let client = api.tenant("acme").await;
    let worker = Worker::start(&api.fleet).await;
    let id = client.submit(&job()).await;
    let path = format!("/v1/jobs/{id}/logs");
    let mut running = worker.claim().await;
    worker.log(&mut running, &[(Stdout, b"one\n"), (Stdout, b"two\n"), (Stdout, b"three\n")]).await;
    let mut events = Events::open(&client, &path, None).await;
    let seen = events.expect().await.id.expect("an id");
    drop(events);

    let by_parameter = format!("{path}?follow=true&after={seen}");
    let by_header = format!("{path}?after=1.3");
    worker.end(&running, 0).await;
    for (path, last) in [(by_parameter, None), (by_header, Some(seen.as_str()))] {
        let mut events = Events::open(&client, &path, last).await;
        let rest = [events.expect().await, events.expect().await];
        assert_eq!(rest.map(|event| event.data["text"].clone()), [json!("two\n"), json!("three\n")]);
        assert_eq!(events.expect().await.data, json!({"status": "completed", "exit_code": 0}));
    }
    let refused = client.get(&format!("{path}?follow=true&after=two")).await;
    assert_eq!(refused.problem(), (400, "invalid_field", Some("after")));
}

#[tokio::test]
async fn a_job_that_never_ran_ends_at_once() {
    let api = Api::start().await;
    let client = api.tenant("acme").await;
    let id = client.submit(&job()).await;
    let mut events = Events::open(&client, &format!("/v1/jobs/{id}/logs"), None).await;
    client.post(&format!("/v1/jobs/{id}/cancel"), &json!({})).await;
    let end = events.expect().await;
    assert_eq!((end.name.as_str(), &end.data["status"]), ("end", &json!("cancelled")));
}

#[tokio::test]
async fn the_stop_sends_followers_away() {
    let api = Api::start().await;
    let client = api.tenant("acme").await;
    let id = client.submit(&job()).await;
    let mut events = Events::open(&client, &format!("/v1/jobs/{id}/logs"), None).await;
    api.stop();
    let event = events.expect().await;
    assert_eq!((event.name.as_str(), &event.data["code"]), ("error", &json!("unavailable")));
    assert!(events.next().await.is_none());
    api.stopped().await;
}
