//! All parts together, on real Postgres, RabbitMQ and Docker.
//!
//! Modules that run real containers have `docker` in their name: so few of their tests run at once, see
//! `.config/nextest.toml`.

mod bad_input;
mod bad_items;
mod crashes;
mod docker_outcomes;
mod docker_output;
mod docker_path;
mod duplicates;
mod harness;
mod idempotency;
mod limit;
mod outages;
mod tenancy;
mod waiting;
mod worker;
