//! The configurations that the documents show are read as they stand.

use gantry_core::host::Host;
use gantry_core::{ExecutorType, HostId};
use gantry_executor_docker::{Connection, Options};
use serde_json::{Value, json};

const LIBRARY: &str = include_str!("../src/lib.rs");
const HOSTS: &str = include_str!("../../../../docs/HOSTS.md");

fn check(connection_config: Value, executor_config: Value) {
    let (id, name, executor_type) = (HostId::new(), "h".to_owned(), ExecutorType::Docker);
    let host = Host { id, name, executor_type, connection_config, executor_config };
    Connection::of(&host).and_then(|_| Options::of(&host)).unwrap_or_else(|failure| panic!("{failure}"));
}

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn here() -> Value {
    json!({ "endpoint": "unix:///var/run/docker.sock" })
}

#[test]
fn the_librarys_are_read() {
    let text: String =
        LIBRARY.lines().map_while(|line| line.strip_prefix("//!")).map(|line| format!("{line}\n")).collect();
    let blocks: Vec<&str> =
        text.split("```json\n").skip(1).map(|block| block.split("```").next().unwrap_or_default()).collect();
    let [connections, options] = blocks.as_slice() else { panic!("two blocks, not {}", blocks.len()) };
    assert_eq!(
        connections.lines().filter(|line| !line.trim().is_empty()).map(|line| check(parse(line), json!({}))).count(),
        3
    );
    check(here(), parse(options));
}

#[test]
fn those_of_the_hosts_page_are_read() {
    let docker = HOSTS.split("\n## docker\n").nth(1).expect("it has the section");
    let docker = docker.split("\n## ").next().expect("the section");
    let quoted: Vec<&str> = docker.split('\'').filter(|part| part.starts_with('{')).collect();
    let (connections, options): (Vec<_>, Vec<_>) = quoted.iter().partition(|text| text.contains("endpoint"));
    assert_eq!((connections.len(), options.len()), (2, 1), "{quoted:?}");
    connections.into_iter().for_each(|text| check(parse(text), json!({})));
    check(here(), parse(options[0]));
}
