//! `gantry job run` against an API that fails in every way in which a network can.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::thread::{self, JoinHandle};

use serde_json::{Value, json};

const JOB: &str = "0192f0c0-0000-7000-8000-000000000001";

/// A request as it came.
#[derive(Debug)]
struct Request {
    line: String,
    headers: Vec<(String, String)>,
    body: String,
}

impl Request {
    fn read(stream: &TcpStream) -> Self {
        let mut reader = BufReader::new(stream);
        let mut lines =
            reader.by_ref().lines().map(|line| line.expect("a request")).take_while(|line| !line.is_empty());
        let line = lines.next().expect("a request line");
        let headers =
            lines.filter_map(|line| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned())));
        let mut request = Self { line, headers: headers.collect(), body: String::new() };
        let length = request.header("content-length").map_or(0, |length| length.parse().expect("a number"));
        reader.take(length).read_to_string(&mut request.body).expect("a body");
        request
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }
}

/// Answers one request with each of `answers`, closing the connection after it.
fn serve(answers: Vec<String>) -> (String, JoinHandle<Vec<Request>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let server = thread::spawn(move || {
        let answer = |answer: String| {
            let (mut stream, _) = listener.accept().expect("a connection");
            let request = Request::read(&stream);
            stream.write_all(answer.as_bytes()).expect("the client listens");
            request
        };
        answers.into_iter().map(answer).collect()
    });
    (url, server)
}

fn answer(status: &str, body: &Value) -> String {
    format!("HTTP/1.1 {status}\r\nconnection: close\r\n\r\n{body}")
}

/// Ends where the text ends, in the middle of an event or not.
fn events(text: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n{text}")
}

fn chunk(sequence: u32, stream: &str, data: (&str, &str)) -> String {
    let chunk =
        json!({ "cursor": format!("1.{sequence}"), "attempt": 1, "stream": stream, "offset": 0, data.0: data.1 });
    format!("id: 1.{sequence}\nevent: {stream}\ndata: {chunk}\n\n")
}

fn end(end: &Value) -> String {
    format!("event: end\ndata: {end}\n\n")
}

fn run(url: &str, arguments: &[&str]) -> Output {
    gantry(url, &[&["job", "run", "--image", "i"], arguments].concat())
}

fn gantry(url: &str, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_gantry"))
        .args(arguments)
        .env("GANTRY_URL", url)
        .env("GANTRY_API_KEY", "key")
        .env("NO_PROXY", "*")
        .output()
        .expect("gantry runs")
}

fn accepted() -> String {
    answer("201 Created", &json!({ "id": JOB, "existing": false, "status": "pending" }))
}

fn unavailable() -> Value {
    json!({ "type": "urn:gantry:problem:unavailable", "title": "t", "status": 503, "detail": "stopping", "code": "unavailable" })
}

#[test]
fn the_output_is_whole_and_in_its_streams_however_often_the_connection_drops() {
    let failed =
        json!({ "status": "failed", "exit_code": 3, "failure_class": "exit_nonzero", "error_message": "code 3" });
    let (url, server) = serve(vec![
        accepted(),
        events(&format!(
            ": alive\n\n{}{}",
            chunk(1, "stdout", ("text", "one\n")),
            &chunk(2, "stderr", ("text", "cut"))[..40]
        )),
        answer("503 Service Unavailable", &unavailable()),
        // The first again, as from an API that does not know the header.
        events(&format!("{}{}", chunk(1, "stdout", ("text", "one\n")), chunk(2, "stderr", ("base64", "/wAK")))),
        events(&format!("event: error\ndata: {}\n\n", unavailable())),
        events(&format!("event: news\ndata: x\n\n{}{}", chunk(3, "stdout", ("text", "two")), end(&failed))),
    ]);
    let output = run(&url, &["--", "sh", "-c", "exit 3"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert_eq!(output.stdout, b"one\ntwo");
    assert_eq!(output.stderr, b"\xff\0\n");

    let requests = server.join().expect("every answer was asked for");
    assert!(requests.iter().all(|request| request.header("authorization") == Some("Bearer key")));
    assert!(requests[0].line.starts_with("POST /v1/jobs "), "{:?}", requests[0]);
    let from: Vec<_> = requests[1..].iter().map(|request| request.header("last-event-id").expect("a cursor")).collect();
    assert_eq!(from, ["0.0", "1.1", "1.1", "1.2", "1.2"]);
    assert!(
        requests[1..].iter().all(|request| request.line.starts_with(&format!("GET /v1/jobs/{JOB}/logs?follow=true ")))
    );
}

#[test]
fn a_submission_whose_answer_is_lost_is_sent_again_under_the_same_key() {
    let completed = json!({ "status": "completed", "exit_code": 0 });
    let (url, server) = serve(vec![
        String::new(),
        answer("503 Service Unavailable", &unavailable()),
        answer("502 Bad Gateway", &json!("a proxy speaks")),
        accepted(),
        events(&end(&completed)),
    ]);
    let output = run(&url, &[]);
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]), "{output:?}");
    let requests = server.join().expect("every answer was asked for");
    assert_eq!(requests[0].body, requests[1].body);
    assert_eq!(requests[0].body, requests[3].body);
    assert!(requests[0].body.contains("\"idempotency_key\":\"cli-"), "{}", requests[0].body);
}

