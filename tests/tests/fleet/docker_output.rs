//! What real containers print, byte by byte.

use gantry_tests::{Fleet, jobs};
use serde_json::json;

/// Postgres takes no NUL in text: the log has the bytes as they were, and what people read is text.
#[tokio::test]
async fn bytes_that_are_no_text() {
    let (fleet, _parts) = Fleet::docker(4).await;
    let producer = fleet.producer().await;
    let script = r#"printf 'a\000b\377\376\n\033[1;31mred\033[0m\r\n{"a": 1}\n{"b": "x\\u0000"}\n'; printf '\000' >&2"#;
    let neighbour = jobs::docker("echo fine");
    let ids = producer.submit_all(&[jobs::docker(script), neighbour]).await;
    fleet.all_complete(&ids).await;

    let exact = b"a\0b\xff\xfe\n\x1b[1;31mred\x1b[0m\r\n{\"a\": 1}\n{\"b\": \"x\\u0000\"}\n";
    let stored = fleet.log(ids[0], 1, "stdout").await;
    assert_eq!(stored, exact, "{}", String::from_utf8_lossy(&stored));
    assert_eq!(fleet.log(ids[0], 1, "stderr").await, b"\0");
    let attempt = &fleet.attempts(ids[0]).await[0];
    let lost = '\u{fffd}';
    let json_lines = "{\"a\": 1}\n{\"b\": \"x\\u0000\"}\n";
    assert_eq!(attempt["stdout_log"], json!(format!("a{lost}b{lost}{lost}\n\u{1b}[1;31mred\u{1b}[0m\r\n{json_lines}")));
    assert_eq!(attempt["clean_output"], json!(format!("a{lost}b{lost}{lost}\nred\n{json_lines}")));
    assert_eq!(attempt["stderr_log"], json!(lost.to_string()));
    assert_eq!(attempt["parsed_output"], json!({ "b": format!("x{lost}") }));
    assert_eq!(fleet.attempts(ids[1]).await[0]["stdout_log"], "fine\n");
}

/// Larger than a page of log: stored whole, and read by people as head and tail.
#[tokio::test]
async fn a_long_log_is_stored_whole() {
    let (fleet, _parts) = Fleet::docker(4).await;
    let producer = fleet.producer().await;
    let id = producer.submit(&jobs::docker("seq 1 120000")).await;
    fleet.all_complete(&[id]).await;
    let expected: String = (1..=120_000).map(|line| format!("{line}\n")).collect();
    assert!(fleet.log(id, 1, "stdout").await == expected.as_bytes(), "each line once and in order");
    let attempt = &fleet.attempts(id).await[0];
    assert_eq!(attempt["stdout_bytes"], expected.len());
    assert_eq!(attempt["logs_incomplete"], false);
    let excerpt = attempt["stdout_log"].as_str().expect("an excerpt");
    assert!(excerpt.len() <= 64 * 1024 && excerpt.starts_with("1\n2\n") && excerpt.ends_with("\n120000\n"));
}
