//! Environment variables: the `KEY=value` text of templates, and how the layers are merged.

use std::collections::BTreeMap;

/// Variable names with this prefix belong to Gantry.
pub const RESERVED_PREFIX: &str = "GANTRY_";

/// Environment variables by name.
pub type Environment = BTreeMap<String, String>;

/// A place in an environment text that is not `KEY=value`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {reason}")]
pub struct ParseError {
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// What is wrong and what is expected.
    pub reason: String,
}

/// Parses one `KEY=value` a line. Empty lines and lines that begin with `#` are skipped; everything after the
/// first `=` is the value, to the end of the line and as it stands: no quotes, no expansion.
pub fn parse(text: &str) -> Result<Environment, ParseError> {
    let mut variables = Environment::new();
    for (index, line) in text.lines().enumerate() {
        let error = |column: usize, reason: String| ParseError { line: index + 1, column, reason };
        if line.trim().is_empty() || line.trim_start().starts_with('#') {
            continue;
        }
        let Some((key, value)) = line.split_once('=') else {
            return Err(error(line.chars().count() + 1, "expected `KEY=value`, found no `=`".into()));
        };
        check_key(key).map_err(|(column, reason)| error(column, reason))?;
        if let Some(at) = value.chars().position(|c| c == '\0') {
            return Err(error(key.chars().count() + at + 2, "a value cannot contain NUL".into()));
        }
        if variables.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(error(1, format!("`{key}` is set twice")));
        }
    }
    Ok(variables)
}

/// The text that [`parse`] reads, sorted by name. A value must be one line.
pub fn text(variables: &Environment) -> String {
    variables.iter().map(|(key, value)| format!("{key}={value}\n")).collect()
}

/// Whether `key` can name a variable: a letter or `_`, then letters, digits or `_`, and not Gantry's own.
/// The error holds the column, from 1.
pub fn check_key(key: &str) -> Result<(), (usize, String)> {
    if key.is_empty() {
        return Err((1, "the name before `=` is empty".into()));
    }
    for (at, c) in key.chars().enumerate() {
        if !(c == '_' || c.is_ascii_alphabetic() || at > 0 && c.is_ascii_digit()) {
            return Err((
                at + 1,
                format!("{c:?} cannot stand in a name: use letters, digits and `_`, and no digit first"),
            ));
        }
    }
    if key.starts_with(RESERVED_PREFIX) {
        return Err((1, format!("`{key}`: names that begin with `{RESERVED_PREFIX}` are set by Gantry itself")));
    }
    Ok(())
}

/// Merges layers, later ones winning: environment template, then container template, then the job.
pub fn merge<'a>(layers: impl IntoIterator<Item = &'a Environment>) -> Environment {
    layers.into_iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// The bytes that a set of variables takes, as `KEY=value` and a terminator each.
pub fn size(variables: &Environment) -> usize {
    variables.iter().map(|(key, value)| key.len() + value.len() + 2).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn error_at(text: &str) -> (usize, usize) {
        let error = parse(text).expect_err("must not parse");
        (error.line, error.column)
    }

    #[test]
    fn values_are_taken_as_they_stand() {
        let parsed = parse("# comment\n\nA=1\nB= \"x=y\" \n  # more\nEMPTY=\r\n").expect("valid");
        let expected = [("A", "1"), ("B", " \"x=y\" "), ("EMPTY", "")];
        assert_eq!(parsed, expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
    }

    #[test]
    fn errors_name_line_and_column() {
        assert_eq!(error_at("A=1\nNOEQUALS"), (2, 9));
        assert_eq!(error_at("A=1\n\n1A=2"), (3, 1));
        assert_eq!(error_at("A B=2"), (1, 2));
        assert_eq!(error_at("=x"), (1, 1));
        assert_eq!(error_at("A=1\nA=2"), (2, 1));
        assert_eq!(error_at("GANTRY_JOB_ID=2"), (1, 1));
        assert_eq!(error_at("A=x\0"), (1, 4));
    }

    #[test]
    fn later_layers_win() {
        let layer = |text| parse(text).expect("valid");
        let merged = merge([&layer("A=1\nB=1\nC=1"), &layer("B=2\nC=2"), &layer("C=3")]);
        assert_eq!(merged, layer("A=1\nB=2\nC=3"));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(variables in proptest::collection::btree_map("[A-F_][A-Z0-9_]{0,8}", "[^\\r\\n\\x00]{0,20}", 0..8)) {
            let text: String = variables.iter().map(|(key, value)| format!("{key}={value}\n")).collect();
            prop_assert_eq!(parse(&text), Ok(variables));
        }

        #[test]
        fn nothing_panics(text in "\\PC*\n?\\PC*") {
            let _ = parse(&text);
        }
    }
}
