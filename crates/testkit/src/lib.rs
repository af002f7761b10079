//! What tests stand on: real servers, with a database and a vhost for every test.
//!
//! The servers are found by the `GANTRY_TEST_*` variables that `gantry-servers run` sets; `make
//! test` runs the suite in it. A test that needs a server and has none fails and says so: a
//! test that was skipped proves nothing. For the same reason everything here panics instead of
//! returning errors.

mod database;
mod docker;
mod environment;
mod eventually;
mod proxy;
mod vhost;

pub use database::TestDb;
pub use docker::TestDocker;
pub use eventually::{eventually, eventually_some};
pub use proxy::{Proxy, Tally};
pub use vhost::TestVhost;
