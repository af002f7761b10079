//! Rows on their way to Postgres: an array for each column.

use serde::Serialize;

use crate::error::Result;

/// A column that no row has a value for goes as an empty array: `unnest` of several fills the shorter ones with nulls, and neither
/// side reads or keeps a value for each row. Never of all columns of a statement: the longest says how many rows there are.
pub(crate) fn sparse<T>(values: Vec<Option<T>>) -> Vec<Option<T>> {
    if values.iter().all(Option::is_none) { Vec::new() } else { values }
}

/// Values for columns of type `json`, to be cast from text: what sqlx knows as JSON goes as `jsonb`, which Postgres would take apart
/// for nothing. A NUL is refused, as `jsonb` refuses it: `json` would store it, and fail whoever looks into the value.
pub(crate) fn json<T: Serialize>(values: impl Iterator<Item = T>) -> Result<Vec<String>> {
    values
        .map(|value| {
            let text = serde_json::to_string(&value).map_err(|error| sqlx::Error::Encode(error.into()))?;
            if has_nul(&text) {
                return Err(sqlx::Error::Encode("a NUL in JSON, which Postgres cannot hold".into()).into());
            }
            Ok(text)
        })
        .collect()
}

/// Whether a text in this JSON has a NUL, which is only ever spelled so.
fn has_nul(json: &str) -> bool {
    json.match_indices("\\u0000").any(|(at, _)| {
        // Behind an odd number of others this backslash is itself escaped.
        let before = json.as_bytes()[..at].iter().rev().take_while(|byte| **byte == b'\\').count();
        before.is_multiple_of(2)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_column_without_any_value_is_left_out() {
        assert_eq!(sparse::<i32>(vec![None, None]), []);
        assert_eq!(sparse(vec![None, Some(1)]), [None, Some(1)]);
    }

    #[test]
    fn a_nul_is_refused_and_what_only_looks_like_one_is_not() {
        let refused = |text: &str| json([text].into_iter()).is_err();
        assert!(refused("a\0b") && refused("\0") && refused("\\\0"));
        assert!(!refused("a\\u0000b") && !refused("\u{1}") && !refused("plain"));
    }
}
