//! The API over real HTTP, on a real Postgres as the role that row-level security holds.

mod config;
mod costs;
mod events;
mod hosts;
mod idempotency;
mod jobs;
mod logs;
mod nudges;
mod openapi;
mod overview;
mod problems;
mod schedules;
mod submit;
mod support;
mod templates;
mod tenants;
mod trace;
mod worker;
