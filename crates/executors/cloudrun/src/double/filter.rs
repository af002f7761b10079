//! The part of Cloud Logging's filter language that a reader of a Job's log needs: comparisons with `=`, `>=`, `>`,
//! `<=` and `<`, their values one or several (`(a OR b)`), all of them joined by `AND`.

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::answer::Refusal;

pub(super) struct Filter(Vec<Comparison>);

struct Comparison {
    /// The way into an entry.
    field: Vec<String>,
    operator: &'static str,
    values: Vec<String>,
}

impl Filter {
    pub(super) fn parse(text: &str) -> Result<Self, Refusal> {
        let mut tokens = tokens(text)?.into_iter().peekable();
        let mut comparisons = Vec::new();
        let wrong = |what: &str| Refusal::invalid(format!("Unparseable filter: {what} in {text:?}"));
        while let Some(field) = tokens.next() {
            if field == "AND" {
                continue;
            }
            let operator = tokens.next().ok_or_else(|| wrong("no operator"))?;
            let operator = ["=", ">=", ">", "<=", "<"].into_iter().find(|known| *known == operator);
            let operator = operator.ok_or_else(|| wrong("an unknown operator"))?;
            let mut values = Vec::new();
            match tokens.next().ok_or_else(|| wrong("no value"))?.as_str() {
                "(" => loop {
                    match tokens.next().ok_or_else(|| wrong("no end"))?.as_str() {
                        ")" => break,
                        "OR" => {}
                        value => values.push(unquoted(value)),
                    }
                },
                value => values.push(unquoted(value)),
            }
            comparisons.push(Comparison { field: path(&field), operator, values });
        }
        Ok(Self(comparisons))
    }

    pub(super) fn admits(&self, entry: &Value) -> bool {
        self.0.iter().all(|comparison| comparison.holds(entry))
    }

    /// The values that a field must have one of, if the filter says so.
    pub(super) fn wanted(&self, field: &[&str]) -> Option<&[String]> {
        let said = self.0.iter().find(|comparison| comparison.operator == "=" && comparison.field == field)?;
        Some(&said.values)
    }
}

impl Comparison {
    fn holds(&self, entry: &Value) -> bool {
        let value = self.field.iter().try_fold(entry, |value, key| value.get(key));
        let Some(value) = value.and_then(Value::as_str) else { return false };
        let order = |wanted: &String| match (time(value), time(wanted)) {
            (Some(value), Some(wanted)) => value.cmp(&wanted),
            _ => value.cmp(wanted.as_str()),
        };
        self.values.iter().any(|wanted| match self.operator {
            "=" => order(wanted).is_eq(),
            ">=" => order(wanted).is_ge(),
            ">" => order(wanted).is_gt(),
            "<=" => order(wanted).is_le(),
            _ => order(wanted).is_lt(),
        })
    }
}

fn time(text: &str) -> Option<DateTime<Utc>> {
    text.parse().ok()
}

/// Words, quoted texts (with their quotes), operators and brackets.
fn tokens(text: &str) -> Result<Vec<String>, Refusal> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '(' | ')' => 1,
            '=' => 1,
            '<' | '>' => 1 + usize::from(rest[1..].starts_with('=')),
            _ => {
                word(rest).ok_or_else(|| Refusal::invalid(format!("Unparseable filter: an open quote in {text:?}")))?
            }
        };
        tokens.push(rest[..length].to_owned());
        rest = rest[length..].trim_start();
    }
    Ok(tokens)
}

/// How long the word at the beginning is; quotes in it hold whatever they hold.
fn word(text: &str) -> Option<usize> {
    let mut quoted = false;
    for (index, c) in text.char_indices() {
        match c {
            '"' => quoted = !quoted,
            _ if quoted => {}
            '(' | ')' | '=' | '<' | '>' => return Some(index),
            c if c.is_whitespace() => return Some(index),
            _ => {}
        }
    }
    (!quoted).then_some(text.len())
}

fn unquoted(text: &str) -> String {
    text.trim_matches('"').to_owned()
}

/// `labels."a.b/c"` is two keys.
fn path(field: &str) -> Vec<String> {
    let mut keys = vec![String::new()];
    let mut quoted = false;
    for c in field.chars() {
        match c {
            '"' => quoted = !quoted,
            '.' if !quoted => keys.push(String::new()),
            c => keys.last_mut().expect("there is one from the start").push(c),
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn entries_are_told_apart() {
        let entry = json!({
            "logName": "projects/p/logs/a", "timestamp": "2026-01-01T00:00:00.5Z",
            "resource": { "type": "cloud_run_job" }, "labels": { "x.y/z": "e" },
        });
        for (filter, admitted) in [
            (r#"resource.type="cloud_run_job" AND labels."x.y/z"="e""#, true),
            (r#"labels."x.y/z" = e AND logName=("projects/p/logs/b" OR "projects/p/logs/a")"#, true),
            (r#"logName=("projects/p/logs/b" OR "projects/p/logs/c")"#, false),
            (r#"timestamp>="2026-01-01T00:00:00.500000000Z""#, true),
            (r#"timestamp>"2026-01-01T00:00:00.500000000Z""#, false),
            (r#"timestamp<="2026-01-01T00:00:00Z""#, false),
            (r#"severity="ERROR""#, false),
            ("", true),
        ] {
            let parsed = Filter::parse(filter).expect("a filter");
            assert_eq!(parsed.admits(&entry), admitted, "{filter}");
        }
        for wrong in ["a", "a=", "a:b", "a=(b", "a=\"b"] {
            assert!(Filter::parse(wrong).is_err(), "{wrong}");
        }
    }
}