#[test]
fn an_end_without_an_exit_code_is_explained() {
    for (end_, code, says) in [
        (
            json!({ "status": "failed", "failure_class": "image_not_found", "error_message": "no i" }),
            125,
            "image_not_found: no i",
        ),
        (
            json!({ "status": "timeout", "exit_code": 137, "failure_class": "timeout", "error_message": "late" }),
            124,
            "timeout: late",
        ),
        (json!({ "status": "cancelled", "exit_code": 143, "failure_class": "cancelled" }), 130, "cancelled"),
    ] {
        let (url, server) = serve(vec![accepted(), events(&end(&end_))]);
        let output = run(&url, &[]);
        assert_eq!(output.status.code(), Some(code), "{end_}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), format!("gantry: {says}\n"));
        server.join().expect("every answer was asked for");
    }
}

#[test]
fn a_refusal_is_told_with_its_code_and_field_in_the_form_that_was_asked_for() {
    let refusal = json!({
        "type": "urn:gantry:problem:invalid_field", "title": "t", "status": 422, "detail": "too small",
        "code": "invalid_field", "field": "spec.memory_limit_mb"
    });
    let refused = |arguments: &[&str]| {
        let (url, server) = serve(vec![answer("422 Unprocessable Content", &refusal)]);
        let output = run(&url, arguments);
        server.join().expect("it was asked for once");
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(1), &b""[..]), "{output:?}");
        String::from_utf8(output.stderr).expect("text")
    };
    assert_eq!(refused(&[]), "error[invalid_field]: too small (field `spec.memory_limit_mb`)\n");
    let json: Value = serde_json::from_str(&refused(&["-o", "json"])).expect("JSON");
    assert_eq!(json, refusal);
}

#[test]
fn what_is_not_gantry_is_named() {
    let (url, server) = serve(vec!["HTTP/1.1 404 Not Found\r\nconnection: close\r\n\r\n<h1>nginx</h1>".to_owned()]);
    let output = run(&url, &[]);
    server.join().expect("it was asked for once");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(text.starts_with("error[unexpected_answer]: ") && text.contains(&url) && text.contains("nginx"), "{text}");
}

