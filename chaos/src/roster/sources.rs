//! The points as the sources have them. Names come from few places: what a transaction or statement of the store is
//! called, which route a part publishes to, which queue it consumes, and the worker's guard.

use std::collections::BTreeSet;
use std::path::Path;

use super::ROWS;
use crate::part::Part;

/// The parts whose crashes must cost nothing, and their sources.
const PARTS: [(Part, &str); 3] = [
    (Part::Dispatcher, "crates/dispatcher/src"),
    (Part::Recorder, "crates/recorder/src"),
    (Part::Worker, "crates/worker/src"),
];
/// What takes the name of an operation and commits nothing itself.
const NOT_COMMITS: [&str; 3] = [".read(", ".run(", ".bounded("];
/// What says where a message goes, and the exchange.
const PUBLISHES: [(&str, &str); 9] = [
    ("topology.submissions()", "gantry.submissions"),
    ("topology.jobs(", "gantry.jobs"),
    ("topology.reports()", "gantry.reports"),
    ("topology.events(", "gantry.events"),
    ("topology.logs(", "gantry.logs"),
    ("topology.control()", "gantry.control"),
    ("topology.dead()", "gantry.dead"),
    ("dead_letter(", "gantry.dead"),
    ("Outgoing::reply(", "reply"),
];
/// What names a queue or exchange that is consumed, and the exchange that its deliveries come from.
const CONSUMES: [(&str, &str); 8] = [
    ("submissions_queue", "gantry.submissions"),
    ("expired_queue", "gantry.dead"),
    ("jobs_queue", "gantry.jobs"),
    ("reports_queue", "gantry.reports"),
    ("dead_queue", "gantry.dead"),
    ("events_exchange", "gantry.events"),
    ("logs_exchange", "gantry.logs"),
    ("control_exchange", "gantry.control"),
];

/// Whether some row puts a part at a point, whatever it says of it.
fn has_place(name: &str, part: Part) -> bool {
    ROWS.iter().any(|row| row.name == name && row.parts.contains(&part))
}

/// Every source in a folder and below: its path, and its code as one line, without comments and tests.
fn sources(folder: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").join(folder);
    let (mut folders, mut found) = (vec![root], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder of sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).expect("text");
                found.push((path.display().to_string(), squeezed(&text)));
            }
        }
    }
    found
}

fn squeezed(text: &str) -> String {
    let code = text.split_once("#[cfg(test)]\nmod tests").map_or(text, |(code, _)| code);
    let lines = code.lines().map(str::trim).filter(|line| !line.starts_with("//"));
    lines.collect::<String>().replace(", ", ",").replace("topology()", "topology")
}

/// What follows each call of `call`, up to the end.
fn after<'a>(code: &'a str, call: &str) -> impl Iterator<Item = &'a str> {
    code.match_indices(call).map(move |(at, _)| &code[at + call.len()..])
}

/// The literal that an argument list begins with.
fn literal(arguments: &str) -> Option<&str> {
    Some(arguments.strip_prefix('"')?.split_once('"')?.0)
}

/// Whether this is what an operation of the store is called: a module and a function.
fn is_operation(text: &str) -> bool {
    let is_name =
        |name: &str| !name.is_empty() && name.chars().all(|letter| letter.is_ascii_lowercase() || letter == '_');
    text.split_once("::").is_some_and(|(module, function)| is_name(module) && is_name(function))
}

/// The names under which the store commits, each with its file: whatever is called an operation, wherever it is handed
/// to, but for those calls that only read or run something again.
fn commits(sources: &[(String, String)]) -> BTreeSet<(String, &str)> {
    let mut names = BTreeSet::new();
    for (path, code) in sources {
        for (at, _) in code.match_indices('"') {
            let Some(name) = literal(&code[at..]).filter(|text| is_operation(text)) else { continue };
            if !NOT_COMMITS.iter().any(|call| code[..at].ends_with(call)) {
                names.insert((format!("commit.{name}"), path.as_str()));
            }
        }
    }
    names
}

