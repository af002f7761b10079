//! Gantry's Postgres: a module per table or aggregate, and the one way to open a transaction.
//!
//! Every statement is checked against the schema at compile time (`.sqlx/` holds the answers for builds
//! without a database). Rows are locked in one order everywhere: worker, schedules, limits, jobs (by id), attempts, hosts
//! (by id).

pub mod admission;
pub mod attempts;
pub mod audit;
pub mod bulk;
pub mod claims;
mod columns;
pub mod costs;
pub mod dead_letters;
pub mod drift;
mod error;
pub mod events;
pub mod firing;
pub mod history;
pub mod hosts;
pub mod jobs;
pub mod limits;
pub mod lines;
pub mod logs;
pub mod lost;
pub mod names;
pub mod overview;
pub mod queue;
pub mod reach;
pub mod reports;
pub mod retention;
pub mod route;
pub mod schedule_runs;
pub mod schedules;
pub mod schema;
pub mod steering;
pub mod templates;
pub mod tenants;
mod tx;
pub mod validate;
mod warm;
pub mod why;
pub mod windows;
pub mod workers;

pub use error::{Error, Result};
pub use tx::{Config, Scope, Store};
