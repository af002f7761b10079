//! Gantry's Postgres: a module per table or aggregate, and the one way to open a transaction.
//!
//! Every statement is checked against the schema at compile time (`.sqlx/` holds the answers for builds
//! without a database). Rows are locked in one order everywhere: worker, hosts (by id), jobs (by id), attempts.

pub mod admission;
pub mod attempts;
pub mod audit;
pub mod claims;
pub mod drift;
mod error;
pub mod events;
pub mod history;
pub mod hosts;
pub mod jobs;
pub mod logs;
pub mod lost;
pub mod queue;
pub mod reports;
pub mod schema;
pub mod steering;
pub mod templates;
pub mod tenants;
mod tx;
pub mod validate;
pub mod workers;

pub use error::{Error, Result};
pub use tx::{Config, Scope, Store};
