//! docs/RELIABILITY.md names tests by file and function: each is where the page says. It reads the text of both, and needs
//! no server.

use std::path::Path;

const DOCUMENT: &str = include_str!("../../docs/RELIABILITY.md");
/// Where the workspace has its sources.
const SOURCES: [&str; 3] = ["crates", "tests", "chaos"];
/// Folders that the page leaves out where it shortens a path.
const LEFT_OUT: [&str; 4] = ["crates", "src", "tests", "cases"];

/// A path without them: `/worker/lease.rs` for `crates/worker/src/lease.rs`.
fn short(path: &str) -> String {
    path.split('/').filter(|part| !LEFT_OUT.contains(part)).map(|part| format!("/{part}")).collect()
}

/// Every source: its short path, and its text.
fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let mut folders: Vec<_> = SOURCES.iter().map(|folder| root.join(folder)).collect();
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder of sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let below = path.strip_prefix(root).expect("it is below").to_str().expect("text");
                sources.push((short(below), std::fs::read_to_string(&path).expect("text")));
            }
        }
    }
    sources
}

/// Something that the page names.
#[derive(Debug)]
enum Named {
    File(&'static str),
    /// And the file that was named before it in the same item, row or paragraph.
    Function(&'static str, &'static str),
    /// One without a file: a column, a setting, a queue, or a test that nobody would find.
    Word(&'static str),
}

fn named() -> Vec<Named> {
    let mut named = Vec::new();
    let mut file = None;
    for line in DOCUMENT.lines() {
        if line.is_empty() || line.starts_with(['-', '|', '#', '*']) {
            file = None;
        }
        for span in line.split('`').skip(1).step_by(2) {
            let is_name = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_';
            if span.ends_with(".rs") {
                file = Some(span);
                named.push(Named::File(span));
            } else if span.contains('_') && span.chars().all(is_name) {
                named.push(file.map_or(Named::Word(span), |file| Named::Function(file, span)));
            }
        }
    }
    named
}

#[test]
fn every_test_that_is_named_exists() {
    let (sources, named) = (sources(), named());
    let found = |file: &'static str| {
        let path = short(file);
        sources.iter().filter(move |(source, _)| source.ends_with(&path)).map(|(_, text)| text)
    };
    let wrong: Vec<&Named> = named
        .iter()
        .filter(|named| match **named {
            Named::File(file) => found(file).next().is_none(),
            Named::Function(file, function) => !found(file).any(|text| text.contains(&format!("fn {function}("))),
            // Tests are sentences, and no column's name is as long.
            Named::Word(word) => word.matches('_').count() >= 4,
        })
        .collect();
    assert!(wrong.is_empty(), "docs/RELIABILITY.md names what is not there, or a test without its file: {wrong:#?}");
    let functions = named.iter().filter(|named| matches!(named, Named::Function(..))).count();
    assert!(functions > 100, "the page is not understood: {functions} functions");
}
