//! What people read of a container's output.

use serde_json::Value;

use crate::text;

/// The most bytes of an excerpt that is stored with an execution. The whole log is kept in chunks.
pub const EXCERPT_BYTES: usize = 64 * 1024;

/// The stored views of what a container printed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outputs {
    /// Standard output, head and tail.
    pub stdout: String,
    /// Standard error, head and tail.
    pub stderr: String,
    /// Standard output without terminal escapes, head and tail.
    pub clean: String,
    /// Standard output as JSON, or its last line that is a JSON object or array.
    pub parsed: Option<Value>,
}

impl Outputs {
    /// The views of two raw streams.
    pub fn from_streams(stdout: &[u8], stderr: &[u8]) -> Self {
        let stdout = String::from_utf8_lossy(stdout);
        let stderr = String::from_utf8_lossy(stderr);
        let clean = without_escapes(&stdout);
        let parsed = parse(&clean);
        let shorten = |text: &str| text::sanitize(&text::excerpt(text, EXCERPT_BYTES)).into_owned();
        Self { stdout: shorten(&stdout), stderr: shorten(&stderr), clean: shorten(&clean), parsed }
    }

    /// Whether the container printed nothing.
    pub fn is_empty(&self) -> bool {
        self.stdout.is_empty() && self.stderr.is_empty()
    }
}

fn parse(text: &str) -> Option<Value> {
    let trimmed = text.trim();
    if trimmed.is_empty() || trimmed.len() > EXCERPT_BYTES * 4 {
        return last_json_line(text);
    }
    let whole = serde_json::from_str(trimmed).ok();
    let mut value: Value = whole.or_else(|| last_json_line(text))?;
    text::sanitize_json(&mut value);
    Some(value)
}

fn last_json_line(text: &str) -> Option<Value> {
    // Only containers count: a last line `42` or `null` in a plain log is not meant as a result.
    text.lines()
        .rev()
        .map(str::trim)
        .filter(|line| line.len() <= EXCERPT_BYTES && (line.starts_with('{') || line.starts_with('[')))
        .find_map(|line| serde_json::from_str(line).ok())
}

/// `text` without ECMA-48 escape sequences (CSI, OSC and the two-character ones) and with `\r\n` as `\n`.
pub fn without_escapes(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => match chars.next() {
                Some('[') => {
                    // Parameters and intermediates, then one final byte.
                    for c in chars.by_ref() {
                        if ('\u{40}'..='\u{7e}').contains(&c) {
                            break;
                        }
                    }
                }
                Some(']' | 'P' | '^' | '_' | 'X') => {
                    // A string, to BEL or ESC \.
                    while let Some(c) = chars.next() {
                        if c == '\u{7}' || c == '\u{1b}' && chars.next_if_eq(&'\\').is_some() {
                            break;
                        }
                    }
                }
                Some(c) if ('\u{20}'..='\u{2f}').contains(&c) => {
                    chars.next();
                }
                _ => {}
            },
            '\r' if chars.peek() == Some(&'\n') => {}
            c => clean.push(c),
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn escapes_vanish() {
        let text = "\u{1b}[1;31mred\u{1b}[0m \u{1b}]0;title\u{7}plain\u{1b}]8;;x\u{1b}\\link\u{1b}(B\r\nend";
        assert_eq!(without_escapes(text), "red plainlink\nend");
    }

    #[test]
    fn json_is_the_whole_or_the_last_line() {
        let parsed = |text: &str| Outputs::from_streams(text.as_bytes(), b"").parsed;
        assert_eq!(parsed("{\n \"a\": 1\n}\n"), Some(json!({"a": 1})));
        assert_eq!(parsed("working\n{\"a\": 1}\n{\"a\": 2}\nbye\n"), Some(json!({"a": 2})));
        assert_eq!(parsed("42"), Some(json!(42)));
        assert_eq!(parsed("lines\n42\n"), None);
        assert_eq!(parsed(""), None);
        assert_eq!(parsed(r#"{"nul": "\u0000"}"#), Some(json!({"nul": "\u{fffd}"})));
    }

    #[test]
    fn long_and_binary_streams_are_cut_and_made_text() {
        let outputs = Outputs::from_streams(&vec![b'x'; EXCERPT_BYTES * 2], b"\0\xff");
        assert!(outputs.stdout.len() <= EXCERPT_BYTES && outputs.stdout.contains("cut"));
        assert_eq!(outputs.stderr, "\u{fffd}\u{fffd}");
    }

    proptest! {
        #[test]
        fn any_bytes_make_text_without_nul(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let outputs = Outputs::from_streams(&bytes, &bytes);
            prop_assert!(!outputs.stdout.contains('\0') && !outputs.clean.contains('\0'));
        }
    }
}
