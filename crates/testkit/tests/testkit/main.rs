//! The test kit, against the test run's own servers.

mod database;
mod proxy;
mod vhost;
mod waiting;