/// What a part publishes, acks and asks of its backend.
fn messages(sources: &[(String, String)]) -> BTreeSet<(String, &str)> {
    let mut names = BTreeSet::new();
    for (path, code) in sources {
        for (_, exchange) in PUBLISHES.iter().filter(|(call, _)| code.contains(call)) {
            names.insert((format!("publish.{exchange}"), path.as_str()));
        }
        if code.contains("Consumer::new(") || code.contains("Consumer::subscribe(") {
            for (_, exchange) in CONSUMES.iter().filter(|(queue, _)| code.contains(queue)) {
                names.insert((format!("ack.{exchange}"), path.as_str()));
            }
        }
        if path.ends_with("worker/src/guard.rs") {
            let calls = after(code, "around(\"executor\",").chain(after(code, "bounded("));
            names.extend(calls.filter_map(literal).map(|name| (format!("executor.{name}"), path.as_str())));
        }
    }
    names
}

#[test]
fn every_point_has_a_place() {
    let store = sources("crates/store/src");
    let mut known = BTreeSet::new();
    let mut faults = Vec::new();
    for (name, path) in commits(&store) {
        if !ROWS.iter().any(|row| row.name == name) {
            faults.push(format!("{name} ({path})"));
        }
        known.insert(name);
    }
    for (part, folder) in PARTS {
        for (name, path) in messages(&sources(folder)) {
            if !has_place(&name, part) {
                faults.push(format!("{name} of the {} ({path})", part.name()));
            }
            known.insert(name);
        }
    }
    let advice = "has no place: add a row to ROWS in chaos/src/roster.rs, `killed` with the parts that pass it in `make \
                  chaos-points`, or `exempt` with the reason why none can be killed there";
    assert!(faults.is_empty(), "{advice}:\n{}", faults.join("\n"));
    let gone: Vec<&str> = ROWS.iter().map(|row| row.name).filter(|name| !known.contains(*name)).collect();
    assert!(gone.is_empty(), "no source has these points any more, so remove their rows: {gone:?}");
}

/// Every request to a backend is tried on real containers too.
#[test]
fn the_scenario_on_docker_knows_every_request() {
    let requests: BTreeSet<String> = crate::scenario::requests().map(|name| format!("executor.{name}")).collect();
    let known = ROWS.iter().map(|row| row.name).filter(|name| name.starts_with("executor."));
    assert_eq!(requests, known.map(str::to_owned).collect());
}

/// A queue, exchange or route that this check has never heard of would be overlooked.
#[test]
fn every_route_queue_and_exchange_is_known() {
    let topology = sources("crates/broker/src").into_iter().find(|(path, _)| path.ends_with("/topology.rs"));
    let (_, code) = topology.expect("the topology");
    let mut unknown = Vec::new();
    for rest in after(&code, "pub fn ") {
        let (name, rest) = rest.split_once('(').expect("arguments");
        let returns = rest.split_once(')').map_or("", |(_, rest)| rest);
        let known = match name {
            _ if returns.starts_with(" -> Route {") => PUBLISHES
                .iter()
                .any(|(call, _)| call.strip_prefix("topology.").is_some_and(|call| call.starts_with(name))),
            _ if returns.starts_with(" -> String {") => CONSUMES.iter().any(|(queue, _)| *queue == name),
            _ => true,
        };
        if !known {
            unknown.push(name.to_owned());
        }
    }
    assert_eq!(unknown, Vec::<String>::new(), "PUBLISHES or CONSUMES here must name it");
}

#[test]
fn the_check_finds_what_it_is_for() {
    let source = |path: &str, text: &str| vec![(path.to_owned(), squeezed(text))];
    let found = |names: BTreeSet<(String, &str)>| names.into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    let store = source(
        "s.rs",
        "let mut tx = store\n    .begin_as(\n        // why\n        \"a::b\",\n worker);\nstore.single(\"c::d\", x);\nstore.read(\"e::f\", y);\nbegin(store, \"g::h\")",
    );
    assert_eq!(found(commits(&store)), ["commit.a::b", "commit.c::d", "commit.g::h"]);
    let part = source(
        "p.rs",
        "Consumer::new(&broker, broker.topology().jobs_queue(x), o); publish(broker\n    .topology()\n    .logs(key))",
    );
    assert_eq!(found(messages(&part)), ["ack.gantry.jobs", "publish.gantry.logs"]);
    let asks = source("p.rs", "broker.ready_messages(&broker.topology().reports_queue())");
    assert_eq!(found(messages(&asks)), Vec::<String>::new());
    let guard = source("worker/src/guard.rs", "around(\"executor\", \"find\", x); bounded(\n\"stop\", y)");
    assert_eq!(found(messages(&guard)), ["executor.find", "executor.stop"]);
}
