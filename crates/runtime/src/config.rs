//! Configuration from a TOML file and the environment.
//!
//! The environment wins over the file. `GANTRY_BROKER__URL` sets `url` in the
//! section `[broker]`: two underscores separate levels, and a variable without
//! them (`GANTRY_URL`, `GANTRY_API_KEY`) is none of the configuration's
//! business. Keys that the target does not know are errors, with their path.
//!
//! Anywhere a value is expected, `{ file = "/run/secrets/broker-url" }` (in the
//! environment `GANTRY_BROKER__URL__FILE=/run/secrets/broker-url`) stands for
//! that file's content without its final line break. That is how a secret stays
//! out of both.

use std::{collections::HashMap, fs, path::Path};

use config::{Environment, File, FileFormat, Value, ValueKind};
use serde::de::DeserializeOwned;

/// A text that must not be shown: redacted in `Debug`, wiped when dropped.
pub use secrecy::{ExposeSecret, SecretString as Secret};

/// Every variable of the configuration begins so.
const PREFIX: &str = "GANTRY";

/// Separates levels.
const LEVEL: &str = "__";

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is missing, unreadable or no TOML; or a variable is no UTF-8.
    #[error("could not read the configuration")]
    Read(#[source] Box<config::ConfigError>),
    /// A file that a value points to cannot be read.
    #[error("could not read the file `{file}` that `{key}` points to")]
    ValueFile {
        /// The value, as `section.key`.
        key: String,
        /// The path given.
        file: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A key that does not exist, a value of the wrong kind, or a missing one.
    #[error("invalid configuration{at}: {source}", at = location(.key))]
    Invalid {
        /// Where, as `section.key`; `.` for the whole.
        key: String,
        /// What is wrong.
        #[source]
        source: Box<config::ConfigError>,
    },
}

fn location(key: &str) -> String {
    match key {
        "" | "." => String::new(),
        key => format!(" at `{key}`"),
    }
}

/// Reads `file`, where one is given, and this process's environment.
///
/// # Errors
/// See [`Error`]. Unknown keys are errors where `T` and its sections say
/// `#[serde(deny_unknown_fields)]`, as all of Gantry's do.
pub fn load<T: DeserializeOwned>(file: Option<&Path>) -> Result<T, Error> {
    // Names that are no UTF-8 are not ours; `Environment` would skip them too.
    let variables =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    load_from(file, variables)
}

/// Like [`load`], with the environment given.
///
/// # Errors
/// See [`load`].
pub fn load_from<T: DeserializeOwned>(
    file: Option<&Path>,
    variables: impl IntoIterator<Item = (String, String)>,
) -> Result<T, Error> {
    let ours: HashMap<String, String> = variables.into_iter().filter(|(name, _)| is_ours(name)).collect();
    let environment = Environment::with_prefix(PREFIX).prefix_separator("_").separator(LEVEL).source(Some(ours));
    let mut sources = config::Config::builder();
    if let Some(path) = file {
        sources = sources.add_source(File::from(path).format(FileFormat::Toml));
    }
    let mut tree = sources.add_source(environment).build().map_err(|source| Error::Read(Box::new(source)))?.cache;
    read_value_files(&mut tree, "")?;
    serde_path_to_error::deserialize(tree)
        .map_err(|error| Error::Invalid { key: error.path().to_string(), source: Box::new(error.into_inner()) })
}

fn is_ours(name: &str) -> bool {
    name.strip_prefix(PREFIX)
        .and_then(|rest| rest.strip_prefix('_'))
        .is_some_and(|rest| rest.contains(LEVEL) && !rest.starts_with('_'))
}

/// Replaces every `{ file = "…" }` in the tree by that file's content.
fn read_value_files(value: &mut Value, key: &str) -> Result<(), Error> {
    if let Some(file) = pointed_file(value) {
        let content =
            fs::read_to_string(&file).map_err(|source| Error::ValueFile { key: key.to_owned(), file, source })?;
        let content = content.strip_suffix('\n').unwrap_or(&content);
        let content = content.strip_suffix('\r').unwrap_or(content);
        value.kind = ValueKind::String(content.to_owned());
        return Ok(());
    }
    match &mut value.kind {
        ValueKind::Table(table) => table.iter_mut().try_for_each(|(name, inner)| {
            let separator = if key.is_empty() { "" } else { "." };
            read_value_files(inner, &format!("{key}{separator}{name}"))
        }),
        ValueKind::Array(items) => items
            .iter_mut()
            .enumerate()
            .try_for_each(|(index, inner)| read_value_files(inner, &format!("{key}[{index}]"))),
        _ => Ok(()),
    }
}

fn pointed_file(value: &Value) -> Option<String> {
    let ValueKind::Table(table) = &value.kind else {
        return None;
    };
    match (table.len(), table.get("file").map(|inner| &inner.kind)) {
        (1, Some(ValueKind::String(path))) => Some(path.clone()),
        _ => None,
    }
}