#[test]
fn costs_are_whole_whatever_the_length_of_a_page() {
    let page = |name: &str, cost: &str, next: Option<&str>| {
        let line = json!({ "id": JOB, "name": name, "runs": 2, "completed": 1, "failed": 1, "untimed": 0,
            "run_millis": 7_200_000, "cost": cost, "failed_cost": "0.5", "estimated_cost": "1" });
        let mut page = json!({ "by": "tenant", "since": "2026-01-01", "until": "2026-01-08", "costs": [line] });
        if let Some(next) = next {
            page["next"] = json!(next);
        }
        answer("200 OK", &page)
    };
    let (url, server) = serve(vec![page("small", "1.5", Some("n")), page("large", "20", None)]);
    let output = Command::new(env!("CARGO_BIN_EXE_gantry"))
        .args(["cost", "--by", "tenant", "--since", "2026-01-01", "--until", "2026-01-08"])
        .env("GANTRY_URL", url)
        .env("GANTRY_API_KEY", "key")
        .env("NO_PROXY", "*")
        .output()
        .expect("gantry runs");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "TENANT       RUNS  COMPLETED  FAILED   COST  OF FAILED  HOURS  ESTIMATED\n\
         large           2          1       1  20.00       0.50  2.000       1.00\n\
         small           2          1       1   1.50       0.50  2.000       1.00\n\
         all of them     4          2       2  21.50       1.00  4.000       2.00\n\n\
         2026-01-01 to 2026-01-08 (days in UTC), in the currency of the hosts' prices\n"
    );
    let requests = server.join().expect("every answer was asked for");
    let asked: Vec<_> = requests.iter().map(|request| request.line.split(' ').nth(1).expect("a path")).collect();
    assert_eq!(asked[0], "/v1/costs?by=tenant&since=2026-01-01&limit=1000&until=2026-01-08");
    assert_eq!(asked[1], format!("{}&after=n", asked[0]));
}

#[test]
fn a_route_is_explained_from_yaml_and_as_json_for_programs() {
    let told = json!({
        "executor_type": "docker", "reason": "the job prefers docker", "failover": [], "hosts": [], "limits": [],
        "candidates": [{ "executor": "docker", "verdict": "chosen" }], "summary": "it is about to be dispatched"
    });
    let (url, server) = serve(vec![answer("200 OK", &told)]);
    let mut gantry = Command::new(env!("CARGO_BIN_EXE_gantry"))
        .args(["route", "explain", "-f", "-", "--json"])
        .env("GANTRY_URL", url)
        .env("GANTRY_API_KEY", "key")
        .env("NO_PROXY", "*")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("gantry runs");
    let yaml = "preferred_executor: docker\nspec:\n  image: busybox:1.36\n  command: [sh, -c, 'exit 0']\n";
    gantry.stdin.take().expect("a pipe").write_all(yaml.as_bytes()).expect("gantry reads");
    let output = gantry.wait_with_output().expect("gantry ends");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).expect("JSON"), told);
    let request = server.join().expect("it was asked for").pop().expect("a request");
    assert_eq!(request.line, "POST /v1/route/explain HTTP/1.1");
    let sent: Value = serde_json::from_str(&request.body).expect("JSON");
    let spec = json!({ "image": "busybox:1.36", "command": ["sh", "-c", "exit 0"] });
    assert_eq!(sent, json!({ "preferred_executor": "docker", "spec": spec }));
}

#[test]
fn a_template_is_put_from_yaml_and_an_environment_from_its_lines() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.to_str().expect("a path").to_owned()
    };
    let template = file("report.yaml", "image: report:7\nsupported_executors: [cloudrun, docker]\n");
    let made = json!({
        "id": JOB, "name": "a/b", "image": "report:7", "supported_executors": ["cloudrun", "docker"],
        "created_by": "key:1", "created_at": "2026-01-01T00:00:00Z",
    });
    let (url, server) = serve(vec![answer("201 Created", &made)]);
    let output = gantry(&url, &["template", "put", "a/b", "-f", &template]);
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("template a/b"), "{output:?}");
    let requests = server.join().expect("served");
    assert!(requests[0].line.starts_with("PUT /v1/templates/a%2Fb "), "{requests:?}");
    let sent: Value = serde_json::from_str(&requests[0].body).expect("JSON");
    assert_eq!(sent, json!({ "image": "report:7", "supported_executors": ["cloudrun", "docker"] }));

    let stored = json!({
        "name": "base", "environment": { "A": "1" }, "created_by": "key:1", "created_at": "2026-01-01T00:00:00Z",
    });
    let (url, server) = serve(vec![answer("200 OK", &stored)]);
    let output = gantry(&url, &["environment", "put", "base", "-f", &file("base.env", "# of all\nA=1\n")]);
    assert!(output.status.success(), "{output:?}");
    let sent: Value = serde_json::from_str(&server.join().expect("served")[0].body).expect("JSON");
    assert_eq!(sent, json!({ "environment": { "A": "1" } }));

    let output = gantry("http://127.0.0.1:1", &["environment", "put", "base", "-f", &file("bad.env", "A=1\nB")]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("bad.env, line 2"), "{output:?}");
}
