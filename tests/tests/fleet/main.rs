//! All parts together, on real Postgres, RabbitMQ and Docker.
//!
//! Modules that run real containers have `docker` in their name: so few of their tests run at once, see
//! `.config/nextest.toml`.

mod backpressure;
mod bad_input;
mod bad_items;
mod bulk;
mod costs;
mod crashes;
mod dead_letters;
mod deadlines;
mod docker_disk;
mod docker_failover;
mod docker_logs;
mod docker_orphans;
mod docker_outcomes;
mod docker_output;
mod docker_path;
mod docker_pull;
mod duplicates;
mod empty_broker;
mod failover;
mod harness;
mod idempotency;
mod limit;
mod lost;
mod metrics;
mod mock_faults;
mod order;
mod outages;
mod relaunch;
mod retention;
mod retries;
mod scaling;
mod schedules;
mod silent_postgres;
mod steering;
mod tenancy;
mod throttled;
mod waiting;
mod why;
mod worker;
