//! docs/DATA_MODEL.md names everything that the migration makes and people meet: tables, their columns, indexes,
//! and the labels of enums. It reads the text of both, and needs no server.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::LazyLock;

/// All migrations, in their order.
static MIGRATION: LazyLock<String> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../migrations");
    let files: BTreeSet<_> =
        std::fs::read_dir(folder).expect("migrations").map(|file| file.expect("a file").path()).collect();
    files.into_iter().map(|file| std::fs::read_to_string(file).expect("text")).collect()
});
const DOCUMENT: &str = include_str!("../../../docs/DATA_MODEL.md");

/// Statements of the migration that begin with `head`: what follows it, up to the semicolon.
fn statements(head: &'static str) -> impl Iterator<Item = &'static str> {
    MIGRATION.split(";\n").filter_map(move |statement| {
        let code = statement.lines().skip_while(|line| line.starts_with("--") || line.is_empty());
        let first = code.clone().next()?;
        let start = statement.find(first)?;
        statement[start..].strip_prefix(head)
    })
}

fn name(rest: &str) -> &str {
    rest.split([' ', '(', '\n']).next().expect("split gives at least one part")
}

/// (table, its columns).
fn tables() -> Vec<(&'static str, Vec<&'static str>)> {
    let column = |line: &'static str| {
        let line = line.strip_prefix("    ")?;
        let name = name(line);
        let rule = ["constraint", "primary", "unique", "check", "foreign"].contains(&name);
        (!rule && !line.starts_with(' ')).then_some(name)
    };
    statements("create table ").map(|rest| (name(rest), rest.lines().filter_map(column).collect())).collect()
}

/// (enum, its labels).
fn enums() -> Vec<(&'static str, Vec<&'static str>)> {
    let labels = |rest: &'static str| rest.split('\'').skip(1).step_by(2).collect();
    statements("create type ").map(|rest| (name(rest), labels(rest))).collect()
}

fn indexes() -> Vec<&'static str> {
    let plain = statements("create index ").map(name);
    plain.chain(statements("create unique index ").map(name)).collect()
}

/// The code words of the document: what stands between backquotes, split where a name ends.
fn code_words() -> BTreeSet<&'static str> {
    let spans = DOCUMENT.lines().flat_map(|line| line.split('`').skip(1).step_by(2));
    spans.flat_map(|span| span.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))).collect()
}

/// The part of the document under `### ` and a heading that begins with this code word.
fn section(table: &str) -> Option<&'static str> {
    let heading = format!("\n### `{table}`");
    let start = DOCUMENT.find(&heading)? + heading.len();
    let rest = &DOCUMENT[start..];
    Some(&rest[..rest.find("\n##").unwrap_or(rest.len())])
}

/// Lines of the migration that begin so: counted in another way than the parser's.
fn lines(heads: &[&str]) -> usize {
    MIGRATION.lines().filter(|line| heads.iter().any(|head| line.starts_with(head))).count()
}

#[test]
fn the_migration_is_understood_by_this_test() {
    let tables = tables();
    assert!(
        lines(&["create table "]) == tables.len() && tables.iter().all(|(_, columns)| columns.len() >= 3),
        "{tables:#?}"
    );
    let enums = enums();
    assert!(lines(&["create type "]) == enums.len() && enums.iter().all(|(_, labels)| labels.len() >= 2), "{enums:#?}");
    assert_eq!(lines(&["create index ", "create unique index "]), indexes().len());
}

#[test]
fn every_table_has_a_section_that_names_all_of_its_columns() {
    for (table, columns) in tables() {
        let section =
            section(table).unwrap_or_else(|| panic!("there is no section `### \\`{table}\\`` in docs/DATA_MODEL.md"));
        for column in columns {
            assert!(
                section.contains(&format!("`{column}`")),
                "the section of `{table}` does not name its column `{column}`"
            );
        }
    }
}

#[test]
fn every_enum_is_named_with_all_of_its_labels() {
    let words = code_words();
    for (name, labels) in enums() {
        for word in labels.into_iter().chain([name]) {
            assert!(words.contains(word), "docs/DATA_MODEL.md does not name `{word}` (of the enum {name})");
        }
    }
}

#[test]
fn every_index_is_named() {
    let words = code_words();
    for index in indexes() {
        assert!(words.contains(index), "docs/DATA_MODEL.md does not say what the index `{index}` is for");
    }
}

#[test]
fn only_tables_that_exist_have_a_section() {
    let known: BTreeSet<&str> = tables().into_iter().map(|(table, _)| table).collect();
    let headings = DOCUMENT.lines().filter_map(|line| line.strip_prefix("### `")?.split('`').next());
    for heading in headings {
        assert!(known.contains(heading), "docs/DATA_MODEL.md has a section for `{heading}`, which is no table");
    }
}

#[test]
fn every_statement_that_is_named_exists() {
    let sources = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let spans = DOCUMENT.lines().flat_map(|line| line.split('`').skip(1).step_by(2));
    for (module, function) in spans.filter_map(|span| span.split_once("::")) {
        // Other paths, such as `state::next`, are of other crates.
        let Ok(mut source) = std::fs::read_to_string(sources.join(module).with_extension("rs")) else { continue };
        // A module may be split into files of its own folder.
        for part in std::fs::read_dir(sources.join(module)).into_iter().flatten() {
            source.push_str(&std::fs::read_to_string(part.expect("an entry").path()).expect("text"));
        }
        let is_there = |behind| source.contains(&format!("fn {function}{behind}"));
        let exists = function == "*" || is_there('(') || is_there('<');
        assert!(
            exists,
            "docs/DATA_MODEL.md names `{module}::{function}`, which is not in crates/store/src/{module}.rs"
        );
    }
}
