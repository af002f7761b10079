//! Values of options.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde_json::Value;
use strum::VariantArray;

use crate::error::Error;

/// One of a closed set of names, each of which the help lists.
pub(super) fn one_of<T>() -> impl TypedValueParser<Value = T>
where
    T: VariantArray + Copy + Into<&'static str> + Send + Sync,
{
    let name = |value: &T| -> &'static str { (*value).into() };
    PossibleValuesParser::new(T::VARIANTS.iter().map(name)).map(move |text| {
        *T::VARIANTS.iter().find(|value| name(value) == text).expect("the parser lets only these names through")
    })
}

/// `KEY=value`; the value may be empty and may contain `=`.
pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("it is written KEY=value".to_owned()),
    }
}

/// The pairs by key; of two with one key the later counts.
pub(super) fn map(pairs: Vec<(String, String)>) -> BTreeMap<String, String> {
    pairs.into_iter().collect()
}

/// A time such as `30s`, `5m` or `1h 30m`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; it is written like 30s, 5m or 1h30m"))
}

/// A JSON object.
pub(super) fn object(text: &str) -> Result<serde_json::Map<String, serde_json::Value>, String> {
    serde_json::from_str(text).map_err(|error| format!("it is a JSON object: {error}"))
}

/// What a file holds, or with `-` stdin.
pub(super) fn text(path: &Path) -> crate::error::Result<String> {
    let mut text = String::new();
    let read = match path == Path::new("-") {
        true => std::io::stdin().lock().read_to_string(&mut text).map(drop),
        false => std::fs::read_to_string(path).map(|content| text = content),
    };
    read.map_err(|error| Error::Usage(format!("{}: {error}", path.display())))?;
    Ok(text)
}

/// A document of YAML, of which JSON is a part.
pub(super) fn document(path: &Path) -> crate::error::Result<Value> {
    serde_saphyr::from_str(&text(path)?)
        .map_err(|error| Error::Usage(format!("{} is neither YAML nor JSON: {error}", path.display())))
}
