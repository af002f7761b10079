//! What can go wrong between Gantry and Postgres.

use gantry_core::WorkerId;

/// The result of every function here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Postgres refused a statement, or could not be reached.
    #[error("{operation}: {source}")]
    Database {
        /// The function that failed.
        operation: &'static str,
        /// What sqlx said.
        #[source]
        source: sqlx::Error,
    },
    /// The worker was declared dead or has handed over: it must not write any more.
    #[error("worker {0} is not alive any more")]
    NotAlive(WorkerId),
    /// So many of the jobs to be stored name a project that is gone, or another tenant's. None is stored.
    #[error("{0} of the jobs name a project that their tenant does not have")]
    NoProject(usize),
    /// A row holds what this program does not understand.
    #[error("{column} holds {value:?}, which this version does not know")]
    Corrupt {
        /// The column.
        column: &'static str,
        /// Its content.
        value: String,
    },
    /// The migration failed.
    #[error("the migration failed: {0}")]
    Migration(#[from] sqlx::migrate::MigrateError),
}

impl From<sqlx::Error> for Error {
    fn from(source: sqlx::Error) -> Self {
        Self::Database { operation: "a statement", source }
    }
}

impl Error {
    /// Names the function that failed.
    pub(crate) fn during(self, operation: &'static str) -> Self {
        match self {
            Self::Database { source, .. } => Self::Database { operation, source },
            other => other,
        }
    }

    fn sqlstate(&self) -> Option<String> {
        match self {
            Self::Database { source: sqlx::Error::Database(error), .. } => error.code().map(|code| code.into_owned()),
            _ => None,
        }
    }

    /// Whether the same transaction may succeed at once: it lost against another one.
    pub(crate) fn is_conflict(&self) -> bool {
        matches!(self.sqlstate().as_deref(), Some("40001" | "40P01"))
    }

    /// Whether waiting may help. Only what is about the data itself is final: class 21 (cardinality), 22 (data),
    /// 23 (integrity), 54 (limits), values that cannot be encoded or decoded, and a job's project that its tenant does
    /// not have. Everything else, a server that is read-only, restarting or not yet migrated included, may be over in a
    /// moment, and nothing that waits is lost.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Database { source: sqlx::Error::Database(_), .. } => {
                let state = self.sqlstate().unwrap_or_default();
                !["21", "22", "23", "54"].iter().any(|class| state.starts_with(class))
            }
            Self::Database { source, .. } => !matches!(
                source,
                sqlx::Error::Encode(_)
                    | sqlx::Error::Decode(_)
                    | sqlx::Error::ColumnDecode { .. }
                    | sqlx::Error::RowNotFound
                    | sqlx::Error::TypeNotFound { .. }
                    | sqlx::Error::Configuration(_)
            ),
            Self::NotAlive(_) | Self::NoProject(_) | Self::Corrupt { .. } | Self::Migration(_) => false,
        }
    }

    /// The constraint that a statement violated, if that is what went wrong.
    pub fn constraint(&self) -> Option<&str> {
        match self {
            Self::Database { source: sqlx::Error::Database(error), .. } => error.constraint(),
            _ => None,
        }
    }
}

/// Reads an enum label.
pub(crate) fn parse<T: std::str::FromStr>(column: &'static str, value: &str) -> Result<T> {
    value.parse().map_err(|_| Error::Corrupt { column, value: value.to_owned() })
}

/// Reads JSON that Gantry wrote.
pub(crate) fn from_json<T: serde::de::DeserializeOwned>(column: &'static str, value: serde_json::Value) -> Result<T> {
    T::deserialize(&value).map_err(|_| Error::Corrupt { column, value: value.to_string() })
}
