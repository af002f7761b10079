//! Text that Postgres can hold.

use std::borrow::Cow;

use serde_json::Value;

/// `text` without NUL, which Postgres refuses in `text` and `jsonb`: each becomes U+FFFD.
pub fn sanitize(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { Cow::Owned(text.replace('\0', "\u{fffd}")) } else { Cow::Borrowed(text) }
}

/// [`sanitize`] on every string and key of a JSON value.
pub fn sanitize_json(value: &mut Value) {
    match value {
        Value::String(text) => {
            if let Cow::Owned(clean) = sanitize(text) {
                *text = clean;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(sanitize_json),
        Value::Object(map) => {
            map.values_mut().for_each(sanitize_json);
            if map.keys().any(|key| key.contains('\0')) {
                *map =
                    std::mem::take(map).into_iter().map(|(key, value)| (sanitize(&key).into_owned(), value)).collect();
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// At most `max` bytes of `text`, cut at a character, with a mark where something is missing.
pub fn excerpt(text: &str, max: usize) -> Cow<'_, str> {
    const MARK: &str = "\n[... cut ...]\n";
    if text.len() <= max {
        return Cow::Borrowed(text);
    }
    let half = max.saturating_sub(MARK.len()) / 2;
    let head = floor_boundary(text, half);
    let mut tail = text.len() - half;
    while !text.is_char_boundary(tail) {
        tail += 1;
    }
    Cow::Owned(format!("{}{MARK}{}", &text[..head], &text[tail..]))
}

fn floor_boundary(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nul_is_replaced_everywhere() {
        let mut value = json!({"a\0": ["b\0c", {"d": "\0"}], "n": 1});
        sanitize_json(&mut value);
        assert_eq!(value, json!({"a\u{fffd}": ["b\u{fffd}c", {"d": "\u{fffd}"}], "n": 1}));
    }

    #[test]
    fn an_excerpt_keeps_head_and_tail_and_never_splits_a_character() {
        let text = "é".repeat(100);
        let cut = excerpt(&text, 61);
        assert!(cut.len() <= 61 && cut.starts_with('é') && cut.ends_with('é') && cut.contains("cut"), "{cut}");
        assert_eq!(excerpt("short", 61), "short");
    }
}
